"""Mixed-precision conjugate gradients: when residuals are replaced, and what a solve returns.

Iterations run in float32; now and then the residual is replaced by the true one, in float64 (van der Vorst
and Ye 2000). One rule for the solvers of cells, compiled and torch, and of whole lattices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

REPLACE = 2e-3
"""Fall of the float32 residual after which it is replaced by the true one."""

EARLY = 0.7
"""Share of the wanted residual from which a solve may be at its end: the true one is a little larger."""

WORN = 0.5
"""Share of the least true residual that a replacement has to come below, or directions are worn out."""

STALLS = 4
"""Replacements with nothing gained, one after the other, after which a solve gives up: round-off is all that
is left."""


class Replacement:
    """When the residuals of some systems are replaced, and what their true ones say.

    A residual is replaced when it has fallen to :data:`REPLACE` of the last true one, when it is about to be
    small enough (``early``), or when it is no number: a stretch that broke down, to be thrown away. A
    replacement that gains less than :data:`WORN` starts the search directions anew, and :data:`STALLS` of
    these one after the other end a solve.

    Parameters
    ----------
    rtol : float
        Wanted norm of the residual relative to the load.
    anchor : array or Tensor
        Norms at the beginning, one a system, or larger ones for an earlier first replacement; what else is
        kept and given is of its kind and shape.
    early : float, optional
        Share of ``rtol`` from which a solve may be at its end; small where float32 limits what is reached.
    """

    def __init__(self, rtol: float, anchor: Any, early: float = EARLY):
        self._xp: Any = torch if isinstance(anchor, Tensor) else np
        self._rtol, self._early = rtol, early
        self.anchor = anchor  # at the last replacement
        self.best = self._xp.full_like(anchor, float("inf"))  # the least true one
        self._stalls = self._xp.zeros_like(anchor, dtype=self._xp.int64)

    def due(self, norms: Any) -> Any:
        """Which systems, of those that are not done, are to have their residuals replaced."""
        small = (norms <= self._early * self._rtol) | (norms <= REPLACE * self.anchor)
        return small | ~self._xp.isfinite(norms)

    def take(self, check: Any, size: Any, usable: Any) -> tuple[Any, Any, Any]:
        """Take in the true norms of the systems ``check``: which directions are worn out, who is done.

        Parameters
        ----------
        check : bool
            Whose residuals have been replaced.
        size : float
            Their true norms; those of others are not looked at.
        usable : bool
            Whether the stretch before it broke down nowhere.

        Returns
        -------
        worn, good, ended : bool
            Whose directions start anew; who has met the tolerance; who is done, met or not.
        """
        where = self._xp.where
        # Not `size > ...`: a true residual that is no number gains nothing either.
        worn = check & (~usable | ~(size <= WORN * self.best))
        self._stalls = where(check, where(worn, self._stalls + 1, 0), self._stalls)
        self.best = where(check, self._xp.minimum(self.best, size), self.best)
        self.anchor = where(check, size.clip(min=1e-30), self.anchor)
        good = check & (size <= self._rtol)
        return worn, good, check & (good | (self._stalls >= STALLS))

    def select(self, keep: Any) -> None:
        """Leave the systems (last axis) that are not in ``keep``."""
        self.anchor, self.best, self._stalls = (a[..., keep] for a in (self.anchor, self.best, self._stalls))


@dataclass(frozen=True)
class Solution:
    """Outcome of a batched solve.

    Attributes
    ----------
    u : Tensor, shape (3, L, B, X, Y, Z), float64
    defect : Tensor, same shape and type
        b - A u on the free degrees of freedom, zero on the others.
    residual : Tensor, shape (L, B), float64
        Norm of the defect over that of b, evaluated in float64.
    iterations : Tensor, shape (L, B)
    converged : Tensor of bool, shape (L, B)
    """

    u: Tensor
    defect: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
