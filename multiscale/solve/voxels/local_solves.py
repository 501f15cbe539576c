"""Exact solves where a lattice's pieces hang by little: what multigrid leaves, taken out directly.

Where unlike cells meet, thin pieces hang by a voxel or two. They swing nearly freely, no coarse grid of
linear elements can follow them (it sees the gap as solid), and each adds a slow mode to the V-cycle. These
modes are local and many. They are found by what the cycle itself leaves of noise, a region of voxels is put
around each, and the stiffness of the region, everything else held, is factorised. A cycle z = M r then ends
with an exact solve of what is left in the regions R,

    z <- z + P (r - A z),    P = (A_RR)^-1 on R, zero elsewhere.

That is the balancing preconditioner (Mandel 1993) with R in place of a coarse space: symmetric as long as
the residual the iteration starts from is zero in R (Tang, Nabben, Vuik and Erlangga 2009, "Comparison of
two-level preconditioners derived from deflation, domain decomposition and multigrid methods", A-DEF2), which
:meth:`LocalSolves.start` sees to. Regions don't touch, so they are solved one by one, in any order.

Where ranks hold slabs, many regions lie across a cut, since unlike cells meet at cell planes. Both ranks see
a window of layers on either side of it. What they have to know of each other there, the residual and the
cycle's outcome, is exchanged before every solve; both then solve the same regions from the same numbers, and
each keeps what lies on its planes (:class:`SlabSolves`). All other regions are a rank's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micro.runtime.arrays import Bools, Bytes, Floats, Ints
from micro.runtime.memory import trim
from micro.runtime.threads import one_core, run
from micro.voxels.corners import CORNERS, nodes_of
from multiscale.solve.voxels import local_kernels
from multiscale.solve.voxels.cholesky import Elimination, Graph, graph_of, minimum_degree
from multiscale.solve.voxels.cholesky_kernels import Factor, dissected
from multiscale.solve.voxels.team import Field, Team

#: Edge of the blocks of voxels that are judged, in voxels.
_EDGE = 4
#: Plain cycles on noise, then steps of Chebyshev's iteration that damp modes whose Rayleigh quotient under
#: the cycle lies between these bounds and leave those below.
_PLAIN, _STEPS, _DAMPED = 1, 4, (0.2, 1.0)
#: Cycles that a search takes.
SEARCH_CYCLES = _PLAIN + _STEPS
#: A block is slow if it keeps this many times the median energy, or moves so much; at most this share each.
_ABOVE, _SHARE = 5.0, 0.08
#: Nodes of a region; a larger one is cut in two where that takes fewest. What swings across a cut stays slow
#: (docs/method.md), so smaller ones are for when the factors would take too much memory.
_LARGEST = (20000, 9000, 4000, 2000, 1000)
#: Layers of voxels on each side of a cut between ranks that a window shows, at most.
_WINDOW = 32
#: Regions whose factors' size is found out before the sum is looked at.
_AT_ONCE = 16
#: Relative shift of a region's operator.
_SHIFT = 1e-9


@dataclass(frozen=True, eq=False)
class _Job:
    """A region to be factorised: its nodes and voxels, and where it is.

    Attributes
    ----------
    points : int (n, 3)
        The nodes.
    elements, materials, corners : int (e, 3), uint8 (e,), int (e, 8)
        Voxels around them, one further along each axis than their lowest nodes; nodes at their corners, -1
        where it isn't one of these.
    held : bool (n, 3)
    graph : Graph
        Of the nodes.
    origins : list of int
        The places, in a flat field.
    """

    points: Ints
    elements: Ints
    materials: Bytes
    corners: Ints
    held: Bools
    graph: Graph
    origins: list[int]

    @classmethod
    def of(cls, mask: Bools, around: Bytes, bound: Bools, origins: list[int]) -> _Job:
        """The nodes ``mask``, the materials ``around`` them, and which components are ``bound``."""
        node = np.full(np.array(mask.shape) + 2, -1, dtype=np.int64)
        node[1:-1, 1:-1, 1:-1][mask] = np.arange(np.count_nonzero(mask))
        points, elements = np.argwhere(mask), np.argwhere(around)
        corners = node[tuple((elements[:, None, :] + CORNERS).transpose(2, 0, 1))]
        graph = graph_of(corners, len(points))
        return cls(points, elements, around[around > 0], corners, bound[mask], graph, origins)

    def plan(self, order: Ints) -> Elimination:
        """In this order of the nodes, or by nested dissection if that fills less."""
        return Elimination.best(self.graph, dissected(self.points), order)


@dataclass(frozen=True, eq=False)
class Region:
    """A set of nodes with its factor; every place in the lattice with the same voxels shares it.

    Attributes
    ----------
    dofs : int64 (n,)
        Offsets of the degrees of freedom, in the factor's order, from the region's place in a flat field.
    bases : int64 (e,)
        Offsets of the first corners of the voxels around them.
    places : int32 (e, 24)
        Positions of a voxel's degrees of freedom in ``dofs``; -1 where it is held or no one of these.
    moduli : array (e,)
        Of the voxels.
    factor : Factor
    """

    dofs: Ints
    bases: Ints
    places: NDArray[np.int32]
    moduli: Floats
    factor: Factor


class LocalSolves:
    """The regions of a lattice.

    Parameters
    ----------
    nodes : bool (X, Y, Z)
        Nodes to be solved exactly; large sets are cut apart.
    solid : uint8 (nx, ny, nz)
        Voxels by material.
    fixed : int64 array
        Constrained degrees of freedom, flat in (X, Y, 3, Z).
    stiffness : float64 (24, 24)
        Of a voxel of modulus one.
    moduli : float64 (materials + 1,)
        Of each material; 0 for the void comes first.
    team : Team
    limit : float, optional
        Bytes that the factors' numbers may take. Where all would take more, regions are cut smaller, and
        those of most places for their size are made.
    """

    def __init__(
        self,
        nodes: Bools,
        solid: Bytes,
        fixed: Ints,
        stiffness: Any,
        moduli: Floats,
        team: Any,
        limit: float = np.inf,
    ):
        self.team = team
        self._moduli = moduli
        shape = nodes.shape
        self._stride = np.array([shape[1] * 3 * shape[2], 3 * shape[2], 1], dtype=np.int64)
        self._component = shape[2]
        corners = (CORNERS @ self._stride)[:, None] + self._component * np.arange(3)
        self._corners = corners.reshape(-1)
        self._stiffness = np.ascontiguousarray(stiffness, dtype=np.float64).reshape(-1)
        held = np.zeros((shape[0], shape[1], 3, shape[2]), dtype=bool)
        held.reshape(-1)[fixed] = True
        shifted = stiffness + _SHIFT * np.diag(np.diagonal(stiffness))
        plans: list[tuple[_Job, Elimination]] = []
        most = float("inf")
        with one_core():
            for largest in _LARGEST:
                if most <= largest:
                    continue  # the same regions again
                kinds = self._kinds(nodes, solid, held, largest)
                plans = self._planned(kinds, limit)
                if len(plans) == len(kinds):
                    break
                most = float(max(np.count_nonzero(kind[0]) for kind in kinds))
            # The largest are made while little is kept: what is kept and what making takes stay in the limit.
            order = sorted(range(len(plans)), key=lambda k: -plans[k][1].nbytes)
            working = max((plan.working_bytes for _, plan in plans), default=1)
            threads = max(1, int(min(team.threads, limit / working)))
            made = run([partial(self._region, *plans[k], shifted) for k in order], threads)
        trim()
        self.regions: list[Region] = [made[k] for k in np.argsort(order)]
        self._order = [(k, o) for k, (job, _) in enumerate(plans) for o in job.origins]
        self.unknowns = sum(np.count_nonzero(~job.held) * len(job.origins) for job, _ in plans)
        self._largest = max((len(region.dofs) for region in self.regions), default=0)

    @property
    def nbytes(self) -> int:
        """Memory that the factors' numbers take."""
        return sum(region.factor.values.nbytes for region in self.regions)

    def _kinds(self, nodes: Bools, solid: Bytes, held: Bools, largest: int) -> list[Any]:
        """Different regions of at most ``largest`` nodes: nodes, voxels around them, supports, and places.

        Those of most places for their size come first.
        """
        kinds: dict[bytes, tuple[Bools, Bytes, Bools, list[int]]] = {}
        for low, mask in _pieces(nodes, largest):
            high = low + mask.shape
            around = _window(solid, low - 1, high)
            bound = held[low[0] : high[0], low[1] : high[1], :, low[2] : high[2]]
            bound = bound.transpose(0, 1, 3, 2) & mask[..., None]
            around = around * nodes_of(mask)  # voxels with a marked corner, one more an axis than nodes
            key = hashlib.sha256(np.array(mask.shape).tobytes())
            for part in (mask, around, bound):
                key.update(part.tobytes())
            kinds.setdefault(key.digest(), (mask, around, bound, []))[3].append(int(low @ self._stride))
        return sorted(kinds.values(), key=lambda kind: np.count_nonzero(kind[0]) / len(kind[3]))

    def _planned(self, kinds: list[Any], limit: float) -> list[tuple[_Job, Elimination]]:
        """As many as the limit allows."""
        plans: list[tuple[_Job, Elimination]] = []
        taken = 0
        for start in range(0, len(kinds), _AT_ONCE):
            some = kinds[start : start + _AT_ONCE]
            jobs = run([partial(_Job.of, *kind) for kind in some], self.team.threads)
            orders = [minimum_degree(job.graph) for job in jobs]
            tasks = [partial(job.plan, order) for job, order in zip(jobs, orders, strict=True)]
            for job, plan in zip(jobs, run(tasks, self.team.threads), strict=True):
                taken += plan.nbytes
                if taken > limit:
                    return plans
                plans.append((job, plan))
        return plans

    def _region(self, job: _Job, plan: Elimination, stiffness: Floats) -> Region:
        moduli = self._moduli[job.materials]
        places, factor = plan.factor(job.corners, job.held, moduli, stiffness)
        first = job.points @ self._stride
        offsets = np.empty((len(job.points), 3), dtype=np.int64)
        offsets[plan.position] = first[:, None] + self._component * np.arange(3)
        return Region(offsets.reshape(-1), (job.elements - 1) @ self._stride, places, moduli, factor)

    def finish(self, r: Field, z: Field, *, subtract: bool = True) -> None:
        """z += P (r - A z); ``subtract`` false where A z is known to be zero. r is zero where fixed."""
        if not self._order:
            return
        flat_r, flat_z = r.reshape(-1), z.reshape(-1)

        def work(first: int, last: int) -> None:
            b, room = np.zeros(self._largest), np.zeros(self._largest)
            for kind, origin in self._order[first:last]:
                region = self.regions[kind]
                local_kernels.finish(
                    flat_r, flat_z, origin, region.dofs, region.bases, region.places, region.moduli,
                    self._corners, self._stiffness, region.factor, subtract, b, room,
                )  # fmt: skip

        self.team.run(work, len(self._order))


