"""phi: distance, sign, smoothness, gradient; projection against brute force; files."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from micro.cell import tensor
from micro.data.packaged import load_dataset, load_gamut, load_library
from micro.dataset.dataset import part
from micro.gamut.gamut import Gamut, closing_radius, from_scaled_moduli, scaled_moduli
from micro.gamut.spline import TricubicSpline
from micro.library.retrieval import nearest
from micro.runtime.errors import InputError
from micro.runtime.gradient_check import check_gradient

CENTRE = np.array([0.5, 0.45, 0.4])
SIZE = 0.25
SPACING = 1 / 48


def ball(m: int, seed: int) -> np.ndarray:
    """Scaled moduli spread evenly over a ball in property space, (m, 3)."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal((m, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    return CENTRE + SIZE * direction * rng.random((m, 1)) ** (1 / 3)


@pytest.fixture(scope="module")
def gamut() -> Gamut:
    return Gamut.fit(from_scaled_moduli(ball(4000, 0)), radius=0.06, slack=0.0, spacing=SPACING)


def test_phi_is_the_signed_distance_of_a_ball(gamut):
    probe = CENTRE + np.linspace(0, 0.4, 60)[:, None] * np.array([0.48, -0.6, 0.64])
    expected = SIZE - np.linalg.norm(probe - CENTRE, axis=1)
    phi = gamut.phi(from_scaled_moduli(probe))
    # Random points leave a rim of about their spacing (0.025) uncovered; smoothing adds a little.
    near = np.abs(expected) < 0.15
    assert np.abs(phi - expected)[near].max() < 0.03
    assert (np.diff(phi)[10:] < 0).all()


def test_held_out_points_are_feasible(gamut):
    inner = CENTRE + 0.9 * (ball(2000, 5) - CENTRE)
    assert (gamut.phi(from_scaled_moduli(inner)) >= 0).mean() > 0.99
    outer = CENTRE + 1.3 * (ball(2000, 6) - CENTRE)
    far = np.linalg.norm(outer - CENTRE, axis=1) > SIZE
    assert (gamut.phi(from_scaled_moduli(outer[far])) < 0).mean() > 0.99


def test_a_large_hole_is_not_filled_and_a_small_one_is():
    points = ball(12000, 1)
    distance = np.linalg.norm(points - CENTRE, axis=1)
    for hole, feasible in ((0.12, False), (0.03, True)):
        C = from_scaled_moduli(points[distance > hole])
        g = Gamut.fit(C, radius=0.06, slack=0.0, spacing=SPACING)
        assert (g.phi(from_scaled_moduli(CENTRE)) >= 0) == feasible


def test_a_lonely_cell_adds_nothing():
    away = np.array([[0.9, 0.9, 0.9]])
    g = Gamut.fit(
        from_scaled_moduli(np.concatenate([ball(4000, 0), away])), radius=0.06, slack=0.0, spacing=SPACING
    )
    assert g.phi(from_scaled_moduli(away[0] + [0, 0, 0.03])) < 0


def test_gradient_against_differences(gamut):
    rng = np.random.default_rng(2)
    C = from_scaled_moduli(rng.random((200, 3)))
    for row, slope in zip(C, gamut.gradient(C), strict=True):
        found = check_gradient(gamut.phi, row, slope, step=1e-6, directions=list(np.eye(3)))
        # Central differences of a cubic with third derivatives of about 1e4: error 1e-8, rounding 1e-10.
        np.testing.assert_allclose(found.analytic, found.differences, atol=1e-6)
    value, slope = gamut.evaluate(C)
    np.testing.assert_array_equal(value, gamut.phi(C))
    np.testing.assert_array_equal(slope, gamut.gradient(C))


