"""Jobs kept in files: made once, in processes or in this one, resumed, and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from micro.runtime.jobs import Workers
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
