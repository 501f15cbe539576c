"""Void that a cell encloses, and the finest channels that let it out in a lattice of the cell's own kind.

A lattice of one cubic cell is its chamber i <= j <= k reflected in the chamber's four walls (i = 0, i = j,
j = k, k = n - 1) again and again. A connected part of the chamber's void goes on for ever exactly if it meets
all four: the reflections in any three of them make up a finite group (Humphreys 1990, chapter 2), so that
what meets no more is a closed pocket with finitely many images.

Channels follow the ways of least cost through the solid (Dijkstra), the cost of a voxel being the energy
that the material around it stores: they go where the tensor loses least.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra

from micro.cell.chamber import chamber, fundamental_domain
from micro.cell.octant import connectivity, largest_component
from micro.runtime.arrays import Bools, Floats

RADIUS = 2.0 / 128.0
"""Half the width of a channel in cell edges: at n = 64 a channel is five voxels wide of 128."""

FILLED = 5e-3
"""Pockets that are larger than this share of the cell are drained, never filled."""

_BASE = 0.2
"""What a voxel costs that carries nothing, over the mean of the solid: long ways are not free."""

_FREE = 1e-4
"""What a step through void costs."""


@dataclass(frozen=True)
class _Graph:
    """The chamber's voxels in the octant of n.

    Their places (x, y, z), neighbours by their ends (e,) and (e,), walls (4, q), images in the octant (q,).
    """

    n: int
    voxels: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    walls: Bools
    images: Floats

    def pieces(self, void: Bools) -> tuple[int, NDArray[np.int32]]:
        """Number of 6-connected pieces of void (q,), and each voxel's (-1: solid)."""
        cube = np.zeros((self.n,) * 3, dtype=bool)
        cube[self.voxels] = void
        # Neighbours that a wall mirrors are the chamber's own neighbours.
        labels, count = cc3d.connected_components(cube, connectivity=6, return_N=True)
        return count, labels[self.voxels].astype(np.int32) - 1

    def ways(self, cost: Floats, sources: Bools) -> tuple[Floats, NDArray[np.intp]]:
        """Least cost (q,) from any of ``sources`` to each voxel, and its predecessor on that way."""
        weight = (cost[self.first] + cost[self.second]) / 2
        graph = csr_array(coo_array((weight, (self.first, self.second)), shape=(len(cost),) * 2))
        at = np.flatnonzero(sources)
        distance, before, _ = dijkstra(
            graph, directed=False, indices=at, min_only=True, return_predecessors=True
        )
        return distance, before


@lru_cache(maxsize=4)
def _graph(n: int) -> _Graph:
    _, rank = fundamental_domain(n)
    index = chamber(n).voxels
    first, second = [], []
    for axis in range(3):
        beside = index.copy()
        beside[axis] += 1
        exists = np.flatnonzero(beside[axis] < n)
        other = rank[np.ravel_multi_index(tuple(beside[:, exists]), (n, n, n))]
        kept = other != exists
        first.append(exists[kept])
        second.append(other[kept])
    i, j, k = index
    # A channel in a wall is shared with its mirror image: only a part of it lies in the chamber.
    radius = max(1, round(2 * n * RADIUS))
    within = np.zeros((n, n, n))
    within[tuple(index)] = 1.0
    share = chamber(n).fold(ndimage.uniform_filter(within, 2 * radius + 1, mode="constant"))
    walls = np.stack([i == 0, i == j, j == k, k == n - 1])
    one, other = (np.concatenate(end).astype(np.int32) for end in (first, second))  # as dijkstra wants them
    return _Graph(n, tuple(index), one, other, walls, share)


def closed_pockets(void: Bools, n: int) -> tuple[NDArray[np.int32], NDArray[np.intp], NDArray[np.intp]]:
    """Pieces of the chamber's void (q,): each voxel's (-1: solid), the closed ones, and those that go on."""
    graph = _graph(n)
    count, label = graph.pieces(void)
    meets = np.stack([np.bincount(label[w & void], minlength=count) > 0 for w in graph.walls])
    goes_on = meets.all(axis=0)
    return label, np.flatnonzero(~goes_on), np.flatnonzero(goes_on)


def is_open(octant: Bools) -> bool:
    """Whether an octant (n, n, n) encloses no void: the fast form of :func:`micro.cell.octant.encloses`."""
    n = len(octant)
    return len(closed_pockets(~chamber(n).fold(octant), n)[1]) == 0


@dataclass(frozen=True)
class Drained:
    """What opens a cell, on the chamber.

    Attributes
    ----------
    channels, filled : bool array, shape (q,)
        Voxels that have to be void, and small pockets that become solid.
    """

    channels: Bools
    filled: Bools


