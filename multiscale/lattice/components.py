"""Pieces of a lattice: solid parts of neighbouring cells joined where their faces touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from micro.cell.cellset import CellSet
from micro.cell.octant import cell_from_octant, connectivity
from multiscale.lattice.contact import Pairs, neighbours, pair_areas

_Edges = tuple[NDArray[np.int64], NDArray[np.int64]]


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


def _plain_edges(
    index: NDArray[np.int32], first: NDArray[np.int64], cells: CellSet, pieces: dict[int, _Pieces]
) -> _Edges:
    """Edges between elements whose cells are each one piece."""
    pairs = Pairs.of(index, len(cells))
    area, _ = pair_areas(pairs.keys, cells.faces())
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
