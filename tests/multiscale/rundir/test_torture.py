"""A small form of ``make torture``, on a run that looks finished: nothing silently wrong, no traceback."""

from __future__ import annotations

import tomllib

import pytest
from examples import MINIMAL
from run_directories import made_up_run
from torture import damage_every_file, fill_the_disk, mutate_inputs, write_where_nothing_can_be


@pytest.fixture
def run(tmp_path):
    return made_up_run(tmp_path / "run", tomllib.loads(MINIMAL))


def survived(tally):
    assert (tally.wrong, tally.tracebacks) == (0, 0), "\n".join(tally.what)
    return tally


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
