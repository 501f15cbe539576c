"""Poisson's ratio of the base material reaches every homogenisation; what does not go together is refused."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import deflection
import numpy as np
import pytest
import zarr
from examples import varied
from typer.testing import CliRunner

from micro.cell.cellset import CellSet
from micro.cell.tensor import from_scaled_moduli, isotropic
from micro.data.packaged import load_library
from micro.gamut.gamut import Gamut
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.library.build import Recipe, build
from micro.library.retrieval import correct
from micro.runtime.errors import InputError
from multiscale.case.case import parse_case
from multiscale.case.purpose import PURPOSES, register
from multiscale.cli.main import app
from multiscale.fill.make_source import make_source
from multiscale.lattice.lattice import Lattice
from multiscale.run.run import run_case
from multiscale.verify.full_scale import verify

NU = 0.35
SETTINGS = """[optimizer]
uniform_iterations = 2
stages = 1
iterations = 2

[filter]
radius = 1.0

[gamut]
source = "gamut.safetensors"

[fill]
source = "library.zarr"
tolerance = 0.04
candidates = 4
polish = 0

[[loads]]"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Sixty cells of n = 8 for a base material of nu = 0.35."""
    recipe = Recipe(n=8, count=60, seed=3, coarse=8, pool=80, round_size=80, reach=1, nu=NU)
    return build(recipe, tmp_path_factory.mktemp("library"), workers=1)


