"""The compiled kernels against the batched ones, Galerkin operators, and coarse cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from micro.cell.cellset import CellSet
from micro.cell.octant import connectivity, is_symmetric
from micro.cell.tensor import SOLID, tensor_error
from micro.homogenize.octants import homogenize_octants
from micro.voxels.hexahedron import unit_stiffness
from micro.voxels.torch_operator import Grid, apply_stiffness, pad_moduli
from multiscale.lattice.contact import neighbours
from multiscale.lattice.lattice import Lattice, coarsen
from multiscale.solve import voxel_kernels as kernels
from multiscale.solve.team import Team
from multiscale.solve.voxel_multigrid import Multigrid, coarse_masks, refine_mask
from multiscale.verify.coarse_cells import Tensors, bridge, coarse_lattice, fitted, kept_contacts


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


# ---------------------------------------------------------------- coarse cells
def diagonal_plate(n=16, thickness=4):
    """A plate along x = y and its images: coarse thresholds cut it into voxels that meet at edges."""
    i, j, k = np.indices((n, n, n))
    near = [np.abs(a - b) < thickness for a, b in ((i, j), (j, k), (i, k))]
    return near[0] | near[1] | near[2]


def fractions_of(octant, size):
    step = octant.shape[0] // size
    return octant.reshape(size, step, size, step, size, step).mean(axis=(1, 3, 5))


def test_coarse_octants_keep_what_they_must_and_come_near_the_tensor():
    octant = diagonal_plate(thickness=3)
    fraction = fractions_of(octant, 4)[None]
    target = homogenize_octants(octant[None]).C
    levels = np.stack([fraction[0] >= t for t in np.unique(fraction[fraction > 0])])
    levels = levels[[connectivity(o).connected for o in levels]]
    thresholded = tensor_error(homogenize_octants(levels).C, target).min()
    kept = np.zeros((1, 4, 4, 4), dtype=bool)
    # A voxel of the face that no level set but the fullest would have, with its images.
    for place in ((0, 0, 3), (0, 3, 0), (3, 0, 0)):
        kept[(0, *place)] = True
    for must in (np.zeros_like(kept), kept):
        found, C = fitted(fraction, must, target, 6, Tensors(0.3))
        assert connectivity(found[0]).connected
        assert is_symmetric(found)
        assert (found >= must).all()
        # Solved to a residual of 3e-3, whose square is the error of C.
        assert pytest.approx(homogenize_octants(found).C, rel=1e-3) == C
        if not must.any():
            assert tensor_error(C, target)[0] <= thresholded * (1 + 1e-3)


def test_neighbours_that_touch_do_so_at_coarse_voxels():
    rng = np.random.default_rng(1)
    low, mid, high = np.sort(np.indices((8, 8, 8)), axis=0)
    # Sparse faces, which thresholds lose: a few patterns on a common solid core.
    octants = (rng.random((12, 8, 8, 8)) < 0.25)[:, low, mid, high]
    octants[:, 2:, 2:, 2:] = True
    cells = CellSet.from_octants(octants, np.tile([0.5, 0.2, 0.15], (12, 1)))
    lattice = Lattice(cells, rng.integers(0, 12, (4, 4, 3)), 1e-3, 1e9, 0.3)
    kept = kept_contacts(lattice, 8, {}, np.arange(12))
    assert is_symmetric(kept)
    face = kept[:, 0]
    for axis in range(3):
        for a, b in zip(*(side.ravel() for side in neighbours(lattice.index, axis)), strict=True):
            touch = (octants[a, 0] & octants[b, 0]).any()
            assert a == b or not touch or (face[a] & face[b]).any()
    # Thresholds lose some of these contacts, or the test would say nothing.
    thresholded = replace(lattice, cells=CellSet.from_octants(coarsen(octants, 8), cells.C)).contacts()
    assert lattice.contacts().unconnected < thresholded.unconnected


def test_bridges_take_the_cheapest_path():
    """Two parts that a threshold separates are joined where least void is added, images included."""
    i, j, k = np.sort(np.indices((4, 4, 4)).reshape(3, -1), axis=0).reshape(3, 4, 4, 4)
    fraction = np.zeros((4, 4, 4))
    fraction[:2, :2, :2] = fraction[2:, 2:, 2:] = 1.0
    fraction[(i == 1) & (k == 2)] = 0.4  # between the two blocks' corners
    joined = bridge(fraction)
    assert connectivity(joined).connected
    assert is_symmetric(joined)
    assert np.array_equal(joined, fraction > 0)
    # A crumb that costs more void than it holds is left out.
    fraction[(i == 0) & (j == 0) & (k == 3)] = 0.51
    assert np.array_equal(bridge(fraction), joined)


def test_a_coarse_lattice_has_its_own_tensors():
    octants = diagonal_plate()[None]
    cells = CellSet.from_octants(octants, homogenize_octants(octants).C)
    lattice = Lattice(cells, np.zeros((2, 2, 2), dtype=np.int32), 1e-3, 1e9, 0.3)
    coarse = coarse_lattice(lattice, 8)
    assert coarse.lattice.voxels_per_cell == 8
    expected = homogenize_octants(coarse.lattice.cells.octants()).C
    # Coarse cells are solved to a residual of 3e-3, whose square is the error of C.
    assert pytest.approx(expected, rel=1e-3) == coarse.lattice.cells.C
    assert coarse.error_mean == pytest.approx(float(tensor_error(coarse.lattice.cells.C, cells.C)[0]))
    assert coarse.error_mean == coarse.error_max < 0.02
    assert coarse.volume_change == pytest.approx(abs(coarse.lattice.cells.volume - cells.volume)[0])
    same = coarse_lattice(lattice, 32)
    assert same.rethresholded == 0
    assert same.lattice.digest() == lattice.digest()
