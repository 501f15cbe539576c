"""Homogenised tensors: against theory, bounds, direct solves, an independent code, and themselves."""

from __future__ import annotations

import numpy as np
import pytest
from direct_solves import SCHWARZ_P, direct_cell, direct_octant
from numpy.testing import assert_allclose
from small_cells import random_octant, schwarz_p, thin_cells, thin_truss

from micro.cell.anisotropy import distance, engineering_constants, nearest_cubic, nearest_isotropic
from micro.cell.octant import cell_from_octant, half_period_shift, symmetrise
from micro.cell.tensor import SOLID, bulk, hashin_shtrikman, isotropic, stiffness_matrix
from micro.homogenize import octants as homogenize
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.periodic import homogenize_cell
from micro.runtime.errors import InputError

OCTANTS = np.stack([random_octant(s) for s in range(24)])


# Theory.


def test_a_solid_cell_is_its_material() -> None:
    octant = homogenize_octants(np.ones((8, 8, 8), dtype=bool))
    assert_allclose(octant.C[0], SOLID, rtol=1e-12)
    cell = homogenize_cell(np.full((4, 3, 6), 2.0), nu=0.2)
    assert_allclose(cell.C, 2 * stiffness_matrix(isotropic(1.0, 0.2)), rtol=1e-12, atol=1e-12)
    assert octant.status[0] == cell.status == Status.OK
    assert octant.volume[0] == cell.volume == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_laminates_are_exact(axis: int) -> None:
    """Backus (1962), eqs. 13, for isotropic layers of one Poisson's ratio and normal 3.

    Strains are constant within a layer, so trilinear elements hold the exact solution.
    """
    layers = np.array([1.0, 0.1, 0.4, 0.4, 0.02, 1.0])
    tensors = np.array([isotropic(e, 0.3) for e in layers])
    c11, c12, c44 = tensors.T
    expected = np.zeros((6, 6))
    c33 = 1 / np.mean(1 / c11)
    c13 = c33 * np.mean(c12 / c11)
    plane = np.mean(c12 / c11) ** 2 * c33
    expected[0, 0] = expected[1, 1] = np.mean(c11 - c12**2 / c11) + plane
    expected[0, 1] = expected[1, 0] = np.mean(c12 - c12**2 / c11) + plane
    expected[2, 2] = c33
    expected[[0, 1, 2, 2], [2, 2, 0, 1]] = c13
    expected[3, 3] = expected[4, 4] = 1 / np.mean(1 / c44)
    expected[5, 5] = np.mean(c44)
    shape = [2, 3, 4]
    shape[axis] = 6
    cell = np.broadcast_to(np.expand_dims(layers, [i for i in range(3) if i != axis]), shape)
    # Voigt places after moving the laminate's normal from axis 3 to `axis`.
    order = {0: [2, 1, 0, 5, 4, 3], 1: [0, 2, 1, 3, 5, 4], 2: [0, 1, 2, 3, 4, 5]}[axis]
    result = homogenize_cell(cell, rtol=1e-8)
    assert_allclose(result.C, expected[np.ix_(order, order)], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_voigt_and_reuss_bounds_and_definiteness(seed: int) -> None:
    """Reuss <= C <= Voigt as quadratic forms, for moduli over three decades."""
    cell = 10 ** np.random.default_rng(seed).uniform(-3, 0, size=(6, 5, 8))
    C = homogenize_cell(cell).C
    unit = stiffness_matrix(SOLID)
    assert_allclose(C, C.T, atol=1e-12)
    assert np.linalg.eigvalsh(cell.mean() * unit - C).min() > 0
    assert np.linalg.eigvalsh(C - unit / np.mean(1 / cell)).min() > 0


def test_hashin_shtrikman_bound_on_bulk_modulus() -> None:
    result = homogenize_octants(OCTANTS)
    upper, _ = hashin_shtrikman(result.volume)
    # Hex8 displacements overestimate stiffness, most at this coarse n = 8; the bound is still not met.
    assert (bulk(result.C) < upper).all()
    assert (result.C[:, 0] - result.C[:, 1] > 0).all()
    assert (result.C[:, 2] > 0).all()


# An independent code and direct solves.


@pytest.mark.parametrize(
    "size", [32, pytest.param(64, marks=pytest.mark.slow), pytest.param(128, marks=pytest.mark.slow)]
)
def test_schwarz_p_octant(size: int) -> None:
    """The references have seven decimals (2.5e-6 of C44's value) and a residual of 1e-6."""
    result = homogenize_octants(schwarz_p(size), void=1e-6, rtol=1e-7)
    assert_allclose(result.C[0], SCHWARZ_P[size], rtol=1e-5)


@pytest.mark.parametrize("size", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_schwarz_p_general(size: int) -> None:
    result = homogenize_cell(cell_from_octant(schwarz_p(size)), void=1e-6, rtol=1e-7)
    assert_allclose(nearest_cubic(result.C), SCHWARZ_P[size], rtol=1e-5)
    assert distance(result.C, nearest_cubic(result.C)) < 1e-8


def test_octants_against_direct_solves_at_the_default_tolerance() -> None:
    """Errors are quadratic in that of the displacements: far below the 1e-4 that is promised."""
    thin = [thin_truss(s, 8) for s in range(4)]
    octants = np.stack([*thin, *OCTANTS[:8]])
    result = homogenize_octants(octants)
    assert (result.status == Status.OK).all()
    for octant, C in zip(octants, result.C, strict=True):
        assert_allclose(C, direct_octant(octant), rtol=1e-5)


def test_general_path_against_a_direct_solve() -> None:
    rng = np.random.default_rng(3)
    cell = rng.random((6, 4, 5)) * (rng.random((6, 4, 5)) < 0.8)
    C = homogenize_cell(cell).C
    assert_allclose(C, direct_cell(cell), atol=1e-6 * C.max())
    anisotropic = homogenize_cell(cell, nu=0.1).C
    assert np.abs(anisotropic - C).max() > 0.01 * C.max()


# The two paths, and invariances.


def test_octant_path_is_the_general_path() -> None:
    octants = np.stack([random_octant(s, n=6) for s in range(50)])
    fast = homogenize_octants(octants, rtol=1e-6)
    for octant, C in zip(octants, fast.C, strict=True):
        slow = homogenize_cell(cell_from_octant(octant), rtol=1e-6).C
        assert_allclose(slow, stiffness_matrix(C), atol=1e-5 * C[0], rtol=1e-5)


@pytest.mark.parametrize("void", [0.0, 1e-6])
def test_half_period_shift(void: float) -> None:
    some = OCTANTS[:12]
    a = homogenize_octants(some, void=void)
    b = homogenize_octants(half_period_shift(some), void=void)
    assert_allclose(a.C, b.C, rtol=1e-5)


def test_the_general_path_follows_rotations_and_translations() -> None:
    cell = np.random.default_rng(4).random((6, 4, 8))
    C = homogenize_cell(cell, rtol=1e-6).C
    # A quarter turn about z: x -> y, y -> -x.
    turn = np.zeros((6, 6))
    turn[[0, 1, 2, 3, 4, 5], [1, 0, 2, 4, 3, 5]] = [1, 1, 1, -1, 1, -1]
    turned = homogenize_cell(np.rot90(cell, axes=(0, 1)), rtol=1e-6).C
    assert_allclose(turned, turn.T @ C @ turn, rtol=0, atol=1e-6 * C.max())
    moved = homogenize_cell(np.roll(cell, (1, 3, 2), axis=(0, 1, 2)), rtol=1e-6).C
    assert_allclose(moved, C, atol=1e-6 * C.max())


def test_removed_voids_are_the_limit_of_soft_ones() -> None:
    octants = OCTANTS[:4]
    exact = homogenize_octants(octants).C
    soft = [homogenize_octants(octants, void=v, rtol=1e-7).C - exact for v in (1e-3, 1e-5)]
    assert (soft[0] > 0).all()
    # Energies are nearly linear in a small void stiffness.
    assert_allclose(soft[1], soft[0] / 100, rtol=0.35)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 12])
