"""Topology optimisation of one cell: its chain of derivatives, its results, its command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage
from typer.testing import CliRunner

import micro.inverse.optimiser
from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber, fundamental_domain
from micro.cell.octant import connectivity, is_symmetric, symmetrise
from micro.cell.tensor import bulk, hashin_shtrikman, poisson, tensor_error, zener
from micro.cli.main import app
from micro.families.families import family, minimal_surface
from micro.homogenize.octants import homogenize_octants
from micro.inverse import Goal, Settings, begin, optimise, step
from micro.inverse.asymptotes import Asymptotes, next_design
from micro.inverse.binary import binary_cell, threshold
from micro.inverse.folder import load_state, save_state
from micro.inverse.optimiser import _Problem
from micro.inverse.polish import polished
from micro.inverse.projection import cone_filter, heaviside
from micro.inverse.start import STARTS, start_density
from micro.inverse.update import Evaluation, mma
from micro.runtime.errors import InputError, NotConverged
from micro.runtime.gradient_check import check_gradient

# The chain from variables to loss.


def test_filter_is_a_cone_on_the_mirrored_cell() -> None:
    """Against a convolution with the octant's mirror images, for a radius beyond the octant's half."""
    n, radius = 6, 3.4
    field = symmetrise(np.random.default_rng(0).random((n, n, n)))
    offsets = np.indices((7, 7, 7)) - 3
    cone = np.maximum(radius - np.linalg.norm(offsets, axis=0), 0)
    expected = ndimage.convolve(field, cone / cone.sum(), mode="reflect")
    inside, _ = fundamental_domain(n)
    assert_allclose(cone_filter(n, radius) @ field.ravel()[inside], expected.ravel()[inside], rtol=1e-12)


def test_projection_sharpens() -> None:
    x = np.linspace(0, 1, 11)
    assert_allclose(heaviside(x, 1e-3)[0], x, atol=1e-6)
    assert_allclose(heaviside(x, 200.0)[0], x > 0.5, atol=0.51)
    assert_allclose(heaviside(x, 200.0)[0][[0, 4, 6, 10]], [0, 0, 1, 1], atol=1e-12)


@pytest.mark.parametrize(
    "goal",
    [
        Goal("bulk", 0.4),
        Goal("young", 0.4),
        Goal("shear", 0.4, isotropic=True),
        Goal("poisson", 0.4),
        Goal("match", 0.4, target=(0.2, 0.05, 0.06)),
    ],
    ids=lambda goal: goal.name,
)
def test_gradients_against_finite_differences(goal: Goal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and constraints by the variables, through filter, projection, power law and solve."""
    monkeypatch.setattr(micro.inverse.optimiser, "_RTOL", 1e-9)
    settings = Settings(goal, n=6, radius=1.6)
    state = begin(settings)
    rng = np.random.default_rng(1)
    x = rng.uniform(0.2, 0.8, len(state.x))
    problem = _Problem(settings, settings.stages()[1], state, None)
    at = problem(x)

    def values(x: np.ndarray) -> np.ndarray:
        found = problem(x)
        return np.append(found.constraints, found.loss)

    gradient = np.vstack([at.constraint_gradient, at.loss_gradient])
    # Central differences: an error of the step squared, 1e-8, and of the solves over the step, 1e-5.
    found = check_gradient(values, x, gradient, step=1e-4, directions=1, seed=1)
    assert_allclose(found.analytic, found.differences, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("eta", [0.4, 0.6])
def test_a_shifted_projection_erodes_or_dilates(eta: float) -> None:
    """From 0 to 1, half-way at eta, below the middle one where it erodes; its slope by differences."""
    x = np.linspace(0, 1, 41)
    y, slope = heaviside(x, 8.0, eta)
    assert_allclose(y[[0, -1]], [0, 1], atol=1e-12)
    assert ((y < heaviside(x, 8.0)[0])[1:-1] == (eta > 0.5)).all()
    found = check_gradient(lambda x: heaviside(x, 8.0, eta)[0], x, np.diag(slope), step=1e-6)
    assert found.error < 1e-6


def test_asymptotes_solve_their_subproblem() -> None:
    """A linear loss and one linear constraint: the step ends on the constraint, inside the move."""
    x, rows = np.full(4, 0.5), np.array([[-1.0, -2.0, -3.0, -4.0], [1.0, 1.0, 1.0, 1.0]])
    new, kept = next_design(x, rows, np.array([-0.1]), Asymptotes(), 0.2)
    assert np.abs(new - x).max() <= 0.2 + 1e-12
    # Convex approximations of a linear constraint are conservative.
    assert 0.04 < (new - x).sum() <= 0.1 + 1e-9
    assert (np.diff(new) > -1e-9).all()
    assert np.array_equal(kept.last, x)


def test_mma_finds_a_constrained_minimum() -> None:
    """Nearest point of a plane: min |x - a|^2 with sum x <= 1 has x = a - (sum a - 1) / 3."""
    a = np.array([0.9, 0.6, 0.5])

    def evaluate(x: np.ndarray) -> Evaluation:
        return Evaluation(float((x - a) @ (x - a)), 2 * (x - a), np.array([x.sum() - 1]), np.ones((1, 3)))

    # The constraint may be violated by 1e-3; a round ends at a relative gain of 1e-3.
    assert_allclose(mma(np.full(3, 0.2), evaluate, 80), a - 1 / 3, atol=0.02)


# Starts and binary cells.


@pytest.mark.parametrize("name", STARTS)
def test_starts_have_the_volume_and_both_sides(name: str) -> None:
    n = 12
    x = start_density(name, n, 0.4, seed=3)
    assert x.min() >= 0
    assert x.max() <= 1
    # Half of it is above 1/2 up to one orbit, or one plateau of a product of few values.
    assert_allclose(chamber(n).mean(x > 0.5), 0.4, atol=0.06)
    assert not np.array_equal(x, start_density(name, n, 0.4, sign=-1, seed=3))


def test_threshold_keeps_the_volume() -> None:
    n = 8
    density = chamber(n).waves[0]
    octant = threshold(density, n, 0.35)
    assert is_symmetric(octant)
    assert 0.35 - 6 / n**3 <= octant.mean() <= 0.35


# Results.


def test_bulk_is_near_the_bound_and_never_above() -> None:
    """From a Schwarz-P cell of the same volume to closed walls, which n = 8 resolves by one voxel."""
    settings = Settings(Goal("bulk", 0.4), n=8, start="schwarz-p", effort=0.3)
    result = optimise(settings, keep=True)
    start = threshold(begin(settings).x, 8, 0.4)
    upper, _ = hashin_shtrikman(result.volume)
    assert bulk(homogenize_octants(start).C[0]) < 0.75 * result.value
    assert 0.9 * upper < result.value < upper
    assert result.volume <= 0.4
    _check(result)
    assert len(result.cells()) == 1 + len(result.state.cells) == 1 + len(settings.stages())


def test_a_negative_poissons_ratio() -> None:
    goal = Goal("poisson", 0.35, stiffness=0.03)
    result = optimise(Settings(goal, n=12, start="i-wp", effort=0.4, radius=1.5))
    assert result.value < -0.2
    assert result.volume <= 0.35
    _check(result)


def test_isotropy_is_held() -> None:
    result = optimise(Settings(Goal("shear", 0.6, isotropic=True), n=8, effort=0.3))
    _, upper = hashin_shtrikman(result.volume)
    assert 0.95 <= zener(result.C) <= 1.05
    assert result.met
    assert 0.7 * upper < result.value < upper
    _check(result)


def test_an_isotropic_cell_that_gets_wider_when_pulled() -> None:
    """From the default start: connected, isotropic, within its volume and stiff enough, or it is said."""
    goal = Goal("poisson", 0.3, isotropic=True, stiffness=0.003)
    result = optimise(Settings(goal, n=16, effort=0.6))
    # n = 16 hardly resolves a hinge (-0.20; n = 32 ends at -0.6), n = 12 none: rounding decides how it ends.
    assert poisson(result.C) < -0.1
    assert result.met == goal.met(result.C, result.volume)
    _check(result)


def test_plates_lead_to_the_stiffest_isotropic_cell() -> None:
    result = optimise(Settings(Goal("young", 0.4, isotropic=True), n=16, effort=0.6))
    K, G = hashin_shtrikman(result.volume)
    bound = 9 * K * G / (3 * K + G)
    assert 0.95 <= zener(result.C) <= 1.05
    assert 0.93 * bound < result.value < bound
    _check(result)


def test_what_is_in_pieces_is_filled_until_it_holds_together() -> None:
    """A bridge of less density than its piers: beyond the volume, but one piece."""
    n = 8
    i, j, k = np.indices((n, n, n))
    inside, _ = fundamental_domain(n)
    piers = (np.minimum(np.minimum(i, j), k) == 0) | (np.minimum(np.minimum(i, j), k) == n - 1)
    arm = (np.sort(np.stack([i, j, k]), axis=0)[:2] == 0).all(axis=0)
    density = np.where(piers & ~arm, 0.2, np.where(arm, 0.9, 0.0)).ravel()[inside]
    density[np.flatnonzero(arm.ravel()[inside])[n // 2]] = 0.5
    volume = (arm.sum() - 3) / n**3
    assert not connectivity(threshold(density, n, volume)).connected
    found = binary_cell(density, n, volume, 0.3)
    assert found is not None
    assert found.volume > volume
    assert connectivity(found.octant).connected


def test_polishing_moves_only_uphill() -> None:
    """From a cubic cavity with too round edges: more bulk modulus in the same volume, under the bound."""
    n = 16
    round_walls = binary_cell(((0.5 - chamber(n).points) ** 4).sum(axis=0), n, 0.35, 0.3)
    assert round_walls is not None
    better, solves = polished(round_walls, Goal("bulk", 0.35), trials=8)
    assert solves <= 8
    assert better.volume <= 0.35
    upper, _ = hashin_shtrikman(better.volume)
    assert 1.02 * bulk(round_walls.C) < bulk(better.C) < upper
    assert connectivity(better.octant).connected


def test_matching_a_tensor() -> None:
    target = homogenize_octants(family("tpms-solid").octant([0.3, 0, 0, *minimal_surface("i-wp")], 12)).C[0]
    result = optimise(Settings(Goal("match", 0.35, target=tuple(target)), n=12, effort=0.2))
    assert_allclose(result.value, tensor_error(result.C, target))
    assert result.value < 0.01
    _check(result)


def _check(result: Any) -> None:
    octant = result.octant
    assert octant.dtype == bool
    assert is_symmetric(octant)
    assert connectivity(octant).connected
    # Its own tensor, not the grey design's: solved to 1e-3, C is exact to about its square.
    assert_allclose(result.C, homogenize_octants(octant).C[0], atol=1e-5)


def test_stages_in_steps_with_a_state_on_disk_in_between(tmp_path: Path) -> None:
    settings = Settings(Goal("young", 0.5), n=8, coarse=True, effort=0.15)
    state = begin(settings)
    for _ in range(3):
        state = step(state, settings)
    save_state(tmp_path / "state.npz", state)
    resumed = optimise(settings, state=load_state(tmp_path / "state.npz"))
    straight = optimise(settings)
    assert np.array_equal(resumed.octant, straight.octant)
    assert resumed.state.history == straight.state.history
    (tmp_path / "state.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="state"):
        load_state(tmp_path / "state.npz")


def test_a_cell_in_pieces_is_refused() -> None:
    """All solid in the middle: after the threshold nothing meets the faces."""
    settings = Settings(Goal("bulk", 0.1), n=8)
    x = -np.abs(chamber(8).points - 0.5).max(axis=0)
    state = replace(begin(settings), x=x - x.min(), done=len(settings.stages()))
    with pytest.raises(NotConverged, match="not connected"):
        optimise(settings, state=state)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (lambda: Goal("strength", 0.3), "objective"),
        (lambda: Goal("bulk", 1.3), "volume"),
        (lambda: Goal("match", 0.3), "target"),
        (lambda: Goal("match", 0.3, target=(0.1, 0.2, 0.1)), "target"),
        (lambda: Settings(Goal("poisson", 0.2), method="oc"), "method"),
        (lambda: Settings(Goal("bulk", 0.2), radius=0.2), "radius"),
        (lambda: begin(Settings(Goal("bulk", 0.2), start="cat")), "start"),
        (lambda: begin(Settings(Goal("bulk", 0.2), start="cos", wave=9)), "wave"),
        (lambda: begin(Settings(Goal("bulk", 0.2), start=np.zeros((3, 4, 3)))), "start"),
    ],
)
def test_what_it_refuses(settings: Any, key: str) -> None:
    with pytest.raises(InputError) as refused:
        settings()
    assert refused.value.key == key


# The command.


def _command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["optimize", *map(str, arguments)])


def test_command_writes_a_folder_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["--objective", "bulk", "--volume", 0.5, "--n", 8, "--effort", 0.2, "--out", out]
    first = _command(*line)
    assert first.exception is None, first.exception
    assert "Hashin-Shtrikman" in first.stdout
    metrics = json.loads((out / "metrics.json").read_text())
    cells = CellSet.load(out / "cell.zarr")
    assert_allclose(metrics["C"], cells.C[0])
    assert_allclose(metrics["bulk"], bulk(cells.C[0]))
    assert_allclose(metrics["poisson"], poisson(cells.C[0]))
    assert (out / "cell.png").read_bytes().startswith(b"\x89PNG")
    again = _command(*line, "--json")
    assert again.exception is None, again.exception
    assert json.loads(again.stdout)["C"] == metrics["C"]
    other = _command("--objective", "bulk", "--volume", 0.4, "--out", out)
    assert isinstance(other.exception, InputError)
    assert "other settings" in str(other.exception)


def test_command_starts_from_a_file_and_matches(tmp_path: Path) -> None:
    octant = family("tpms-solid").octant([0.2, 0, 0, *minimal_surface("schwarz-p")], 8)
    np.save(tmp_path / "start.npy", octant)
    C = homogenize_octants(octant).C[0]
    text = ",".join(f"{v:.6f}" for v in C)
    line = ["--objective", "match", "--target", text, "--volume", 0.4, "--n", 8, "--effort", 0.2]
    result = _command(*line, "--start", tmp_path / "start.npy", "--out", tmp_path / "run", "--json")
    assert result.exception is None, result.exception
    # A handful of orbits make up an octant of 8: its tensors are far apart.
    assert json.loads(result.stdout)["value"] < 0.02
    for wrong in ("0.1,0.2", "a,b,c"):
        refused = _command("--objective", "match", "--target", wrong, "--volume", 0.4, "--out", tmp_path)
        assert isinstance(refused.exception, InputError)
    assert isinstance(_command(*line, "--out", tmp_path).exception, InputError)  # a folder with other things
