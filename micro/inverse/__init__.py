"""Inverse homogenisation: cells with wanted properties."""

from micro.inverse.goal import Goal
from micro.inverse.matching import Match, match_target
from micro.inverse.optimiser import Result, Settings, State, begin, finish, optimise, step

__all__ = [
    "Goal",
    "Match",
    "Result",
    "Settings",
    "State",
    "begin",
    "finish",
    "match_target",
    "optimise",
    "step",
]
