"""Conjugate gradients on voxels: their directions, what they find, and the memory they take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from micro.cell.tensor import SOLID
from multiscale.problem.size import constants
from multiscale.solve.voxels.local_solves import LocalSolves
from multiscale.solve.voxels.multigrid import Level, Multigrid, coarse_masks
from multiscale.solve.voxels.regions import Site
from multiscale.solve.voxels.solve import solve
from multiscale.solve.voxels.team import Team


def sponge(cells):
    """Cells of 16 voxels with struts of random width, and the masks of a model held below."""
    rng = np.random.default_rng(0)
    cell = rng.random((16, 16, 16)) < 0.5
    cell[:, 5:9, 5:9] = cell[5:9, :, 5:9] = cell[5:9, 5:9, :] = True
    held = np.zeros((cells + 1, cells + 1, cells + 1, 3), dtype=bool)
    held[..., 0, :] = True
    return np.tile(cell, (cells,) * 3).astype(np.uint8), coarse_masks(held, 16)


def pull(cells, rtol, exact=False):
    """A solve under a force on the top; ``exact``: with some regions solved exactly in every cycle."""
    solid, fixed = sponge(cells)
    team = Team(1)
    multigrid = Multigrid(solid, SOLID, fixed, team)
    multigrid.searched = True  # no regions but those given
    finest = multigrid.levels[0]
    if exact:
        nodes = finest.inverse[:, :, 0] > 0
        nodes[6:11] = nodes[:, :, :2] = False
        site = Site(nodes, finest.index, finest.fixed)
        multigrid.local = LocalSolves.of(site, multigrid.stiffness, multigrid.moduli, team)
    force = np.zeros(finest.nodes, np.float32)
    force[:, :, 0, -1] = 1e-3 * (finest.inverse[:, :, 0, -1] > 0)
    where = np.flatnonzero(force)
    load = where, force.reshape(-1)[where].astype(np.float64)
    nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    del force
    if tracemalloc.is_tracing():
        tracemalloc.reset_peak()
    return solve(multigrid, SOLID, load, nothing, team, rtol=rtol)


@pytest.mark.parametrize("exact", [False, True])
def test_directions_are_conjugate_wherever_the_residual_is_replaced(monkeypatch, exact):
    """A p is not kept: its product with the next z is told by residuals, and by itself where one is new.

    With regions solved exactly the cycle is symmetric only for residuals that vanish in them.
    """
    steps, again = [], 0
    product = Level.product

    def seen(level, u, out, team, minuend=None):
        nonlocal again
        product(level, u, out, team, minuend)
        if minuend is None:
            if steps and np.array_equal(steps[-1][0], u):
                again += 1
            else:
                steps.append((u.copy(), out.copy()))

    monkeypatch.setattr(Level, "product", seen)
    solution = pull(1, 1e-7, exact)
    assert solution.residual <= 1e-7
    assert again >= 2  # replaced in between
    assert len(steps) == solution.iterations
    energy = [float(np.vdot(p.astype(np.float64), ap)) for p, ap in steps]
    for k in range(1, len(steps)):
        across = float(np.vdot(steps[k][0].astype(np.float64), steps[k - 1][1]))
        # Float32 fields of 15,000 numbers.
        assert abs(across) < 1e-4 * np.sqrt(energy[k] * energy[k - 1])


def test_a_step_that_breaks_down_starts_the_directions_anew(monkeypatch):
    """A product that overflowed once costs a few iterations, not the solve."""
    calls = 0
    product = Level.product

    def fails_once(level, u, out, team, minuend=None):
        nonlocal calls
        product(level, u, out, team, minuend)
        if minuend is None:
            calls += 1
            if calls == 5:
                out *= np.float32(-1)

    whole = pull(1, 1e-6)
    monkeypatch.setattr(Level, "product", fails_once)
    found = pull(1, 1e-6)
    assert whole.iterations < found.iterations <= whole.iterations + 8
    assert np.abs(found.u - whole.u).max() < 1e-4 * np.abs(whole.u).max()


def test_a_solve_takes_the_memory_that_is_announced():
    """Of the fields, by count; factors of slow regions have tests of their own."""
    tracemalloc.start()
    try:
        pull(6, 1e-3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    nodes = (6 * 16 + 1) ** 3
    # The coarsest grid's factor, 8 MB, and planes in float64 while a residual is evaluated, 10 MB; another
    # field of three float32 numbers a node would be 11 MB.
    assert peak < constants()["full_scale"]["bytes_of_fields"] * nodes + 22e6
    assert peak > 60 * nodes  # the arrays are seen at all
