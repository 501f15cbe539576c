from .goal import Goal as Goal
from .matching import Match as Match, match_target as match_target
from .optimiser import (
    Result as Result,
    Settings as Settings,
    State as State,
    begin as begin,
    finish as finish,
    optimise as optimise,
    step as step,
)
