"""The pieces of a lattice's solid or void, as nodes of a graph over all its elements.

The voxels of each kind of cell fall into 6-connected pieces (a gap of an edge or a corner lets nothing
through); a piece is a node wherever its kind occurs, and two nodes are joined where their voxels face each
other across two elements' interface. Exact, without expanding the lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from micro.cell.octant import cell_from_octant
from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.progress import Progress, unheard
from multiscale.lattice.components import Edges, joined, piece_edges
from multiscale.lattice.contact import neighbours
from multiscale.lattice.lattice import VOID, Lattice


@dataclass(frozen=True, eq=False)
class PieceGraph:
    """Pieces of one phase in every element; for the void also in one layer of open elements all around.

    Attributes
    ----------
    kinds : int array, shape (m,)
        Kinds of cells in use, ascending; number m stands for void elements.
    index : int array, shape (nx, ny, nz), for the void (nx + 2, ny + 2, nz + 2)
        Position in ``kinds`` of each element.
    element : int array, shape (nodes,)
        Flat index of each node's element in ``index``.
    piece : int array, shape (nodes,)
        Which piece of its kind (:func:`pieces_of`) a node is, from 1 on.
    volume : int array, shape (nodes,)
        In voxels.
    label : int array, shape (nodes,)
        Component of each node, 0 to ``components`` - 1.
    components : int
    inner : bool array, shape (m + 1,)
        Kinds with a piece that reaches none of their faces.
    """

    kinds: Ints
    index: Ints
    element: Ints
    piece: Ints
    volume: Ints
    label: Ints
    components: int
    inner: Bools

    @property
    def sizes(self) -> Floats:
        """Volume of each component in voxels, (components,)."""
        return np.bincount(self.label, self.volume.astype(np.float64), self.components).astype(np.float64)


def whole_cell(lattice: Lattice, kind: int) -> Bools:
    """All voxels (2n, 2n, 2n) of a kind of cell."""
    voxels = lattice.voxels_of(kind)
    return np.asarray(voxels if len(voxels) == lattice.voxels_per_cell else cell_from_octant(voxels))


def pieces_of(lattice: Lattice, kind: int, *, void: bool) -> NDArray[np.integer]:
    """Labels (2n, 2n, 2n) of the 6-connected pieces of a kind's solid or void, from 1 on; 0 elsewhere."""
    phase = whole_cell(lattice, kind)
    labels: NDArray[np.integer] = cc3d.connected_components(~phase if void else phase, connectivity=6)
    return labels


def piece_graph(lattice: Lattice, *, void: bool, progress: Progress = unheard) -> PieceGraph:
    """The pieces of a lattice's solid, or of its void with all that lies around it.

    Parameters
    ----------
    lattice : Lattice
    void : bool
        Of the void; the first node is then outside the lattice.
    progress : Progress, optional
    """
    used = np.unique(lattice.kinds)
    kinds = used[used != VOID].astype(np.int64)
    found = _label(lattice, kinds, void, progress)
    index = np.where(lattice.solid, np.searchsorted(kinds, lattice.kinds), len(kinds))
    if void:
        index = np.pad(index, 1, constant_values=len(kinds))
    nodes = found.count[index]
    first = (np.cumsum(nodes) - nodes.ravel()).reshape(index.shape)  # an element's first node
    edges = [_edges(index, first, found, axis, progress) for axis in range(3)]
    components, label = joined(edges, int(nodes.sum()))
    element = np.repeat(np.arange(index.size), nodes.ravel())
    piece = 1 + np.arange(len(element)) - first.ravel()[element]
    start = np.cumsum(found.count) - found.count
    volume = np.concatenate(found.volumes)[start[index.ravel()[element]] + piece - 1]
    inner = np.array([_inner(found, kind) for kind in range(len(kinds))] + [False])
    return PieceGraph(kinds, index, element, piece, volume, label.astype(np.int64), components, inner)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Pieces 1, 2, ... of each kind.

    Attributes
    ----------
    count : (m,)
    volumes : list of (count,) in voxels
    low, high : (m, 3, 2n, 2n)
        Labels on the faces at both ends of each axis; 0 is the other phase.
    """

    count: Ints
    volumes: list[Ints]
    low: NDArray[np.uint32]
    high: NDArray[np.uint32]


def _label(lattice: Lattice, kinds: Ints, void: bool, progress: Progress) -> _Pieces:
    size = lattice.voxels_per_cell
    shape = (len(kinds) + 1, 3, size, size)
    low, high = np.zeros(shape, dtype=np.uint32), np.zeros(shape, dtype=np.uint32)
    volumes: list[Ints] = []
    for i, kind in enumerate(kinds.tolist()):
        labels = pieces_of(lattice, kind, void=void)
        volumes.append(np.bincount(labels.ravel())[1:])
        for axis in range(3):
            low[i, axis], high[i, axis] = np.take(labels, 0, axis=axis), np.take(labels, -1, axis=axis)
        progress(i + 1, len(kinds), "void of the cells" if void else "solid of the cells")
    if void:  # void elements are one piece each
        low[-1] = high[-1] = 1
    volumes.append(np.array([size**3] if void else [], dtype=np.int64))
    return _Pieces(np.array([len(v) for v in volumes]), volumes, low, high)


def _edges(index: Ints, first: Ints, pieces: _Pieces, axis: int, progress: Progress) -> Edges:
    """Joined nodes of neighbouring elements along one axis."""
    a, b = (side.ravel() for side in neighbours(index, axis))
    first_a, first_b = (side.ravel() for side in neighbours(first, axis))
    high, low = pieces.high[:, axis], pieces.low[:, axis]
    return piece_edges(a, b, first_a, first_b, lambda kind: high[kind], lambda kind: low[kind], progress)


def _inner(pieces: _Pieces, kind: int) -> bool:
    """Whether a piece of the kind reaches none of its faces."""
    seen = np.zeros(int(pieces.count[kind]) + 1, dtype=bool)
    seen[pieces.low[kind].ravel()] = True
    seen[pieces.high[kind].ravel()] = True
    return not seen[1:].all()