def test_any_octant_size(n: int) -> None:
    moduli = symmetrise(np.random.default_rng(n).random((n, n, n)) + 0.01)
    octant = homogenize_octants(moduli, rtol=1e-7)
    cell = homogenize_cell(cell_from_octant(moduli), rtol=1e-7)
    assert_allclose(nearest_cubic(cell.C), octant.C[0], rtol=1e-7)


# Difficult cells.


def test_thin_cells_converge() -> None:
    result = homogenize_octants(thin_cells(24))
    assert (result.status == Status.OK).all()
    assert (result.residual <= 1e-5).all()
    assert (result.C[:, [0, 2]] > 0).all()
    assert result.iterations.max() < 100


@pytest.mark.slow
def test_a_thousand_thin_cells() -> None:
    octants = thin_cells(1000)
    result = homogenize_octants(octants)
    assert np.isfinite(result.C).all()
    assert (result.status == Status.OK).mean() > 0.99
    for i in np.random.default_rng(0).choice(np.flatnonzero(result.status == Status.OK), 50, replace=False):
        assert_allclose(result.C[i], direct_octant(octants[i]), rtol=1e-4)


def test_voxels_joined_by_edges_and_corners_only() -> None:
    """Hinges are singular modes; the tensor is that of a direct solve nonetheless."""
    rng = np.random.default_rng(5)
    octants = np.stack([symmetrise(rng.random((8, 8, 8)) < 0.35) for _ in range(6)])
    result = homogenize_octants(octants)
    for octant, C, status in zip(octants, result.C, result.status, strict=True):
        if status == Status.OK:
            assert_allclose(C, direct_octant(octant), rtol=1e-4, atol=1e-8)
    assert (result.status != Status.NOT_CONVERGED).all()
    board = np.indices((8, 8, 8)).sum(axis=0) % 2 == 0
    assert np.isfinite(homogenize_octants(board).C).all()


