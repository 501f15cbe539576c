"""How neighbouring cells of a lattice touch, and into how many pieces it falls.

Two neighbours face each other with a square of (2n)^2 voxels. The *contact
area* of an interface is the fraction of that square where both are solid;
its *overlap* is the same relative to the smaller of the two patterns' areas
(1: the smaller pattern lies wholly on the larger). By cubic symmetry every
face of a cell shows the same pattern, the mirror image of its octant's n^2
outer voxels, so both follow from one octant face per cell, and need working
out once per pair of cells that occurs, not once per element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats, Ints, Singles
from multiscale.lattice.block import Triple

_PAIRS_AT_ONCE = 1 << 18
_TABLE = 1 << 25  # entries: 400 MB at most while it is built


@dataclass(frozen=True)
class Interface:
    """One interface between neighbouring cells.

    Attributes
    ----------
    element : tuple of three int
        The element on the lower side; the other is its neighbour along ``axis``.
    axis : int
    cells : tuple of two int
        Their unique cells.
    area : float
        Contact area over the face's area.
    overlap : float
        Contact area over the smaller pattern's area.
    """

    element: Triple
    axis: int
    cells: tuple[int, int]
    area: float
    overlap: float


@dataclass(frozen=True, eq=False)
class Contacts:
    """Contact between all neighbouring solid elements of a lattice.

    Means and minima are over interfaces; NaN if there is none.

    Attributes
    ----------
    count : int
        Interfaces: pairs of neighbouring elements that both hold a cell.
    unlike : int
        Those between different cells; equal ones face each other with equal patterns.
    unconnected : int
        Those without a single pair of facing solid voxels.
    mean_area, min_area : float
        Contact area over the face's area.
    mean_overlap, min_overlap : float
        Contact area over the smaller of the two patterns' areas (0 where a pattern is empty).
    mean_overlap_unlike : float
        Over the interfaces between different cells only.
    weakest : tuple of Interface
        The pairs of cells of least contact area, least first; each pair once, with one place where it occurs.
    areas : tuple of three float32 arrays
        Contact area of every interface along x, y, z; shapes (nx-1, ny, nz), (nx, ny-1, nz),
        (nx, ny, nz-1); NaN where an element of the pair is void.
    """

    count: int
    unlike: int
    unconnected: int
    mean_area: float
    min_area: float
    mean_overlap: float
    min_overlap: float
    mean_overlap_unlike: float
    weakest: tuple[Interface, ...]
    areas: tuple[Singles, Singles, Singles]


def face_words(faces: Bools) -> NDArray[np.uint64]:
    """Face patterns (m, n, n) as bits in 64-bit words, (m, words), for :func:`facing_voxels`."""
    packed = np.packbits(faces.reshape(len(faces), -1), axis=1)
    words = np.zeros((len(faces), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : packed.shape[1]] = packed
    return words.view(np.uint64)


def facing_voxels(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Ints:
    """Voxels solid in both of two packed patterns, (..., words) each, broadcast; shape (...)."""
    return np.bitwise_count(a & b).sum(axis=-1, dtype=np.int64)


def neighbours(array: NDArray, axis: int) -> tuple[NDArray, NDArray]:
    """An element array's views on the lower and the upper element of each interface along ``axis``."""
    lower: list[slice] = [slice(None)] * 3
    upper = lower.copy()
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    return array[tuple(lower)], array[tuple(upper)]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The unordered pairs of cells that meet somewhere, and every interface's place among them."""

    keys: Ints  # (p,) smaller * cells + larger
    cells: int
    counts: Ints  # (p,) interfaces
    place: tuple[NDArray[np.int32], ...]  # three arrays like the areas; -1: not an interface

    @classmethod
    def of(cls, index: NDArray[np.int32], cells: int) -> Pairs:
        """The pairs of neighbours in a map of cells (nx, ny, nz); -1 is void."""
        valid, keys = [], []
        for axis in range(3):
            a, b = neighbours(index, axis)
            both = (a >= 0) & (b >= 0)
            a, b = a[both].astype(np.int64), b[both].astype(np.int64)
            valid.append(both)
            keys.append(np.minimum(a, b) * cells + np.maximum(a, b))
        unique, inverse, counts = _ranks(np.concatenate(keys), cells**2)
        place, start = [], 0
        for both, key in zip(valid, keys, strict=True):
            where = np.full(both.shape, -1, dtype=np.int32)
            where[both] = inverse[start : start + len(key)]
            place.append(where)
            start += len(key)
        return cls(unique, cells, counts, tuple(place))

    @property
    def ends(self) -> tuple[Ints, Ints]:
        """The smaller and the larger cell of each pair, (p,)."""
        return np.divmod(self.keys, self.cells)

    @property
    def unlike(self) -> Bools:
        """Which pairs are of two cells, (p,)."""
        a, b = self.ends
        return a != b