def test_gradient_far_outside_leads_back(gamut):
    far = from_scaled_moduli(np.array([[3.0, 2.0, 1.5], [-2.0, 0.5, 0.5], [0.5, -1.0, 4.0]]))
    for row, slope in zip(far, gamut.gradient(far), strict=True):
        found = check_gradient(gamut.phi, row, slope, step=1e-6, directions=list(np.eye(3)))
        np.testing.assert_allclose(found.analytic, found.differences, atol=1e-6)
    # Plain gradient ascent in scaled moduli comes home: phi falls by about one per unit of distance.
    m = scaled_moduli(far)
    for _ in range(400):
        slope = gamut.spline.evaluate(m)[1]
        m = m + 0.02 * slope / np.linalg.norm(slope, axis=1)[:, None]
    assert (gamut.spline.value(m) > 0).all()


def test_slope_is_about_one_at_the_boundary(gamut):
    rng = np.random.default_rng(3)
    m = rng.uniform(0.2, 0.8, (20_000, 3))
    value, slope = gamut.spline.evaluate(m)
    norm = np.linalg.norm(slope[np.abs(value) < 0.02], axis=1)
    assert abs(norm.mean() - 1) < 0.2
    assert norm.min() > 0.2


def test_second_derivatives_are_continuous(gamut):
    # Across a knot the second difference must not jump: compare it on both sides, a small step apart.
    knot = gamut.spline.origin + gamut.spline.spacing * np.array([20, 18, 16])
    h = 1e-3 * gamut.spline.spacing
    for axis in np.eye(3):
        line = knot + np.outer(np.array([-2, -1, 0, 1, 2]) * h, axis)
        slope = gamut.spline.evaluate(line)[1] @ axis
        left, right = (slope[1] - slope[0]) / h, (slope[4] - slope[3]) / h
        assert abs(left - right) < 0.02 * (abs(left) + abs(right) + 1)


@pytest.fixture(scope="module")
def probed(gamut) -> tuple[np.ndarray, np.ndarray]:
    """A grid of half the spline's spacing around the boundary, and phi there."""
    axes = [np.arange(c - 0.28, c + 0.28, gamut.spline.spacing / 2) for c in CENTRE]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[np.linalg.norm(grid - CENTRE, axis=1) > 0.15]
    return grid, gamut.spline.value(grid)


@pytest.mark.parametrize("margin", [0.0, 0.01])
def test_projection_against_brute_force(gamut, probed, margin):
    rng = np.random.default_rng(4)
    C = from_scaled_moduli(rng.random((40, 3)))
    C = C[gamut.phi(C) < margin]
    projected = gamut.project(C, margin)
    assert (gamut.phi(projected) >= margin).all()
    grid, phi = probed
    feasible = grid[phi >= margin]
    for before, after in zip(scaled_moduli(C), scaled_moduli(projected), strict=True):
        found = np.linalg.norm(after - before)
        brute = np.linalg.norm(feasible - before, axis=1).min()
        assert found <= brute + 1e-6
        # The brute force itself is off by up to half a diagonal of its grid.
        assert found >= brute - np.sqrt(3) / 2 * SPACING / 2 - 1e-6


def test_projection_leaves_feasible_tensors_alone_and_is_idempotent(gamut):
    C = from_scaled_moduli(np.random.default_rng(5).random((4, 50, 3)))
    once = gamut.project(C)
    inside = gamut.phi(C) >= 0
    np.testing.assert_array_equal(once[inside], C[inside])
    np.testing.assert_array_equal(gamut.project(once), once)


def test_projection_refusals(gamut):
    with pytest.raises(InputError, match="margin"):
        gamut.project(np.array([0.1, 0.0, 0.0]), margin=0.9)
    with pytest.raises(InputError, match="finite"):
        gamut.project(np.full((2, 3), np.nan))


def test_fit_refusals():
    C = from_scaled_moduli(ball(100, 0))
    with pytest.raises(InputError, match="at least 50"):
        Gamut.fit(C[:10])
    with pytest.raises(InputError, match="positive definite"):
        Gamut.fit(C * [1, 1, -1])
    with pytest.raises(InputError, match="grid spacing"):
        Gamut.fit(C, radius=0.001)


def test_closing_radius_follows_the_spacing():
    points = from_scaled_moduli(ball(4000, 3))
    sparse = closing_radius(points[:500])
    # Eight times fewer points stand twice as far apart.
    assert sparse / closing_radius(points) == pytest.approx(2.0, rel=0.15)


