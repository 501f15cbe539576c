"""Mixed-precision conjugate gradients: when residuals are replaced, and what a solve returns.

Iterations run in float32; now and then the residual is replaced by the true one, in float64 (van der Vorst
and Ye 2000). One rule for the solvers of cells, compiled and torch: a residual is replaced when it has
fallen to :data:`REPLACE` of the last true one, when it is about to be small enough (:data:`EARLY`), or when
it is no number. A replacement that gains less than :data:`WORN` starts the search directions anew, and
:data:`STALLS` of these end a solve.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

REPLACE = 2e-3
"""Fall of the float32 residual after which it is replaced by the true one."""

EARLY = 0.7
"""Share of the wanted residual from which a solve may be at its end: the true one is a little larger."""

WORN = 0.5
"""Share of the least true residual that a replacement has to come below, or directions are worn out."""

STALLS = 4
"""Replacements with nothing gained after which a solve gives up: round-off is all that is left."""


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
