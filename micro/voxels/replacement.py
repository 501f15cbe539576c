"""Mixed-precision conjugate gradients: when residuals are replaced, and what a solve returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

REPLACE = 2e-3
"""Fall of the float32 residual after which it is replaced by the true one."""


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
