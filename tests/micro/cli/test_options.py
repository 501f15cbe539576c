"""Every command of ``micro`` is run with every option that it has, once: on cells of n = 8, in seconds."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from micro.cell.cellset import CellSet
from micro.cli.main import app
from micro.data.packaged import load_dataset
from micro.dataset.dataset import masks, take, with_provenance
from micro.gamut.gamut import Gamut
from micro.gamut.least_volume import LeastVolume
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.runtime.errors import InputError, NotConverged


def run(*line: object, may_miss: bool = False) -> str:
    """What a command says; with ``may_miss`` it may end without having met its goal."""
    done = CliRunner().invoke(app, [str(word) for word in line])
    if not (may_miss and isinstance(done.exception, NotConverged)) and done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def weights(trained):
    return trained[1] / "generator.safetensors"


@pytest.fixture(scope="module")
def cells(trained, tmp_path_factory):
    """A file of the small set."""
    path = tmp_path_factory.mktemp("cells") / "cells.zarr.zip"
    trained[2].save(path)
    return path


def test_optimize(tmp_path):
    out = tmp_path / "auxetic"
    line = ["optimize", "--objective", "poisson", "--volume", "0.4", "--n", "8", "--effort", "0.2", "--json"]
    line += ["--isotropic", "--stiffness", "0.01", "--start", "sin", "--wave", "2", "--invert", "--seed", "1"]
    said = json.loads(
        run(*line, "--radius", "1.6", "--method", "mma", "--nu", "0.2", "--out", out, may_miss=True)
    )
    cell = CellSet.load(out / "cell.zarr")
    assert cell.poisson == 0.2
    np.testing.assert_allclose(
        homogenize_octants(cell.octants(), nu=0.2).C, [said["C"]], rtol=1e-4, atol=1e-6
    )
    settings = json.loads((out / "settings.json").read_text())
    assert settings["goal"]["isotropic"]
    assert (settings["goal"]["stiffness"], settings["wave"], settings["sign"]) == (0.01, 2, -1)
    assert (settings["radius"], settings["method"], settings["nu"]) == (1.6, "mma", 0.2)


def test_extreme(tmp_path):
    out = tmp_path / "runs"
    line = ["extreme", "--objective", "poisson", "--volume", "0.4", "--isotropic", "--stiffness", "0.002"]
    line += ["--starts", "1", "--conditions", "1", "--seed", "3", "--generator", "default", "--effort", "0.1"]
    said = json.loads(run(*line, "--n", "8", "--workers", "1", "--json", "--out", out))
    plan = said["plan"]
    assert (plan["conditions"], plan["seed"], plan["goal"]["stiffness"]) == (1, 3, 0.002)
    assert plan["goal"]["isotropic"]


def test_interpolate(tmp_path, weights):
    line = ["interpolate", "0.3,0.1,0.1", "0.5,0.2,0.15", "--n", "8", "--seed", "3", "--generator", weights]
    line += ["--steps", "3", "--json"]
    run(*line, "--along", "noise", "--out", tmp_path / "noise")
    run(*line, "--along", "noise", "--out", tmp_path / "noise", "--overwrite")
    run(*line, "--tolerance", "0.02", "--trials", "2", "--out", tmp_path / "tensor")
    run(*line, "--maximise", "bulk", "--trials", "2", "--out", tmp_path / "bulk")
    for name in ("noise", "tensor", "bulk"):
        found = CellSet.load(tmp_path / name / "cells.zarr.zip")
        assert (len(found), found.n) == (3, 8)


def test_generate(tmp_path, weights):
    line = [
        "generate",
        "--c11",
        "0.3",
        "--c12",
        "0.1",
        "--c44",
        "0.1",
        "--per-target",
        "2",
        "--n",
        "8",
        "--seed",
        "2",
    ]
    line += ["--generator", weights, "--device", "cpu", "--steps", "6", "--guidance", "1.5", "--workers", "1"]
    run(
        *line,
        "--refine",
        "--tolerance",
        "0.05",
        "--relative",
        "0.5",
        "--open",
        "--draws",
        "3",
        "--out",
        tmp_path / "a",
    )
    run(*line, "--bare", "--out", tmp_path / "b")
    run(*line, "--bare", "--out", tmp_path / "b", "--overwrite")
    refined, bare = (json.loads((tmp_path / name / "generate.json").read_text()) for name in "ab")
    assert refined["n"] == bare["n"] == 8
    drawn = Generator.load(weights).sample(
        [[0.3, 0.1, 0.1]], 2, seed=2, steps=6, guidance=1.5, draws=1, steering=0, resolution=8
    )
    assert bare["one_piece"] == pytest.approx(float((drawn.raw_clean == 1).mean()))


def test_train_and_active(tmp_path, cells, weights):
    line = [
        "train",
        "--data",
        cells,
        "--samples",
        "640",
        "--surrogate-samples",
        "640",
        "--slopes",
        "8",
        "--seed",
        "1",
    ]
    line += ["--batch", "64", "--rate", "0.002", "--device", "cpu"]
    run(*line, "--dimension", "6", "--width", "16", "--depth", "1", "--out", tmp_path / "new")
    model = Generator.load(tmp_path / "new" / "generator.safetensors").model
    assert (model.space.dimension, model.denoiser.width, model.denoiser.depth) == (6, 16, 1)
    assert model.card["settings"]["rate"] == 0.002
    run(*line, "--start", tmp_path / "new" / "generator.safetensors", "--out", tmp_path / "on")
    assert Generator.load(tmp_path / "on" / "generator.safetensors").model.space.dimension == 6
    regress = ["--regress", "K / K_HS", "--start", weights, "--out", tmp_path / "regressor"]
    with pytest.raises(InputError, match="has no cell in the part 'test'"):
        run(*line, *regress)
    assert not (tmp_path / "regressor").exists()
    data = CellSet.load(cells)
    parts = np.arange(len(data)) % 3
    with_provenance(data, ["library"] * len(data), parts, {}).save(tmp_path / "parted.zarr.zip")
    line[2] = tmp_path / "parted.zarr.zip"
    assert "on the test part" in run(*line, *regress)
    assert (tmp_path / "regressor" / "regressor.safetensors").is_file()
    with pytest.raises(InputError, match="the surrogate has learned from this set"):
        run(*line, "--uncertainty", "--start", weights, "--out", tmp_path / "no")
    data.subset(slice(5, None)).save(tmp_path / "others.zarr.zip")
    line[2] = tmp_path / "others.zarr.zip"
    run(*line, "--uncertainty", "--start", weights, "--out", tmp_path / "uncertainty")
    assert Generator.load(tmp_path / "uncertainty" / "generator.safetensors").model.uncertainty is not None
    with pytest.raises(InputError, match="--uncertainty: needs --data that was not learned from"):
        run("train", "--uncertainty", "--start", weights, "--out", tmp_path / "no")
    with pytest.raises(InputError, match="and no --regress"):
        run(*line, *regress[:4], "--uncertainty", "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()
    line = ["active", "--round", "1", "--count", "6", "--data", cells, "--generator", weights]
    said = run(*line, "--device", "cpu", "--trials", "2", "--work", tmp_path)
    made = CellSet.load(tmp_path / "active" / "round001.zarr.zip")
    assert said.startswith(f"{len(made)} cells")
    said = run(*line, "--aim", "known", "--open", "--work", tmp_path)
    made = CellSet.load(tmp_path / "around" / "round001.zarr.zip")
    assert said.startswith(f"{len(made)} cells")
    assert masks(made)["train"].all()
    run(*line, "--aim", "gamut", "--work", tmp_path)
    assert len(CellSet.load(tmp_path / "gamut" / "round001.zarr.zip"))
    with pytest.raises(InputError, match="holes, known, gamut"):
        run(*line, "--aim", "elsewhere", "--work", tmp_path)


def test_homogenize_shares_octants_out(tmp_path, trained):
    octants = trained[2].octants([0, 1])
    np.save(tmp_path / "octants.npy", octants)
    said = json.loads(run("homogenize", tmp_path / "octants.npy", "--octant", "--json", "--workers", "1"))
    np.testing.assert_allclose(np.array(said["C"])[:, 0, 0], homogenize_octants(octants).C[:, 0], rtol=1e-6)


def test_library(tmp_path):
    out, gamut = tmp_path / "library.zarr.zip", tmp_path / "gamut.safetensors"
    line = ["library", "build", "--n", "8", "--count", "60", "--seed", "2", "--coarse", "8", "--pool", "100"]
    line += ["--round-size", "100", "--reach", "1", "--focus", "1.5", "--nu", "0.25", "--workers", "1"]
    run(*line, "--gamut", gamut, "--work", tmp_path / "work", "--out", out)
    made = CellSet.load(out)
    assert made.poisson == Gamut.load(gamut).poisson == 0.25
    assert (Gamut.load(gamut).phi(made.C) > -0.01).all()
    said = run("library", "nearest", *made.C[3].round(4), "-k", "2", "--library", out, "--match")
    assert "corrected" in said


def test_data_set(tmp_path):
    out, work = tmp_path / "set.zarr.zip", tmp_path / "work"
    line = [
        "dataset",
        "build",
        "--n",
        "8",
        "--pool",
        "40",
        "--round-size",
        "20",
        "--seed",
        "3",
        "--nu",
        "0.2",
    ]
    line += ["--extremes", "0", "--workers", "1", "--work", work, "--out", out]
    run(*line)
    digest = CellSet.load(out).digest()
    assert CellSet.load(out).poisson == 0.2
    run(*line, "--finished")
    assert CellSet.load(out).digest() == digest


def test_widened_data_set(tmp_path, cells):
    out = tmp_path / "wide.zarr.zip"
    line = ["dataset", "widen", "--data", cells, "--marches", "2", "--rounds", "1", "--workers", "1"]
    field = dict(zip(("C11", "C12", "C44"), CellSet.load(cells).C.T, strict=True))
    np.savez(tmp_path / "design.npz", **field)
    line += ["--also", cells, "--toward", tmp_path / "design.npz"]
    run(*line, "--work", tmp_path / "work", "--out", out)
    first, wide = CellSet.load(cells), CellSet.load(out)
    assert np.array_equal(wide.packed[: len(first)], first.packed)
    assert wide.volume.max() == 1.0
    said = f"micro dataset widen --data={cells} --marches=2 --rounds=1 --also={cells}"
    said += f" --toward={tmp_path / 'design.npz'}"
    assert wide.attrs["command"].endswith(said)
    np.savez(tmp_path / "void.npz", C11=np.zeros(2), C12=np.zeros(2), C44=np.zeros(2))
    with pytest.raises(InputError, match="--toward"):
        run(*line[:-1], tmp_path / "void.npz", "--work", tmp_path / "work", "--out", out)


def test_least_volume(tmp_path):
    """The lightest cells of a part of the packaged set."""
    some = take(load_dataset(), np.arange(0, len(load_dataset()), 12))
    some.save(tmp_path / "some.zarr.zip")
    run("dataset", "least-volume", "--data", tmp_path / "some.zarr.zip", "--out", tmp_path / "v.safetensors")
    learned = LeastVolume.load(tmp_path / "v.safetensors")
    assert np.mean(learned.volume(some.C) <= some.volume) > 0.8


def options(command, path=()):
    """(command, option) of every leaf of an app."""
    if hasattr(command, "commands"):
        return [pair for name, sub in command.commands.items() for pair in options(sub, (*path, name))]
    flags = [p.opts for p in command.params if p.param_type_name == "option"]
    return [(" ".join(path), opts) for opts in flags if "--help" not in opts and "completion" not in opts[0]]


def test_every_option_is_in_a_test(root):
    """By name, in a file that names its command too: a list of what no test has ever run."""
    texts = [p.read_text(encoding="utf-8") for p in sorted((root / "tests").rglob("test_*.py"))]
    never = []
    for command, opts in options(typer.main.get_command(app)):
        words = rf"\b{command.split()[-1]}\b"
        flags = "|".join(rf"{re.escape(flag)}(?![\w-])" for flag in opts)
        if not any(re.search(words, text) and re.search(flags, text) for text in texts):
            never.append(f"{command} {opts[0]}")
    assert never == []
