"""Exact solves where a lattice's pieces hang by little: what multigrid leaves, taken out directly.

Where unlike cells meet, thin pieces hang by a voxel or two. They swing nearly freely, no coarse grid of
linear elements can follow them (it sees the gap as solid), and each adds a slow mode to the V-cycle. These
modes are local and many. They are found by what the cycle itself leaves of noise
(:mod:`multiscale.solve.voxels.slow_nodes`), a region of voxels is put around each, and the stiffness of the
region, everything else held, is factorised. A cycle z = M r then ends with an exact solve of what is left in
the regions R,

    z <- z + P (r - A z),    P = (A_RR)^-1 on R, zero elsewhere.

That is the balancing preconditioner (Mandel 1993) with R in place of a coarse space: symmetric as long as
the residual the iteration starts from is zero in R (Tang, Nabben, Vuik and Erlangga 2009, "Comparison of
two-level preconditioners derived from deflation, domain decomposition and multigrid methods", A-DEF2), which
:func:`multiscale.solve.voxels.solve.solve` sees to. Regions don't touch, so they are solved one by one, in
any order.

Where ranks hold slabs, many regions lie across a cut, since unlike cells meet at cell planes. One of the two
ranks has such a region's factor. Both sum up what is left in the region over their own voxels and exchange
it, and then what the solve makes of it (:class:`SlabSolves`). All other regions are a rank's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.errors import NotConverged
from micro.runtime.memory import trim
from micro.runtime.threads import one_core, run
from multiscale.solve.voxels import local_kernels
from multiscale.solve.voxels.cholesky_kernels import Factor, solve_factored
from multiscale.solve.voxels.regions import Plan, Site, planned
from multiscale.solve.voxels.team import Field, Team

#: Relative shift of a region's operator.
_SHIFT = 1e-9


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


def make_factors(
    plans: Sequence[Plan], stiffness: Any, moduli: Floats, threads: int, limit: float
) -> list[Factor]:
    """The plans' factors; no more are made at once than fit the limit in bytes.

    Parameters
    ----------
    plans : sequence of Plan
    stiffness : float64 (24, 24)
        Of a voxel of modulus one.
    moduli : float64 (materials + 1,)
    threads : int
    limit : float

    Raises
    ------
    NotConverged
        If a region's solid is loose.
    """
    shifted = stiffness + _SHIFT * np.diag(np.diagonal(stiffness))

    def made(plan: Plan) -> Factor:
        job = plan.job
        return plan.elimination.factor(plan.places, job.held, moduli[job.materials], shifted)

    # The largest are made while little is kept: what is kept and what making takes stay in the limit.
    order = sorted(range(len(plans)), key=lambda k: -plans[k].nbytes)
    working = max((plan.elimination.working_bytes for plan in plans), default=1)
    with one_core():
        found = run([partial(made, plans[k]) for k in order], max(1, int(min(threads, limit / working))))
    trim()
    return [found[k] for k in np.argsort(order)]


class LocalSolves:
    """The regions of a lattice.

    Parameters
    ----------
    site : Site
        The voxels, and which nodes are to be solved exactly.
    plans : sequence of Plan
        Its regions.
    factors : sequence of Factor
        Theirs.
    stiffness : float64 (24, 24)
        Of a voxel of modulus one.
    moduli : float64 (materials + 1,)
        Of each material; 0 for the void comes first.
    team : Team
        The threads of one rank.
    """

    def __init__(
        self,
        site: Site,
        plans: Sequence[Plan],
        factors: Sequence[Factor],
        stiffness: Any,
        moduli: Floats,
        team: Team,
    ):
        self.team = team
        self.corners = site.corners
        self.stiffness = np.ascontiguousarray(stiffness, dtype=np.float64).reshape(-1)
        self.regions = [
            Region(
                plan.dofs(site.stride),
                plan.job.bases(site.stride),
                plan.places,
                moduli[plan.job.materials],
                factor,
            )
            for plan, factor in zip(plans, factors, strict=True)
        ]
        self._order = [(k, o) for k, plan in enumerate(plans) for o in plan.job.origins]
        self.unknowns = sum(plan.unknowns for plan in plans)
        self._largest = max((len(region.dofs) for region in self.regions), default=0)

    @classmethod
    def of(cls, site: Site, stiffness: Any, moduli: Floats, team: Team, limit: float = np.inf) -> LocalSolves:
        """The regions of one process, whose factors' numbers may take ``limit`` bytes.

        Parameters
        ----------
        site, stiffness, moduli, team
            As for the class.
        limit : float, optional
        """
        (plans,) = planned([site], limit, team)
        return cls(
            site, plans, make_factors(plans, stiffness, moduli, team.threads, limit), stiffness, moduli, team
        )

    @property
    def nbytes(self) -> int:
        """Memory that the factors' numbers take."""
        return sum(region.factor.values.nbytes for region in self.regions)

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
                    self.corners, self.stiffness, region.factor, subtract, b, room,
                )  # fmt: skip

        self.team.run(work, len(self._order))


