"""Regions of voxels to be solved exactly: connected sets of nodes, cut until their factors fit the memory.

Regions share no voxel, and those of the same voxels share a factor, whose size is known before it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Bytes, Ints
from micro.runtime.threads import one_core, run
from micro.voxels.corners import CORNERS, nodes_of
from multiscale.solve.voxels.cholesky import Elimination, Graph, graph_of, minimum_degree
from multiscale.solve.voxels.cholesky_kernels import dissected
from multiscale.solve.voxels.team import Team

#: Nodes of a region; a larger one is cut in two where that takes fewest. What swings across a cut stays slow
#: (docs/method.md), so smaller ones are for when the factors would take too much memory.
_LARGEST = (20000, 9000, 4000, 2000, 1000)
#: Regions whose factors' size is found out before the sum is looked at.
_AT_ONCE = 16
#: A rank may take so many times its part of the memory if the others take less; that much is announced.
UNEVEN = 1.5


@dataclass(frozen=True, eq=False)
class Job:
    """A region to be factorised: its nodes and voxels, and where it is.

    Attributes
    ----------
    points : int (n, 3)
        The nodes.
    elements, materials, corners : int (e, 3), uint8 (e,), int (e, 8)
        Voxels around them, one further along each axis than their lowest nodes; nodes at their corners, -1
        where it isn't one of these.
    held : bool (n, 3)
    origins : list of int
        The places, in a flat field.
    """

    points: Ints
    elements: Ints
    materials: Bytes
    corners: Ints
    held: Bools
    origins: list[int]

    @classmethod
    def of(cls, mask: Bools, around: Bytes, bound: Bools, origins: list[int]) -> Job:
        """A region as :meth:`Site.kinds` finds it.

        Parameters
        ----------
        mask : bool (x, y, z)
            The nodes.
        around : uint8 (x + 1, y + 1, z + 1)
            Materials of the voxels around them, 0 where a voxel has none of the nodes.
        bound : bool (x, y, z, 3)
            Held components.
        origins : list of int
            The region's places.
        """
        node = np.full(np.array(mask.shape) + 2, -1, dtype=np.int64)
        node[1:-1, 1:-1, 1:-1][mask] = np.arange(np.count_nonzero(mask))
        points, elements = np.argwhere(mask), np.argwhere(around)
        corners = node[tuple((elements[:, None, :] + CORNERS).transpose(2, 0, 1))]
        return cls(points, elements, around[around > 0], corners, bound[mask], origins)

    def bases(self, stride: Ints) -> Ints:
        """Offsets of the voxels' first corners from the region's place in a flat field."""
        found: Ints = (self.elements - 1) @ stride
        return found

    def graph(self) -> Graph:
        """Of the nodes; not kept, as it is larger than all the rest."""
        return graph_of(self.corners, len(self.points))

    def plan(self, graph: Graph, order: Ints) -> Plan:
        """In this order of the nodes, or by nested dissection if that fills less."""
        return Plan(self, Elimination.best(graph, dissected(self.points), order))


@dataclass(frozen=True, eq=False)
class Plan:
    """A region, and how its nodes are eliminated."""

    job: Job
    elimination: Elimination

    @property
    def nbytes(self) -> int:
        """Memory that the factor's numbers will take."""
        return self.elimination.nbytes

    @property
    def unknowns(self) -> int:
        """In all of its places."""
        return int(np.count_nonzero(~self.job.held)) * len(self.job.origins)

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """Where the factor has each voxel's degrees of freedom (:meth:`.Elimination.places`)."""
        return self.elimination.places(self.job.corners, self.job.held)

    def dofs(self, stride: Ints) -> Ints:
        """Offsets, in the factor's order, of the unknowns from the region's place in a flat field."""
        offsets = np.empty((len(self.job.points), 3), dtype=np.int64)
        component = stride[1] // 3 * np.arange(3)
        offsets[self.elimination.position] = (self.job.points @ stride)[:, None] + component
        return offsets.reshape(-1)


@dataclass(frozen=True, eq=False)
class Site:
    """Voxels in which regions are marked.

    Attributes
    ----------
    nodes : bool (X, Y, Z)
        Nodes to be solved exactly; large sets are cut apart.
    solid : uint8 (nx, ny, nz)
        Voxels by material.
    fixed : int64 array
        Constrained degrees of freedom, flat in (X, Y, 3, Z).
    holders : int
        Ranks that these voxels stand on, and among whom the regions are shared out.
    """

    nodes: Bools
    solid: Bytes
    fixed: Ints
    holders: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a nodal field."""
        nx, ny, nz = self.nodes.shape
        return nx, ny, 3, nz

    @property
    def stride(self) -> Ints:
        """Of the nodes in a flat field."""
        return np.array([self.shape[1] * 3 * self.shape[3], 3 * self.shape[3], 1], dtype=np.int64)

    @property
    def corners(self) -> Ints:
        """Offsets of a voxel's degrees of freedom from those of its first corner in a flat field, (24,)."""
        found: Ints = (CORNERS @ self.stride)[:, None] + self.shape[3] * np.arange(3)
        return found.reshape(-1)

    @cached_property
    def count(self) -> float:
        """Marked nodes, a holder."""
        return np.count_nonzero(self.nodes) / self.holders

    def kinds(self, largest: int) -> list[tuple[Bools, Bytes, Bools, list[int]]]:
        """Different regions of at most ``largest`` nodes: nodes, voxels around them, supports, and places.

        Those of most places for their size come first.
        """
        held = np.zeros(self.shape, dtype=bool)
        held.reshape(-1)[self.fixed] = True
        kinds: dict[bytes, tuple[Bools, Bytes, Bools, list[int]]] = {}
        for low, mask in _pieces(self.nodes, largest):
            high = low + mask.shape
            around = _window(self.solid, low - 1, high)
            bound = held[low[0] : high[0], low[1] : high[1], :, low[2] : high[2]]
            bound = bound.transpose(0, 1, 3, 2) & mask[..., None]
            around = around * nodes_of(mask)  # voxels with a marked corner, one more an axis than nodes
            key = hashlib.sha256(np.array(mask.shape).tobytes())
            for part in (mask, around, bound):
                key.update(part.tobytes())
            kinds.setdefault(key.digest(), (mask, around, bound, []))[3].append(int(low @ self.stride))
        return sorted(kinds.values(), key=lambda kind: np.count_nonzero(kind[0]) / len(kind[3]))


