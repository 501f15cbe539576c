"""From design variables to voxel moduli: filter, projection, power law.

All on the voxels i <= j <= k of the fundamental domain, so that every design is exactly symmetric:

    variables x --cone filter--> x~ --Heaviside--> density r --SIMP--> modulus E_min + (1 - E_min) r^p

The cone filter is :mod:`micro.voxels.cone`'s, the projection Wang, Lazarov and Sigmund's (2011, eq. 9) about
1/2, the power law Bendsoe's (1989). Each step has its derivative beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from micro.cell.chamber import chamber, fundamental_domain
from micro.runtime.arrays import Floats, Ints
from micro.voxels.cone import cone_matrix

VOID = 1e-4
"""Modulus of void while designing: soft enough not to carry, stiff enough for quick solves."""

POWER = 3.0
"""Exponent of the power law (SIMP)."""


@lru_cache(maxsize=4)
def cone_filter(n: int, radius: float) -> sparse.csr_array:
    """Matrix (q, q) of the mean over a ball of ``radius`` voxels, weights falling linearly to zero.

    Neighbours beyond the octant are its mirror images, beyond the chamber their permuted images.
    """
    _, rank = fundamental_domain(n)
    at = chamber(n).voxels

    def neighbour(offset: Ints) -> NDArray[np.intp]:
        there = at + offset[:, None]
        there = np.where(there < 0, -1 - there, there) % (2 * n)
        there = np.where(there >= n, 2 * n - 1 - there, there)
        return rank[np.ravel_multi_index(tuple(there), (n, n, n))]

    return cone_matrix(neighbour, at.shape[1], radius)


def heaviside(x: Floats, beta: float, eta: float = 0.5) -> tuple[Floats, Floats]:
    """Smoothed step at ``eta`` and its derivative; ``beta`` to 0 gives x, a large one black and white."""
    low, high = np.tanh(beta * eta), np.tanh(beta * (1 - eta))
    t = np.tanh(beta * (x - eta))
    return (low + t) / (low + high), beta * (1 - t**2) / (low + high)


@dataclass(frozen=True)
class Design:
    """What design variables stand for, with the derivative's pieces.

    Attributes
    ----------
    filtered, density, moduli : arrays, shape (q,)
    """

    filtered: Floats
    density: Floats
    moduli: Floats
    _slope: Floats  # d density / d filtered
    _filter: sparse.csr_array

    @staticmethod
    def of(x: Floats, n: int, radius: float, beta: float, eta: float = 0.5) -> Design:
        """Filter with ``radius`` voxels, project with sharpness ``beta`` about ``eta``.

        Parameters
        ----------
        x : array
            Variables on the octant's fundamental domain.
        n : int
            Voxels along the octant's edge.
        radius : float
            Of the cone filter, in voxels.
        beta, eta : float
            Sharpness and threshold of the projection.
        """
        matrix = cone_filter(n, radius)
        filtered = matrix @ x
        density, slope = heaviside(filtered, beta, eta)
        return Design(filtered, density, VOID + (1 - VOID) * density**POWER, slope, matrix)

    def by_moduli(self, gradient: Floats) -> Floats:
        """Derivatives (..., q) by the variables of what has ``gradient`` (..., q) by the moduli."""
        return self.by_density(gradient * (1 - VOID) * POWER * self.density ** (POWER - 1))

    def by_density(self, gradient: Floats) -> Floats:
        """Derivatives (..., q) by the variables of what has ``gradient`` (..., q) by the density."""
        return np.asarray(
            (self._filter.T @ np.atleast_2d(gradient * self._slope).T).T.reshape(gradient.shape)
        )
