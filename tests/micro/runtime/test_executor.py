"""Jobs over processes and MPI ranks: the same results whoever does them, in order, each done once."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from micro.cell.cellset import CellSet
from micro.data.packaged import load_library
from micro.dataset.build import build
from micro.explore.extreme import Plan, explore
from micro.generator.blocks import Request, blocks, cells_of, make
from micro.homogenize.octants import homogenize_shared
from micro.inverse import Goal
from micro.library import labelling
from micro.library.build import Recipe
from micro.runtime import memory
from micro.runtime.errors import InputError
from micro.runtime.executor import Executor, among, executor, kept, on_ranks


def heavy(out: Path) -> list:
    """What heavy commands do, in small: each function shares its jobs between whatever processes there are.

    27 candidates in shards of 5, 3 blocks of 11 cells, 3 starts, 67 octants: nothing divides evenly.
    """
    labelling.SHARD = 5
    said: list[int] = []
    cells = build(out / "work", RECIPE, 0, workers=1, progress=lambda *line: said.append(line[0]))
    assert said == sorted(said)
    targets = np.array([[0.30, 0.11, 0.09], [0.45, 0.16, 0.13], [0.2, 0.08, 0.06]])
    asked = Request("default", "cpu", 11, 16, True, 2e-3, 0.02, {"draws": 2, "seed": 5})
    octants = load_library().subset(np.arange(67)).octants()[:, ::4, ::4, ::4]
    with executor(1) as processes:
        generated = cells_of(list(processes.run(make, list(blocks(asked, targets, np.full(3, np.nan))))))
        result = homogenize_shared(octants, processes)
    explore(Plan(Goal("bulk", 0.4), n=8, starts=3, conditions=2, effort=0.1), out / "extreme")
    ends = CellSet.load(out / "extreme" / "cells.zarr.zip")
    numbers = hashlib.sha256(result.C.tobytes() + result.iterations.tobytes()).hexdigest()
    return [cells.digest(), generated.digest(), generated.params[:, 2].tolist(), ends.digest(), numbers]


RECIPE = Recipe(n=8, count=27, seed=2, coarse=8, pool=27, round_size=16, reach=0)

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_executor import heavy
from micro.runtime.executor import on_ranks

def command():
    print(json.dumps(heavy(Path(sys.argv[1]))))
    return 0

sys.exit(on_ranks(command))
"""


def test_ranks_make_the_same_cells(run_ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "SHARD", labelling.SHARD)
    alone = heavy(tmp_path / "1")
    for ranks in (2, 3):
        done = run_ranks(ranks, "-c", SCRIPT, tmp_path / str(ranks), Path(__file__).parent)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == alone, ranks
    # Finished pieces are files: a third of what two ranks made removed is made again by one, the same.
    pieces = sorted((tmp_path / "2" / "work").rglob("0*.npz"))
    assert len(pieces) == 7
    kept = list((tmp_path / "2" / "work").rglob("cells-of-*"))
    for piece in [*pieces[::3], *kept]:
        piece.unlink()
    assert build(tmp_path / "2" / "work", RECIPE, 0, workers=1).digest() == alone[0]


def test_every_rank_ends_with_the_command_s_code(run_ranks):
    # In one piece: what ranks print may come between each other's.
    text = (
        "import sys; from micro.runtime.executor import on_ranks; code = on_ranks(lambda: 3); "
        "sys.stdout.write(f'{code}\\n'); exit(code)"
    )
    done = run_ranks(3, "-c", text)
    assert sorted(done.stdout.split()) == ["3", "3", "3"]
    assert done.returncode == 3


def test_processes_that_cannot_see_each_other_are_refused(run_cli):
    """Started by the mpiexec of another MPI, each would take itself for the only one and write files."""
    done = run_cli("micro", "dataset", "info", env={"PMI_SIZE": "2", "PMI_RANK": "0"})
    assert done.returncode == 2
    assert done.stderr.startswith("error: 2 processes were started")
    assert done.stderr.count("\n") == 1
    other = run_cli("micro", "dataset", "info", env={"PMI_SIZE": "2", "PMI_RANK": "1"})
    assert (other.returncode, other.stderr) == (2, "")


def test_workers_are_not_named_under_mpiexec(run_cli):
    done = run_cli("micro", "dataset", "build", "--out", "x.zip", "--workers", "2", ranks=2)
    assert done.returncode == 2
    assert "--workers" in done.stderr
    assert "mpiexec" in done.stderr


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_the_leader_works_too_and_each_job_is_done_once(count):
    """Threads stand for the other ranks; results come in order though the first jobs take longest."""
    by: dict[int, set[str]] = {number: set() for number in range(count)}

    def work(number: int) -> int:
        by[number].add(threading.current_thread().name)
        time.sleep(0.05 if number == 0 else 0.01)
        return number**2

    with ThreadPoolExecutor(2, "other") as pool:
        found = list(Executor(3, pool).run(work, range(count)))
    assert found == [number**2 for number in range(count)]
    assert all(len(names) == 1 for names in by.values())
    if count == 7:
        assert "MainThread" in set().union(*by.values())


def test_a_failed_job_raises_in_its_turn_and_ends_the_rest():
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        if number == 3:
            raise ValueError("third")
        return number

    with ThreadPoolExecutor(2) as pool:
        results = Executor(3, pool).run(work, range(100))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="third"):
            next(results)
    assert len(begun) < 20


def test_processes_of_this_machine():
    with executor(2) as processes:
        assert list(processes.run(abs, [-3, -2, -1])) == [3, 2, 1]
    with executor(1) as processes:
        assert processes.workers == 1
        assert list(processes.run(abs, [-1])) == [1]


def test_kept_processes_are_shared_by_what_is_inside(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with kept(), executor(1) as first, executor() as second:
        assert first is second
        assert first.workers == 3
    monkeypatch.setattr(memory, "available", lambda: 2e9)
    with kept(), executor() as processes:
        assert processes.workers == 2
    with executor(1) as processes:
        assert processes.workers == 1


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from micro.runtime.executor import executor\n"
        "with executor(3) as processes:\n"
        "    print(list(processes.run(abs, range(-5, 0))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["once", "[5, 4, 3, 2, 1]"]


def test_alone_a_command_is_just_called():
    assert on_ranks(lambda: 7) == 7
    assert among(None, 4) == 4
    with pytest.raises(InputError, match="at least one process"):
        among(0)
