"""A uniform tricubic B-spline: value and gradient, twice continuously differentiable.

Between knots the spline is, on each axis, sum_a w_a(t) c_(i-1+a) with the cubic B-spline weights
(de Boor 1978)

    w = ((1-t)^3, 3t^3 - 6t^2 + 4, -3t^3 + 3t^2 + 3t + 1, t^3) / 6,    0 <= t < 1.

Beyond the grid it falls off with the distance from it, so that a descent finds back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

_CHUNK = 8192
"""Points evaluated at once: 64 coefficients each, so that a chunk stays in the cache."""


@dataclass(frozen=True, eq=False)
class TricubicSpline:
    """A function on a box, given by B-spline coefficients.

    Attributes
    ----------
    coefficients : float16 array, shape (nx, ny, nz), each at least 4
        Half precision: it is relative, so that where the function is small, at its zero level, the error
        is too (1e-5 at 0.02), and the spline of these coefficients is as smooth as any.
    origin : array, shape (3,)
        Position of coefficient (0, 0, 0).
    spacing : float
    """

    coefficients: NDArray[np.float16]
    origin: Floats
    spacing: float

    @staticmethod
    def interpolate(values: ArrayLike, origin: ArrayLike, spacing: float) -> TricubicSpline:
        """The spline through grid values (nx, ny, nz), mirrored at the grid's ends."""
        filtered = ndimage.spline_filter(np.asarray(values, dtype=np.float64), order=3, mode="mirror")
        return TricubicSpline(filtered.astype(np.float16), np.array(origin, dtype=np.float64), float(spacing))

    @property
    def box(self) -> tuple[Floats, Floats]:
        """Lowest and highest point where the spline itself is evaluated, (3,) each."""
        sizes = np.array(self.coefficients.shape)
        return self.origin + self.spacing, self.origin + (sizes - 2) * self.spacing

    def value(self, points: ArrayLike) -> Floats:
        """Values at points (..., 3); shape (...)."""
        return self.evaluate(points, gradient=False)[0]

    def evaluate(self, points: ArrayLike, gradient: bool = True) -> tuple[Floats, Floats]:
        """Values (...) and gradients (..., 3) at points (..., 3); gradients are empty if not asked for."""
        points = np.asarray(points, dtype=np.float64)
        flat = points.reshape(-1, 3)
        value = np.empty(len(flat))
        slope = np.empty((len(flat) if gradient else 0, 3))
        for start in range(0, len(flat), _CHUNK):
            part = slice(start, start + _CHUNK)
            value[part], got = self._chunk(flat[part], gradient)
            if gradient:
                slope[part] = got
        return value.reshape(points.shape[:-1]), slope.reshape(points.shape if gradient else (0, 3))

    def _chunk(self, points: Floats, gradient: bool) -> tuple[Floats, Floats]:
        low, high = self.box
        inside = np.clip(points, low, high)
        position = (inside - self.origin) / self.spacing
        sizes = np.array(self.coefficients.shape)
        cell = np.clip(np.floor(position).astype(np.int64), 1, sizes - 3)
        t = position - cell
        steps = np.arange(-1, 3)
        i, j, k = (cell[:, axis, None] + steps for axis in range(3))
        block = self.coefficients[i[:, :, None, None], j[:, None, :, None], k[:, None, None, :]]
        wx, wy, wz = (_weights(t[:, axis])[:, None, :] for axis in range(3))
        q = len(points)
        # Contract z, then y, then x, each as a batched matrix product.
        block = block.astype(np.float64)
        in_z = (block.reshape(q, 16, 4) @ wz.reshape(q, 4, 1)).reshape(q, 4, 4)
        in_yz = in_z @ wy.reshape(q, 4, 1)
        value = (wx @ in_yz)[:, 0, 0]
        # Beyond the box: minus the distance to it.
        beyond = points - inside
        distance = np.linalg.norm(beyond, axis=1)
        value = value - distance
        if not gradient:
            return value, np.empty((0, 3))
        dx, dy, dz = (_slopes(t[:, axis])[:, None, :] for axis in range(3))
        slope = np.empty((q, 3))
        slope[:, 0] = (dx @ in_yz)[:, 0, 0]
        slope[:, 1] = (wx @ (in_z @ dy.reshape(q, 4, 1)))[:, 0, 0]
        by_z = (block.reshape(q, 16, 4) @ dz.reshape(q, 4, 1)).reshape(q, 4, 4)
        slope[:, 2] = (wx @ (by_z @ wy.reshape(q, 4, 1)))[:, 0, 0]
        slope /= self.spacing
        slope[beyond != 0] = 0.0
        outside = distance > 0
        slope[outside] -= beyond[outside] / distance[outside, None]
        return value, slope


def _weights(t: Floats) -> Floats:
    """The four B-spline weights at t; (q,) to (q, 4)."""
    u = 1 - t
    return np.stack([u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3], axis=1) / 6


def _slopes(t: Floats) -> Floats:
    """Derivatives of the weights by t; (q,) to (q, 4)."""
    u = 1 - t
    return np.stack([-(u**2), 3 * t**2 - 4 * t, -3 * u**2 + 4 * u, t**2], axis=1) / 2