@dataclass(frozen=True, eq=False)
class _Window:
    """The planes around one cut: the regions across it, and which planes are this rank's, here and there."""

    side: int
    solves: LocalSolves
    nodes: Bools
    mine: slice
    own: slice


class SlabSolves:
    """The regions of a lattice that ranks share; called by all of them at once.

    Parameters
    ----------
    nodes : bool (X, Y, Z)
        Nodes of this slab to be solved exactly; those near a window's regions are taken out in place.
    active : bool (X, Y, Z)
        Nodes that touch solid.
    solid : uint8 (nx, ny, nz)
        This slab's voxels.
    fixed : int64 array
        Constrained degrees of freedom, flat in (X, Y, 3, Z).
    stiffness : float64 (24, 24)
    moduli : float64 (materials + 1,)
    team : Team
    limit : float
        Bytes that factors may take.
    """

    def __init__(
        self,
        nodes: Bools,
        active: Bools,
        solid: Bytes,
        fixed: Ints,
        stiffness: Any,
        moduli: Floats,
        team: Team,
        limit: float,
    ):
        self.team = team
        self._stiffness, self._moduli = stiffness, moduli
        layers = len(solid)
        self.depth = min(_WINDOW, int(-team.largest(-layers)) // 2 - 1)
        most = -team.largest(-limit) / 2  # of a window: the same on both of its ranks, whatever their slabs
        self._windows: list[_Window] = []
        if self.depth > 0:
            marks = nodes.astype(np.uint8)
            team.add_shared(marks)
            held = np.zeros((layers + 1, nodes.shape[1], 3, nodes.shape[2]), dtype=np.uint8)
            held.reshape(-1)[fixed] = 1
            seen = [self._around(a, len(a) - layers) for a in (marks, active.astype(np.uint8), held, solid)]
            for side, (mark, there, bound, voxels) in enumerate(zip(*seen, strict=True)):
                if mark is not None:
                    window = self._window(side, mark > 0, there > 0, bound, voxels, most)
                    near = ndimage.binary_dilation(window.nodes, np.ones((3, 3, 3)))
                    nodes[window.own] &= ~near[window.mine]  # regions do not touch
                    self._windows.append(window)
        nodes[list(team.ends(len(nodes)))] = False
        rest = limit - sum(window.solves.nbytes for window in self._windows)
        self.own = LocalSolves(nodes, solid, fixed, stiffness, moduli, team.alone, rest)

    @property
    def regions(self) -> list[Region]:
        """What this rank keeps."""
        return [r for part in (self.own, *(w.solves for w in self._windows)) for r in part.regions]

    def finish(self, r: Field, z: Field, *, subtract: bool = True) -> None:
        """As :meth:`LocalSolves.finish`."""
        seen = [self._around(a, 1) for a in (r, z)] if self.depth > 0 else []
        self.own.finish(r, z, subtract=subtract)
        for window in self._windows:
            residual, outcome = (a[window.side] for a in seen)
            window.solves.finish(residual, outcome, subtract=subtract)
            inside = window.nodes[window.mine][:, :, None]
            np.copyto(z[window.own], outcome[window.mine], where=inside)

    def _around(self, field: NDArray[Any], shared: int) -> list[Any]:
        """What lies around the cut below and the one above; None where there is no cut.

        ``shared`` is 1 for planes of nodes, of which a cut is one, and 0 for layers of voxels.
        """
        d, end = self.depth, len(field) - shared
        below, above = self.team.swap(field[shared : d + shared], field[end - d : end])
        return [
            None if below is None else np.concatenate([below, field[: d + shared]]),
            None if above is None else np.concatenate([field[end - d :], above]),
        ]

    def _window(self, side: int, nodes: Bools, active: Bools, held: Any, solid: Any, limit: float) -> _Window:
        """The regions across a cut, of the marked ``nodes`` around it: the same on both ranks."""
        d = self.depth
        labels = cc3d.connected_components((nodes & active).astype(np.uint8), connectivity=26)
        across = np.isin(labels, np.setdiff1d(labels[d], 0))
        across[[0, -1]] = False
        fixed = np.flatnonzero(held)
        solves = LocalSolves(across, solid, fixed, self._stiffness, self._moduli, self.team.alone, limit)
        if side == 0:
            return _Window(side, solves, across, slice(d, None), slice(0, d + 1))
        return _Window(side, solves, across, slice(0, d + 1), slice(-d - 1, None))


def slow_nodes(
    levels: list[Any],
    stiffness: Floats,
    moduli: Floats,
    precondition: Callable[[Field, Field], None],
    team: Any,
    room: Sequence[Field],
) -> Bools | None:
    """Nodes around the blocks of voxels where the cycle leaves most of a noise; None if nowhere.

    A piece that swings strains only where it hangs, but has to be free as a whole for its region to swing:
    blocks count by their energy and by how far they move.

    ``room`` are four float32 fields of the finest grid to work in.

    Both are averaged over blocks with the same surroundings, so that like places are judged alike.

    Parameters
    ----------
    levels : list of Level
    stiffness : array (24, 24)
    moduli : array (materials + 1,)
    precondition : callable
        One cycle: from a residual to a correction, in place.
    team : Team
    room : sequence of four fields
    """
    finest = levels[0]
    if len(levels) < 4:
        return None
    e, r, z, step = room
    finest.noise(e)
    for _ in range(_PLAIN):
        finest.product(e, r, team)
        precondition(r, z)
        team.combine(z, -1.0, e)
    low, high = _DAMPED
    middle, half = (high + low) / 2, (high - low) / 2
    rho = half / middle
    for k in range(_STEPS):
        finest.product(e, r, team)
        precondition(r, z)
        if k == 0:
            step[:] = 0
            team.combine(z, -1 / middle, step)
        else:
            new = 1 / (2 * middle / half - rho)
            team.combine(z, -2 * new / half, step, new * rho)
            rho = new
        team.combine(step, 1.0, e)
    solid = levels[2].index > 0
    energy, motion = np.zeros(solid.shape), np.zeros(solid.shape)
    team.run(
        lambda i, j: local_kernels.block_motion(
            e, finest.index, moduli, stiffness, _EDGE, energy, motion, i, j
        ),
        len(energy),
    )
    marked = np.zeros(solid.shape, dtype=bool)
    kind = _surroundings(levels[2].index)[solid]
    count = np.bincount(kind)
    for values in (energy, motion):
        mean = (np.bincount(kind, weights=values[solid]) / np.maximum(count, 1))[kind]
        median = float(np.median(mean))
        marked[solid] |= mean > max(_ABOVE * median, float(np.quantile(mean, 1 - _SHARE)))
    nodes = np.zeros(finest.inverse.shape[:2] + finest.inverse.shape[3:], dtype=bool)
    for block in np.argwhere(marked):
        nodes[tuple(slice(_EDGE * b, _EDGE * (b + 1) + 1) for b in block)] = True
    nodes &= finest.inverse[:, :, 0] > 0
    return nodes if nodes.any() else None


def _surroundings(index: NDArray[np.integer]) -> Ints:
    """A number for every block, equal where its 27 neighbours, itself among them, are equal."""
    factor = np.random.default_rng(0).integers(1, 2**63, size=27, dtype=np.uint64)
    padded = np.pad(index, 1).astype(np.uint64)
    code = np.zeros(index.shape, dtype=np.uint64)
    nx, ny, nz = index.shape
    for number, (dx, dy, dz) in enumerate(np.ndindex(3, 3, 3)):
        code += factor[number] * padded[dx : dx + nx, dy : dy + ny, dz : dz + nz]
    return np.unique(code, return_inverse=True)[1].reshape(index.shape)


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
