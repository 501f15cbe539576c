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

from micro.runtime.arrays import Floats

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

    def hessian(self, points: ArrayLike) -> Floats:
        """Second derivatives at points (..., 3): (..., 3, 3); outside the box those at its nearest point."""
        points = np.asarray(points, dtype=np.float64)
        flat = points.reshape(-1, 3)
        out = np.empty((len(flat), 3, 3))
        for start in range(0, len(flat), _CHUNK):
            out[start : start + _CHUNK] = self._hessian_chunk(flat[start : start + _CHUNK])
        return out.reshape(*points.shape, 3)

    def _hessian_chunk(self, points: Floats) -> Floats:
        block, t, _ = self._blocks(points)
        q = len(points)
        w, d, c = ([f(t[:, axis])[:, None, :] for axis in range(3)] for f in (basis_weights, _slopes, _bends))
        out = np.empty((q, 3, 3))
        rows = block.reshape(q, 16, 4)
        z0, z1, z2 = ((rows @ f[2].reshape(q, 4, 1)).reshape(q, 4, 4) for f in (w, d, c))
        y0 = w[1].reshape(q, 4, 1)
        y1 = d[1].reshape(q, 4, 1)
        z0y0, z0y1, z1y0 = z0 @ y0, z0 @ y1, z1 @ y0
        out[:, 0, 0] = (c[0] @ z0y0)[:, 0, 0]
        out[:, 1, 1] = (w[0] @ (z0 @ c[1].reshape(q, 4, 1)))[:, 0, 0]
        out[:, 2, 2] = (w[0] @ (z2 @ y0))[:, 0, 0]
        out[:, 0, 1] = out[:, 1, 0] = (d[0] @ z0y1)[:, 0, 0]
        out[:, 0, 2] = out[:, 2, 0] = (d[0] @ z1y0)[:, 0, 0]
        out[:, 1, 2] = out[:, 2, 1] = (w[0] @ (z1 @ y1))[:, 0, 0]
        return out / self.spacing**2

    def _blocks(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """The 4 x 4 x 4 coefficients around each point, its place there, its offset from the box."""
        low, high = self.box
        inside = np.clip(points, low, high)
        position = (inside - self.origin) / self.spacing
        sizes = np.array(self.coefficients.shape)
        cell = np.clip(np.floor(position).astype(np.int64), 1, sizes - 3)
        steps = np.arange(-1, 3)
        i, j, k = (cell[:, axis, None] + steps for axis in range(3))
        block = self.coefficients[i[:, :, None, None], j[:, None, :, None], k[:, None, None, :]]
        return block.astype(np.float64), position - cell, points - inside

    def _chunk(self, points: Floats, gradient: bool) -> tuple[Floats, Floats]:
        block, t, beyond = self._blocks(points)
        wx, wy, wz = (basis_weights(t[:, axis])[:, None, :] for axis in range(3))
        q = len(points)
        # Contract z, then y, then x, each as a batched matrix product.
        in_z = (block.reshape(q, 16, 4) @ wz.reshape(q, 4, 1)).reshape(q, 4, 4)
        in_yz = in_z @ wy.reshape(q, 4, 1)
        value = (wx @ in_yz)[:, 0, 0]
        # Beyond the box: minus the distance to it.
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


def basis_weights(t: Floats) -> Floats:
    """The four B-spline weights at t; (q,) to (q, 4)."""
    u = 1 - t
    return np.stack([u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3], axis=1) / 6


def _slopes(t: Floats) -> Floats:
    """Derivatives of the weights by t; (q,) to (q, 4)."""
    u = 1 - t
    return np.stack([-(u**2), 3 * t**2 - 4 * t, -3 * u**2 + 4 * u, t**2], axis=1) / 2


def _bends(t: Floats) -> Floats:
    """Second derivatives of the weights by t; (q,) to (q, 4)."""
    return np.stack([1 - t, 3 * t - 2, 1 - 3 * t, t], axis=1)