def drain(solid: Bools, energy: Floats, n: int) -> Drained | None:
    """The finest channels that open every pocket; None where there is no void at all.

    Parameters
    ----------
    solid : bool array, shape (q,)
        The cell on its chamber.
    energy : array, shape (q,)
        What the solid's voxels carry, not negative, on any scale.
    n : int
    """
    graph, weights = _graph(n), chamber(n).weights
    if solid.all():
        return None
    cost = _costs(solid, energy, n) * graph.images
    void, filled, centre = ~solid, np.zeros_like(solid), np.zeros_like(solid)
    label, closed, goes_on = closed_pockets(void, n)
    if len(goes_on) == 0:
        # The largest pocket is led to the walls that it does not meet.
        sizes = np.bincount(label[void], weights=weights[void])
        main = label == int(np.argmax(sizes))
        for wall in graph.walls:
            if not (main & wall).any():
                way = _way(graph, cost, main, wall)
                centre |= way
                main |= way
                cost = np.where(way, _FREE * graph.images, cost)
        open_void = main
    else:
        open_void = np.isin(label, goes_on)
    for piece in closed.tolist():
        pocket = label == piece
        if (pocket & open_void).any():
            continue
        way = _way(graph, cost, pocket, open_void)
        size = float(weights[pocket].sum())
        carved = float(weights[_widened(way, n) & solid].sum())
        if size < FILLED * n**3 and size < carved:
            filled |= pocket
            continue
        centre |= way
        open_void = open_void | pocket | way
        cost = np.where(way, _FREE * graph.images, cost)
    return Drained(_widened(centre, n), filled)


def drained(octant: Bools, level: Floats) -> Bools:
    """An octant (n, n, n) with the shortest channels that open it, and as much solid as before.

    Nothing is homogenised: every voxel of the solid costs alike, and the surface moves outwards until the
    volume is there again. ``level`` (n, n, n) is positive inside, in any unit. Given back as it is if it
    is open, or comes out in pieces.
    """
    n = len(octant)
    solid, weights = chamber(n).fold(octant), chamber(n).weights
    plan = None if is_open(octant) else drain(solid, np.ones(len(solid)), n)
    if plan is None:
        return octant
    fixed = plan.channels | plan.filled
    free = np.where(solid, np.inf, np.where(fixed, -np.inf, chamber(n).fold(level)))
    order = np.argsort(-free, kind="stable")
    missing = weights @ solid - weights @ ((solid & ~plan.channels) | plan.filled)
    # Void nearest to the surface turns solid, as much as the channels took, but at most a layer's worth.
    added = np.zeros_like(solid)
    at = order[np.isfinite(free[order])]
    added[at[np.cumsum(weights[at]) <= missing]] = True
    for new in (solid | added, solid):
        kept = largest_component(chamber(n).unfold((new & ~plan.channels) | plan.filled))
        if connectivity(kept).connected and is_open(kept):
            return kept
    return octant


def _costs(solid: Bools, energy: Floats, n: int) -> Floats:
    """Cost of a channel's centre at each voxel, (q,)."""
    typical = float(energy[solid].mean()) or 1.0
    carried = np.where(solid, _BASE + energy / typical, 0.0)
    around = ndimage.gaussian_filter(chamber(n).unfold(carried), 2 * n * RADIUS / 2, mode="reflect")
    return np.asarray(np.where(solid, chamber(n).fold(around) + _FREE, _FREE))


def _way(graph: _Graph, cost: Floats, start: Bools, end: Bools) -> Bools:
    """The voxels (q,) on the cheapest way between two sets of voxels."""
    distance, before = graph.ways(cost, start)
    at = int(np.flatnonzero(end)[np.argmin(distance[end])])
    out = np.zeros_like(start)
    while at >= 0:
        out[at] = True
        at = int(before[at])
    return out


def _widened(centre: Bools, n: int) -> Bools:
    """All voxels (q,) within a channel's radius of its centre line."""
    if not centre.any():
        return centre
    reach = 2 * n * RADIUS
    pad = int(np.ceil(reach))
    line = np.pad(chamber(n).unfold(centre), pad, mode="symmetric")
    grid = np.mgrid[-pad : pad + 1, -pad : pad + 1, -pad : pad + 1]
    ball = (grid**2).sum(axis=0) <= reach**2 + 1e-9
    wide = ndimage.binary_dilation(line, ball)[(slice(pad, -pad),) * 3]
    return chamber(n).fold(wide)
