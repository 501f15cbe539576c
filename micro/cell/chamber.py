"""The fundamental chamber of a cubic cell: where level sets are evaluated.

The mirror planes of a cubic cell (symmetry m-3m) cut it into 48 alike
chambers. With coordinates 0 < x, y, z < 1/2 from the cell's corner to its
centre, one chamber is x <= y <= z, a tetrahedron with the corners

    A = (0, 0, 0)        the cell's corner        B = (0, 0, 1/2)      an edge's midpoint
    C = (0, 1/2, 1/2)    a face's centre          D = (1/2, 1/2, 1/2)  the cell's centre

Every function on the chamber unfolds to one of full symmetry. And no image of
a point of the chamber is nearer to another point of the chamber than that
point itself (a property of reflection groups; Humphreys 1990, section 1.12), so
the distance to a set of struts or plates needs only the part of the set that
lies in the chamber.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micro.cell.octant import checked_octants, is_symmetric
from micro.runtime.arrays import Bools, Bytes, Floats, Ints
from micro.runtime.errors import InputError

CORNERS: Floats = np.array([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5]])
"""The chamber's corners A, B, C, D, shape (4, 3)."""
CORNERS.setflags(write=False)

ORDERS = tuple((a, b, c) for c in range(1, 4) for b in range(c + 1) for a in range(b + 1))
"""Wave numbers h <= k <= l <= 3 of the symmetrised products of cosines, (0, 0, 0) left out."""


@dataclass(frozen=True)
class Chamber:
    """The voxels i <= j <= k of an octant of n: q = n (n+1) (n+2) / 6 points, in C order.

    Attributes
    ----------
    n : int
    points : array, shape (3, q)
        Voxel centres x <= y <= z, x = (i + 1/2) / (2 n), in units of the cell's edge.
    weights : int array, shape (q,)
        Number of the octant's voxels that each point stands for (1, 3 or 6).
    """

    n: int
    points: Floats
    weights: Ints

    @cached_property
    def voxels(self) -> NDArray[np.intp]:
        """Indices i <= j <= k of the voxels, (3, q)."""
        return np.stack(np.unravel_index(fundamental_domain(self.n)[0], (self.n,) * 3))

    @cached_property
    def waves(self) -> Floats:
        """Mean over permutations of cos 2 pi h x cos 2 pi k y cos 2 pi l z for :data:`ORDERS`; (19, q)."""
        cosines = [[np.cos(2 * np.pi * order * c) for order in range(4)] for c in self.points]
        rows = []
        for order in ORDERS:
            turns = list(permutations(order))
            rows.append(np.mean([cosines[0][a] * cosines[1][b] * cosines[2][c] for a, b, c in turns], axis=0))
        return np.array(rows)

    def unfold(self, values: ArrayLike) -> NDArray:
        """The symmetric octant with these chamber values; (q,) to (n, n, n)."""
        _, rank = fundamental_domain(self.n)
        return np.asarray(values)[rank].reshape(self.n, self.n, self.n)

    def fold(self, values: ArrayLike) -> NDArray:
        """The chamber's values of octants, as :meth:`unfold` takes them; (..., n, n, n) to (..., q)."""
        array = np.asarray(values)
        return array.reshape(*array.shape[:-3], -1)[..., fundamental_domain(self.n)[0]]

    def mean(self, values: ArrayLike) -> float:
        """Mean over the octant of chamber values (q,)."""
        return float(np.asarray(values, dtype=np.float64) @ self.weights / self.n**3)


@lru_cache(maxsize=8)
def chamber(n: int) -> Chamber:
    """The chamber of octants of n voxels an edge."""
    inside, rank = fundamental_domain(n)
    index = np.stack(np.unravel_index(inside, (n, n, n)))
    points = (index + 0.5) / (2 * n)
    weights = np.bincount(rank, minlength=len(inside))
    points.setflags(write=False)
    weights.setflags(write=False)
    return Chamber(n, points, weights)


@lru_cache(maxsize=8)
def fundamental_domain(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The voxels i <= j <= k of an octant of n, in C order.

    Returns
    -------
    inside : int array, shape (q,)
        Flat indices of the q = n (n+1) (n+2) / 6 voxels.
    rank : int array, shape (n**3,)
        For each voxel of the octant the position of its image in ``inside``.
    """
    i, j, k = np.indices((n, n, n))
    inside = np.flatnonzero((i <= j) & (j <= k))
    rank = np.empty(n**3, dtype=np.intp)
    rank[inside] = np.arange(len(inside))
    low, mid, high = np.sort(np.stack([i.ravel(), j.ravel(), k.ravel()]), axis=0)
    rank = rank[(low * n + mid) * n + high]
    for table in (inside, rank):
        table.setflags(write=False)
    return inside, rank


def packed_bytes(n: int) -> int:
    """Bytes of one packed octant: the n (n+1) (n+2) / 6 voxels of the fundamental domain, as bits."""
    return -(-(n * (n + 1) * (n + 2) // 6) // 8)


def pack(octants: ArrayLike) -> Bytes:
    """Octants as bits of their fundamental domain i <= j <= k (in C order, high bit first).

    Parameters
    ----------
    octants : bool array, shape (m, n, n, n)

    Returns
    -------
    uint8 array, shape (m, packed_bytes(n))

    Raises
    ------
    InputError
        If an octant is not symmetric (packing would lose it).
    """
    array = checked_octants(octants)
    if array.ndim != 4:
        raise InputError("octants to pack have shape (m, n, n, n)", value=array.shape)
    if not is_symmetric(array):
        raise InputError("only octants invariant under axis permutation can be packed")
    m, n = array.shape[:2]
    inside, _ = fundamental_domain(n)
    return np.packbits(array.astype(bool, copy=False).reshape(m, n**3)[:, inside], axis=1)


def _checked_bits(packed: ArrayLike, n: int) -> Bytes:
    """``packed`` as uint8 (m, bytes of n), or an InputError."""
    array = np.asarray(packed)
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != packed_bytes(n):
        got = (array.dtype.name, array.shape)
        raise InputError(f"packed octants of n = {n} are uint8 (m, {packed_bytes(n)})", value=got)
    return array


def unpack(packed: ArrayLike, n: int) -> Bools:
    """Octants from their packed bits, the inverse of :func:`pack`; (m, bytes) to (m, n, n, n)."""
    array = _checked_bits(packed, n)
    inside, rank = fundamental_domain(n)
    bits = np.unpackbits(array, axis=1, count=len(inside)).astype(bool)
    return bits[:, rank].reshape(len(array), n, n, n)


def unpack_face(packed: ArrayLike, n: int) -> Bools:
    """Only the outer faces of packed octants, cheaper than unpacking all; (m, bytes) to (m, n, n)."""
    array = _checked_bits(packed, n)
    _, rank = fundamental_domain(n)
    bit = rank.reshape(n, n, n)[0]
    return (array[:, bit // 8] >> (7 - bit % 8).astype(np.uint8) & 1).astype(bool)
