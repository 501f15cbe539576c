"""A limit on mass: the mean volume fraction of the design elements.

While tensors are designed there are no cells yet. Of each tensor cells may be taken that weigh up to
:data:`EXCESS` more than the lightest that are known (:mod:`micro.least_volume`), and they count as that
heavy. What the cells of the lattice weigh is measured when they are there.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from micro.errors import InputError
from micro.least_volume import LeastVolume
from multiscale.cell_source import CellSource, SetSource

Array = NDArray[np.float64]


#: Volume fraction by which cells may be heavier than v(C): lighter ones alone are too few.
EXCESS = 0.01

#: A design may exceed the limit by this share: what MMA's iterates do.
LIMIT_TOLERANCE = 2e-3


class VolumeModel(Protocol):
    """What a mass limit asks of a model of volumes (``micro.least_volume.LeastVolume``)."""

    def evaluate(self, tensors: Array) -> tuple[Array, Array]:
        """Volume fraction (...,) of tensors (..., 3), and its derivative (..., 3)."""


class MassLimit:
    """``(mean v(C_e) + EXCESS) / limit - 1 <= 0`` over N design elements.

    Parameters
    ----------
    model : VolumeModel
    limit : float
        Largest mean volume fraction.
    """

    name = "density"

    def __init__(self, model: VolumeModel, limit: float):
        self.model = model
        self.limit = limit

    def density(self, tensors: Array) -> float:
        """Mean volume fraction of tensors (N, 3)."""
        return float(self.model.evaluate(tensors)[0].mean()) + EXCESS

    def value_and_gradient(self, tensors: Array) -> tuple[float, Array]:
        """The constraint and its derivative (N, 3)."""
        volume, slope = self.model.evaluate(tensors)
        return (float(volume.mean()) + EXCESS) / self.limit - 1.0, slope / (len(tensors) * self.limit)


def lightened(source: CellSource, least: LeastVolume, excess: float = EXCESS) -> CellSource:
    """A source of cells without those that are heavier than v(C) by ``excess``.

    Raises
    ------
    InputError
        If the cells do not come from a set.
    """
    if type(source) is not SetSource:  # one that makes cells as well would lose them
        raise InputError("under a mass limit cells come from a set, such as 'dataset'", key="fill.source")
    light = source.cells.subset(least.light(source.cells, excess))
    return SetSource(light, source.count, source.avoid_cavities)
