"""The compiled kernels against the batched ones, and Galerkin operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from micro.cell.tensor import SOLID
from micro.voxels.corners import CORNERS
from micro.voxels.galerkin import interpolation
from micro.voxels.hexahedron import unit_stiffness
from micro.voxels.torch_operator import Grid, apply_stiffness, pad_moduli
from multiscale.solve.voxels import kernels, multigrid
from multiscale.solve.voxels.multigrid import Multigrid, coarse_masks, refine_mask
from multiscale.solve.voxels.team import Team


@pytest.fixture(scope="module")
def solid():
    """Random voxels, longer along z than one block of the kernel, with odd sizes."""
    return (np.random.default_rng(0).random((5, 6, 71)) < 0.6).astype(np.uint8)


@pytest.fixture(scope="module")
def hierarchy(solid):
    fixed = np.zeros((6, 7, 72, 3), dtype=bool)
    fixed[:, 0] = True
    return Multigrid(solid, SOLID, [fixed], Team(1))


def noise(level, seed):
    u = np.random.default_rng(seed).standard_normal(level.nodes).astype(np.float32)
    u.reshape(-1)[level.fixed] = 0
    return u


def test_voxel_product_equals_the_general_one(solid):
    rng = np.random.default_rng(1)
    u = rng.standard_normal((6, 7, 3, 72)).astype(np.float32)
    field = torch.from_numpy(u.astype(np.float64).transpose(2, 0, 1, 3).copy())[:, None, None]
    solid = solid * np.random.default_rng(2).integers(1, 3, solid.shape).astype(np.uint8)  # two materials
    factors = np.array([0.0, 1.0, 0.2], dtype=np.float32)
    moduli = pad_moduli(torch.from_numpy(factors.astype(np.float64)[solid])[None])
    exact = apply_stiffness(field, moduli, unit_stiffness(0.3), Grid(solid.shape))[:, 0, 0].numpy()
    out = np.zeros_like(u)
    c = kernels.walsh_coefficients(SOLID, np.float32)
    for first, last in ((0, 2), (2, 3), (3, 6)):  # in pieces, as threads do it
        kernels.voxel_product(u, solid, factors, c, np.float32(1), out, first, last)
    # Float32, sums of some 200 terms.
    assert np.abs(out.transpose(2, 0, 1, 3) - exact).max() < 3e-6 * np.abs(exact).max()


@pytest.mark.parametrize("kinds", [3, 400])
def test_like_elements_share_a_coarse_matrix(kinds, monkeypatch):
    """400 kinds of children: their codes outgrow an integer, and are numbered anew on the way."""
    rng = np.random.default_rng(3)
    index = rng.integers(0, kinds, (8, 6, 10)).astype(np.int32)
    index[4:] = index[:4]
    table = rng.standard_normal((kinds, 24, 24))
    table[0] = 0
    coarse, matrices = multigrid.halve(index, table)
    monkeypatch.setattr(multigrid, "_CHUNK", 7)
    for found, again in zip((coarse, matrices), multigrid.halve(index, table, threads=2), strict=True):
        assert np.array_equal(found, again)
    children = np.stack([index[dx::2, dy::2, dz::2] for dx, dy, dz in CORNERS], axis=-1)
    different = np.unique(children.reshape(-1, 8), axis=0)
    assert len(matrices) == len(different) + different[0].any()  # and the void, if it does not occur
    for at in np.ndindex(coarse.shape):
        parts = zip(CORNERS, children[at], strict=True)
        whole = sum(interpolation(c).T @ table[k] @ interpolation(c) for c, k in parts)
        np.testing.assert_allclose(matrices[coarse[at]], whole, rtol=1e-12, atol=1e-12)
    assert np.array_equal(coarse[:2], coarse[2:])


def test_coarse_operators_are_galerkin(hierarchy):
    """P^T A P u on every grid equals the next grid's own operator, odd sizes included."""
    team = hierarchy.team
    assert len(hierarchy.levels) >= 2
    for fine, coarse in zip(hierarchy.levels[:-1], hierarchy.levels[1:], strict=True):
        u = noise(coarse, 2)
        image, force = (np.zeros(fine.nodes, np.float32) for _ in range(2))
        kernels.prolong(u, image, 0, len(image))
        fine.product(image, force, team)
        expected, found = (np.zeros(coarse.nodes, np.float32) for _ in range(2))
        kernels.restrict(force, expected, 0, len(expected))
        expected.reshape(-1)[coarse.fixed] = 0
        coarse.product(u, found, team)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_cycle_is_symmetric_and_positive(hierarchy):
    finest = hierarchy.levels[0]
    # Residuals live where there is stiffness.
    a, b = (noise(finest, seed) * (finest.inverse > 0) for seed in (3, 4))
    ma, mb = np.zeros_like(a), np.zeros_like(b)
    hierarchy.precondition(a, ma)
    hierarchy.precondition(b, mb)
    ab, ba, aa, bb = ((x.astype(np.float64) * y).sum() for x, y in ((a, mb), (b, ma), (a, ma), (b, mb)))
    assert aa > 0 < bb
    assert abs(ab - ba) < 1e-5 * np.sqrt(aa * bb)


