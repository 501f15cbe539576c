"""A limit on mass: the mean volume fraction of the design elements.

While tensors are designed there are no cells yet. Of each tensor cells may be taken that weigh up to
:data:`EXCESS` more than the lightest that are known (:mod:`micro.gamut.least_volume`), and they count as that
heavy. What the cells of the lattice weigh is measured when they are there.
"""

from __future__ import annotations

from micro.gamut.least_volume import EXCESS, LeastVolume
from micro.runtime.arrays import Floats

#: A design may exceed the limit by this share: what MMA's iterates do.
LIMIT_TOLERANCE = 2e-3


class MassLimit:
    """``(mean v(C_e) + EXCESS) / limit - 1 <= 0`` over N design elements.

    Parameters
    ----------
    model : LeastVolume
    limit : float
        Largest mean volume fraction.
    """

    name = "density"

    def __init__(self, model: LeastVolume, limit: float):
        self.model = model
        self.limit = limit

    def density(self, tensors: Floats) -> float:
        """Mean volume fraction of tensors (N, 3)."""
        return float(self.model.evaluate(tensors)[0].mean()) + EXCESS

    def value_and_gradient(self, tensors: Floats) -> tuple[float, Floats]:
        """The constraint and its derivative (N, 3)."""
        volume, slope = self.model.evaluate(tensors)
        return (float(volume.mean()) + EXCESS) / self.limit - 1.0, slope / (len(tensors) * self.limit)