def test_file_round_trip(gamut, tmp_path):
    path = tmp_path / "g.safetensors"
    gamut.save(path)
    again = Gamut.load(path)
    C = from_scaled_moduli(ball(100, 9))
    np.testing.assert_array_equal(again.phi(C), gamut.phi(C))
    assert again.attrs == gamut.attrs
    assert again.radius == gamut.radius
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_damaged_and_foreign_files_are_refused(gamut, tmp_path):
    path = tmp_path / "g.safetensors"
    gamut.save(path)
    whole = path.read_bytes()
    with pytest.raises(InputError, match="no such"):
        Gamut.load(tmp_path / "absent")
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="readable"):
        Gamut.load(path)
    path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    with pytest.raises(InputError, match="checksum"):
        Gamut.load(path)
    path.write_bytes(whole.replace(b'"version":"1"', b'"version":"7"'))
    with pytest.raises(InputError, match="version"):
        Gamut.load(path)
    path.write_bytes(whole)
    save_file(load_file(path), tmp_path / "other")
    with pytest.raises(InputError, match="not a cubic-gamut"):
        Gamut.load(tmp_path / "other")


def test_spline_reproduces_smooth_functions():
    x, y, z = np.meshgrid(*[np.linspace(0, 1, 33)] * 3, indexing="ij")
    spline = TricubicSpline.interpolate(np.sin(2 * x) * np.cos(y) + z**2, np.zeros(3), 1 / 32)
    points = np.random.default_rng(6).uniform(0.2, 0.8, (500, 3))
    a, b, c = points.T
    value, slope = spline.evaluate(points)
    # Fourth-order interpolation is far below what half-precision coefficients cost: 2^-11 of 1.8, and
    # for slopes that over the spacing.
    np.testing.assert_allclose(value, np.sin(2 * a) * np.cos(b) + c**2, atol=1e-3)
    np.testing.assert_allclose(slope[:, 0], 2 * np.cos(2 * a) * np.cos(b), atol=5e-2)


def test_packaged_gamut_is_calibrated():
    gamut, cells = load_gamut("library"), load_library()
    assert gamut.source == cells.digest()
    # What the library has is feasible but for the outermost 5 % (and the rounding of the coefficients).
    assert (gamut.phi(cells.C) >= 0).mean() > 0.945
    # What is feasible, the library has nearby.
    m = np.random.default_rng(7).random((60_000, 3))
    feasible = from_scaled_moduli(m)[gamut.spline.value(m) >= 0]
    error = nearest(cells, feasible)[1][:, 0]
    assert len(feasible) > 200
    assert (error < 0.01).mean() > 0.9
    assert (error < 0.02).all()
    assert (tensor.to_moduli(feasible) > 0).all()


def test_gamut_of_the_data_set_is_calibrated_on_cells_it_has_not_seen():
    gamut, cells = load_gamut("dataset"), load_dataset()
    assert gamut.source == cells.digest()
    for name in ("validation", "test"):
        # Raised until 99.5 % of the validation cells are feasible; one standard deviation of the test
        # cells' share (about 900 of them) is 0.25 %.
        assert (gamut.phi(part(cells, name).C) >= 0).mean() >= 0.99
    # It is wider than the library's, which has no cells that were made for the gaps.
    m = np.random.default_rng(7).random((60_000, 3))
    wide, narrow = (g.spline.value(m) >= 0 for g in (gamut, load_gamut("library")))
    assert wide.mean() > narrow.mean()
    near = nearest(part(cells, "train"), from_scaled_moduli(m[wide]))[1][:, 0]
    assert (near < 0.01).mean() > 0.95
    assert (near < 0.03).all()


def test_the_cloaks_surroundings_are_in_the_gamut():
    assert load_gamut("dataset").phi(np.array([0.303974, 0.125975, 0.089000])) > 0.005
    assert load_gamut("library").phi(np.array([0.303974, 0.125975, 0.089000])) > 0.002
