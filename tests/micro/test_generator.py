"""The generator on a small model trained here in seconds; the packaged one on a few targets."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_cells import octants

from micro.cell import octant as cell, tensor
from micro.cell.cellset import CellSet
from micro.dataset import dataset
from micro.diffusion import process
from micro.diffusion.conditions import Conditions
from micro.diffusion.network import Denoiser
from micro.diffusion.surrogate import error
from micro.diffusion.weights import Model
from micro.generator.generator import Generator
from micro.generator.steering import predict, slopes
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.secant import cut, least_norm
from micro.homogenize.sensitivity import sensitivities
from micro.runtime.errors import InputError
from micro.shape import slopes as shape_slopes
from micro.shape.space import signed_distance
from micro.training.active import active_round, aims
from micro.training.data import Data, Settings
from micro.training.phases import denoising_loss
from micro.training.pipeline import train

SMALL = Settings(
    dimension=12,
    width=32,
    depth=2,
    batch=64,
    rate=1e-2,
    samples=64 * 200,
    surrogate_samples=64 * 200,
    surrogate_width=32,
    surrogate_depth=1,
)


def small_data(count: int = 80) -> CellSet:
    solid = np.stack([o for o in octants(count, 8, seed=5) if cell.connectivity(o).connected])
    cells = CellSet.from_octants(solid, homogenize_octants(solid, rtol=1e-2).C)
    part = np.zeros(len(cells), int)
    part[::5] = 1
    return dataset.with_provenance(cells, ["library"] * len(cells), part, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small model, its folder and its data."""
    folder = tmp_path_factory.mktemp("train")
    data, lines = small_data(), []
    model = train(data, folder, SMALL, report=lines.append, command="test")
    return model, folder, data, lines


@pytest.fixture(scope="module")
def small(run):
    return Generator(run[0])


def test_training_learns_and_reports(run):
    model, folder, data, lines = run
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert history == lines
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert {line["phase"] for line in lines} == {"surrogate", "denoiser", "check"}
    denoiser = [line for line in lines if line["phase"] == "denoiser"][-1]
    assert denoiser["step"] == denoiser["steps"] == 200
    mine = dataset.part(data, "train")
    known = Data.encode(model.space, signed_distance(mine.octants()), mine.C, mine.volume)
    asked = Conditions.of(known.C.numpy(), known.volume.numpy())
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        losses = [float(denoising_loss(model.denoiser, known.z, asked, rng)) for _ in range(20)]
        C = model.surrogate(known.z)
    assert np.mean(losses) < 0.9  # 1 for the untrained network
    assert float(error(C, known.C).mean()) < 0.5 * float(error(known.C.mean(dim=0), known.C).mean())


def test_training_resumes_where_it_was(run, tmp_path):
    model, _, data, _ = run

    class Killed(Exception):
        pass

    def stop(line):
        raise Killed

    # The first checkpoint reported is that of the surrogate's end: killed there, taken up again.
    with pytest.raises(Killed):
        train(data, tmp_path, SMALL, report=stop)
    lines: list[dict] = []
    again = train(data, tmp_path, SMALL, report=lines.append)
    assert lines[0]["phase"] == "denoiser"
    for mine, other in zip(model.denoiser.parameters(), again.denoiser.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_a_finished_training_is_taken_as_it_is(run):
    model, folder, data, _ = run
    lines: list[dict] = []
    again = train(data, folder, SMALL, report=lines.append, command="test")
    assert [line["phase"] for line in lines] == ["check"]
    np.testing.assert_array_equal(again.space.basis, model.space.basis)
    for mine, other in zip(model.denoiser.parameters(), again.denoiser.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_other_settings_do_not_take_up_a_run(run):
    _, folder, data, _ = run
    with pytest.raises(InputError, match="other settings"):
        train(data, folder, Settings(dimension=12, width=48), report=lambda line: None)


def test_training_goes_on_from_weights(run, tmp_path):
    model, _, data, _ = run
    more = train(data, tmp_path, SMALL, start=model, report=lambda line: None)
    np.testing.assert_array_equal(more.space.basis, model.space.basis)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(model.denoiser.parameters(), more.denoiser.parameters(), strict=True)
    )


def test_slopes_are_learned_from(run, tmp_path):
    _, _, data, _ = run
    lines: list[dict] = []
    settings = replace(SMALL, slopes=40, slope_weight=0.1)
    model = train(data, tmp_path, settings, report=lines.append)
    assert [line["cells"] for line in lines if line["phase"] == "slopes"] == [40]
    mine = dataset.part(data, "train")
    octants = mine.octants(np.arange(40))
    z = model.space.encode(signed_distance(octants))
    wanted = shape_slopes.slopes(model.space, z, octants, sensitivities(octants).gradient)
    off = {
        name: float(np.linalg.norm(slopes(net, z) - wanted) / np.linalg.norm(wanted))
        for name, net in (("with", model.surrogate), ("without", run[0].surrogate))
    }
    # Of few cells tensors alone say little of the slopes, which are then no better than zero (error 1).
    assert off["with"] < 0.8 * off["without"]
    # Taken up as they are: no slope is computed again.
    again: list[dict] = []
    train(data, tmp_path, settings, report=again.append)
    assert [line["phase"] for line in again] == ["check"]
    # Nor by another run in the same space that is given them.
    shutil.copytree(tmp_path / "slopes", tmp_path / "other" / "slopes")
    train(data, tmp_path / "other", settings, report=again.append, start=model)
    assert {line["phase"] for line in again} == {"check", "surrogate", "denoiser"}


def test_slope_loss_is_zero_for_the_own_slopes(small):
    surrogate = small.model.surrogate
    z = torch.randn((5, SMALL.dimension), generator=torch.Generator().manual_seed(1))
    mix = torch.eye(3)[[0, 1, 2, 0, 1]]
    own = torch.from_numpy(slopes(surrogate, z.numpy())).float()
    assert surrogate.slope_loss(z, own, mix).item() < 1e-10
    assert surrogate.slope_loss(z, 0 * own + 1, mix).item() > 1e-3


def test_weights_come_back_as_they_were(run):
    model, folder, _, _ = run
    again = Model.load(folder / "generator.safetensors")
    assert again.card["command"] == "test"
    assert again.card["settings"]["dimension"] == 12
    targets = [[0.3, 0.1, 0.1]]
    first, second = (Generator(m).sample(targets, 3, resolution=8) for m in (model, again))
    np.testing.assert_array_equal(first.z, second.z)
    np.testing.assert_array_equal(first.packed, second.packed)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.98])
