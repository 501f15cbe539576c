"""Signed distances to the surface of mirrored cells, positive in the solid.

Distances are between the centres of voxels, less half a voxel; the surface lies between them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from micro.cell.chamber import chamber
from micro.runtime.arrays import Bools, Floats, Singles
from micro.runtime.errors import InputError
from micro.shape.distance_kernels import squared_distances

SATURATION = 8.0 / 64.0
"""Distance in cell edges at which the signed distance saturates: eight voxels of a cell of 64."""

_Real = TypeVar("_Real", np.float32, np.float64)

_TRANSFORMED = 8
"""Octants whose distance is computed at once."""


def saturated(distance: NDArray[_Real], n: int) -> NDArray[_Real]:
    """Distances in voxels of an octant of n as smooth, bounded ones in cell edges."""
    return np.asarray(SATURATION * np.tanh(distance / (2 * n * SATURATION)))


def mirrored_distance(solid: Bools, reach: int) -> Floats:
    """Signed distance in voxels of an octant (n, n, n) or a face (n, n), exact up to ``reach`` voxels.

    The surfaces of the mirror images count too: an octant that ends in solid goes on in it.
    """
    padded = np.pad(solid, reach, mode="symmetric")
    inner = (slice(reach, -reach),) * solid.ndim
    inside, outside = (ndimage.distance_transform_edt(part)[inner] for part in (padded, ~padded))
    return np.where(solid, inside - 0.5, 0.5 - outside)


def signed_distance(octants: ArrayLike) -> Singles:
    """Saturated distance to the surface on the chamber, positive in the solid.

    Mirror planes bound the octant, so no image of the solid or the void is nearer than the one in
    it (:mod:`micro.cell.chamber`) and the octant's own distance transform is exact.

    Distances are between the centres of voxels, less half a voxel; the surface lies between them.

    Parameters
    ----------
    octants : bool array, shape (m, n, n, n)

    Returns
    -------
    array, shape (m, q), float32
        Cell edges; at most :data:`SATURATION` in size.

    Raises
    ------
    InputError
        If they are no array (m, n, n, n).
    """
    solid = np.asarray(octants, dtype=bool)
    if solid.ndim != 4:
        raise InputError("octants are an array (m, n, n, n)", value=solid.shape)
    n = solid.shape[-1]
    out = np.empty((len(solid), len(chamber(n).weights)), dtype=np.float32)
    for start in range(0, len(solid), _TRANSFORMED):
        part = solid[start : start + _TRANSFORMED]
        inner, outer = (np.sqrt(_squared_distance(p)) for p in (~part, part))
        distance = np.where(chamber(n).fold(part), inner - 0.5, 0.5 - outer)
        out[start : start + _TRANSFORMED] = saturated(distance, n)
    return out


def _squared_distance(goal: Bools) -> Singles:
    """Squared distances (m, q), in voxels, of the chamber's voxels to the nearest voxel of ``goal``.

    ``goal`` (m, n, n, n) is symmetric. For an octant of 32 seven times faster than exhaustion in torch.
    """
    n = goal.shape[1]
    out = np.empty((len(goal), len(chamber(n).weights)), np.float32)
    squared_distances(goal, _numbers(n), out)
    return out


@lru_cache(maxsize=8)
def _numbers(n: int) -> NDArray[np.int32]:
    """Which of the chamber's voxels (x, y, z) is, (n, n, n); along z they follow each other."""
    out = np.full((n, n, n), -1, np.int32)
    out[tuple(chamber(n).voxels)] = np.arange(len(chamber(n).weights))
    return out
