from .full_scale import FullScale as FullScale, solve_full_scale as solve_full_scale, verify as verify
from .unseen_loads import standard_loads as standard_loads, unseen as unseen
