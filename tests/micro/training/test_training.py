"""Training on a small_generator set: what is learned, kept and gone on with."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_model import SMALL

from micro.cell.cellset import CellSet
from micro.dataset import dataset
from micro.diffusion import process
from micro.diffusion.conditions import Conditions
from micro.diffusion.network import Denoiser
from micro.diffusion.surrogate import error
from micro.diffusion.weights import Model
from micro.generator.steering import slopes
from micro.homogenize.sensitivity import sensitivities
from micro.runtime.errors import InputError
from micro.shape import slopes as shape_slopes
from micro.shape.channels import is_open
from micro.shape.distance import signed_distance
from micro.training.data import Data, Settings
from micro.training.phases import denoising_loss
from micro.training.pipeline import train


def test_training_learns_and_reports(trained):
    model, folder, data, lines = trained
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert history == lines
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert {line["phase"] for line in lines} == {"surrogate", "denoiser", "check"}
    denoiser = [line for line in lines if line["phase"] == "denoiser"][-1]
    assert denoiser["step"] == denoiser["steps"] == 200
    mine = dataset.part(data, "train")
    free = np.array([is_open(octant) for octant in mine.octants()])
    known = Data.encode(model.space, signed_distance(mine.octants()), mine.C, mine.volume, free)
    asked = known.conditions()
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        losses = [float(denoising_loss(model.denoiser, known.z, asked, rng)) for _ in range(20)]
        C = model.surrogate(known.z)
    assert np.mean(losses) < 0.9  # 1 for the untrained network
    assert float(error(C, known.C).mean()) < 0.5 * float(error(known.C.mean(dim=0), known.C).mean())


def test_training_resumes_where_it_was(trained, tmp_path):
    model, _, data, _ = trained

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


def test_a_finished_training_is_taken_as_it_is(trained):
    model, folder, data, _ = trained
    lines: list[dict] = []
    again = train(data, folder, SMALL, report=lines.append, command="test")
    assert [line["phase"] for line in lines] == ["check"]
    np.testing.assert_array_equal(again.space.basis, model.space.basis)
    for mine, other in zip(model.denoiser.parameters(), again.denoiser.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_other_settings_do_not_take_up_a_run(trained):
    _, folder, data, _ = trained
    with pytest.raises(InputError, match="other settings"):
        train(data, folder, Settings(dimension=12, width=48), report=lambda line: None)


def test_training_goes_on_from_weights(trained, tmp_path):
    model, _, data, _ = trained
    more = train(data, tmp_path, SMALL, start=model, report=lambda line: None)
    np.testing.assert_array_equal(more.space.basis, model.space.basis)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(model.denoiser.parameters(), more.denoiser.parameters(), strict=True)
    )


def test_sets_of_two_resolutions_are_learned_from_together(trained, tmp_path):
    model, _, data, _ = trained
    fine = np.repeat(np.repeat(np.repeat(data.octants(), 2, axis=1), 2, axis=2), 2, axis=3)
    part = dataset.masks(data)["validation"].astype(int)
    other = dataset.with_provenance(CellSet.from_octants(fine, data.C), ["finer"] * len(fine), part, {})
    lines: list[dict] = []
    settings = replace(SMALL, slopes=10**6)
    both = train([other, data], tmp_path, settings, report=lines.append, start=model)
    assert both.space.n == 8  # the grid is the model's, whatever the cells' resolution
    count = 2 * (~dataset.masks(data)["validation"]).sum()
    assert both.card["cells"] == count
    # Slopes of all, the same for the same shape: finer cells' are taken by the model's grid.
    assert lines[0]["cells"] == count
    stored = [np.load(path) for path in (tmp_path / "slopes").glob("*.npz")]
    values = {int(k): v for block in stored for k, v in zip(block["keys"], block["values"], strict=True)}
    assert len(values) > 0.9 * count  # some cells are there twice
    by_norm = np.sort([float(np.linalg.norm(v)) for v in values.values()])
    # The averaged level is by up to an eighth less steep at the surface of so coarse cells.
    np.testing.assert_allclose(by_norm[::2], by_norm[1::2], rtol=0.2)
    # The real metric is taken at the finest resolution, open cells by themselves.
    assert lines[-1]["phase"] == "check"
    assert {"bare", "used", "open"} < lines[-1].keys()
    assert 0 <= lines[-1]["open"]["open"] <= 1


def test_cells_may_be_in_two_sets(trained, tmp_path):
    """Blocks of slopes are named by a cell: one overwrote the other."""
    model, _, data, _ = trained
    rows = np.flatnonzero(dataset.masks(data)["train"])
    some = rows[: len(rows) // 2]
    sets = [data, *(dataset.take(data, [row]) for row in some)]
    settings = replace(SMALL, slopes=10**6, surrogate_samples=SMALL.batch, samples=SMALL.batch)
    both = train(sets, tmp_path, settings, report=lambda line: None, start=model)
    assert both.card["cells"] == len(rows) + len(some)


def test_a_network_takes_over_one_that_knows_nothing_of_openness(trained, tmp_path):
    model, _, data, _ = trained
    deaf = Denoiser(SMALL.dimension, SMALL.width, SMALL.depth, kinds=2)
    for parameter in deaf.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    hearing = Denoiser(SMALL.dimension, SMALL.width, SMALL.depth)
    hearing.start_from(deaf)
    x, sigma = torch.randn(4, SMALL.dimension, generator=torch.Generator().manual_seed(2)), torch.ones(4)
    asked = Conditions.of(data.C[:4], data.volume[:4], np.array([0.0, 1.0, np.nan, 1.0]))
    with torch.no_grad():
        first = deaf(x, 0 * x, sigma, asked)
        torch.testing.assert_close(hearing(x, 0 * x, sigma, asked), first, rtol=1e-5, atol=1e-5)
    # Its weights come back knowing what they knew, and training on from them hears of openness.
    Model(model.space, deaf, model.surrogate).save(tmp_path / "deaf.safetensors")
    start = Model.load(tmp_path / "deaf.safetensors")
    assert start.denoiser.kinds == 2
    more = train(data, tmp_path / "more", SMALL, start=start, report=lambda line: None)
    assert more.denoiser.kinds == 3
    noise = torch.randn(64, SMALL.dimension, generator=torch.Generator().manual_seed(3))
    free = [
        process.sample(more.denoiser, noise, Conditions.of(None, None, [o] * 64), steps=6) for o in (0, 1)
    ]
    assert (free[0] - free[1]).abs().max() > 1e-3


def test_training_goes_on_in_a_larger_space(trained, tmp_path):
    model, _, data, _ = trained
    wide = Denoiser(18, SMALL.width, SMALL.depth)
    wide.start_from(model.denoiser)
    x = torch.randn(4, 18, generator=torch.Generator().manual_seed(2))
    sigma, asked = torch.ones(4), Conditions.of(data.C[:4], data.volume[:4])
    with torch.no_grad():
        old, new = model.denoiser(x[:, :12], x[:, :12], sigma, asked), wide(x, x, sigma, asked)
    torch.testing.assert_close(new[:, :12], old, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(new[:, 12:], x[:, 12:] / 2)  # the estimate of white noise at sigma = 1
    more = train(data, tmp_path, replace(SMALL, dimension=18), start=model, report=lambda line: None)
    np.testing.assert_array_equal(more.space.basis[:12], model.space.basis)
    assert more.space.dimension == more.denoiser.dimension == more.surrogate.dimension == 18
    z = torch.from_numpy(more.space.encode(signed_distance(data.octants())))
    with torch.no_grad():
        C = torch.from_numpy(data.C).float()
        assert float(error(more.surrogate(z), C).mean()) < 1.2 * float(
            error(model.surrogate(z[:, :12]), C).mean()
        )


def test_slopes_are_learned_from(trained, tmp_path):
    _, _, data, _ = trained
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
        for name, net in (("with", model.surrogate), ("without", trained[0].surrogate))
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
