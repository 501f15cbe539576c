"""Searching extreme cells from many starts: conditions, starts, kept runs, the table, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.octant import connectivity, is_symmetric
from micro.cli.main import app
from micro.data.packaged import load_dataset
from micro.explore.extreme import Plan, Run, _load, conditions, ends, explore, generated, summary
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.inverse import Goal
from micro.runtime.errors import InputError

BULK = Goal("bulk", 0.4)


def test_conditions_are_the_data_sets_best_at_the_volume() -> None:
    cells, goal = load_dataset(), Goal("shear", 0.6, isotropic=True)
    rows = conditions(goal, cells, 5)
    zener = tensor.zener(cells.C[rows])
    assert ((zener > 0.95) & (zener < 1.05)).all()
    assert (np.abs(cells.volume[rows] - 0.6) < 0.05).all()
    values = [goal.value(C) for C in cells.C[rows]]
    assert values == sorted(values, reverse=True)
    near = (np.abs(cells.volume - 0.6) < 0.05) & (np.abs(tensor.zener(cells.C) - 1) < 0.05)
    assert values[0] == max(goal.value(C) for C in cells.C[near])
    auxetic = conditions(Goal("poisson", 0.2, stiffness=0.008), cells, 10)
    assert (tensor.young(cells.C[auxetic]) > 0.004).all()


def test_generated_starts_resemble_their_conditions() -> None:
    plan = Plan(BULK, n=16, starts=4, conditions=2)
    fields = generated(plan, Generator.load())
    assert fields.shape == (4, 16, 16, 16)
    assert all(is_symmetric(np.round(field, 5)) for field in fields)
    wanted = load_dataset().volume[conditions(BULK, load_dataset(), 2)]
    assert_allclose((fields > 0).mean(axis=(1, 2, 3)), np.tile(wanted, 2), atol=0.05)
    assert np.array_equal(fields, generated(plan, Generator.load()))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, list[Run]]:
    out = tmp_path_factory.mktemp("extreme") / "run"
    plan = Plan(BULK, n=8, starts=2, compare=True, varied=1, effort=0.2)
    return plan, out, explore(plan, out)


def test_runs_end_in_connected_cells_with_their_own_tensors(searched: Any) -> None:
    plan, out, runs = searched
    assert [r.kind for r in runs] == ["generated"] * 2 + ["random"] * 2 + ["varied"]
    bound = tensor.hashin_shtrikman(0.4)[0]
    cells = CellSet.load(out / "cells.zarr.zip")
    assert len(cells) == sum(r.octant is not None for r in runs) >= 3
    for octant in cells.octants():
        assert connectivity(octant).connected
    assert_allclose(cells.C, homogenize_octants(cells.octants()).C, atol=1e-6)
    values = tensor.bulk(cells.C)
    met = cells.params[:, 1] == 1
    assert (np.diff(values[met]) <= 0).all()
    assert 0.8 * bound < values[0] < tensor.hashin_shtrikman(cells.volume[0])[0]
    assert ends(plan, runs).digest() == cells.digest()


def test_table_is_that_of_the_runs(searched: Any) -> None:
    plan, out, runs = searched
    found = json.loads((out / "extreme.json").read_text())
    assert found == json.loads(json.dumps(summary(plan, runs)))
    some = [r for r in runs if r.kind == "random" and r.met]
    row = found["kinds"]["random"]
    assert row["starts"] == 2
    assert_allclose(row["met"], len(some) / 2)
    if some:
        assert_allclose(row["best"], max(tensor.bulk(r.C) for r in some))
    assert_allclose(found["bound"], tensor.hashin_shtrikman(0.4)[0])


def test_what_was_run_is_read_again_and_other_plans_are_refused(searched: Any, tmp_path: Path) -> None:
    plan, out, runs = searched
    kept = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    assert len(kept) == len(runs)
    again = explore(plan, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == kept
    assert [r.volume for r in again] == pytest.approx([r.volume for r in runs], nan_ok=True)
    with pytest.raises(InputError, match="other settings"):
        explore(Plan(BULK, n=8, starts=3, effort=0.2), out)
    with pytest.raises(InputError, match="exists already"):
        explore(plan, out / "runs")
    with pytest.raises(InputError, match="bulk, shear"):
        Plan(Goal("match", 0.3, target=(0.2, 0.05, 0.06)))
    with pytest.raises(InputError, match="at least 1"):
        Plan(BULK, starts=0)


def test_command(searched: Any) -> None:
    """On a folder that is done: the table and the picture."""
    _, out, _ = searched
    line = ["extreme", "--objective", "bulk", "--volume", "0.4", "--n", "8", "--starts", "2", "--compare"]
    line += ["--vary", "1", "--effort", "0.2", "--workers", "1", "--out", str(out)]
    shown = CliRunner().invoke(app, line)
    assert shown.exception is None, shown.exception
    assert "generated" in shown.stdout
    assert (out / "extreme.png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, [*line, "--json"]).exception is None


def test_a_run_cut_short_is_refused_in_one_line(tmp_path: Path) -> None:
    """A cut zip is no ValueError: it was a traceback."""
    whole = tmp_path / "run.npz"
    np.savez(whole, n=np.array(4), seconds=np.array(1.0))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(InputError, match="a damaged run; delete it and run again"):
        _load(cut, "generated")
