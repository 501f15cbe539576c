"""Every option of every command is given once, on one small run, with keys that no other test sets."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from described import undescribed
from examples import MINIMAL
from lattices import make, octants
from run_directories import made_up_run
from typer.main import get_command
from typer.testing import CliRunner

from multiscale.cli.main import app
from multiscale.lattice.lattice import Lattice
from multiscale.rundir import record, refusals

CASE = """
[case]
name = "lifted"

[grid]
elements = [4, 2, 2]
cell_size_mm = 2.0

[base_material]
young_modulus_mpa = 1000.0

[materials.start]
relative_young_modulus = 0.2
poisson = 0.3

[[regions]]
name = "bar"
role = "design"
initial = "start"
shape = { type = "all" }

[[loads]]
name = "lift"
fixed = [{ where = "x-" }]
displacements = [{ where = "x+", z_mm = 0.02 }]

[objective]
type = "target_displacement"

[[objective.targets]]
load = "lift"
where = "z+"
along = "x"
at = [0, 2, 4]
z_mm = [0.0, 0.004, 0.02]

[optimizer]
uniform_iterations = 2
stages = 1
iterations = 2

[solver]
rtol_adjoint = 1e-5
rtol_evaluate = 1e-7

[fill]
source = "cells.zarr.zip"
tolerance = 0.05
relative_tolerance = 0.2
min_contact = 0.02
candidates = 3
polish = 0

[full_scale]
iterations = 1
max_memory_gb = 16.0

[export]
stl_box = [[0, 0, 0], [1, 1, 1]]
voxels = 6
"""
RUN = (
    "run CASE --out RUN --json-lines --tensorboard --voxels-per-cell 12 --rounds 1 --set fill.tolerance=0.02"
)
LINES = [
    "--version",
    "run CASE --out RUN --quiet --voxels-per-cell 12 --rounds 1 --set fill.tolerance=0.02",
    "check CASE --out OUT/drawn",
    "schema --out OUT/schema.json",
    "evaluate CASE --tensors RUN/design.npz --out OUT --all-elements --mesh 4",
    "export RUN --out OUT/part.stl --format stl --region 0:1,:,: --voxels-per-cell 6 --smooth 0.5 "
    "--decimate 0.2",
    "export RUN --out OUT/stack --pixel 0.1,0.2 --layer 0.1 --region 0:1,0:1,0:1",
    "export RUN --out OUT/filled.stl --fill-cavities --region 0:1,0:1,0:1",
    "export RUN --out OUT/drained.stl --drain --channel 0.25 --region 0:1,0:1,0:1",
    "bar CELLS --out OUT/bar.zarr --across 1 --repeat 2 --cell-size 5 --young 2000",
    "printability RUN --direction 0 1 0 --density 1100 --least 0.3 --json",
    "printability RUN --exported RUN/region.stl --region 0:1,0:1,0:1 --least 0.1",
    "verify RUN --voxels-per-cell 4 --max-memory 16 --threads 2 --rtol 1e-3",
    "unseen CLOAK",
    "report RUN",
    "compare RUN CLOAK --out OUT/both.html",
    "new --list",
    "new part --template bracket --out OUT/part.toml",
    "doctor --json",
]


def said(line: str, **places: Path) -> str:
    """Standard output of a command line in which places stand for paths."""
    words = line.split()
    for name, path in places.items():
        words = [word.replace(name, str(path)) if word.startswith(name) else word for word in words]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (line, done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("options")
    found = {name: folder / name.lower() for name in ("CASE", "RUN", "CLOAK", "CELLS")}
    found["CASE"] = found["CASE"].with_suffix(".toml")
    found["CASE"].write_text(CASE, encoding="utf-8")
    found["CELLS"] = found["CELLS"].with_suffix(".zarr.zip")
    make([[[0]]], cells=octants()[:3]).cells.save(found["CELLS"])
    made_up_run(found["CLOAK"], tomllib.loads(MINIMAL))
    return found


@pytest.fixture(scope="module")
def events(places) -> list[dict]:
    return [json.loads(line) for line in said(RUN, **places).splitlines()]


def test_a_run_of_rare_keys(events, places):
    assert {event["event"] for event in events} == {"message", "progress", "result"}
    metrics = events[-1]["metrics"]
    assert metrics == json.loads((places["RUN"] / "metrics.json").read_text())
    assert (places["RUN"] / "tensorboard").is_dir()
    assert (places["RUN"] / "region.stl").is_file()
    asked = tomllib.loads((places["RUN"] / "case.toml").read_text())
    assert (asked["full_scale"]["voxels_per_cell"], asked["full_scale"]["rounds"]) == (12, 1)
    assert asked["fill"]["tolerance"] == 0.02
    # A message that says how to make it again says all of it.
    advised = refusals.command(places["RUN"], record.read_run(places["RUN"]))
    changed = ("full_scale.voxels_per_cell=12", "full_scale.rounds=1", "fill.tolerance=0.02")
    assert (
        advised
        == f"`multiscale run {places['CASE']} --out {places['RUN']}"
        + "".join(f" --set {change}" for change in changed)
        + "`"
    )
    rounds = metrics["full_scale"]["rounds"]
    assert [r["round"] for r in rounds] == list(range(len(rounds)))
    # The end is moved as prescribed, and the design brings the rest nearer to the wanted shape.
    found = metrics["mismatch"]
    assert 0 < found["design"] < found["start"]
    with np.load(places["RUN"] / "displacements.npz", allow_pickle=False) as fields:
        np.testing.assert_allclose(fields["lift.design"][-1, :, :, 2], 0.01, rtol=1e-5)  # of an edge of 2 mm


@pytest.mark.parametrize("line", LINES)
def test_every_option_works(line, events, places, tmp_path):
    out = said(line, **places, OUT=tmp_path)
    if line.startswith("printability RUN --direction"):
        found = json.loads(out)
        assert found["overhang"]["direction"] == [0, 1, 0]
        solid = Lattice.load(places["RUN"] / "lattice.zarr").solid_volume_m3
        assert found["mass_g"] == pytest.approx(1e3 * 1100 * solid)
        assert found["printer"]["least_mm"] == 0.3
    if line.startswith("evaluate"):
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        values = metrics["mismatch"]
        # Trilinear elements converge: the step to the finest mesh is the smaller one.
        steps = [
            values["design_refined"] - values["design"],
            values["design_refined_4"] - values["design_refined"],
        ]
        assert 0 < abs(steps[1]) < abs(steps[0])
        assert not undescribed({"mismatch": {k: v for k, v in values.items() if k.startswith("design_")}})
    if line.startswith("verify"):
        found = json.loads((places["RUN"] / "metrics.json").read_text())["verify"]
        assert found["at"]["4"]["mismatch"] > 0
    if line.startswith("bar"):
        bar = Lattice.load(tmp_path / "bar.zarr")
        assert (bar.shape, bar.cell_size_m, bar.young_pa) == ((6, 1, 1), 5e-3, 2e9)
    if "--quiet" in line:
        assert out == ""
    if "OUT/" in line:
        name = line.split("OUT/")[1].split()[0]
        assert (tmp_path / name).exists()


def test_no_option_is_left_out():
    """An option that no line gives would be one that no test runs."""
    given: dict[str, set[str]] = {}
    for line in (RUN, *LINES):
        command, *words = line.split()
        given.setdefault(command, set()).update(word for word in words if word.startswith("--"))
    for name, command in get_command(app).commands.items():
        options = {option for parameter in command.params for option in parameter.opts if option[:2] == "--"}
        assert options - {"--help"} <= given.get(name, set()), name
