from .full_scale import solve_full_scale as solve_full_scale, verify as verify
from .solution import FullScale as FullScale
from .unseen_loads import standard_loads as standard_loads, unseen as unseen
