"""The one constraint that stands for phi(C_e) >= margin in every design element.

With v_e = margin - phi(C_e) the mean form of the Kreisselmeier-Steinhauser
function (1979) ::

    g = max(v) + log(mean exp(sharpness (v - max v))) / sharpness + offset

approaches max(v) from below. ``offset`` is set at the start of a stage so that
g equals the true maximum there (the adaptive scaling of Le et al. 2010).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class FeasibleSet(Protocol):
    """What the optimiser asks of a gamut (``micro.gamut.Gamut``)."""

    def phi(self, tensors: Array) -> Array:
        """Signed feasibility (...,) of tensors (..., 3): positive inside."""

    def gradient(self, tensors: Array) -> Array:
        """dphi/dC, shape (..., 3)."""

    def project(self, tensors: Array, margin: float = 0.0) -> Array:
        """The nearest tensors with phi >= margin."""


def aggregate(violation: Array, sharpness: float) -> tuple[float, Array]:
    """Mean Kreisselmeier-Steinhauser value of ``violation`` (N,) and its derivative (N,)."""
    top = violation.max()
    weight = np.exp(sharpness * (violation - top))
    return float(top + np.log(weight.mean()) / sharpness), weight / weight.sum()


class FeasibilityConstraint:
    """g(C) <= 0 over N tensors."""

    def __init__(self, gamut: FeasibleSet, margin: float, sharpness: float):
        self.gamut = gamut
        self.margin = margin
        self.sharpness = sharpness
        self.offset = 0.0

    def calibrate(self, tensors: Array) -> None:
        """Set the offset so that the aggregate equals the largest violation at ``tensors``."""
        violation = self.margin - self.gamut.phi(tensors)
        self.offset = float(violation.max() - aggregate(violation, self.sharpness)[0])

    def value(self, tensors: Array) -> float:
        """The aggregate, feasible when <= 0."""
        return aggregate(self.margin - self.gamut.phi(tensors), self.sharpness)[0] + self.offset

    def value_and_gradient(self, tensors: Array) -> tuple[float, Array]:
        """The aggregate and its derivative dg/dC (N, 3)."""
        value, weight = aggregate(self.margin - self.gamut.phi(tensors), self.sharpness)
        return value + self.offset, -weight[:, None] * self.gamut.gradient(tensors)
