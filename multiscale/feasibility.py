"""Feasible tensors: one aggregated constraint, and a projection that can be differentiated.

**Constraint.** With v_e = margin - phi(C_e) the mean form of the Kreisselmeier-Steinhauser
function (1979) ::

    g = max(v) + log(mean exp(sharpness (v - max v))) / sharpness + offset

approaches max(v) from below. ``offset`` is set at the start of a stage so that
g equals the true maximum there (the adaptive scaling of Le et al. 2010).

**Projection.** In the metric of the scaled moduli m = (K/K_s, mu'/G_s, G/G_s) the nearest
feasible point p of m satisfies ``p = m + t grad phi(p)``, ``phi(p) = margin``. Differentiating both,

    [ I - t H   -grad phi ] [dp]   [dm]
    [ grad phi^T     0    ] [dt] = [ 0],        H = Hessian of phi at p,

and the pull-back of a gradient solves the (symmetric) system with the gradient on the right. So the
optimiser can evaluate feasible designs only, instead of projecting what it found afterwards.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from micro import tensor

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


class FeasibleProjection:
    """Nearest feasible tensors, and the transpose of the projection's derivative.

    Parameters
    ----------
    gamut : FeasibleSet
        Its ``project`` must be the nearest point in scaled moduli.
    margin : float
        phi >= margin afterwards.
    """

    #: Step of the central differences that make the Hessian of phi out of its gradient.
    _STEP = 1e-5

    def __init__(self, gamut: FeasibleSet, margin: float):
        self.gamut = gamut
        self.margin = margin
        # C = moduli @ to_tensor.T with m = moduli / scale: the chain rule between the two coordinates.
        self._scale = tensor.to_moduli(tensor.SOLID)
        self._tensor_of_scaled = tensor.from_moduli(np.diag(self._scale)).T

    def forward(self, tensors: Array) -> Array:
        """The nearest tensors (N, 3) with phi >= margin; feasible ones stay as they are."""
        return self.gamut.project(tensors, self.margin)

    def backward(self, tensors: Array, projected: Array, gradient: Array) -> Array:
        """dJ/dC (N, 3) at ``tensors`` from dJ/dC at ``projected = forward(tensors)``."""
        m = tensor.to_moduli(tensors) / self._scale
        p = tensor.to_moduli(projected) / self._scale
        moved = np.flatnonzero(np.linalg.norm(p - m, axis=-1) > 1e-9)
        out = gradient.copy()
        if len(moved) == 0:
            return out
        m, p = m[moved], p[moved]
        normal = self._gradient(p)
        length = np.einsum("ei,ei->e", normal, normal)
        multiplier = np.einsum("ei,ei->e", p - m, normal) / length
        system = np.zeros((len(moved), 4, 4))
        system[:, :3, :3] = np.eye(3) - multiplier[:, None, None] * self._hessian(p)
        system[:, :3, 3] = -normal
        system[:, 3, :3] = -normal
        right = np.zeros((len(moved), 4, 1))
        right[:, :3, 0] = gradient[moved] @ self._tensor_of_scaled
        pulled = np.linalg.solve(system, right)[:, :3, 0]
        out[moved] = pulled @ np.linalg.inv(self._tensor_of_scaled)
        return out

    def _gradient(self, m: Array) -> Array:
        """dphi/dm at scaled moduli (N, 3)."""
        return self.gamut.gradient(tensor.from_moduli(m * self._scale)) @ self._tensor_of_scaled

    def _hessian(self, m: Array) -> Array:
        h = self._STEP
        columns = [(self._gradient(m + h * e) - self._gradient(m - h * e)) / (2 * h) for e in np.eye(3)]
        hessian = np.stack(columns, axis=-1)
        return (hessian + hessian.transpose(0, 2, 1)) / 2.0
