"""Multigrid for lattices of voxels: Galerkin operators whose elements share their matrices.

A lattice repeats its cells, so its coarse grids repeat their elements. A coarse element of 2 x 2 x 2
voxels of one material is one of 256; others are among those that occur in the unique cells. Each grid
keeps one 24 x 24 matrix per *different* element, the exact P^T K P of its voxels, and one integer per
element. Memory and set-up therefore hardly grow with the lattice, and voids and thin members enter the
coarse problems as they are.

The smoother is the fourth-kind Chebyshev polynomial of Lottes (2023, "Optimal polynomial smoothers for
multigrid V-cycles", eq. 4.3) on the diagonal; the coarsest grid is solved directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from micro.runtime.arrays import Bools, Bytes, Floats, Ints, Singles
from micro.runtime.threads import one_core, run
from micro.voxels.corners import CORNERS
from micro.voxels.galerkin import _CHUNK, element_radius, interpolation
from micro.voxels.hexahedron import element_matrices
from multiscale.solve.voxels import kernels
from multiscale.solve.voxels.local_solves import LocalSolves, SlabSolves
from multiscale.solve.voxels.regions import Site
from multiscale.solve.voxels.slow_nodes import slow_nodes
from multiscale.solve.voxels.team import Field, Team

#: Smoothing steps before and after each coarse correction, by grid from the finest; the last for all further
#: ones, where steps cost next to nothing and what they leave costs iterations (docs/method.md).
_DEGREES = (2, 2, 6, 4)
#: Grids are halved until this many degrees of freedom are left for the direct solve.
_COARSEST = 2500
#: Share of the bound up to which the smoother converges that is used (:func:`reach`): few modes come near.
_USED = 0.96
#: Bytes a voxel that factors of slow regions may take.
FACTOR_BYTES = 40
#: Bytes of a different element: its matrix in float32, and in float64 while the next grid is made.
ELEMENT_BYTES = 576 * 12
#: Relative shift of the coarsest operator: parts held by nothing (they carry no load) stay finite.
_SHIFT = 1e-7


@dataclass(eq=False)
class Level:
    """One grid: its operator, its smoother, and room to work in.

    Attributes
    ----------
    index : (nx, ny, nz)
        uint8 voxels (``table`` None) or int32 rows of ``table``; 0 is void.
    table : float32 (m, 24, 24) or None
    coefficients : float32 (8,)
        The voxel's stiffness (:func:`multiscale.solve.voxels.kernels.walsh_coefficients`).
    moduli : float32 (materials + 1,)
        What the voxels' stiffness is multiplied by, by their numbers; 0 for the void.
    inverse : float32 (X, Y, 1 or 3, Z)
        One over the operator's diagonal, 0 at nodes without solid.
    degree : int
        Smoothing steps before and after a coarse correction.
    bound : float
        What no eigenvalue of D^-1 A lies above.
    fixed : int array
        Constrained degrees of freedom, flat in (X, Y, 3, Z).
    first : int
        The grid's first plane of nodes in the whole one.
    """

    index: NDArray[Any]
    table: Singles | None
    coefficients: Singles
    moduli: Singles
    inverse: Singles
    degree: int
    bound: float
    fixed: Ints
    first: int = 0
    room: dict[str, Singles] = field(default_factory=dict)

    @property
    def radius(self) -> float:
        """The eigenvalue of D^-1 A that the smoother is made for: its bound, or what will do for that."""
        return self.bound / max(1.0, _USED * reach(self.degree))

    @property
    def nodes(self) -> tuple[int, int, int, int]:
        """Shape of a nodal field."""
        nx, ny, nz = self.index.shape
        return (nx + 1, ny + 1, 3, nz + 1)

    def vector(self, name: str) -> Singles:
        """Working field kept under a name."""
        if name not in self.room:
            self.room[name] = np.zeros(self.nodes, np.float32)
        return self.room[name]

    def noise(self, u: Field) -> None:
        """Fill ``u`` with noise by a hash of the position: the same on any machine; zero if fixed or void."""
        for i, plane in enumerate(u):
            number = np.arange(plane.size, dtype=np.uint64) + np.uint64((self.first + i) * plane.size)
            number = (number * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
            plane[:] = (number.astype(np.float32) / 2**23 - 1).reshape(plane.shape)
            plane *= self.inverse[i] > 0
        u.reshape(-1)[self.fixed] = 0

    def product(self, u: Field, out: Field, team: Team, minuend: Field | None = None) -> None:
        """``out`` = A u, or ``minuend`` - A u (which may be ``out`` itself), zero where fixed.

        Parameters
        ----------
        u, out : fields
        team : Team
        minuend : field, optional
        """
        sign = np.float32(1 if minuend is None else -1)
        # On planes that two ranks hold, what both add comes first: so both have the same sum.
        shared = team.ends(len(out))
        kept = [np.zeros_like(out[0]) if minuend is None else minuend[p].copy() for p in shared]

        def work(first: int, last: int) -> None:
            if minuend is None:
                out[first:last] = 0
            elif minuend is not out:
                out[first:last] = minuend[first:last]
            for p in shared:
                if first <= p < last:
                    out[p] = 0
            if self.table is None:
                kernels.voxel_product(u, self.index, self.moduli, self.coefficients, sign, out, first, last)
            else:
                kernels.table_product(u, self.index, self.table, sign, out, first, last)

        team.run(work, len(out))
        team.add_shared(out)
        for p, part in zip(shared, kept, strict=True):
            out[p] += part
        out.reshape(-1)[self.fixed] = 0

    def smooth(self, residual: Field, u: Field, team: Team, *, fresh: bool, update: bool) -> None:
        """Chebyshev smoothing of A e = residual, u += e (``fresh``: u = e); ``residual`` follows.

        The last product is left out unless ``update`` asks for the final residual.

        Parameters
        ----------
        residual, u : fields
            Both change.
        team : Team
        fresh, update : bool
        """
        step = self.vector("step")
        for k in range(1, self.degree + 1):
            a = np.float32((2 * k - 3) / (2 * k + 1) if k > 1 else 0)
            b = np.float32((8 * k - 4) / (2 * k + 1) / self.radius)
            start = fresh and k == 1

            def work(first: int, last: int, a: Any = a, b: Any = b, start: bool = start) -> None:
                kernels.smooth(residual, self.inverse, a, b, step, u, start, first, last)

            team.run(work, len(u))
            if k < self.degree or update:
                self.product(step, residual, team, residual)


class Multigrid:
    """A V-cycle, a symmetric preconditioner of the voxels' stiffness.

    Parameters
    ----------
    solid : uint8 (nx, ny, nz)
        Voxels by material: 0 the void, 1 the solid, others those of ``moduli``.
    tensor : (3,)
        C11, C12, C44 of the solid.
    fixed : sequence of bool arrays (X, Y, Z, 3)
        Constrained degrees of freedom of the voxel grid and of the grids got from it by halving (the last
        one given is subsampled for further grids); see :func:`coarse_masks`.
    team : Team
        If it holds slabs, ``solid`` and the first ``team.shared_levels`` of ``fixed`` are this rank's.
    moduli : array (materials + 1,), optional
        Stiffness of each material by the solid's.
    """

    def __init__(
        self, solid: Bytes, tensor: Any, fixed: Sequence[Bools], team: Team, moduli: Any = (0.0, 1.0)
    ):
        self.team = team
        self.moduli = np.array(moduli, dtype=np.float64)
        self.local: LocalSolves | SlabSolves | None = None
        self.searched = False
        self.stiffness = stiffness = np.tensordot(
            np.asarray(tensor, dtype=np.float64), element_matrices(), axes=1
        )
        coefficients = kernels.walsh_coefficients(tensor, np.float32)
        factors = self.moduli.astype(np.float32)
        inverse = _voxel_diagonal(solid, factors * np.float32(stiffness[0, 0]), team)
        bound = element_radius(stiffness[None])
        finest = Level(
            solid, None, coefficients, factors, inverse, _DEGREES[0], bound, _flat(fixed[0]), team.first
        )
        self.levels, self._teams = [finest], [team]
        index, table, mask = solid.astype(np.int32), np.multiply.outer(self.moduli, stiffness), fixed[0]
        with one_core():
            while len(self.levels) <= team.shared_levels or (
                3 * np.prod(np.array(index.shape) + 1.0) > _COARSEST and max(index.shape) > 1
            ):
                index, table = halve(index, table, team.threads)
                depth = len(self.levels)
                if depth == team.shared_levels:
                    index, table = team.joined(index, table)
                own = team if depth < team.shared_levels else team.alone
                mask = fixed[depth] if depth < len(fixed) else _subsample(mask)
                level = Level(
                    index,
                    table.astype(np.float32),
                    coefficients,
                    factors,
                    _diagonal(index, table, own),
                    _DEGREES[min(depth, len(_DEGREES) - 1)],
                    own.largest(element_radius(table, team.threads)),
                    _flat(mask),
                    team.first >> depth if depth < team.shared_levels else 0,
                )
                self.levels.append(level)
                self._teams.append(own)
        self._factor = _direct(index, table, mask)

    def solve_slow_regions(self, room: Sequence[Field]) -> None:
        """End every cycle by exact solves where it is slow (:mod:`multiscale.solve.voxels.local_solves`).

        ``room`` are four float32 fields of the finest grid to work in.
        """
        self.local, self.searched = None, True
        if 0 < self.team.shared_levels < 3:
            return  # the blocks of voxels that are judged are not held in slabs
        nodes = slow_nodes(self.levels, self.stiffness, self.moduli, self.precondition, self.team, room)
        finest = self.levels[0]
        limit = FACTOR_BYTES * float(finest.index.size)
        if self.team.size > 1:
            active = finest.inverse[:, :, 0] > 0
            nodes = np.zeros_like(active) if nodes is None else nodes  # all ranks go on in the same way
            site = Site(nodes, finest.index, finest.fixed)
            self.local = SlabSolves(site, active, self.stiffness, self.moduli, self.team, limit)
        elif nodes is not None:
            site = Site(nodes, finest.index, finest.fixed)
            self.local = LocalSolves.of(site, self.stiffness, self.moduli, self.team, limit)

    def precondition(self, r: Field, out: Field) -> None:
        """``out`` = one V-cycle from zero for the residual r, which is kept."""
        self._cycle(0, r, out)
        if self.local is not None:
            self.local.finish(r, out)

    def _cycle(self, k: int, r: Field, u: Field) -> None:
        level, team = self.levels[k], self._teams[k]
        if k == len(self.levels) - 1:
            flat = r.transpose(0, 1, 3, 2).reshape(-1).astype(np.float64)
            x = linalg.cho_solve(self._factor, flat)
            nx, ny, _, nz = u.shape
            u[:] = x.reshape(nx, ny, nz, 3).transpose(0, 1, 3, 2)
            u.reshape(-1)[level.fixed] = 0
            return
        below = self.levels[k + 1]
        residual, whole, correction = level.vector("residual"), below.vector("right"), below.vector("u")
        gathers = self._teams[k + 1] is not team  # the grid below is whole on every rank
        span = team.span(k + 1) if gathers else slice(None)
        coarse, own = whole[span], correction[span]
        team.run(lambda i, j: np.copyto(residual[i:j], r[i:j]), len(r))
        level.smooth(residual, u, team, fresh=True, update=True)
        if team.owned(len(residual)) < len(residual):
            residual[-1] = 0  # the neighbour above restricts it
        if gathers:
            whole[:] = 0
        team.run(lambda i, j: kernels.restrict(residual, coarse, i, j), len(coarse))
        if gathers:
            team.summed(whole)
        else:
            team.add_shared(whole)
        whole.reshape(-1)[below.fixed] = 0
        self._cycle(k + 1, whole, correction)
        team.run(lambda i, j: kernels.prolong(own, u, i, j), len(u))
        u.reshape(-1)[level.fixed] = 0
        level.product(u, residual, team, r)
        level.smooth(residual, u, team, fresh=False, update=False)


@cache
def reach(degree: int) -> float:
    """Eigenvalues up to this many times its radius are damped by so many steps of the smoother.

    What ``degree`` = n steps leave of one at x times the radius is W_n(1 - 2 x) / (2 n + 1), where W_n is
    Chebyshev's polynomial of the fourth kind (Lottes 2023, eq. 4.3): cosh((n + 1/2) t) / cosh(t / 2) in size
    at 2 x - 1 = cosh(t). A cycle of smoothers that converge is positive definite, whatever the lattice.
    """

    def excess(t: float) -> float:
        return float(np.cosh((degree + 0.5) * t) / np.cosh(t / 2) - (2 * degree + 1))

    return float((1 + np.cosh(optimize.brentq(excess, 0.0, 3.0))) / 2)


def halve(index: NDArray[np.int32], table: Floats, threads: int = 1) -> tuple[NDArray[np.int32], Floats]:
    """The grid of half as many elements an axis, and the Galerkin matrices of its different elements.

    Parameters
    ----------
    index : int (nx, ny, nz)
        Rows of ``table``, 0 the void; an odd axis is continued by void.
    table : (m, 24, 24)
    threads : int, optional

    Returns
    -------
    index : int32 ((nx + 1) // 2, ...)
    table : float64 (m', 24, 24), row 0 the void
    """
    padded = np.pad(index, [(0, n % 2) for n in index.shape])
    shape = tuple(n // 2 for n in padded.shape)
    children = [padded[dx::2, dy::2, dz::2].reshape(-1) for dx, dy, dz in CORNERS]
    # Code every element by its children, renumbered where the codes get too large. A void one leads.
    code, codes = np.zeros(len(children[0]) + 1, dtype=np.int64), 1
    for child in children:
        if codes * len(table) > 2**63:
            code = np.unique(code, return_inverse=True)[1].reshape(-1)
            codes = int(code.max()) + 1
        code[1:] *= len(table)
        code[1:] += child
        codes *= len(table)
    _, first, code = np.unique(code, return_index=True, return_inverse=True)
    parts = [np.append(0, child)[first] for child in children]
    out = np.zeros((len(first), 24, 24))

    def project(start: int) -> None:
        some = slice(start, start + _CHUNK)
        for corner, part in zip(CORNERS, parts, strict=True):
            p = interpolation(corner)
            out[some] += p.T @ table[part[some]] @ p

    run([partial(project, start) for start in range(0, len(first), _CHUNK)], threads)
    return code[1:].reshape(shape).astype(np.int32), out


def coarse_masks(cell_mask: Bools, per_cell: int) -> list[Bools]:
    """Masks of the grids of ``per_cell``, ``per_cell`` / 2, ... voxels a cell (nodes, 3), down to odd ones.

    A node is fixed when all corners of the cell's edge, face or body that it lies on are.
    """
    masks = []
    while True:
        masks.append(refine_mask(cell_mask, per_cell))
        if per_cell % 2:
            return masks
        per_cell //= 2


def refine_mask(mask: Bools, factor: int) -> Bools:
    """A node mask (mx+1, my+1, mz+1, 3) on the grid ``factor`` times finer (see :func:`coarse_masks`)."""
    for axis in range(3):
        fine = np.arange((mask.shape[axis] - 1) * factor + 1)
        mask = mask.take(fine // factor, axis=axis) & mask.take(-(-fine // factor), axis=axis)
    return mask


def _subsample(mask: Bools) -> Bools:
    """Every other node; one beyond an odd grid is as its last node."""
    widths = [(0, 1 - n % 2) for n in mask.shape[:3]]
    return np.pad(mask, [*widths, (0, 0)], mode="edge")[::2, ::2, ::2]


def _flat(mask: Bools) -> Ints:
    return np.flatnonzero(np.ascontiguousarray(mask.transpose(0, 1, 3, 2)))


def _voxel_diagonal(solid: Bytes, entries: Singles, team: Team) -> Singles:
    """One over the diagonal at every node, (X, Y, 1, Z): a voxel gives each corner its material's entry."""
    if len(entries) > 2:
        total = _corner_sums(entries[solid], team)
        np.divide(1, total, out=total, where=total > 0)
        return total[:, :, None, :]
    # Of one material a count is enough, which takes a byte a voxel instead of four.
    values = np.append(0.0, 1 / (entries[1] * np.arange(1, 9))).astype(np.float32)
    return values[touching(solid, team)][:, :, None, :]


def touching(solid: Bytes | Bools, team: Team) -> Bytes:
    """Solid voxels around each node, uint8 (nx+1, ny+1, nz+1); ``solid`` is what the team holds."""
    return _corner_sums((solid > 0).view(np.uint8), team)


def _corner_sums(values: NDArray[Any], team: Team) -> NDArray[Any]:
    """Sums of the voxels' values around each node."""
    for axis in range(3):
        widths = [(0, 0)] * 3
        widths[axis] = (1, 1)
        padded = np.pad(values, widths)
        n = padded.shape[axis]
        values = padded.take(range(n - 1), axis=axis) + padded.take(range(1, n), axis=axis)
    team.add_shared(values)
    return values


def _diagonal(index: NDArray[np.int32], table: Floats, team: Team) -> Singles:
    """One over the diagonal of every degree of freedom, (X, Y, 3, Z), 0 where there is no stiffness."""
    nx, ny, nz = index.shape
    diagonal = np.diagonal(table, axis1=1, axis2=2).astype(np.float32)
    out = np.zeros((nx + 1, ny + 1, 3, nz + 1), np.float32)
    for corner, (dx, dy, dz) in enumerate(CORNERS):
        for component in range(3):
            values = diagonal[:, 3 * corner + component][index]
            out[dx : dx + nx, dy : dy + ny, component, dz : dz + nz] += values
    team.add_shared(out)
    out[out > 0] = 1 / out[out > 0]
    return out


def _direct(index: NDArray[np.int32], table: Floats, mask: Bools) -> Any:
    """Cholesky factor of a whole small operator; fixed and unsupported rows are the identity."""
    nx, ny, nz = index.shape
    count = 3 * (nx + 1) * (ny + 1) * (nz + 1)
    elements = np.stack(np.nonzero(index), axis=-1)
    corner = elements[:, None, :] + CORNERS
    node = (corner[..., 0] * (ny + 1) + corner[..., 1]) * (nz + 1) + corner[..., 2]
    dof = (3 * node[..., None] + np.arange(3)).reshape(-1, 24)
    a = np.zeros((count, count))
    np.add.at(a, (dof[:, :, None], dof[:, None, :]), table[index[index > 0]])
    # Degrees of freedom whose stiffness is rounding are as good as absent.
    diagonal = np.diagonal(a)
    absent = mask.reshape(-1) | (diagonal <= 1e-9 * diagonal.max(initial=0.0))
    a[absent], a[:, absent] = 0.0, 0.0
    a[absent, absent] = 1.0
    a[np.diag_indices(count)] *= 1 + _SHIFT
    return linalg.cho_factor(a, lower=True, overwrite_a=True)
