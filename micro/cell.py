"""One cubic cell: octant and full cell, symmetry, faces, connectivity, similarity, packing.

An octant is a bool array ``(n, n, n)``, invariant under the six permutations
of its axes. Index 0 is the cell's outer face and index n-1 touches its
mid-plane, so the cell is the octant mirrored in all three axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from micro.errors import InputError

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

_PERMUTATIONS = tuple(permutations(range(3)))


def _octants(octants: ArrayLike) -> NDArray:
    array = np.asarray(octants)
    if array.ndim < 3 or len(set(array.shape[-3:])) != 1 or array.shape[-1] == 0:
        raise InputError("an octant is an array (..., n, n, n)", value=array.shape)
    return array


def _permuted(array: NDArray, axes: tuple[int, ...]) -> NDArray:
    lead = array.ndim - 3
    return np.transpose(array, (*range(lead), *(lead + a for a in axes)))


def symmetrise(octant: ArrayLike) -> NDArray:
    """Average over the six axis permutations; shape (..., n, n, n).

    A bool octant stays bool by majority (a tie is solid); numbers are averaged.
    """
    array = _octants(octant)
    total = np.stack([_permuted(array, p) for p in _PERMUTATIONS]).sum(axis=0, dtype=np.float64)
    return np.asarray(total >= 3 if array.dtype == bool else total / 6)


def is_symmetric(octant: ArrayLike) -> bool:
    """Whether the octants (..., n, n, n) are invariant under all axis permutations."""
    array = _octants(octant)
    # A transposition and a cycle generate the whole group.
    return all(np.array_equal(array, _permuted(array, p)) for p in ((1, 0, 2), (1, 2, 0)))


def half_period_shift(octant: ArrayLike) -> NDArray:
    """The same periodic material with its cell moved by half a period on every axis.

    Face and mid-plane change places; the homogenised tensor does not change.
    Shape (..., n, n, n).
    """
    return np.flip(_octants(octant), axis=(-3, -2, -1)).copy()


def cell_from_octant(octant: ArrayLike) -> NDArray:
    """The full cell, (..., n, n, n) to (..., 2n, 2n, 2n), by mirroring in each mid-plane."""
    cell = _octants(octant)
    for axis in (-3, -2, -1):
        cell = np.concatenate([cell, np.flip(cell, axis)], axis=axis)
    return cell


def octant_from_cell(cell: ArrayLike) -> NDArray:
    """The octant of a cubic cell, (..., 2n, 2n, 2n) to (..., n, n, n).

    Raises
    ------
    InputError
        If the size is odd, or the cell lacks a mirror plane or a permutation symmetry.
    """
    array = _octants(cell)
    size = array.shape[-1]
    if size % 2:
        raise InputError("a cell has an even number of voxels an edge", value=size)
    octant = array[..., : size // 2, : size // 2, : size // 2].copy()
    if not np.array_equal(cell_from_octant(octant), array):
        raise InputError("the cell is not its own mirror image in its three mid-planes")
    if not is_symmetric(octant):
        raise InputError("the cell is not invariant under permutation of its axes")
    return octant


def face(octants: ArrayLike) -> NDArray:
    """The outer face (index 0) of octants, (..., n, n, n) to (..., n, n); all six faces are alike."""
    return _octants(octants)[..., 0, :, :]


def similarity(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Shape similarity of two voxel sets (the founding paper's Eq. 5).

    Voxels solid in both over the geometric mean of their solid voxels: 1 for
    equal sets, 0 for disjoint ones (and where either is empty).

    Parameters
    ----------
    a, b : bool arrays, shape (..., n, n, n)
        Broadcast against each other.

    Returns
    -------
    array, shape (...)
    """
    a, b = _octants(a).astype(bool), _octants(b).astype(bool)
    if a.shape[-3:] != b.shape[-3:]:
        raise InputError(f"cannot compare octants of sizes {a.shape[-1]} and {b.shape[-1]}")
    axes = (-3, -2, -1)
    both = np.count_nonzero(a & b, axis=axes)
    product = np.count_nonzero(a, axis=axes).astype(np.float64) * np.count_nonzero(b, axis=axes)
    return np.divide(both, np.sqrt(product), out=np.zeros(np.shape(both)), where=product > 0)[()]


@dataclass(frozen=True)
class Connectivity:
    """How the solid of an octant hangs together (6-connected).

    Attributes
    ----------
    components : int
        Number of 6-connected components of the octant's solid.
    largest_fraction : float
        Share of the solid in the largest one (0 for an empty octant).
    touches_face, touches_middle : bool
        Whether the largest component reaches the outer face, and the mid-plane.
    connected : bool
        One component that touches both: the mirrored cell is then one piece that meets all its faces.
    """

    components: int
    largest_fraction: float
    touches_face: bool
    touches_middle: bool
    connected: bool


def connectivity(octant: ArrayLike) -> Connectivity:
    """Connectivity of one octant, bool (n, n, n)."""
    array = _octants(octant)
    if array.ndim != 3:
        raise InputError("connectivity is asked of one octant (n, n, n)", value=array.shape)
    labels, components = ndimage.label(array)
    if components == 0:
        return Connectivity(0, 0.0, False, False, False)
    sizes = np.bincount(labels.ravel())[1:]
    largest = 1 + int(np.argmax(sizes))
    outer, middle = bool((labels[0] == largest).any()), bool((labels[-1] == largest).any())
    fraction = float(sizes[largest - 1] / sizes.sum())
    return Connectivity(components, fraction, outer, middle, components == 1 and outer and middle)


def largest_component(octant: ArrayLike) -> Bools:
    """One octant with all but its largest 6-connected component removed, kept symmetric; (n, n, n).

    The permutations map components onto components, so of a symmetric octant the largest
    one is itself symmetric unless several are equally large: then all of those go.
    """
    array = _octants(octant).astype(bool)
    labels, components = ndimage.label(array)
    if components <= 1:
        return array.copy()
    sizes = np.bincount(labels.ravel())[1:]
    best = np.flatnonzero(sizes == sizes.max())
    if len(best) > 1:
        return np.zeros_like(array)
    return labels == best[0] + 1


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
    array = _octants(octants)
    if array.ndim != 4:
        raise InputError("octants to pack have shape (m, n, n, n)", value=array.shape)
    if not is_symmetric(array):
        raise InputError("only octants invariant under axis permutation can be packed")
    m, n = array.shape[:2]
    inside, _ = fundamental_domain(n)
    return np.packbits(array.astype(bool, copy=False).reshape(m, n**3)[:, inside], axis=1)


def _checked_bits(packed: ArrayLike, n: int) -> NDArray[np.uint8]:
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