def test_grids_of_more_steps(monkeypatch):
    """From the third grid on there are more, of a smaller reach: the cycle stays symmetric and positive."""
    monkeypatch.setattr(multigrid, "_COARSEST", 100)
    solid = (np.random.default_rng(6).random((20, 17, 24)) < 0.7).astype(np.uint8)
    fixed = np.zeros((21, 18, 25, 3), dtype=bool)
    fixed[0] = True
    hierarchy = Multigrid(solid, SOLID, [fixed], Team(1))
    degrees = [level.degree for level in hierarchy.levels]
    assert len(degrees) >= 4
    assert degrees[0] <= degrees[1] < degrees[2]
    assert all(level.bound <= level.radius * multigrid.reach(level.degree) for level in hierarchy.levels)
    test_the_cycle_is_symmetric_and_positive(hierarchy)


@pytest.mark.parametrize("degree", [1, 2, 4, 6])
def test_the_smoother_converges_as_far_as_its_reach(degree):
    """Its steps on a single unknown of stiffness x, made for 1: what is left grows beyond the reach alone."""

    def left(x):
        residual, step, total = 1.0, 0.0, 0.0
        for k in range(1, degree + 1):
            a = (2 * k - 3) / (2 * k + 1) if k > 1 else 0.0
            step = a * step + (8 * k - 4) / (2 * k + 1) * residual
            total += step
            residual -= x * step
        return abs(1 - x * total)

    reach = multigrid.reach(degree)
    assert max(left(x) for x in np.linspace(1e-3, reach - 1e-6, 500)) < 1
    assert left(reach) == pytest.approx(1)
    assert left(reach + 1e-3) > 1


def test_no_error_grows_in_the_cycle(monkeypatch):
    """Stiff voxels in soft ones, which strain as stiffly as anything can: 1 - M A lies between 0 and 1."""
    monkeypatch.setattr(multigrid, "_COARSEST", 300)
    solid = np.where(np.random.default_rng(0).random((5, 5, 5)) < 0.25, 1, 2).astype(np.uint8)
    fixed = np.zeros((6, 6, 6, 3), dtype=bool)
    fixed[0] = True
    hierarchy = Multigrid(solid, SOLID, [fixed], Team(1), (0.0, 1.0, 1e-3))
    assert len(hierarchy.levels) == 2
    finest = hierarchy.levels[0]
    free = np.setdiff1d(np.arange(np.prod(finest.nodes)), finest.fixed)
    stiffness, cycle = (np.empty((len(free), len(free))) for _ in range(2))
    for column, k in enumerate(free):
        unit, out = (np.zeros(finest.nodes, np.float32) for _ in range(2))
        unit.reshape(-1)[k] = 1
        finest.product(unit, out, Team(1))
        stiffness[:, column] = out.reshape(-1)[free]
        hierarchy.precondition(unit, out)
        cycle[:, column] = out.reshape(-1)[free]
    assert np.abs(cycle - cycle.T).max() < 1e-5 * np.abs(cycle).max()
    root = np.linalg.cholesky(stiffness)
    spectrum = np.linalg.eigvalsh(root.T @ (cycle + cycle.T) @ root / 2)
    assert 0 < spectrum[0] < spectrum[-1] < 1 + 1e-3  # float32, a thousandfold contrast
    # The stiffest modes, at t = 1.2 times what the smoother is made for, keep (1 - 4 t + 3.2 t^2)^2 = 0.65 of
    # their energy if the coarse grid does nothing about them.
    diagonal = np.diag(stiffness)
    values, modes = linalg.eigh(stiffness, np.diag(diagonal), subset_by_index=(len(free) - 5, len(free) - 1))
    assert values[-1] > 1.15 * finest.radius
    force = stiffness @ modes
    assert ((force * (cycle @ force)).sum(axis=0) > 0.3 * (force * modes).sum(axis=0)).all()


def test_few_different_elements_are_kept():
    """A periodic lattice has as many different coarse elements as its cell, whatever its size."""
    cell = np.random.default_rng(5).random((8, 8, 8)) < 0.5
    solid = np.tile(cell, (3, 2, 4)).astype(np.uint8)
    fixed = coarse_masks(np.zeros((4, 3, 5, 3), dtype=bool), 8)
    levels = Multigrid(solid, SOLID, fixed, Team(1)).levels
    for level, most in zip(levels[1:4], (64, 8, 1), strict=False):
        assert level.table is not None
        assert len(level.table) <= most + 1  # and the void


def test_masks_of_faces_lines_and_points():
    mask = np.zeros((3, 3, 3, 1), dtype=bool)
    mask[:, 0, :, 0] = True
    mask[0, 2, 0, 0] = True
    fine = refine_mask(mask, 4)[..., 0]
    assert fine[:, 0].all()
    assert fine.sum() == 81 + 1
    assert [m.shape[0] for m in coarse_masks(mask, 12)] == [25, 13, 7]
