"""Conjugate gradients for voxel models: float32 fields, with the accuracy of float64.

The recursive float32 residual is replaced by the true float64 one now and then, keeping the search direction
(:mod:`micro.voxels.replacement`), so the accuracy is that of float64 and the memory that of float32: the
solution is kept as a float32 field and what it lacks, another one, to which the steps are added.

A direction is made conjugate to the last one, whose A p is forgotten by then: the cycle works in its memory.
As the cycle is symmetric, the new z has z . A p = (z_last . r - z . r) / alpha (Polak and Ribière 1969); with
slow regions it is so for residuals that vanish in these, as all do up to rounding once they were settled.
Where the residual was replaced the equation does not hold, and A p is worked out once more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Floats, Ints, Singles
from micro.runtime.errors import NotConverged
from micro.voxels.replacement import REPLACE, Replacement
from multiscale.solve.voxels import kernels
from multiscale.solve.voxels.multigrid import Multigrid
from multiscale.solve.voxels.slow_nodes import SEARCH_CYCLES
from multiscale.solve.voxels.team import Team

#: The rate of convergence is taken over so many iterations; the one hoped for with exact local solves, and
#: iterations that making their factors is worth in time (3 to 25 on the slab and the flagship).
_WINDOW, _HOPED, _MAKING = 6, 0.7, 20
#: Slow modes come to the fore as the others go: so many times the iterations are left that the rate says.
_WORSENS = 2.0
#: Residual at which it is replaced for the first time. Until then every step rounds most of the displacement,
#: which takes the float32 residual off the true one by up to 0.02 of the load (10 million unknowns); what is
#: left to find afterwards is small.
_FIRST = 0.2
#: Share of the wanted residual from which a solve may be at its end. After the first replacement the float32
#: residual comes off the true one by 1e-6 of the load in ten steps.
_EARLY = 0.97
#: Planes of nodes whose float64 residual is evaluated at once.
_SLAB = 8


@dataclass(frozen=True, eq=False)
class Solution:
    """Outcome of a solve.

    Attributes
    ----------
    u : float64 (X, Y, 3, Z)
        Displacements in voxel edges; zero at nodes without solid.
    residual : float
        Norm of f - A u on the free degrees of freedom over that of the load, in float64.
    iterations : int
        Cycles of the preconditioner: conjugate gradient iterations, and the search for slow regions.
    """

    u: Floats
    residual: float
    iterations: int


def solve(
    multigrid: Multigrid,
    tensor: Floats,
    load: tuple[Ints, Floats],
    prescribed: tuple[Ints, Floats],
    team: Team,
    *,
    rtol: float,
    max_iterations: int = 500,
    progress: Callable[[int, float], None] | None = None,
) -> Solution:
    """Solve A u = f on the free degrees of freedom.

    Parameters
    ----------
    multigrid : Multigrid
        Its finest grid is the model.
    tensor : (3,)
        C11, C12, C44 of the solid.
    load, prescribed : (flat indices, values)
        Nodal forces, and displacements at fixed degrees of freedom, sparse in (X, Y, 3, Z).
    rtol : float
        Wanted residual relative to the load: the forces, and those that the prescribed displacements cause.
    progress : callable, optional
        Called as ``progress(iterations, relative residual)``.

    Raises
    ------
    NotConverged
        With the residual reached.
    """
    finest = multigrid.levels[0]
    shape = finest.nodes
    coefficients = kernels.walsh_coefficients(tensor, np.float64)
    # The displacement is x + scale dx; scale keeps the fields away from float32's limits.
    x, dx, r = (np.zeros(shape, np.float32) for _ in range(3))
    largest = max(float(np.abs(values).max(initial=0.0)) for _, values in (load, prescribed))
    scale = team.largest(largest) or 1.0  # of what any rank holds
    x.reshape(-1)[prescribed[0]] = prescribed[1]
    dx.reshape(-1)[prescribed[0]] = (prescribed[1] - x.reshape(-1)[prescribed[0]]) / scale

    def true_residual() -> float:
        return _residual(
            x, dx, finest.index, multigrid.moduli, coefficients, load, finest.fixed, r, team, scale
        )

    def rescale(new: float) -> None:
        """Move what ``dx`` holds to ``x`` as far as float32 can, and count in a new scale from there."""

        def work(first: int, last: int) -> None:
            for i in range(first, last):
                exact = x[i] + scale * dx[i].astype(np.float64)
                x[i] = exact
                dx[i] = (exact - x[i]) / new

        team.run(work, len(x))

    norm = true_residual() * scale  # of the load
    if norm == 0.0:
        return Solution(_sum(x, dx, scale), 0.0, 0)
    rescale(norm)
    team.run(lambda i, j: np.multiply(r[i:j], scale / norm, out=r[i:j]), len(r))
    scale, size = norm, 1.0
    p, z = (np.zeros(shape, np.float32) for _ in range(2))
    ap = finest.vector("step")  # the cycle's own: good until the next one
    # As if the residual had begun where _FIRST is the fall after which it is replaced.
    pap, gain, rule = 1.0, 1.0, Replacement(rtol, np.float64(_FIRST / REPLACE), _EARLY)
    fresh, replaced = True, True
    history: list[float] = []
    cycles = 0

    def settle() -> None:
        """Solve the slow regions: the cycle is symmetric for residuals that vanish in them."""
        if multigrid.local is not None:
            z[:] = 0
            multigrid.local.finish(r, z, subtract=False)
            finest.product(z, r, team, r)
            team.combine(z, 1.0, dx)

    settle()
    while cycles < max_iterations:
        cycles += 1
        before = 0.0 if replaced else team.dot(z, r)
        multigrid.precondition(r, z)
        if fresh:
            beta = 0.0
        elif replaced:
            finest.product(p, ap, team)
            beta = -team.dot(z, ap) / pap
        else:
            beta = (team.dot(z, r) - before) / gain
        team.combine(z, 1.0, p, beta)
        finest.product(p, ap, team)
        pap, gain = team.dot(p, ap), team.dot(r, p)
        sound = pap > 0 and 0 < gain < np.inf
        if sound:  # otherwise no step is taken, and the directions start anew from the true residual
            team.combine(p, gain / pap, dx)
            team.combine(ap, -gain / pap, r)
            fresh, replaced, size = False, False, float(np.sqrt(team.dot(r, r)))
        history.append(size)
        if progress is not None:
            progress(cycles, size)
        slow = not multigrid.searched and _worth_a_search(history, rtol)
        if slow or not sound or rule.due(np.float64(size)):
            usable = bool(np.isfinite(size))
            if not usable:
                dx[:] = 0
            rescale(scale)
            if slow:
                # Directions end here; x has what dx had up to float32, and r is worked out anew below.
                multigrid.solve_slow_regions((p, z, dx, r))
                cycles += SEARCH_CYCLES
                dx[:] = 0
            size = true_residual()
            worn, good, ended = rule.take(np.True_, np.float64(size), np.bool_(usable and sound))
            if good:
                del p, z
                return Solution(_sum(x, dx, scale, finest.inverse), size, cycles)
            if ended:
                break
            settle()
            history.clear()  # a rate is that of one stretch: the true residual is not the one followed before
            fresh, replaced = slow or bool(worn), True
            if fresh:
                p[:] = 0
    raise NotConverged(_failure(cycles, float(rule.best), rtol))


def _sum(x: Singles, dx: Singles, scale: float, inverse: Any = None) -> Floats:
    """x + scale dx, zero where ``inverse`` is: coarse corrections in the void mean nothing."""
    out = np.empty(x.shape)
    for i in range(len(x)):
        out[i] = x[i] + scale * dx[i].astype(np.float64)
        if inverse is not None:
            out[i] *= inverse[i] > 0
    return out


def _worth_a_search(history: list[float], rtol: float) -> bool:
    """Whether the iterations left outlast a search, the making of factors and the iterations left then."""
    if len(history) <= _WINDOW or not 0 < history[-1] < np.inf:
        return False
    rate = min((history[-1] / history[-1 - _WINDOW]) ** (1 / _WINDOW), 1 - 1e-9)
    digits = np.log(rtol / history[-1])
    return bool(_WORSENS * digits / np.log(rate) > SEARCH_CYCLES + _MAKING + digits / np.log(_HOPED))


def _failure(iterations: int, residual: float, rtol: float) -> str:
    return (
        f"the voxel solve stopped after {iterations} iterations at relative residual {residual:.1e} (wanted "
        f"{rtol:.0e}). Check that all parts of the lattice are supported; a larger --rtol accepts less."
    )


def _residual(
    x: Singles,
    dx: Singles,
    solid: NDArray,
    moduli: Floats,
    coefficients: Floats,
    load: tuple[Ints, Floats],
    fixed: Ints,
    out: Singles,
    team: Team,
    scale: float,
) -> float:
    """(f - A (x + scale dx)) / scale in float64, rounded into ``out``, zero where fixed; its norm."""
    nx = len(solid)
    plane = out[0].size
    order = np.argsort(load[0], kind="stable")
    where, value = load[0][order], load[1][order]
    held = np.sort(fixed)
    shared = team.ends(nx + 1)
    partial = {p: np.zeros(out.shape[1:]) for p in (0, nx)}  # of planes that a neighbour holds too

    def finish(values: Floats, low: int) -> float:
        """Planes from ``low`` on: load, supports and scale; returns the sum of squares."""
        flat, high = values.reshape(-1), low + len(values)
        some = slice(*np.searchsorted(where, [low * plane, high * plane]))
        np.add.at(flat, where[some] - low * plane, value[some])
        some = slice(*np.searchsorted(held, [low * plane, high * plane]))
        flat[held[some] - low * plane] = 0
        flat /= scale
        out[low:high] = values
        return float(flat @ flat)

    def slab(first: int, last: int) -> float:
        """Node planes first:last, from the layers of voxels on both sides of them."""
        total = 0.0
        for low in range(first, last, _SLAB):
            high = min(low + _SLAB, last)
            begin, end = max(low - 1, 0), min(high, nx)
            planes = slice(begin, end + 1)
            exact = x[planes] + scale * dx[planes].astype(np.float64)
            force = np.zeros_like(exact)
            own = low - begin, high - begin
            kernels.voxel_product(exact, solid[begin:end], moduli, coefficients, -1.0, force, *own)
            values = force[slice(*own)]
            for p in shared:
                if low <= p < high:
                    partial[p] = values[p - low]
            alone = slice(low + (low in shared), high - (high - 1 in shared))
            total += finish(values[alone.start - low : alone.stop - low], alone.start)
        return total

    total = sum(team.run(slab, nx + 1))
    for p, other in zip((0, nx), team.swap(partial[0], partial[nx]), strict=True):
        if other is not None:
            size = finish((partial[p] + other)[None], p)
            total += size if p < team.owned(nx + 1) else 0.0
    return float(np.sqrt(team.total(total)))
