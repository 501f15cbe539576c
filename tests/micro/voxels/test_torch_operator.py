"""The discrete operators: symmetry, rigid motions, agreement with assembly, exact Galerkin products."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from micro.cell.tensor import SOLID
from micro.voxels.hexahedron import element_matrices, unit_stiffness
from micro.voxels.torch_multigrid import Multigrid, prolong, restrict
from micro.voxels.torch_operator import Grid, apply_stiffness, diagonal_blocks, element_energy, pad_moduli

GRIDS = [Grid((4, 6, 2)), Grid((5, 3, 4)), Grid((4, 6, 2), periodic=True), Grid((5, 3, 1), periodic=True)]
K = unit_stiffness(0.3)


def _field(grid: Grid, seed: int, loads: int = 2, cells: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(3, loads, cells, *grid.nodes)))


def _moduli(grid: Grid, seed: int, cells: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((cells, *grid.shape)) * (rng.random((cells, *grid.shape)) < 0.7))


def _dense(grid: Grid, rho: torch.Tensor) -> torch.Tensor:
    """Matrix of one cell's operator, column by column; node-major, then component."""
    count = 3 * int(np.prod(grid.nodes))
    unit = torch.eye(count, dtype=torch.float64).view(count, *grid.nodes, 3).permute(4, 0, 1, 2, 3)
    out = apply_stiffness(unit.unsqueeze(2).contiguous(), pad_moduli(rho), K, grid)
    return out[:, :, 0].permute(2, 3, 4, 0, 1).reshape(count, count)


def test_unit_stiffness_is_that_of_the_solid() -> None:
    np.testing.assert_allclose(K.numpy(), np.tensordot(SOLID, element_matrices(), axes=1), atol=1e-15)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_operator_matches_elements_one_by_one(grid: Grid) -> None:
    u, rho = _field(grid, 0), _moduli(grid, 1)
    expected = np.zeros(u.shape)
    for element in np.ndindex(*grid.shape):
        nodes = [
            tuple((element[i] + d[i]) % grid.nodes[i] for i in range(3))
            for d in [(a >> 2, a >> 1 & 1, a & 1) for a in range(8)]
        ]
        for load, cell in np.ndindex(*u.shape[1:3]):
            local = np.array([u[:, load, cell][(slice(None), *x)].numpy() for x in nodes]).ravel()
            force = (rho[cell][element].item() * K.numpy() @ local).reshape(8, 3)
            for a, x in enumerate(nodes):
                expected[(slice(None), load, cell, *x)] += force[a]
    out = apply_stiffness(u, pad_moduli(rho), K, grid).numpy()
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_operator_is_symmetric_and_annihilates_translations(grid: Grid) -> None:
    rho = _moduli(grid, 2)
    u, v = _field(grid, 3), _field(grid, 4)
    a, b = apply_stiffness(u, pad_moduli(rho), K, grid), apply_stiffness(v, pad_moduli(rho), K, grid)
    torch.testing.assert_close((v * a).sum(dim=(0, 3, 4, 5)), (u * b).sum(dim=(0, 3, 4, 5)))
    assert apply_stiffness(torch.ones_like(u), pad_moduli(rho), K, grid).abs().max() < 1e-13


def test_open_grid_annihilates_rotations() -> None:
    grid = Grid((4, 3, 5))
    x, y, _ = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid.nodes), indexing="ij")
    u = torch.stack([-y, x, torch.zeros_like(x)])[:, None, None]
    assert apply_stiffness(u, pad_moduli(_moduli(grid, 5, 1)), K, grid).abs().max() < 1e-13


@pytest.mark.parametrize("grid", GRIDS[:3], ids=str)  # one periodic element's corners share a node
def test_element_energies_and_diagonal(grid: Grid) -> None:
    u, v, rho = _field(grid, 6), _field(grid, 7), _moduli(grid, 8)
    total = (element_energy(u, v, K, grid) * rho).sum(dim=(2, 3, 4))
    f = apply_stiffness(u, pad_moduli(rho), K, grid)
    torch.testing.assert_close(total, (f * v).sum(dim=(0, 3, 4, 5)))
    blocks = diagonal_blocks(rho[:1], K, grid)[:, :, 0].permute(2, 3, 4, 0, 1).reshape(-1, 3, 3)
    dense = _dense(grid, rho[:1])
    for i, block in enumerate(blocks):
        torch.testing.assert_close(block, dense[3 * i : 3 * i + 3, 3 * i : 3 * i + 3])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_restriction_is_the_transpose_of_prolongation(grid: Grid) -> None:
    nx, ny, nz = ((n + 1) // 2 for n in grid.shape)
    coarse = Grid((nx, ny, nz), grid.periodic)
    u, f = _field(coarse, 9), _field(grid, 10)
    torch.testing.assert_close((prolong(u, grid, coarse) * f).sum(), (u * restrict(f, grid, coarse)).sum())
    ones = torch.ones_like(u)
    assert (prolong(ones, grid, coarse) - 1).abs().max() < 1e-15


@pytest.mark.parametrize("shape", [(8, 8, 8), (4, 8, 6), (5, 7, 3), (9, 4, 1)])
@pytest.mark.parametrize("periodic", [False, True])
def test_coarse_operators_are_exact_galerkin_products(shape: tuple[int, int, int], periodic: bool) -> None:
    grid = Grid(shape, periodic)
    rho = _moduli(grid, 11, cells=2)
    free = torch.ones((3, 1, 1, *grid.nodes), dtype=torch.bool)
    levels = Multigrid.build(rho, K, grid, free).levels
    assert len(levels) >= 2
    for fine, coarse in pairwise(levels):
        u = _field(coarse.grid, 12, loads=1, cells=2)
        up = prolong(u, fine.grid, coarse.grid)
        expected = restrict(fine.multiply(up), fine.grid, coarse.grid)
        torch.testing.assert_close(coarse.multiply(u), expected)


@pytest.mark.parametrize("periodic", [False, True])
def test_the_cycle_is_symmetric_and_positive(periodic: bool) -> None:
    """A preconditioner of conjugate gradients must be both, voids and fixed faces included."""
    grid = Grid((8, 6, 5), periodic)
    rho = _moduli(grid, 13, cells=2)
    free = torch.ones((3, 1, 1, *grid.nodes), dtype=torch.bool)
    if not periodic:
        free[0, ..., 0, :, :] = free[1, ..., -1, :] = False
    cycle = Multigrid.build(rho, K, grid, free)
    # Residuals are images of A, which are orthogonal to every motion of unsupported nodes and pieces.
    u, v = (_field(grid, s, loads=1, cells=2) * free for s in (14, 15))
    a, b = (apply_stiffness(w, pad_moduli(rho), K, grid) * free for w in (u, v))
    za, zb = cycle.precondition(a), cycle.precondition(b)
    torch.testing.assert_close((za * b).sum(dim=(0, 3, 4, 5)), (zb * a).sum(dim=(0, 3, 4, 5)))
    assert ((za * a).sum(dim=(0, 3, 4, 5)) > 0).all()
    assert (za * ~free).abs().max() == 0
