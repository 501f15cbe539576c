"""How the homogenised tensor changes with a cell's coordinates in the shape space, by its energy densities.

A change of the level set moves the surface by the change over the level set's slope; the tensor follows by
the surface integral of the energy densities times that displacement (:mod:`micro.inverse.surface`). One
homogenisation with its solution thus gives the derivative by all coordinates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micro.cell import tensor
from micro.cell.chamber import chamber, fundamental_domain
from micro.runtime.arrays import Bools, Floats, Singles
from micro.shape.derivative import voxel_rates
from micro.shape.space import ShapeSpace, resampling

_WIDTH = 1.0
"""Voxels on either side of the surface that share in its displacement."""

_FLATTEST = 0.2
"""Least slope of the level set, over its median at the surface: flat places would move without bound."""


def slopes(space: ShapeSpace, z: Singles, octants: Bools, gradient: Floats) -> Floats:
    """Derivatives of C11, C12, C44, on the scale of Eq. 4, by the coordinates.

    Parameters
    ----------
    space : ShapeSpace
    z : float32 array, shape (m, d)
    octants : bool array, shape (m, n, n, n)
        The cells of these coordinates, at any resolution.
    gradient : array, shape (m, 3, n, n, n)
        Their dC / d(modulus) (:func:`micro.homogenize.sensitivity.sensitivities`).

    Returns
    -------
    array, shape (m, 3, d)
        On library cells at n = 32 the change of C by a step of norm 2 follows it with a correlation of 0.9.
    """
    span = tensor.PAPER_SPAN[:, None, None, None]
    pairs = zip(gradient, octants, strict=True)
    rates = np.array([voxel_rates(own, octant) / span for own, octant in pairs])
    return of_rates(space, z, rates.reshape(len(z), 3, *octants.shape[1:]))


def of_rates(space: ShapeSpace, z: Singles, rates: NDArray[np.floating]) -> Floats:
    """As :func:`slopes`, from the rates of voxels (:mod:`micro.shape.derivative`).

    Parameters
    ----------
    space : ShapeSpace
    z : float32 array, shape (m, d)
    rates : array, shape (m, 3, n, n, n)
        On the scale of Eq. 4.
    """
    density = np.empty((len(z), 3, len(chamber(space.n).weights)), dtype=np.float32)
    for row, level in enumerate(space.levels(z, rates.shape[-1])):
        near, speed = _displacement(level)
        density[row] = _on_chamber(rates[row] * (near * speed), space.n)
    found = space.slopes(density.reshape(-1, density.shape[-1]))
    return found.reshape(len(z), 3, space.dimension).astype(np.float64)


def _displacement(level: Singles) -> tuple[Floats, Floats]:
    """Share of each voxel in the surface (a hat over the distance), and voxels moved per unit of level."""
    padded = np.pad(level, 1, mode="symmetric").astype(np.float64)
    inner = (slice(1, -1),) * 3
    slope = np.linalg.norm([np.gradient(padded, axis=axis) for axis in range(3)], axis=0)[inner]
    distance = np.abs(level) / np.maximum(slope, 1e-12)
    near = np.maximum(0.0, 1.0 - distance / _WIDTH) / _WIDTH
    typical = np.median(slope[near > 0]) if (near > 0).any() else 1.0
    return near, 1.0 / np.maximum(slope, max(_FLATTEST * float(typical), 1e-12))


def _on_chamber(rate: Floats, n: int) -> Floats:
    """Rates (3, r, r, r) of voxels as rates (3, q) of the chamber values of n, which they interpolate."""
    if rate.shape[-1] != n:
        matrix = resampling(n, rate.shape[-1]).astype(np.float64)
        rate = np.einsum("cxyz,xi,yj,zk->cijk", rate, matrix, matrix, matrix, optimize=True)
    _, rank = fundamental_domain(n)
    return np.stack([np.bincount(rank, weights=part.ravel()) for part in rate])