def test_pieces_that_carry_nothing() -> None:
    """Floating pieces change no tensor; without a path between opposite faces it is zero."""
    octant = np.zeros((8, 8, 8), dtype=bool)
    for axis in range(3):  # three crossing bars along the cell's edges
        bar: list[slice] = [slice(0, 2)] * 3
        bar[axis] = slice(None)
        octant[tuple(bar)] = True
    island = octant.copy()
    island[5:7, 5:7, 5:7] = True
    a, b = homogenize_octants(octant), homogenize_octants(island)
    assert_allclose(b.C, a.C, rtol=1e-12)
    assert b.volume[0] > a.volume[0]
    empty = np.zeros((2, 8, 8, 8), dtype=bool)
    empty[1, :3, :3, :3] = True
    nothing = homogenize_octants(empty)
    assert (nothing.C == 0).all()
    assert (nothing.status == Status.NO_LOAD_PATH).all()
    for octant in empty:
        cell = homogenize_cell(cell_from_octant(octant))
        assert cell.status == Status.NO_LOAD_PATH
        assert (cell.C == 0).all()


def test_a_hard_cell_does_not_touch_its_neighbours() -> None:
    easy = OCTANTS[:3]
    rng = np.random.default_rng(6)
    hard = symmetrise(rng.random((8, 8, 8)) < 0.35)
    alone = homogenize_octants(easy)
    mixed = homogenize_octants(np.stack([easy[0], hard, easy[1], np.zeros_like(hard), easy[2]]))
    # Only rounding differs: cells share products, not systems.
    assert_allclose(mixed.C[[0, 2, 4]], alone.C, rtol=1e-7)
    one_by_one = homogenize_octants(OCTANTS[:3], batch=1)
    assert_allclose(one_by_one.C, alone.C, rtol=1e-7)


