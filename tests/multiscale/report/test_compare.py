"""Runs side by side: the best value, the settings that differ, and what can't be compared."""

from __future__ import annotations

import copy
import tomllib

import pytest
from examples import MINIMAL
from rich.console import Console
from run_directories import made_up_run

from micro.runtime.errors import InputError
from multiscale.report.compare import compare_runs
from multiscale.report.tables import rows_of, text_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    case = tomllib.loads(MINIMAL)
    other = copy.deepcopy(case) | {"filter": {"radius": 1.25}}
    return [made_up_run(folder / "a", case), made_up_run(folder / "b", other, lattice=0.015)]


def test_side_by_side_in_the_terminal_and_in_markdown(runs, tmp_path):
    console = Console(record=True, width=150)
    compare_runs(runs, tmp_path / "both.md", console)
    lines = console.export_text().splitlines()
    built = next(line for line in lines if "cells as built" in line)
    assert built.split()[-4:] == ["3", "%", "1.5", "%"]
    assert next(line for line in lines if "filter.radius" in line).split()[-2:] == ["2.0", "1.25"]
    text = (tmp_path / "both.md").read_text(encoding="utf-8")
    assert "| with the cells as built | 3 % | **1.5 %** |" in text  # the best is bold
    assert "| designed | 2 % | 2 % |" in text  # of equal ones none is
    assert "| `filter.radius` | `2.0` | `1.25` |" in text
    assert "`grid.elements`" not in text


def test_as_a_page_through_the_command(runs, run_cli, tmp_path):
    done = run_cli("multiscale", "compare", *runs, "--out", tmp_path / "both.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "<td class=best>1.5 %</td>" in text
    assert "http" not in text


@pytest.mark.parametrize(
    ("pick", "out", "reason"),
    [
        (lambda a, b: [a], None, "two runs or more"),
        (lambda a, b: [a, a], None, "given twice"),
        (lambda a, b: [a, a.parent], None, r"no metrics\.json"),
        (lambda a, b: [a, b], "both.pdf", r"\.html or \.md"),
    ],
)
def test_what_cannot_be_compared(runs, pick, out, reason, tmp_path):
    with pytest.raises(InputError, match=reason):
        compare_runs(pick(*runs), None if out is None else tmp_path / out, Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_several_loads_and_unknown_keys_have_rows():
    metrics = {
        "distortion": {"void": 0.5, "per_load": {"x": {"void": 0.4}, "y": {"void": 0.6}}},
        "novel": {"thing": [1, 2]},
    }
    shown = {(row.group, row.label): text_of(row, metrics) for row in rows_of([metrics])}
    assert shown == {
        ("Distortion", "without a cloak"): "50 %",
        ("Load x", "without a cloak"): "40 %",
        ("Load y", "without a cloak"): "60 %",
        ("Other", "novel.thing"): "1, 2",
    }
