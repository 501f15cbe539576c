"""Void that nothing can leave: where powder or resin stays.

Exact on the voxels, without expanding the lattice: the void of each unique cell falls into 6-connected
pieces (a gap of an edge or a corner lets nothing through); a piece is a node of a graph wherever the
cell occurs, two nodes are joined where their voxels face each other across two elements' interface, and
what is not joined to the outside is enclosed. Void elements are one piece each.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from micro.cell.octant import cell_from_octant
from micro.runtime.arrays import Ints
from micro.runtime.progress import Progress, unheard
from multiscale.lattice.components import Edges, joined, piece_edges
from multiscale.lattice.contact import neighbours
from multiscale.lattice.lattice import Lattice


@dataclass(frozen=True)
class Cavities:
    """Enclosed void of a lattice.

    Attributes
    ----------
    count : int
        Cavities, those that reach over several elements counted once.
    volume_mm3, largest_mm3, median_mm3 : float
        Of all, of the largest, of the middle one (a few voxels: pockets that the cells' resolution leaves).
    elements : int
        Elements with a part of a cavity.
    cells : int
        Unique cells in use with a cavity that reaches none of their faces.
    elements_by_themselves : int
        Elements filled with one of these.
    """

    count: int
    volume_mm3: float
    largest_mm3: float
    median_mm3: float
    elements: int
    cells: int
    elements_by_themselves: int


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Pieces 1, 2, ... of each unique cell's void.

    Attributes
    ----------
    count : (m,)
    volumes : list of (count,) in voxels
    low, high : (m, 3, 2n, 2n)
        Labels on the faces at both ends of each axis; 0 is solid.
    """

    count: Ints
    volumes: list[Ints]
    low: NDArray[np.uint32]
    high: NDArray[np.uint32]


def find_cavities(lattice: Lattice, *, progress: Progress = unheard) -> Cavities:
    """Enclosed void of a whole lattice; beyond its boundary all is open."""
    used, local = np.unique(lattice.index, return_inverse=True)
    cells = used[used >= 0]
    pieces = _label(lattice, cells, progress)
    # Void elements, and one layer all around, are the last, open cell.
    solid = np.reshape(local, lattice.shape) - int(used[0] < 0)
    index = np.pad(np.where(lattice.solid, solid, len(cells)), 1, constant_values=len(cells))

    nodes = pieces.count[index]
    first = (np.cumsum(nodes) - nodes.ravel()).reshape(index.shape)  # an element's first node
    total = int(nodes.sum())
    components, label = joined([_edges(index, first, pieces, axis, progress) for axis in range(3)], total)

    flat = index.ravel()
    order = np.argsort(flat, kind="stable")  # elements by cell, to give each its pieces' volumes at once
    volume = np.empty(total)
    starts = np.searchsorted(flat[order], np.arange(len(pieces.volumes) + 1))
    for cell, own in enumerate(pieces.volumes):
        where = first.ravel()[order[starts[cell] : starts[cell + 1]]]
        volume[where[:, None] + np.arange(len(own))] = own
    # The first node is the corner of the layer around the lattice.
    closed = label != label[0]
    sizes = np.bincount(label[closed], weights=volume[closed], minlength=components)
    sizes = sizes[sizes > 0]
    pitch = 1e3 * lattice.cell_size_m / lattice.voxels_per_cell
    element = np.repeat(np.arange(index.size), nodes.ravel())
    alone = np.array([_encloses(pieces, cell) for cell in range(len(cells))], dtype=bool)
    return Cavities(
        count=len(sizes),
        volume_mm3=float(sizes.sum()) * pitch**3,
        largest_mm3=float(sizes.max(initial=0.0)) * pitch**3,
        median_mm3=float(np.median(sizes)) * pitch**3 if len(sizes) else 0.0,
        elements=len(np.unique(element[closed])),
        cells=int(alone.sum()),
        elements_by_themselves=int(np.append(alone, False)[index].sum()),
    )


def _label(lattice: Lattice, cells: NDArray[np.int32], progress: Progress) -> _Pieces:
    size = lattice.voxels_per_cell
    shape = (len(cells) + 1, 3, size, size)
    low, high = np.zeros(shape, dtype=np.uint32), np.zeros(shape, dtype=np.uint32)
    volumes: list[Ints] = []
    for i, cell in enumerate(cells.tolist()):
        void = cell_from_octant(~lattice.cells.octants(cell))
        labels = cc3d.connected_components(void, connectivity=6)
        volumes.append(np.bincount(labels.ravel())[1:])
        for axis in range(3):
            low[i, axis], high[i, axis] = np.take(labels, 0, axis=axis), np.take(labels, -1, axis=axis)
        progress(i + 1, len(cells), "void of the cells")
    volumes.append(np.array([size**3]))
    low[-1] = high[-1] = 1
    return _Pieces(np.array([len(v) for v in volumes]), volumes, low, high)


def _edges(index: Ints, first: Ints, pieces: _Pieces, axis: int, progress: Progress) -> Edges:
    """Joined nodes of neighbouring elements along one axis."""
    a, b = (side.ravel() for side in neighbours(index, axis))
    first_a, first_b = (side.ravel() for side in neighbours(first, axis))
    high, low = pieces.high[:, axis], pieces.low[:, axis]
    return piece_edges(a, b, first_a, first_b, lambda cell: high[cell], lambda cell: low[cell], progress)


def _encloses(pieces: _Pieces, cell: int) -> bool:
    """Whether a piece of the cell's void reaches none of its faces."""
    seen = np.zeros(int(pieces.count[cell]) + 1, dtype=bool)
    seen[pieces.low[cell].ravel()] = True
    seen[pieces.high[cell].ravel()] = True
    return not seen[1:].all()
