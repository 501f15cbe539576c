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
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from micro.cell import cell_from_octant, connectivity
from micro.cellset import CellSet
from multiscale.block import Triple

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
    areas: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def face_words(faces: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Face patterns (m, n, n) as bits in 64-bit words, (m, words), for :func:`facing_voxels`."""
    packed = np.packbits(faces.reshape(len(faces), -1), axis=1)
    words = np.zeros((len(faces), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : packed.shape[1]] = packed
    return words.view(np.uint64)


def facing_voxels(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Voxels solid in both of two packed patterns, (..., words) each, broadcast; shape (...)."""
    return np.bitwise_count(a & b).sum(axis=-1, dtype=np.int64)


def neighbours(array: NDArray, axis: int) -> tuple[NDArray, NDArray]:
    """An element array's views on the lower and the upper element of each interface along ``axis``."""
    lower: list[slice] = [slice(None)] * 3
    upper = lower.copy()
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    return array[tuple(lower)], array[tuple(upper)]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The unordered pairs of cells that meet somewhere, and every interface's place among them."""

    keys: NDArray[np.int64]  # (p,) smaller * cells + larger
    counts: NDArray[np.int64]  # (p,) interfaces
    place: tuple[NDArray[np.int32], ...]  # three arrays like the areas; -1: not an interface

    @classmethod
    def of(cls, index: NDArray[np.int32], cells: int) -> _Pairs:
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
        return cls(unique, counts, tuple(place))


def _ranks(keys: NDArray[np.int64], limit: int) -> tuple[NDArray, NDArray, NDArray]:
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


def meeting_pairs(index: NDArray[np.int32], cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of unlike cells that meet: keys ``smaller * cells + larger``, and the interfaces of each."""
    pairs = _Pairs.of(index, cells)
    a, b = np.divmod(pairs.keys, cells)
    return pairs.keys[a != b], pairs.counts[a != b]


def find_contacts(index: NDArray[np.int32], faces: NDArray[np.bool_], *, weakest: int = 10) -> Contacts:
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
    pairs = _Pairs.of(index, len(faces))
    area, overlap = _pair_areas(pairs.keys, faces)
    areas = tuple(np.append(area, np.nan).astype(np.float32)[where] for where in pairs.place)
    count = int(pairs.counts.sum())
    none = count == 0
    a, b = np.divmod(pairs.keys, len(faces))
    unlike = pairs.counts * (a != b)
    return Contacts(
        count=count,
        unlike=int(unlike.sum()),
        unconnected=int(pairs.counts[area == 0].sum()),
        mean_area=np.nan if none else float(np.average(area, weights=pairs.counts)),
        min_area=np.nan if none else float(area.min()),
        mean_overlap=np.nan if none else float(np.average(overlap, weights=pairs.counts)),
        min_overlap=np.nan if none else float(overlap.min()),
        mean_overlap_unlike=float(np.average(overlap, weights=unlike)) if unlike.any() else np.nan,
        weakest=_weakest(pairs, area, overlap, len(faces), weakest),
        areas=(areas[0], areas[1], areas[2]),
    )


def _pair_areas(
    keys: NDArray[np.int64], faces: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Contact area and overlap of each pair."""
    words = face_words(faces)
    own = facing_voxels(words, words)
    a, b = np.divmod(keys, len(faces))
    both = np.empty(len(keys), dtype=np.int64)
    for start in range(0, len(keys), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        both[some] = facing_voxels(words[a[some]], words[b[some]])
    smaller = np.minimum(own[a], own[b])
    overlap = np.divide(both, smaller, out=np.zeros(len(keys)), where=smaller > 0)
    return both / faces[0].size, overlap


def _weakest(
    pairs: _Pairs, area: NDArray[np.float64], overlap: NDArray[np.float64], cells: int, count: int
) -> tuple[Interface, ...]:
    found = []
    for pair in np.lexsort((overlap, area))[:count]:
        axis, where = next((x, w) for x, w in enumerate(pairs.place) if (w == pair).any())
        i, j, k = (int(v) for v in np.unravel_index(int((where == pair).argmax()), where.shape))
        a, b = (int(v) for v in divmod(int(pairs.keys[pair]), cells))
        found.append(Interface((i, j, k), axis, (a, b), float(area[pair]), float(overlap[pair])))
    return tuple(found)


def component_volumes(index: NDArray[np.int32], cells: CellSet) -> NDArray[np.float64]:
    """Solid volume of each 6-connected piece of a lattice, in elements, largest first.

    Exact without expanding a voxel: a connected cell is one node of a graph,
    a cell in several pieces one node a piece, and facing solid voxels make an edge.

    Parameters
    ----------
    index : int32 array, shape (nx, ny, nz)
        Unique cell of each element, -1 for void.
    cells : CellSet
        The unique cells.

    Returns
    -------
    array, shape (components,)
    """
    used = np.unique(index[index >= 0])
    pieces: dict[int, _Pieces] = {}
    for cell in used:
        octant = cells.octants(int(cell))
        if not connectivity(octant).connected:
            pieces[int(cell)] = _Pieces.of(octant)
    count = np.ones(len(cells) + 1, dtype=np.int64)
    count[-1] = 0  # void
    for cell, found in pieces.items():
        count[cell] = len(found.volumes)
    nodes = count[index]
    total = int(nodes.sum())
    first = (np.cumsum(nodes) - nodes.ravel()).reshape(index.shape)  # an element's first node
    edges = [_plain_edges(index, first, cells, pieces), *_piece_edges(index, first, cells, pieces)]
    rows, columns = np.concatenate([e[0] for e in edges]), np.concatenate([e[1] for e in edges])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(total, total))
    components, label = connected_components(graph.tocsr(), directed=False)

    node_volume = np.empty(total)
    broken = np.isin(index, list(pieces)) & (index >= 0)
    whole = (index >= 0) & ~broken
    node_volume[first[whole]] = cells.volume[index[whole]]
    for cell, found in pieces.items():
        for piece, volume in enumerate(found.volumes):
            node_volume[first[index == cell] + piece] = volume
    volumes = np.bincount(label, weights=node_volume, minlength=components).astype(np.float64)
    return np.sort(volumes)[::-1]


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A cell that is not one piece: labels of its six faces, and its pieces' volumes."""

    volumes: tuple[float, ...]  # of pieces 1, 2, ...
    low: tuple[
        NDArray[np.int32], ...
    ]  # (2n, 2n) labels of the face at the lower end of each axis, 0 for void
    high: tuple[NDArray[np.int32], ...]

    @classmethod
    def of(cls, octant: NDArray[np.bool_]) -> _Pieces:
        labels, _ = ndimage.label(cell_from_octant(octant))
        volumes = np.bincount(labels.ravel())[1:] / labels.size
        low = tuple(np.take(labels, 0, axis=axis) for axis in range(3))
        high = tuple(np.take(labels, -1, axis=axis) for axis in range(3))
        return cls(tuple(float(v) for v in volumes), low, high)


_Edges = tuple[NDArray[np.int64], NDArray[np.int64]]


def _plain_edges(
    index: NDArray[np.int32], first: NDArray[np.int64], cells: CellSet, pieces: dict[int, _Pieces]
) -> _Edges:
    """Edges between elements whose cells are each one piece."""
    pairs = _Pairs.of(index, len(cells))
    area, _ = _pair_areas(pairs.keys, cells.faces())
    a, b = np.divmod(pairs.keys, len(cells))
    joined = (area > 0) & ~np.isin(a, list(pieces)) & ~np.isin(b, list(pieces))
    joined = np.append(joined, False)  # for interfaces with a void, whose place is -1
    rows, columns = [], []
    for axis, where in enumerate(pairs.place):
        lower, upper = neighbours(first, axis)
        keep = joined[where]
        rows.append(lower[keep])
        columns.append(upper[keep])
    return np.concatenate(rows), np.concatenate(columns)


def _piece_edges(
    index: NDArray[np.int32], first: NDArray[np.int64], cells: CellSet, pieces: dict[int, _Pieces]
) -> list[_Edges]:
    """Edges between pieces, where at least one of the two cells has several."""
    edges: list[_Edges] = []
    broken = np.zeros(len(cells) + 1, dtype=bool)
    broken[list(pieces)] = True
    for axis in range(3):
        a, b = neighbours(index, axis)
        first_a, first_b = neighbours(first, axis)
        some = (a >= 0) & (b >= 0) & (broken[a] | broken[b])
        if not some.any():
            continue
        keys, inverse = np.unique(np.stack([a[some], b[some]], axis=1), axis=0, return_inverse=True)
        for pair, (cell_a, cell_b) in enumerate(keys):
            faces_a = pieces[int(cell_a)].high[axis] if int(cell_a) in pieces else _whole_face(cells, cell_a)
            faces_b = pieces[int(cell_b)].low[axis] if int(cell_b) in pieces else _whole_face(cells, cell_b)
            both = (faces_a > 0) & (faces_b > 0)
            here = inverse.ravel() == pair
            for piece_a, piece_b in np.unique(np.stack([faces_a[both], faces_b[both]], axis=1), axis=0):
                edges.append((first_a[some][here] + piece_a - 1, first_b[some][here] + piece_b - 1))
    return edges


def _whole_face(cells: CellSet, cell: int) -> NDArray[np.int32]:
    """Face labels (2n, 2n) of a cell in one piece: 1 where solid."""
    quarter = cells.faces(cell).astype(np.int32)
    half = np.concatenate([quarter, quarter[::-1]])
    return np.concatenate([half, half[:, ::-1]], axis=1)