def _ranks(keys: Ints, limit: int) -> tuple[NDArray, NDArray, NDArray]:
    """``np.unique(keys, return_inverse=True, return_counts=True)`` for keys below ``limit``.

    A lattice of 160^3 has 12 million interfaces and a few thousand cells: a table beats sorting tenfold.
    """
    if limit > _TABLE:
        return np.unique(keys, return_inverse=True, return_counts=True)
    counts = np.bincount(keys, minlength=limit)
    unique = np.flatnonzero(counts)
    rank = np.zeros(limit, dtype=np.int32)
    rank[unique] = np.arange(len(unique), dtype=np.int32)
    return unique, rank[keys], counts[unique]


def find_contacts(index: NDArray[np.int32], faces: Bools, *, weakest: int = 10) -> Contacts:
    """Contacts of a lattice.

    Parameters
    ----------
    index : int32 array, shape (nx, ny, nz)
        Unique cell of each element, -1 for void.
    faces : bool array, shape (m, n, n)
        Outer face of each unique cell's octant.
    weakest : int
        How many of the weakest pairs to list.
    """
    pairs = Pairs.of(index, len(faces))
    area, overlap = pair_areas(pairs, faces)
    areas = tuple(np.append(area, np.nan).astype(np.float32)[where] for where in pairs.place)
    count = int(pairs.counts.sum())
    none = count == 0
    unlike = pairs.counts * pairs.unlike
    return Contacts(
        count=count,
        unlike=int(unlike.sum()),
        unconnected=int(pairs.counts[area == 0].sum()),
        mean_area=np.nan if none else float(np.average(area, weights=pairs.counts)),
        min_area=np.nan if none else float(area.min()),
        mean_overlap=np.nan if none else float(np.average(overlap, weights=pairs.counts)),
        min_overlap=np.nan if none else float(overlap.min()),
        mean_overlap_unlike=float(np.average(overlap, weights=unlike)) if unlike.any() else np.nan,
        weakest=_interfaces(pairs, area, overlap, np.lexsort((overlap, area))[:weakest]),
        areas=(areas[0], areas[1], areas[2]),
    )


def pair_areas(pairs: Pairs, faces: Bools) -> tuple[Floats, Floats]:
    """Contact area and overlap of each pair."""
    words = face_words(faces)
    own = facing_voxels(words, words)
    a, b = pairs.ends
    both = np.empty(len(a), dtype=np.int64)
    for start in range(0, len(a), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        both[some] = facing_voxels(words[a[some]], words[b[some]])
    smaller = np.minimum(own[a], own[b])
    overlap = np.divide(both, smaller, out=np.zeros(len(a)), where=smaller > 0)
    return both / faces[0].size, overlap


def interfaces_of(pairs: Pairs, faces: Bools, listed: NDArray[np.intp]) -> tuple[Interface, ...]:
    """One interface of each of some pairs, given by their places in ``pairs``."""
    area, overlap = pair_areas(pairs, faces)
    return _interfaces(pairs, area, overlap, listed)


def _interfaces(
    pairs: Pairs, area: Floats, overlap: Floats, listed: NDArray[np.intp]
) -> tuple[Interface, ...]:
    found, (smaller, larger) = [], pairs.ends
    for pair in listed:
        axis, where = next((x, w) for x, w in enumerate(pairs.place) if (w == pair).any())
        i, j, k = (int(v) for v in np.unravel_index(int((where == pair).argmax()), where.shape))
        cells = int(smaller[pair]), int(larger[pair])
        found.append(Interface((i, j, k), axis, cells, float(area[pair]), float(overlap[pair])))
    return tuple(found)