def test_an_unreachable_tolerance_is_flagged_and_stays_with_its_cell() -> None:
    octants = np.stack([OCTANTS[0], np.ones((8, 8, 8), dtype=bool)])
    result = homogenize_octants(octants, rtol=1e-17)
    assert result.status.tolist() == [Status.NOT_CONVERGED, Status.OK]
    assert_allclose(result.C[0], homogenize_octants(OCTANTS[0]).C[0], rtol=1e-6)


def test_progress_counts_every_cell() -> None:
    seen: list[tuple[int, int]] = []
    homogenize_octants(OCTANTS[:10], batch=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_octants_are_checked_before_any_is_solved(monkeypatch) -> None:
    monkeypatch.setattr(homogenize, "_CHECKED", 4)
    expected = homogenize_octants(OCTANTS[:10])
    assert_allclose(homogenize_octants(OCTANTS[:10]).C, expected.C, rtol=0)
    assert_allclose(expected.volume, OCTANTS[:10].mean(axis=(1, 2, 3)))
    lopsided = OCTANTS[:10].copy()
    lopsided[9, 0, 1, 2] ^= True
    seen: list[int] = []
    with pytest.raises(InputError, match="permutation"):
        homogenize_octants(lopsided, progress=lambda done, total: seen.append(done))
    assert seen == []


def test_voxel_octants_are_not_all_turned_into_numbers_at_once(monkeypatch) -> None:
    sizes: list[int] = []
    young = homogenize.voxel_moduli

    def watched(array, void):
        sizes.append(len(array))
        return young(array, void)

    monkeypatch.setattr(homogenize, "voxel_moduli", watched)
    monkeypatch.setattr(homogenize, "_CHECKED", 8)
    homogenize_octants(OCTANTS, batch=4)
    assert max(sizes) == 8


@pytest.mark.parametrize(
    ("octants", "reason"),
    [
        (np.zeros((4, 4, 5)), "array"),
        (np.zeros((0, 4, 4, 4)), "array"),
        (np.arange(27.0).reshape(3, 3, 3), "permutation"),
        (np.full((3, 3, 3), np.nan), "finite"),
        (np.full((3, 3, 3), -1.0), "negative"),
        (np.full((3, 3, 3), "a"), "real numbers"),
    ],
)
def test_wrong_octants(octants: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        homogenize_octants(octants)


def test_wrong_cells_and_voids() -> None:
    with pytest.raises(InputError, match="array"):
        homogenize_cell(np.ones((3, 3)))
    for void in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="void"):
            homogenize_cell(np.ones((3, 3, 3), dtype=bool), void=void)


# What a tensor says.


def test_engineering_constants_of_an_isotropic_material() -> None:
    C = stiffness_matrix(isotropic(2.0, 0.25))
    constants = engineering_constants(C)
    assert constants is not None
    for name, value in constants.items():
        assert value == pytest.approx({"E": 2.0, "G": 0.8, "n": 0.25}[name[0]])
    assert engineering_constants(np.zeros((6, 6))) is None
    assert engineering_constants(np.diag([1.0, 1, 1, 1, 1, 0])) is None


def test_projections_onto_symmetric_tensors_are_the_nearest() -> None:
    rng = np.random.default_rng(7)
    A = rng.normal(size=(6, 6))
    C = A @ A.T
    for project in (nearest_cubic, nearest_isotropic):
        best = project(C)
        assert_allclose(project(stiffness_matrix(best)), best)
        steps = np.eye(3) if project is nearest_cubic else np.array([[2, 0, 1], [0, 2, -1.0], [1, 1, 0]])
        for step in steps:
            for sign in (-1e-3, 1e-3):
                assert distance(C, best + sign * step) > distance(C, best)
