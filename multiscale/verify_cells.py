"""Cells at fewer voxels: the octants that a full-scale model of coarse voxels is built from.

A coarse voxel's solid fraction ranks it. The level sets of that ranking, from the most to the least solid,
are the candidates; the cell becomes the one nearest in volume among those that are connected as a cell has to
be (one piece that meets face and mid-plane). Where the fractions cut thin members, that level set can be far
too full, so bridges compete with it: the voxels of at least half solid, their pieces joined along the paths
of least added void. What differs from the original is measured, not hidden: the coarse cells are homogenised
themselves, and a full-scale result is compared with the prediction from *their* tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from micro.cell import connectivity
from micro.cellset import CellSet
from micro.errors import NotConverged
from micro.homogenize import Status, homogenize_octants
from multiscale.lattice import Lattice, solid_fractions

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CoarseLattice:
    """A lattice of fewer voxels per cell.

    Attributes
    ----------
    lattice : Lattice
        The coarse cells with their own tensors and volumes.
    rethresholded : int
        Unique cells that the plain threshold of one half would have left disconnected.
    volume_change : float
        Mean over the solid elements of |coarse volume fraction - original|.
    """

    lattice: Lattice
    rethresholded: int
    volume_change: float


def coarse_lattice(lattice: Lattice, per_cell: int) -> CoarseLattice:
    """The lattice at ``per_cell`` voxels along a cell's edge, its coarse cells homogenised.

    Raises
    ------
    InputError
        If ``per_cell`` is not an even divisor of the cells' own resolution.
    NotConverged
        If a coarse cell's homogenisation fails.
    """
    lattice = lattice.compact()
    cells = lattice.cells
    if per_cell == lattice.voxels_per_cell:
        return CoarseLattice(lattice, 0, 0.0)
    fractions = solid_fractions(cells.octants(), per_cell)
    octants = np.stack([coarse_octant(f, v) for f, v in zip(fractions, cells.volume, strict=True)])
    changed = sum(not connectivity(f >= 0.5).connected for f in fractions)
    result = homogenize_octants(octants, nu=lattice.poisson)
    if (result.status != Status.OK).any():
        raise NotConverged(
            f"{int((result.status != Status.OK).sum())} cells could not be homogenised at {per_cell} voxels "
            "an edge: take more --voxels-per-cell"
        )
    coarse = CellSet.from_octants(octants, result.C, family=[str(name) for name in cells.family])
    new = Lattice(
        coarse, lattice.index, lattice.cell_size_m, lattice.young_pa, lattice.poisson, lattice.attrs
    )
    used = lattice.index[lattice.solid]
    change = float(np.abs(coarse.volume - cells.volume)[used].mean())
    return CoarseLattice(new, changed, change)


def coarse_octant(fraction: NDArray[np.floating], volume: float) -> Bools:
    """A connected octant of coarse voxels, bool (k, k, k).

    Parameters
    ----------
    fraction : array (k, k, k)
        Solid fraction of each coarse voxel, invariant under permutation of the axes.
    volume : float
        Wanted solid fraction of the whole.
    """
    candidates = []
    for threshold in np.unique(fraction[fraction > 0]):
        octant = fraction >= threshold
        if connectivity(octant).connected:
            candidates.append(octant)
    if not candidates:
        return np.ones(fraction.shape, dtype=bool)
    if not connectivity(fraction >= 0.5).connected:
        candidates.append(bridge(fraction))
    # Later candidates are emptier: of two equally near ones the fuller stays.
    return min(candidates, key=lambda octant: abs(float(octant.mean()) - volume))


def bridge(fraction: NDArray[np.floating]) -> Bools:
    """The voxels of at least half solid (or the most solid ones), made one piece from face to mid-plane.

    Pieces and ends are joined along the paths that add least void; a piece that would cost more void than it
    holds solid is left out. Every path comes with its images under permutation of the axes.
    """
    void = 1.0 - fraction
    octant = fraction >= min(0.5, fraction.max())
    while True:
        labels, count = ndimage.label(octant)
        main = _largest(labels, fraction)
        distance, parent = _paths(void, labels == main)
        faces = np.zeros(octant.shape, dtype=bool)
        faces[0] = faces[:, 0] = faces[:, :, 0] = True
        goals = [faces, np.flip(faces)]
        goals = [goal for goal in goals if not (goal & (labels == main)).any()]
        pieces = [labels == label for label in range(1, count + 1) if label != main]
        images = _orbit(labels == main)
        pieces = [piece for piece in pieces if not (piece & images).any()] or pieces
        worth = []
        for piece in pieces:
            cost = distance[piece].min()
            if cost > fraction[piece].sum() and not (piece & images).any():
                octant = octant & ~_orbit(piece)
            else:
                worth.append(piece)
        targets = goals or worth
        if not targets:
            if len(worth) == len(pieces):
                return octant
            continue
        nearest = min(targets, key=lambda target: float(distance[target].min()))
        at = int(np.argmin(np.where(nearest, distance, np.inf)))
        path = np.zeros(octant.shape, dtype=bool)
        while at >= 0:
            path.reshape(-1)[at] = True
            at = int(parent[at])
        octant = octant | _orbit(path)


def _largest(labels: NDArray[np.integer], fraction: NDArray[np.floating]) -> int:
    """The piece of most solid."""
    return 1 + int(np.argmax(ndimage.sum_labels(fraction, labels, range(1, int(labels.max()) + 1))))


def _orbit(octant: Bools) -> Bools:
    """The union with its images under permutation of the axes."""
    out = octant.copy()
    for axes in permutations(range(3)):
        out |= octant.transpose(axes)
    return out


def _paths(cost: NDArray[np.floating], start: Bools) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Least cost of entering voxels from ``start`` to each one, and the voxel before it (-1 at the start)."""
    number = np.arange(cost.size).reshape(cost.shape)
    rows, columns = [], []
    for axis in range(3):
        a, b = (np.moveaxis(number, axis, 0)[part].reshape(-1) for part in (slice(0, -1), slice(1, None)))
        rows += [a, b]
        columns += [b, a]
    row, column = np.concatenate(rows), np.concatenate(columns)
    # Of two paths that add no void the shorter one.
    weight = cost.reshape(-1)[column] + 1e-6
    graph = coo_array((weight, (row, column)), shape=(cost.size, cost.size)).tocsr()
    distance, parent, _ = dijkstra(
        graph, indices=np.flatnonzero(start), min_only=True, return_predecessors=True
    )
    return distance.reshape(cost.shape), np.where(parent < 0, -1, parent).astype(np.int64)
