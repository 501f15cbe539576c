"""Pieces of a lattice: parts of neighbouring cells joined where their faces touch.

A piece of a cell is a node wherever the cell occurs, two nodes are joined where their voxels face each other
across two elements' interface. Of the solid it gives what hangs together; of the void, what is closed
(:mod:`multiscale.printability.cavities`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from micro.cell.cellset import CellSet
from micro.cell.octant import cell_from_octant, connectivity
from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.progress import Progress, unheard
from multiscale.lattice.contact import Pairs, neighbours, pair_areas

Edges = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Pairs of nodes, one array for each end."""


def component_volumes(index: NDArray[np.int32], cells: CellSet) -> Floats:
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
    edges = [_plain_edges(index, first, cells, pieces), *_broken_edges(index, first, cells, pieces)]
    components, label = joined(edges, total)

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
    def of(cls, octant: Bools) -> _Pieces:
        labels, _ = ndimage.label(cell_from_octant(octant))
        volumes = np.bincount(labels.ravel())[1:] / labels.size
        low = tuple(np.take(labels, 0, axis=axis) for axis in range(3))
        high = tuple(np.take(labels, -1, axis=axis) for axis in range(3))
        return cls(tuple(float(v) for v in volumes), low, high)


def _plain_edges(index: NDArray[np.int32], first: Ints, cells: CellSet, pieces: dict[int, _Pieces]) -> Edges:
    """Edges between elements whose cells are each one piece."""
    pairs = Pairs.of(index, len(cells))
    area, _ = pair_areas(pairs, cells.faces())
    a, b = pairs.ends
    joined = (area > 0) & ~np.isin(a, list(pieces)) & ~np.isin(b, list(pieces))
    joined = np.append(joined, False)  # for interfaces with a void, whose place is -1
    rows, columns = [], []
    for axis, where in enumerate(pairs.place):
        lower, upper = neighbours(first, axis)
        keep = joined[where]
        rows.append(lower[keep])
        columns.append(upper[keep])
    return np.concatenate(rows), np.concatenate(columns)


def _broken_edges(
    index: NDArray[np.int32], first: Ints, cells: CellSet, pieces: dict[int, _Pieces]
) -> list[Edges]:
    """Edges between pieces, where at least one of the two cells has several."""
    edges: list[Edges] = []
    broken = np.zeros(len(cells) + 1, dtype=bool)
    broken[list(pieces)] = True
    for axis in range(3):
        a, b = neighbours(index, axis)
        first_a, first_b = neighbours(first, axis)
        some = (a >= 0) & (b >= 0) & (broken[a] | broken[b])

        def high(cell: int, axis: int = axis) -> NDArray[np.int32]:
            return pieces[cell].high[axis] if cell in pieces else _whole_face(cells, cell)

        def low(cell: int, axis: int = axis) -> NDArray[np.int32]:
            return pieces[cell].low[axis] if cell in pieces else _whole_face(cells, cell)

        edges.append(piece_edges(a[some], b[some], first_a[some], first_b[some], high, low))
    return edges


def piece_edges(
    a: NDArray,
    b: NDArray,
    first_a: Ints,
    first_b: Ints,
    high: Callable[[int], NDArray],
    low: Callable[[int], NDArray],
    progress: Progress = unheard,
) -> Edges:
    """Nodes that face each other across interfaces normal to one axis.

    Parameters
    ----------
    a, b : int arrays (interfaces,)
        Cells of the lower and of the upper element.
    first_a, first_b : int arrays (interfaces,)
        The elements' first nodes; piece k of an element is node first + k - 1.
    high, low : callable
        Labels (2n, 2n) of a cell's pieces on its face at the upper and at the lower end of the axis, 0 where
        there is none.
    progress : Progress, optional
    """
    if len(a) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows, columns = [], []
    kinds = int(b.max()) + 1
    keys = a.astype(np.int64) * kinds + b
    order = np.argsort(keys, kind="stable")
    pairs, starts = np.unique(keys[order], return_index=True)
    ends = np.append(starts[1:], len(keys))
    for number, (pair, start, end) in enumerate(zip(pairs.tolist(), starts, ends, strict=True)):
        one, other = divmod(pair, kinds)
        faces = high(one).astype(np.int64), low(other).astype(np.int64)
        both = (faces[0] > 0) & (faces[1] > 0)
        wide = int(faces[1].max(initial=0)) + 1
        found = np.flatnonzero(np.bincount((faces[0] * wide + faces[1])[both]))
        here = order[start:end]
        rows.append((first_a[here][:, None] + found // wide - 1).ravel())
        columns.append((first_b[here][:, None] + found % wide - 1).ravel())
        if number % 1024 == 0:
            progress(number, len(pairs), "interfaces")
    return np.concatenate(rows), np.concatenate(columns)


def joined(edges: Sequence[Edges], total: int) -> tuple[int, NDArray[np.int32]]:
    """Number of components of a graph of ``total`` nodes, and each node's (total,)."""
    rows, columns = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(total, total))
    components, label = connected_components(graph.tocsr(), directed=False)
    return int(components), label


def _whole_face(cells: CellSet, cell: int) -> NDArray[np.int32]:
    """Face labels (2n, 2n) of a cell in one piece: 1 where solid."""
    quarter = cells.faces(cell).astype(np.int32)
    half = np.concatenate([quarter, quarter[::-1]])
    return np.concatenate([half, half[:, ::-1]], axis=1)
