"""Jobs kept in files: made once, in processes or in this one, resumed, and counted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from micro.runtime.jobs import Cache, Workers, fingerprint
from micro.runtime.npz import read_arrays, write_arrays
from micro.runtime.progress import counted, stage_bar


@dataclass(frozen=True)
class Square:
    path: Path
    number: int

    def make(self) -> None:
        if self.number < 0:
            raise ValueError("no square")
        write_arrays(self.path, {"square": np.array(self.number**2)})


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_missing_is_made_and_counted(tmp_path, count):
    jobs = [Square(tmp_path / f"{i}.npz", i) for i in range(5)]
    jobs[3].make()
    stamp = jobs[3].path.stat().st_mtime_ns
    seen = []
    with Workers(count, lambda *line: seen.append(line)) as team:
        team.finish("squares", jobs, size=lambda job: 10, before=20, total=100)
        team.finish("squares", jobs)  # nothing is left, and nothing is said
    assert [int(read_arrays(job.path)["square"]) for job in jobs] == [0, 1, 4, 9, 16]
    assert jobs[3].path.stat().st_mtime_ns == stamp
    assert seen == [(done, 100, "squares") for done in (30, 40, 50, 60, 70)]


def test_jobs_before_one_that_fails_are_kept(tmp_path):
    jobs = [Square(tmp_path / "a.npz", 2), Square(tmp_path / "b.npz", -1), Square(tmp_path / "c.npz", 3)]
    with pytest.raises(ValueError, match="no square"), Workers(1) as team:
        team.finish("squares", jobs)
    assert [job.path.exists() for job in jobs] == [True, False, False]


def test_a_bar_away_from_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr("micro.runtime.progress._INTERVAL", 0.0)
    with stage_bar("cells") as progress:
        more = counted(progress, 4)
        more(1)
        more(3)
        progress(1, 2, "checks")
    lines = capsys.readouterr().err.splitlines()
    assert [" ".join(line.split()[:2]) for line in lines] == ["cells: 1/4", "cells: 4/4", "checks: 1/2"]
    with stage_bar("cells", quiet=True) as progress:
        progress(1, 4)
    assert capsys.readouterr().err == ""


def test_a_second_count_under_one_name_judges_by_its_own_pace(monkeypatch, capsys):
    """Starts, then starts drawn from their best ends: the seconds of the first had counted for the second."""
    monkeypatch.setattr("micro.runtime.progress._INTERVAL", 0.0)
    clock = iter([0.0, 0.0, 1000.0, 1000.0, 1010.0])
    monkeypatch.setattr("micro.runtime.progress.time.monotonic", lambda: next(clock))
    with stage_bar() as progress:
        for done, total in ((0, 100), (100, 100), (0, 40), (10, 40)):
            progress(done, total, "starts")
    assert capsys.readouterr().err.splitlines()[-1] == "starts: 10/40 30 s left"


@dataclass(frozen=True)
class Squares:
    """What a job gives."""

    of: np.ndarray
    count: int


DONE = []


def squares(job):
    DONE.append(job[0])
    return Squares(np.array(job[0]) ** 2, len(job[0]))


def test_results_are_known_by_what_they_follow_from(tmp_path):
    jobs = [((1, 2), {"a": 1.5}), ((3,), {"a": None})]
    cache = Cache(tmp_path / "kept")
    DONE.clear()
    first = list(cache.run(squares, jobs, Squares))
    again = list(Cache(tmp_path / "kept").run(squares, [*reversed(jobs), ((4,), {})], Squares))
    assert DONE == [(1, 2), (3,), (4,)]
    assert [r.of.tolist() for r in again] == [[9], [1, 4], [16]]
    assert (first[0].count, again[1].count) == (2, 2)
    list(cache.run(squares, [((1, 2), {"a": 1.25})], Squares))  # of another setting
    assert len(DONE) == 4


def test_a_damaged_result_is_made_again_and_a_folder_that_cannot_be_is_done_without(tmp_path):
    cache = Cache(tmp_path / "kept")
    (whole,) = cache.run(squares, [((5,), {})], Squares)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    (again,) = cache.run(squares, [((5,), {})], Squares)
    assert again.of == whole.of
    (tmp_path / "file").touch()
    (elsewhere,) = Cache(tmp_path / "file" / "kept").run(squares, [((5,), {})], Squares)
    assert elsewhere.of == whole.of


def test_the_results_used_last_stay(tmp_path):
    cache = Cache(tmp_path)
    list(cache.run(squares, [((n,), {}) for n in range(3)], Squares))
    size = next(tmp_path.iterdir()).stat().st_size
    for age, file in enumerate(sorted(tmp_path.iterdir())):
        os.utime(file, (age, age))
    (oldest,) = [file for file in tmp_path.iterdir() if file.stat().st_mtime == 0]
    list(Cache(tmp_path, 3 * size + size // 2).run(squares, [((9,), {})], Squares))
    assert not oldest.exists()
    assert len(list(tmp_path.iterdir())) == 3


def test_fingerprints_tell_values_apart():
    values = [1, 1.0, True, "1", None, (1,), [1], (1, (2, 3)), ((1, 2), 3), np.arange(2), np.arange(2.0)]
    values += [np.arange(2).reshape(1, 2), {"a": 1}, {"b": 1}, Squares(np.arange(2), 1)]
    found = [fingerprint(value) for value in values]
    assert len(set(found)) == len(values)
    assert found == [fingerprint(value) for value in values]
    with pytest.raises(TypeError, match="set"):
        fingerprint({1})