_Shared = tuple[Ints, Ints, Ints, NDArray[np.int32], Floats]


@dataclass(frozen=True, eq=False)
class _Part:
    """What this rank has of a region across a cut, in one place.

    As :class:`Region`, with :data:`local_kernels.ABSENT` for what stands on the other rank alone. The
    residual at ``counted`` degrees of freedom is this rank's to tell; ``values`` is where the arrays that are
    exchanged have the region; ``factor`` is None if the other rank has it.
    """

    origin: int
    dofs: Ints
    counted: Ints
    bases: Ints
    places: NDArray[np.int32]
    moduli: Floats
    values: slice
    factor: Factor | None


class SlabSolves:
    """The regions of a lattice that ranks share; called by all of them at once.

    Parameters
    ----------
    site : Site
        This slab's voxels, and which nodes are to be solved exactly; those near regions across a cut are not.
    active : bool (X, Y, Z)
        Nodes that touch solid.
    stiffness : float64 (24, 24)
    moduli : float64 (materials + 1,)
    team : Team
    limit : float
        Bytes that factors may take.

    Attributes
    ----------
    nbytes : int
        Memory that the factors' numbers take on this rank.
    unknowns : int
        Of the regions that this rank solves.
    """

    def __init__(
        self, site: Site, active: Bools, stiffness: Any, moduli: Floats, team: Team, limit: float = np.inf
    ):
        self.team = team
        site, cuts = _cuts(site, active, team)
        plans, *shared = planned([site, *cuts.values()], limit, team)
        # Both ranks of a cut know what each has without it, and share its regions out in the same way.
        weights = [sum(plan.nbytes for plan in some) / 2 for some in shared]
        known = [np.array([sum(plan.nbytes for plan in plans) + sum(weights)])] * 2
        for side, weight in zip(cuts, weights, strict=True):
            known[side] = known[side] - weight
        others = team.swap(*known)
        mine = list(plans)
        for side, some in zip(cuts, shared, strict=True):
            other = others[side]
            assert other is not None
            mine += balanced(some, float(known[side][0]), float(other[0]), first=side == 1)
        made, failed = _made(mine, stiffness, moduli, team.threads, limit)
        if team.largest(float(failed is not None)):
            raise failed or NotConverged(
                "a factor of a region around weakly held voxels failed on another rank"
            )
        self.nbytes = sum(factor.values.nbytes for factor in made)
        self.unknowns = sum(plan.unknowns for plan in mine)
        self.own = LocalSolves(site, plans, made[: len(plans)], stiffness, moduli, team.alone)
        by_plan = {id(plan): factor for plan, factor in zip(mine, made, strict=True)}
        self._parts = [
            (side, part)
            for (side, cut), some in zip(cuts.items(), shared, strict=True)
            for part in _parts(some, by_plan, site, cut, side, moduli)
        ]
        self._sizes = [
            max((p.values.stop for k, p in self._parts if k == side), default=0) for side in (0, 1)
        ]

    def finish(self, r: Field, z: Field, *, subtract: bool = True) -> None:
        """As :meth:`LocalSolves.finish`."""
        self.own.finish(r, z, subtract=subtract)
        flat_r, flat_z = r.reshape(-1), z.reshape(-1)
        corners, stiffness = self.own.corners, self.own.stiffness
        found = [np.zeros(size) for size in self._sizes]

        def left(part: _Part, b: Floats) -> None:
            local_kernels.residual(
                flat_r, flat_z, part.origin, part.counted, part.bases, part.places, part.moduli,
                corners, stiffness, subtract, b,
            )  # fmt: skip

        def solved(part: _Part, b: Floats) -> None:
            if part.factor is None:
                b[:] = 0
            else:
                solve_factored(part.factor, b, np.empty(len(b)))

        def added(part: _Part, b: Floats) -> None:
            local_kernels.add(b, flat_z, part.origin, part.dofs)

        for step in (left, solved, added):

            def work(first: int, last: int, step: Callable[[_Part, Floats], None] = step) -> None:
                for side, part in self._parts[first:last]:
                    step(part, found[side][part.values])

            if self._parts:
                self.team.run(work, len(self._parts))
            if step is not added:
                for values, other in zip(found, self.team.swap(*found), strict=True):
                    if other is not None:
                        values += other


def _made(
    plans: Sequence[Plan], stiffness: Any, moduli: Floats, threads: int, limit: float
) -> tuple[list[Factor], NotConverged | None]:
    """:func:`make_factors`, or none and why it failed: other ranks have to hear of it before one gives up."""
    try:
        return make_factors(plans, stiffness, moduli, threads, limit), None
    except NotConverged as error:
        return [], error


