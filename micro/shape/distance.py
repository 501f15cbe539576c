"""Signed distances to the surface of mirrored cells, positive in the solid.

Distances are between the centres of voxels, less half a voxel; the surface lies between them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from micro.cell.chamber import chamber
from micro.runtime.arrays import Bools, Floats, Singles
from micro.runtime.errors import InputError

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
        inner, outer = (np.sqrt(_squared_distance(p).astype(np.float32)) for p in (~part, part))
        distance = np.where(chamber(n).fold(part), inner - 0.5, 0.5 - outer)
        out[start : start + _TRANSFORMED] = saturated(distance, n)
    return out


def _squared_distance(goal: Bools) -> NDArray[np.signedinteger]:
    """Squared distances (m, q), in voxels, of the chamber's voxels to the nearest voxel of ``goal``.

    ``goal`` (m, n, n, n) is symmetric. One axis after the other (Felzenszwalb and Huttenlocher 2012,
    section 4), by exhaustion, but only for what the chamber needs, and in small integers: for an octant of
    32 two to three times faster than the general transform. At least 4 n^2 where there is no goal at all.
    """
    n = goal.shape[1]
    # The sum of three squares, the largest (2 n)^2 + 2 (n - 1)^2, must fit.
    kind = np.int16 if n <= 64 else np.int32
    along = torch.from_numpy(np.where(goal, 0, 2 * n).astype(kind))
    for x in range(1, n):
        torch.minimum(along[:, x], along[:, x - 1] + 1, out=along[:, x])
    for x in range(n - 2, -1, -1):
        torch.minimum(along[:, x], along[:, x + 1] + 1, out=along[:, x])
    along = along.clamp_max(2 * n) ** 2
    pairs, offset, last = _chamber_tables(n)
    flat = torch.empty((len(goal), len(offset), n), dtype=along.dtype)
    for x in range(n):  # pairs x <= y, a plane of x at once: the sums stay in the cache
        start = x * n - x * (x - 1) // 2
        rows = slice(start, start + n - x)
        flat[:, rows] = torch.amin(along[:, x, None] + offset[rows, :, None], dim=2)
    return torch.amin(flat[:, pairs] + last, dim=2).numpy()


@lru_cache(maxsize=8)
def _chamber_tables(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For pairs x <= y and for chamber voxels: the voxels' pairs, and squared offsets along y and z."""
    a, b, c = chamber(n).voxels
    at = np.arange(n)
    first, second = np.nonzero(at[:, None] <= at)
    number = np.full((n, n), -1)
    number[first, second] = np.arange(len(first))
    kind = np.int16 if n <= 64 else np.int32
    offsets = [torch.from_numpy(((x[:, None] - at) ** 2).astype(kind)) for x in (second, c)]
    return torch.from_numpy(number[a, b]), offsets[0], offsets[1]
