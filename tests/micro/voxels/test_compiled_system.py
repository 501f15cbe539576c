"""The compiled path against the torch path: operators, cycles and whole solves on any grid."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from small_cells import random_octant, thin_truss

from micro.cell.octant import symmetrise
from micro.homogenize.fields import Status, inner, solve_octants
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.periodic import _solve_cell
from micro.voxels.compiled_system import CompiledSystem
from micro.voxels.hexahedron import unit_stiffness
from micro.voxels.kernels.layout import cover
from micro.voxels.torch_multigrid import Multigrid
from micro.voxels.torch_operator import Grid, apply_stiffness, pad_moduli
from micro.voxels.torch_system import TorchSystem

GRIDS = [
    Grid((8, 6, 5)),
    Grid((4, 9, 7)),
    Grid((2, 1, 2)),
    Grid((8, 6, 5), periodic=True),
    Grid((5, 3, 1), periodic=True),
    Grid((7, 4, 9), periodic=True),
]
K = unit_stiffness(0.3)


def _moduli(grid: Grid, seed: int, cells: int = 2) -> torch.Tensor:
    """Moduli with voids, so that blocks begin anywhere."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((cells, *grid.shape)) * (rng.random((cells, *grid.shape)) < 0.7))


def _free(grid: Grid) -> torch.Tensor:
    """Two load cases fixed in different ways; on periodic grids nothing is fixed."""
    free = torch.ones((3, 1 if grid.periodic else 2, 1, *grid.nodes), dtype=torch.bool)
    if not grid.periodic:
        free[0, 0, 0, 0], free[1, 0, 0, :, 0], free[2, 0, 0, :, :, 0] = False, False, False
        free[:, 1, 0, -1] = False
    return free


def _field(grid: Grid, seed: int, cells: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 2, cells, *grid.nodes)))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_forces(grid: Grid) -> None:
    """Float64 on both paths: equal up to rounding."""
    rho = _moduli(grid, 0)
    nx, ny, nz = grid.shape
    u = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2, 1, nx + 1, ny + 1, nz + 1)))
    expected = TorchSystem(rho, 0.2, grid, _free(grid)).forces(u)
    torch.testing.assert_close(CompiledSystem(rho, 0.2, grid, _free(grid)).forces(u), expected)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_one_cycle_is_that_of_torch(grid: Grid) -> None:
    """Products, transfers, smoothing and the direct solve at once; the compiled cycle works in float32."""
    rho, free = _moduli(grid, 2), _free(grid)
    # Residuals are images of A, orthogonal to every motion of unsupported nodes and pieces.
    r = apply_stiffness(_field(grid, 3), pad_moduli(rho), K, grid) * free
    expected = Multigrid.build(rho, K, grid, free).precondition(r)
    system = CompiledSystem(rho, 0.3, grid, free)
    for cell in range(len(rho)):
        z = system.precondition(r[:, :, cell], cell)
        # Motions of voids and loose pieces differ; what they do to the forces is nothing.
        back, true = (
            apply_stiffness(x[:, :, None], pad_moduli(rho[cell : cell + 1]), K, grid)
            for x in (z.double(), expected[:, :, cell])
        )
        # Rounding of float32 in a few hundred operations, times entries up to the largest.
        assert_allclose(back, true, atol=1e-4 * float(true.abs().max()))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_solutions_agree(grid: Grid) -> None:
    rho, free = _moduli(grid, 4), _free(grid)
    b = apply_stiffness(_field(grid, 5), pad_moduli(rho), K, grid) * free
    floor, groups = inner(b, b).sqrt(), [slice(0, 1), slice(1, 2)]
    results = []
    for system in (CompiledSystem, TorchSystem):
        s = system(rho, 0.3, grid, free).solve(b, rtol=1e-8, floor=floor, groups=groups)
        assert bool(s.converged.all())
        # The defect is what it is called, and the residual its size.
        defect = (b - apply_stiffness(s.u, pad_moduli(rho), K, grid)) * free
        assert_allclose(s.defect, defect, atol=1e-12 * float(b.abs().max()))
        assert_allclose(s.residual, (inner(defect, defect).sqrt() / floor), rtol=1e-3)
        results.append(inner(b, s.u))
    # Energies err by the product of two residuals at most times the conditioning.
    torch.testing.assert_close(*results, rtol=1e-8, atol=0)


def test_octants_by_both_paths() -> None:
    octants = np.stack([*(random_octant(s) for s in range(6)), *(thin_truss(s, 8) for s in range(2))])
    both = [
        solve_octants(octants.astype(float), 0.3, 1e-7, torch.device("cpu"), path=path)
        for path in ("compiled", "torch")
    ]
    assert_allclose(both[0].C, both[1].C, rtol=1e-9)
    assert_array_equal(both[0].status, both[1].status)
    assert np.abs(both[0].iterations - both[1].iterations).max() <= 2  # float32 rounding moves single checks


def test_cells_by_both_paths() -> None:
    rho = torch.from_numpy(np.random.default_rng(6).random((1, 6, 5, 8)))
    solve = partial(_solve_cell, rho, 0.3, 1e-7, 1, None)
    assert_allclose(solve("compiled")[0], solve("torch")[0], rtol=0, atol=1e-9)


def test_a_warm_start_is_taken() -> None:
    octants = symmetrise(np.random.default_rng(7).random((2, 8, 8, 8)) + 0.05)
    device = torch.device("cpu")
    first = solve_octants(octants, 0.3, 1e-5, device)
    again = solve_octants(octants, 0.3, 1e-5, device, start=first.fluctuation)
    assert (again.iterations == 0).all()
    assert_allclose(again.C, first.C, rtol=1e-12)


def test_a_cell_is_the_same_in_any_batch_and_on_any_threads() -> None:
    """To the last bit: cells share nothing."""
    octants = np.stack([random_octant(s) for s in range(7)])
    whole = homogenize_octants(octants)
    assert_array_equal(homogenize_octants(octants, batch=1).C, whole.C)
    assert_array_equal(homogenize_octants(octants[::-1], batch=3).C, whole.C[::-1])
    two = solve_octants(octants.astype(float), 0.3, 1e-5, torch.device("cpu"), threads=2)
    one = solve_octants(octants.astype(float), 0.3, 1e-5, torch.device("cpu"))
    assert_array_equal(two.C, one.C)
    assert (whole.status == Status.OK).all()


def test_blocks_cover_what_is_active() -> None:
    active = np.random.default_rng(8).random(1000) < 0.02
    starts = np.zeros(len(active), np.int64)
    starts = starts[: cover(active, 16, starts)]
    assert active[starts].all()
    covered = np.zeros(len(active) + 16, bool)
    for start in starts:
        assert not covered[start : start + 16].any()
        covered[start : start + 16] = True
    assert covered[: len(active)][active].all()
