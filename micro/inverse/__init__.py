"""Inverse homogenisation: cells with wanted properties."""

from micro.inverse.matching import Match, match_target

__all__ = ["Match", "match_target"]
