"""Errors of this package's own; those that a user can mend are :mod:`micro.runtime.errors`'."""

from __future__ import annotations


class RankFailed(RuntimeError):
    """Rank 0 failed in a step that it does alone; it reports the cause.

    Parameters
    ----------
    exit_code : int
        With which rank 0 ends.
    """

    def __init__(self, exit_code: int = 1):
        super().__init__("rank 0 failed")
        self.exit_code = exit_code