def test_damaged_weights_are_refused(run, tmp_path, place):
    _, folder, _, _ = run
    raw = bytearray((folder / "generator.safetensors").read_bytes())
    at = int(place * len(raw))
    raw[at : at + 8] = bytes(b ^ 0x55 for b in raw[at : at + 8])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(raw)
    with pytest.raises(InputError, match=r"broken\.safetensors"):
        Generator.load(broken)


def test_cut_or_missing_weights_are_refused(run, tmp_path):
    _, folder, _, _ = run
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((folder / "generator.safetensors").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut\.safetensors"):
        Generator.load(cut)
    with pytest.raises(InputError, match="no such file"):
        Generator.load(tmp_path / "nothing.safetensors")


def test_a_cell_depends_on_its_seed_alone(small):
    targets = np.array([[0.3, 0.1, 0.1], [0.5, 0.2, 0.15], [0.1, 0.05, 0.02]])
    seeds = np.array([4, 5, 6])
    together = small.sample(targets, 3, seed=seeds, resolution=8, draws=4)
    for i in range(3):
        alone = small.sample(targets[i : i + 1], 3, seed=seeds[i : i + 1], resolution=8, draws=4)
        np.testing.assert_array_equal(alone.z, together.z[together.target == i])
        np.testing.assert_array_equal(alone.packed, together.packed[together.target == i])
    first = small.sample(targets[:1], 1, seed=4, resolution=8, draws=4)
    np.testing.assert_array_equal(first.packed, together.packed[:1])
    other = small.sample(targets[:1], 1, seed=7, resolution=8, draws=4)
    assert not np.array_equal(other.z, first.z)


def test_every_kind_of_condition(small):
    targets = np.array([[0.3, 0.1, 0.1], [0.5, 0.2, 0.15]])
    volume = np.array([0.4, 0.6])
    kinds = {
        "tensor": small.sample(targets, 2, resolution=8),
        "volume": small.sample(None, 2, volume=volume, resolution=8),
        "both": small.sample(targets, 2, volume=volume, resolution=8),
        "none": small.sample(None, 2, seed=[0, 1], resolution=8),
    }
    for samples in kinds.values():
        assert samples.octants().shape == (4, 8, 8, 8)
        assert all(cell.is_symmetric(o) for o in samples.octants())
    assert not np.array_equal(kinds["tensor"].z, kinds["both"].z)


def test_guidance_calls_the_free_network_only_when_needed(small):
    calls, asked_for = [], []

    class Counting(Denoiser):
        def modulations(self, sigma, conditions):
            asked_for.append(float(conditions.given.max()))
            return super().modulations(sigma, conditions)

        def denoise(self, x, estimate, sigma, modulations):
            calls.append(len(x))
            return super().denoise(x, estimate, sigma, modulations)

    network = Counting(12, 16, 1)
    noise, asked = torch.randn(3, 12), Conditions.of([[0.3, 0.1, 0.1]] * 3, None)
    process.sample(network, noise, asked, steps=5)
    assert len(calls) == 5
    assert asked_for == [1.0]
    process.sample(network, noise, asked, steps=5, guidance=2.0)
    assert len(calls) == 15
    assert sorted(asked_for) == [0.0, 1.0, 1.0]


def test_sampling_by_shared_modulations_is_the_network_itself(small):
    # The sampler works out what conditions do once for all cells and levels; step by step it is the same.
    network = Denoiser(12, 16, 2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(3))
    C = [[0.3, 0.1, 0.1], [0.5, 0.2, 0.15], [0.3, 0.1, 0.1], [np.nan] * 3]
    conditions = Conditions.of(C, [np.nan, 0.4, np.nan, 0.5])
    noise = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    found = process.sample(network, noise, conditions, steps=6)
    sigmas, estimate = process.levels(6), torch.zeros_like(noise)
    x = noise * sigmas[0]
    with torch.no_grad():
        for now, following in pairwise(sigmas):
            estimate = network(x, estimate, now.expand(4), conditions)
            x = estimate + (x - estimate) * (following / now)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
    assert (found[0] - found[2]).abs().max() > 1e-3  # the same condition, another noise


def test_sampler_is_exact_for_gaussian_data():
    # Of data N(0, 1) the best estimate of x0 is x / (1 + sigma^2): the sampler's end is then x / sigma_max,
    # up to Euler's error, and inverting it gives the noise back.
    class Best(Denoiser):
        def denoise(self, x, estimate, sigma, modulations):
            return x / (1 + sigma**2)[:, None]

    noise = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    free = Conditions.of(None, None, 7)
    errors = []
    for steps in (20, 40, 80):
        x = process.sample(Best(5, 8, 1), noise, free, steps=steps)
        errors.append(float((x - noise).norm() / noise.norm()))
    assert errors[2] < 0.03
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2)  # first order
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.2)
    back = process.invert(Best(5, 8, 1), x, free, steps=80)
    torch.testing.assert_close(back, noise, rtol=0.02, atol=0.02)