def _cuts(site: Site, active: Bools, team: Team) -> tuple[Site, dict[int, Site]]:
    """The voxels of this rank, and those around the cut below (0) and above (1) it, with their marked nodes.

    Those of a cut hang together across it. Nodes near them are no longer marked in the rank's own voxels, and
    neither are those on a cut.
    """
    nodes, layers, ends = site.nodes.copy(), len(site.solid), team.ends(len(site.nodes))
    depth = int(team.smallest(layers)) // 2 - 1  # on each side of every cut
    found: dict[int, Site] = {}
    if depth > 0:
        marks, held = nodes.astype(np.uint8), np.zeros(site.shape, dtype=np.uint8)
        team.add_shared(marks)
        held.reshape(-1)[site.fixed] = 1
        seen = [_around(a, depth, layers, team) for a in (marks, active.astype(np.uint8), held, site.solid)]
        for side, (mark, alive, bound, solid) in enumerate(zip(*seen, strict=True)):
            if mark is None:
                continue
            across = _across((mark > 0) & (alive > 0), depth)
            near = ndimage.binary_dilation(across, np.ones((3, 3, 3)))
            # Regions do not touch.
            if side:
                nodes[-depth - 1 :] &= ~near[: depth + 1]
            else:
                nodes[: depth + 1] &= ~near[depth:]
            found[side] = Site(across, solid, np.flatnonzero(bound), holders=2)
    nodes[list(ends)] = False
    return replace(site, nodes=nodes), found


def _around(field: NDArray[Any], depth: int, layers: int, team: Team) -> list[Any]:
    """What lies around the cut below and the one above, of voxels or nodes; None where there is no cut."""
    shared = len(field) - layers  # 1 for planes of nodes, of which a cut is one
    below, above = team.swap(field[shared : depth + shared], field[layers - depth : layers])
    return [
        None if below is None else np.concatenate([below, field[: depth + shared]]),
        None if above is None else np.concatenate([field[layers - depth :], above]),
    ]


def _parts(
    plans: list[Plan], factors: dict[int, Factor], site: Site, cut: Site, side: int, moduli: Floats
) -> list[_Part]:
    """What a rank has of the regions across a cut, in each of their places.

    Parameters
    ----------
    plans : list of Plan
        The same on both ranks.
    factors : dict
        Those of this rank, by the plans' identities.
    site, cut : Site
        This rank's voxels, and those around the cut.
    side : int
        1 if the cut is above this rank.
    moduli : float64 (materials + 1,)
    """
    layers, stride = len(site.solid), site.stride
    shift = layers - len(cut.solid) // 2 if side else -(len(cut.solid) // 2)
    found: list[_Part] = []
    end = 0
    for plan in plans:
        known: dict[int, _Shared] = {}  # by the plane where a place of the region begins
        for place in plan.job.origins:
            first = int(place // stride[0]) + shift
            if first not in known:
                known[first] = _share(plan, first, layers, stride, moduli)
            start, end = end, end + 3 * len(plan.job.points)
            values, factor = slice(start, end), factors.get(id(plan))
            found.append(_Part(int(place + shift * stride[0]), *known[first], values, factor))
    return found


def _share(plan: Plan, first: int, layers: int, stride: Ints, moduli: Floats) -> _Shared:
    """What so many layers have of a region that begins at their plane ``first``, as in :class:`_Part`."""
    job = plan.job
    dofs, plane = plan.dofs(stride), np.empty(len(job.points), dtype=np.int64)
    plane[plan.elimination.position] = first + job.points[:, 0]
    node = np.repeat(plane, 3)
    here = (node >= 0) & (node <= layers)
    counted = here & (node < layers)  # of the nodes on a cut, the rank above tells the residual
    layer = first + job.elements[:, 0] - 1
    element = (layer >= 0) & (layer < layers)
    return (
        np.where(here, dofs, local_kernels.ABSENT),
        np.where(counted, dofs, local_kernels.ABSENT),
        job.bases(stride)[element],
        plan.places[element],
        moduli[job.materials[element]],
    )


def _across(nodes: Bools, plane: int) -> Bools:
    """The connected ones of these nodes that meet a plane, without those of the outermost planes."""
    labels = cc3d.connected_components(nodes.astype(np.uint8), connectivity=26)
    found = np.isin(labels, np.setdiff1d(labels[plane], 0))
    found[[0, -1]] = False
    return found


def balanced(plans: list[Plan], mine: float, theirs: float, *, first: bool) -> list[Plan]:
    """Those regions that one of two ranks takes; the largest first, to whoever has least.

    Parameters
    ----------
    plans : list of Plan
        The same on both ranks.
    mine, theirs : float
        Bytes that this and the other rank have already.
    first : bool
        Whether this one takes a region when both have the same; the other has to say the opposite.
    """
    kept = []
    for plan in sorted(plans, key=lambda plan: -plan.nbytes):
        if mine < theirs or (mine == theirs and first):
            kept.append(plan)
            mine += plan.nbytes
        else:
            theirs += plan.nbytes
    return kept