def planned(sites: Sequence[Site], limit: float, team: Team) -> list[list[Plan]]:
    """Regions of each site: as large as memory allows; if the smallest take too much, as many as it allows.

    They are what fits on all ranks together, so that they hardly depend on where the voxels are cut, as long
    as no rank takes much more than its part (:data:`UNEVEN`). Both ranks of a cut find the same for it.

    Parameters
    ----------
    sites : sequence of Site
        This rank's.
    limit : float
        Bytes that the factors' numbers may take on this rank.
    team : Team
        All ranks call this at once.
    """
    whole, least = team.total(limit), team.smallest(limit)
    uneven = UNEVEN if team.size > 1 else 1.0
    rooms = [uneven * (limit if site.holders == 1 else least) * site.holders for site in sites]
    most = np.inf
    for largest in _LARGEST:
        if most <= largest:
            continue  # the same regions again
        kinds = [site.kinds(largest) for site in sites]
        found = [_plans(some, room, team.threads) for some, room in zip(kinds, rooms, strict=True)]
        cut = any(len(plans) < len(some) for plans, some in zip(found, kinds, strict=True))
        own = sum(plan.nbytes / s.holders for plans, s in zip(found, sites, strict=True) for plan in plans)
        if not team.largest(float(cut or own > uneven * limit)) and team.total(own) <= whole:
            return found
        sizes = (float(np.count_nonzero(kind[0])) for some in kinds for kind in some)
        most = team.largest(max(sizes, default=0.0))
    # Every node has the same share, by numbers that all ranks agree on.
    count = sum(site.count for site in sites)
    most_of_a_node = team.smallest(uneven * limit / count if count else np.inf)
    each = min(whole / max(team.total(count), 1), most_of_a_node)
    return [_plans(s.kinds(_LARGEST[-1]), each * s.count * s.holders, team.threads) for s in sites]


def _plans(kinds: Sequence[tuple[Any, ...]], limit: float, threads: int) -> list[Plan]:
    """Of as many kinds as the limit allows."""
    plans: list[Plan] = []
    taken = 0
    with one_core():
        for start in range(0, len(kinds), _AT_ONCE):
            jobs = run([partial(Job.of, *kind) for kind in kinds[start : start + _AT_ONCE]], threads)
            graphs = run([job.graph for job in jobs], threads)
            orders = [minimum_degree(graph) for graph in graphs]  # PETSc's, which is not for threads
            all_of = zip(jobs, graphs, orders, strict=True)
            for plan in run([partial(job.plan, graph, order) for job, graph, order in all_of], threads):
                taken += plan.nbytes
                if taken > limit:
                    return plans
                plans.append(plan)
    return plans


def _window(field: NDArray[Any], low: Any, high: Any) -> NDArray[Any]:
    """``field[low:high]``, zero outside of it."""
    inner = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, field.shape, strict=True))
    widths = [(max(-a, 0), max(b - n, 0)) for a, b, n in zip(low, high, field.shape, strict=True)]
    return np.pad(field[inner], widths)


def _pieces(nodes: Bools, largest: int) -> list[tuple[Ints, Bools]]:
    """Sets of nodes that share no voxel with one another: corner of their box, and nodes in it."""
    waiting = [(np.zeros(3, dtype=np.int64), nodes)]
    found = []
    while waiting:
        low, some = waiting.pop()
        labels = cc3d.connected_components(some.astype(np.uint8), connectivity=26)
        boxes = cc3d.statistics(labels)["bounding_boxes"]
        for label in range(1, len(boxes)):
            mask = labels[boxes[label]] == label
            at = low + [s.start for s in boxes[label]]
            if np.count_nonzero(mask) <= largest:
                found.append((at, mask))
            else:
                waiting.append((at, _cut(mask)))
    return sorted(found, key=lambda piece: tuple(piece[0]))


def _cut(mask: Bools) -> Bools:
    """The set without its thinnest plane in the middle half of its longest axis."""
    axis = int(np.argmax(mask.shape))
    size = mask.shape[axis]
    count = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))
    begin, end = size // 4, max(size - size // 4, size // 4 + 1)
    out = mask.copy()
    np.moveaxis(out, axis, 0)[begin + int(np.argmin(count[begin:end]))] = False
    return out