@pytest.fixture(scope="module")
def folder(library, tmp_path_factory):
    """A case for it, with the library and its gamut as files beside it."""
    folder = tmp_path_factory.mktemp("case")
    library.save(folder / "library.zarr")
    gamut = Gamut.fit(
        library.C, radius=0.25, spacing=1 / 24, source=library.digest(), poisson=library.poisson
    )
    gamut.save(folder / "gamut.safetensors")
    text = varied(
        ("young_modulus_mpa = 1000.0", f"young_modulus_mpa = 1000.0\npoisson = {NU}"),
        ('observe = ["block"]\nreference = "soft"', 'type = "deflection"\nobserve = ["block"]'),
        ('material = "soft"', 'material = "solid"'),
        ("[[loads]]", SETTINGS),
    )
    (folder / "case.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    register(deflection.PURPOSE)
    yield folder / "run", run_case(folder / "case.toml", folder / "run")
    del PURPOSES[deflection.PURPOSE.type]


def own(cells, nu=NU):
    return homogenize_octants(cells.octants(), nu=nu, rtol=1e-5).C


def test_a_library_holds_for_the_ratio_it_was_built_for(library, tmp_path):
    assert library.poisson == NU
    some = library.subset(np.arange(5))
    assert pytest.approx(own(some), rel=1e-4) == some.C
    assert not np.allclose(some.C, own(some, 0.3), rtol=1e-2)
    library.save(tmp_path / "l.zarr.zip")
    assert CellSet.load(tmp_path / "l.zarr.zip").poisson == NU


def test_corrected_cells_are_labelled_with_it(library):
    rows = np.arange(10, 20)
    moved = correct(library, rows, 1.1 * library.C[rows], steps=2)
    new = (moved.packed != library.packed[rows]).any(axis=1)
    assert new.sum() > 2
    assert moved.C[new] == pytest.approx(own(moved)[new], rel=1e-3)


def test_generated_cells_are_labelled_with_the_ratio_of_the_training_data():
    model = Generator.load().model
    generator = Generator(replace(model, card=model.card | {"poisson": NU}))
    targets = np.array([[0.4, 0.15, 0.12]])
    samples = generator.sample(targets, 4, resolution=8)
    whole = samples.rows(np.flatnonzero(samples.connected))
    assert len(whole)
    assert (
        pytest.approx(homogenize_octants(whole.octants(), nu=NU).C, rel=1e-3) == whole.homogenize(rtol=1e-4).C
    )
    refined = generator.refine(whole, targets, trials=2)
    assert refined.poisson == NU
    assert pytest.approx(own(refined), rel=1e-3) == refined.C


def test_design_fill_evaluation_and_full_scale_agree(run):
    path, metrics = run
    lattice = Lattice.load(path / "lattice.zarr")
    assert lattice.poisson == lattice.cells.poisson == NU
    assert pytest.approx(own(lattice.cells), rel=2e-3) == lattice.cells.C
    solid = lattice.cells.volume == 1
    assert lattice.cells.C[solid] == pytest.approx(isotropic(1.0, NU)[None])
    values = metrics["deflection"]
    # A library of sixty cells has no near ones.
    assert values["lattice"] == pytest.approx(values["design"], rel=0.2)
    found = verify(path, voxels_per_cell=16)
    assert found["deflection_homogenised"] == pytest.approx(values["lattice"], rel=1e-5)
    # A strip of two cells is softer than its homogenised model, whatever the base material.
    assert 1 < found["deflection"] / values["lattice"] < 1.6


def test_what_is_of_another_base_material_is_refused(library, folder, tmp_path, run_cli):
    with pytest.raises(InputError, match=r"ratio 0\.3 do not hold for 0\.35"):
        CellSet.concat([library, replace(library, poisson=0.3)])
    with pytest.raises(InputError, match="do not hold"):
        Lattice(library, np.zeros((1, 1, 1), int), 1e-3, 1e9, 0.3)
    text = (folder / "case.toml").read_text(encoding="utf-8")
    register(deflection.PURPOSE)
    settings = parse_case(tomllib.loads(text), folder / "case.toml").fill
    with pytest.raises(InputError, match=r"library\.zarr: poisson: cells .* 0\.35 do not hold for 0\.4"):
        make_source(settings, lambda name: folder / name, 0.4)
    plain = varied(("[[loads]]", SETTINGS.replace("gamut.safetensors", "dataset")))
    other = plain.replace("library.zarr", str(folder / "library.zarr"))
    (tmp_path / "cells.toml").write_text(other, encoding="utf-8")
    gamut = varied(("[[loads]]", f'[gamut]\nsource = "{folder}/gamut.safetensors"\n[[loads]]'))
    (tmp_path / "gamut.toml").write_text(gamut, encoding="utf-8")
    with pytest.raises(InputError, match=r"gamut\.safetensors: poisson: the gamut's cells"):
        run_case(tmp_path / "gamut.toml", tmp_path / "run")
    done = run_cli("multiscale", "run", "cells.toml", "--out", "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "do not hold for 0.3" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_generator_of_another_base_material_is_refused(tmp_path):
    model = Generator.load().model
    replace(model, card={"poisson": 0.4}).save(tmp_path / "g.safetensors")
    case = parse_case(
        tomllib.loads(varied(("[[loads]]", '[fill]\nsource = "g.safetensors"\n[[loads]]'))), tmp_path / "c"
    )
    with pytest.raises(InputError, match="generated cells of a base material"):
        make_source(case.fill, lambda name: tmp_path / name, 0.3)


@pytest.mark.parametrize("kind", ["cells", "gamut", "weights"])
def test_check_refuses_what_a_run_would_refuse(library, folder, tmp_path, kind):
    """Files for nu = 0.35 in a case of 0.3; the gamut and the weights were found by the run alone."""
    model = Generator.load().model
    replace(model, card={"poisson": NU}).save(tmp_path / "weights.safetensors")
    table = {
        "cells": f'[fill]\nsource = "{folder}/library.zarr"',
        "gamut": f'[gamut]\nsource = "{folder}/gamut.safetensors"',
        "weights": '[fill]\nsource = "weights.safetensors"',
    }[kind]
    file = tmp_path / "case.toml"
    file.write_text(varied(("[[loads]]", f"{table}\n[[loads]]")), encoding="utf-8")
    found = CliRunner().invoke(app, ["check", str(file), "--out", str(tmp_path / "out")])
    assert (found.exit_code, found.stderr.count("\n")) == (2, 1), found.output
    assert "do not hold for 0.3" in found.stderr
    assert not (tmp_path / "out").exists()


def test_the_gamut_reaches_as_far_as_a_base_material_of_larger_bulk_modulus():
    rng = np.random.default_rng(0)
    stiff = from_scaled_moduli(rng.uniform(0.2, [1.25, 0.9, 0.9], (400, 3)))
    high = Gamut.fit(stiff, radius=0.15, spacing=1 / 16, poisson=NU).box[1]
    assert 1 < high[0] / isotropic(1.0, 0.3)[:2].dot([1 / 3, 2 / 3]) < 1.34


def test_older_files_say_their_ratio_among_the_attributes(tmp_path):
    cells = load_library().subset(np.arange(2))
    assert cells.poisson == 0.3
    for attrs, wanted in (({"poisson": 0.25}, 0.25), ({"settings": {"nu": 0.45}}, 0.45), ({}, 0.3)):
        replace(cells, attrs=attrs).save(tmp_path / "s.zarr")
        _forget_ratio(tmp_path / "s.zarr")
        assert CellSet.load(tmp_path / "s.zarr").poisson == wanted


def _forget_ratio(path):
    group = zarr.open_group(path, mode="r+")
    attributes = dict(group.attrs)
    del attributes["poisson"]
    group.attrs.put(attributes)