def test_surrogate_is_positive_definite_and_its_slope_right(small):
    surrogate = small.model.surrogate
    z = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    assert (tensor.to_moduli(predict(surrogate, z)) > 0).all()
    direction = np.random.default_rng(1).normal(size=12).astype(np.float32)
    h = 1e-2
    span = tensor.PAPER_RANGE[:, 1] - tensor.PAPER_RANGE[:, 0]
    difference = (predict(surrogate, z + h * direction) - predict(surrogate, z - h * direction)) / (2 * h)
    # Float32 values of order 1 over a step of 1e-2: about 1e-5.
    np.testing.assert_allclose(slopes(surrogate, z) @ direction, difference / span, atol=2e-4, rtol=2e-2)


def test_least_norm_step_is_the_shortest():
    rng = np.random.default_rng(3)
    slope, missing = rng.normal(size=(4, 3, 10)), 0.01 * rng.normal(size=(4, 3))
    step = least_norm(slope, missing)
    np.testing.assert_allclose(np.einsum("mij,mj->mi", slope, step), missing, rtol=5e-2, atol=1e-3)
    exact = np.stack([np.linalg.pinv(s) @ b for s, b in zip(slope, missing, strict=True)])
    assert (np.linalg.norm(step, axis=1) <= 1.001 * np.linalg.norm(exact, axis=1)).all()
    assert np.linalg.norm(cut(step, 1e-4), axis=1).max() <= 1.001e-4


def test_active_round_gives_clean_homogenised_cells(small, run):
    cells = active_round(small, run[2], 12, seed=3)
    assert (cells.family == "generated").all()
    for octant in cells.octants():
        assert cell.connectivity(octant).connected
    np.testing.assert_allclose(homogenize_octants(cells.octants()).C, cells.C, rtol=1e-3, atol=1e-6)
    again = active_round(small, run[2], 12, seed=3)
    assert again.digest() == cells.digest()


def test_a_round_with_trials_gets_nearer_to_its_holes(small, run):
    known = run[2]
    targets = aims(known.C, 12, np.random.default_rng([3, 12]))

    def distance(cells):
        return np.mean([tensor.tensor_error(cells.C, t).min() for t in targets])

    once, moved = (active_round(small, known, 12, seed=3, trials=k) for k in (1, 4))
    assert all(cell.connectivity(octant).connected for octant in moved.octants())
    assert distance(moved) < distance(once)


def test_aims_are_positive_definite(run):
    targets = aims(run[2].C, 50, np.random.default_rng(0))
    assert targets.shape == (50, 3)
    assert (tensor.to_moduli(targets) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"targets": [[1.0, 2.0]]}, "targets"),
        ({"targets": [[0.3, 0.1, 0.1]], "volume": [0.2, 0.3]}, "volume"),
        ({"volume": [1.2]}, "volume"),
        ({"n": 0}, "n"),
        ({"draws": 0}, "draws"),
        ({"resolution": 4}, "resolution"),
    ],
)
def test_wrong_requests_are_refused(small, arguments, key):
    with pytest.raises(InputError, match=key):
        small.sample(**({"resolution": 8} | arguments))
