"""From optimisation variables to element tensors, and gradients back.

The variables are the scaled moduli of each design element of the reduced grid,
mapped to [0, 1] within the gamut's box::

    x in [0, 1]^(N, 3)  --box-->  (K, mu', G) --cone filter-->  moduli  -->  (C11, C12, C44)

In (K, mu', G) every point of a positive box is positive definite, which a box
in (C11, C12, C44) is not. Each `forward` step has its `backward` (transpose).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from micro.cell import tensor
from micro.runtime.arrays import Bools, Floats

#: d(C11, C12, C44) / d(K, mu', G): one row a modulus, hence the transpose.
_TENSOR_OF_MODULI: Floats = tensor.from_moduli(np.eye(3)).T


@dataclass(frozen=True)
class DesignSpace:
    """The map from variables to a tensor field on the reduced grid.

    Attributes
    ----------
    design : bool array (mx, my, mz)
        Design elements.
    background : array (mx, my, mz, 3)
        Tensors of the other elements (zero in voids).
    filter : sparse array (N, N)
    lower, upper : arrays (3,)
        Box of (K, mu', G), units of E_s.
    """

    design: Bools
    background: Floats
    filter: sparse.csr_array
    lower: Floats
    upper: Floats

    @property
    def size(self) -> int:
        """Number of design elements N."""
        return int(np.count_nonzero(self.design))

    def variables(self, tensors: Floats) -> Floats:
        """Variables (N, 3) whose unfiltered tensors are closest to the given ones (N, 3)."""
        x = (tensor.to_moduli(tensors) - self.lower) / (self.upper - self.lower)
        return np.clip(x, 0.0, 1.0)

    def forward(self, x: Floats) -> Floats:
        """Tensors (N, 3) of the design elements for variables (N, 3)."""
        return tensor.from_moduli(self.filter @ self._moduli(x))

    def unfiltered(self, x: Floats) -> Floats:
        """Tensors (N, 3) of variables (N, 3) before the filter; inverse of :meth:`variables`."""
        return tensor.from_moduli(self._moduli(x))

    def _moduli(self, x: Floats) -> Floats:
        return self.lower + x * (self.upper - self.lower)

    def backward(self, gradient: Floats) -> Floats:
        """Transpose of the derivative of :meth:`forward`: from dJ/dC (N, 3) to dJ/dx (N, 3)."""
        return (self.filter.T @ (gradient @ _TENSOR_OF_MODULI)) * (self.upper - self.lower)

    def field(self, tensors: Floats) -> Floats:
        """The tensor field (mx, my, mz, 3) with ``tensors`` (N, 3) in the design elements."""
        out = self.background.copy()
        out[self.design] = tensors
        return out
