"""A small form of ``make torture``, on a run that looks finished: nothing silently wrong, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib

import pytest
import torture
from examples import MINIMAL
from kills import kill_and_resume, small_run
from run_directories import made_up_run
from tally import Tally, table
from torture import (
    damage_every_file,
    fill_the_disk,
    mutate_inputs,
    solve_thin_cells,
    write_where_nothing_can_be,
)


@pytest.fixture
def run(tmp_path):
    return made_up_run(tmp_path / "run", tomllib.loads(MINIMAL))


def survived(tally):
    assert (tally.wrong, tally.tracebacks) == (0, 0), "\n".join(tally.what)
    return tally


def test_the_command_starts_outside_the_checkout(tmp_path):
    """The folders of the tests are named as the packages are: started as a script, it took them for these."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    line = [sys.executable, torture.__file__, "--help"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--kills" in done.stdout


def test_every_file_damaged_in_every_way(run):
    tally = survived(damage_every_file(run))
    assert tally.refused > tally.tried / 2


def test_full_disks_and_places_without_files(run):
    assert survived(fill_the_disk(run, 6)).refused > 0
    places = survived(write_where_nothing_can_be(run))
    assert places.refused == places.tried


def test_mutated_inputs(tmp_path):
    tally = survived(mutate_inputs(tmp_path, 160))
    assert tally.refused > tally.tried / 4
    assert tally.right > 0


def test_thin_random_cells_are_those_of_a_direct_solve():
    tally = survived(solve_thin_cells(12, 3))
    assert tally.right + tally.refused == 12


@pytest.mark.slow
def test_a_killed_run_ends_the_same(tmp_path):
    for tally in kill_and_resume(small_run(tmp_path), tmp_path, 4):
        survived(tally)
    assert tally.right == tally.tried == 4
    assert sum(tally.where.values()) == 4


def test_the_page_shows_the_table_of_the_last_torture(root):
    record = json.loads((root / "benchmarks" / "results" / "torture.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "run-directory.md").read_text(encoding="utf-8")
    tallies = [Tally(**part) for part in record.values()]
    assert table(tallies) in page
    for part in ("kills", "rounds"):
        stages = [f"{count} in {stage}" for stage, count in record[part]["where"].items()]
        assert ", ".join(stages) in page.replace("\n", " ")
    assert not any(t.wrong or t.tracebacks for t in tallies)
