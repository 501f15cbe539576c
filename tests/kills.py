"""Runs killed (SIGKILL) at random moments and taken up by the same command.

A trial is one run, killed once; the same command then ends it, and its result is compared with that of a run
that nobody killed. Moments are drawn in seconds of the processor, so that they fall alike on a busy machine,
one in each of as many equal parts of the run's duration as there are trials.

A command is a process of its own, forked from one that has imported what does not start MPI
(:mod:`kills_ahead`): to import it anew takes longer than the run. Trials draw no figures, which would take
most of their time.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from small_cells import random_octant
from tally import Tally

from micro.cell.cellset import CellSet
from micro.homogenize.octants import homogenize_octants
from micro.runtime.files import content_digest

ROOT = Path(__file__).resolve().parents[1]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["kills_ahead"])
#: Of metrics, what need not come back: how long, on what, and what was written when.
_PASSING = ("time", "seconds", "memory", "bytes", "versions", "machine", "export")

#: The smallest case, its search short enough for many runs, with a few small cells of its own.
SMALL = (
    (ROOT / "tests" / "multiscale" / "minimal.toml").read_text(encoding="utf-8")
    + """
[optimizer]
uniform_iterations = 15
iterations = 60

[fill]
source = "cells.zarr"
candidates = 40
"""
)
ROUNDS = SMALL + "\n[full_scale]\nvoxels_per_cell = 4\nrounds = 1\niterations = 15\nleast_gain = 0.05\n"


@dataclass(frozen=True)
class Killed:
    """What is killed.

    Attributes
    ----------
    name : str
    case : Path
    start : callable
        Makes the run's directory as each trial finds it.
    whole : Path
        The run that nobody killed.
    seconds : float
        Of the processor that it took.
    idle : float
        Of the processor until the command works, when everything is done before.
    """

    name: str
    case: Path
    start: Callable[[Path], None]
    whole: Path
    seconds: float
    idle: float


def small_run(folder: Path) -> Killed:
    """All stages of a small run; the same with its figures is left in ``folder / "drawn"``."""
    case, whole = folder / "small.toml", folder / "small"
    _write(case, SMALL)
    _run(case, folder / "drawn", figures=True)  # what the first run of all compiles is not counted
    seconds, idle = (_run(case, whole)[0] for _ in range(2))
    return Killed("kills of a small run", case, lambda out: None, whole, seconds, idle)


def full_scale_rounds(folder: Path) -> Killed:
    """The stage of full scale and those after it: a solve, a corrected design, its filling, its solve."""
    first, whole, case = folder / "first", folder / "rounds", folder / "rounds.toml"
    _write(case, ROUNDS)
    _run(case, first)
    # Another end of the rounds leaves design and lattice done.
    _write(case, ROUNDS.replace("least_gain = 0.05", "least_gain = 0.04"))

    def start(out: Path) -> None:
        shutil.copytree(first, out)
        for name in ("1", "solutions"):
            shutil.rmtree(out / "rounds" / name)

    start(whole)
    seconds, idle = (_run(case, whole)[0] for _ in range(2))
    return Killed("kills of full-scale rounds", case, start, whole, seconds, idle)


def kill_and_resume(
    killed: Killed, folder: Path, trials: int, before: Tally | None = None
) -> Iterator[Tally]:
    """The tally after each trial, from ``before`` on; its ``where`` counts the stage that was unfinished."""
    tally = before or Tally(killed.name)
    expected = result_of(killed.whole)
    where = Counter(tally.where)
    length = (killed.seconds - killed.idle) / trials
    while tally.tried < trials:
        rng = random.Random(tally.tried)
        moment = killed.idle + length * (tally.tried + rng.random())
        out = folder / f"trial{tally.tried}"
        killed.start(out)
        while not _run(killed.case, out, moment)[1]:  # it came to its end before that
            shutil.rmtree(out)
            killed.start(out)
            moment = killed.idle + rng.random() * (moment - killed.idle)
        where[_stage(out)] += 1

        def resumed(out: Path = out) -> dict[str, Any]:
            _run(killed.case, out)
            return result_of(out)

        tally.trial(f"{killed.name}: {out.name}", resumed, expected, same_result)
        shutil.rmtree(out)
        tally.where = dict(where)
        yield tally


def result_of(run: Path) -> dict[str, Any]:
    """Everything that a run found, by name: figures, and what its files hold."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    files = {name: content_digest(run / name) for name in ("design.npz", "lattice.zarr")}
    return files | dict(_flat(metrics, ""))


def same_result(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Figures to a millionth: an operator that solved something before differs by rounding (2e-9 seen)."""
    if found.keys() != expected.keys():
        return False
    for name, value in expected.items():
        own = found[name]
        if isinstance(value, float) and isinstance(own, float):
            if not math.isclose(own, value, rel_tol=1e-6, abs_tol=1e-9):
                return False
        elif own != value:
            return False
    return True


def _write(case: Path, text: str) -> None:
    """The case, and the cells that it fills with."""
    cells = np.stack([random_octant(seed, 16) for seed in range(40)])
    found = homogenize_octants(cells)
    CellSet.from_octants(cells, found.C).save(case.with_name("cells.zarr"))
    case.write_text(text, encoding="utf-8")


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            if not any(word in key for word in _PASSING):
                yield from _flat(part, f"{name}.{key}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _flat(part, f"{name}.{number}")
    else:
        yield name, value


def _run(case: Path, out: Path, moment: float = math.inf, figures: bool = False) -> tuple[float, bool]:
    """Start the command, and kill it after so many seconds of the processor.

    Returns those that it took, and whether it was killed.
    """
    # Where the process that forks looks for modules: that of Python 3.11 does not take over sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    log = out.with_suffix(".log")
    process = _FORKS.Process(target=_command, args=(case, out, log, figures))
    process.start()
    assert process.pid is not None
    spent = 0.0
    while spent < moment and process.is_alive():
        process.join(0.02)
        spent = max(spent, _spent(process.pid))
    if spent >= moment:
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, signal.SIGKILL)
    process.join()
    killed = process.exitcode == -signal.SIGKILL
    if process.exitcode and not killed:
        raise RuntimeError(log.read_text(encoding="utf-8"))
    return spent, killed


def _command(case: Path, out: Path, log: Path, figures: bool) -> None:
    """What is killed: the command, in a group of processes of its own."""
    os.setsid()
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    from multiscale.cli.main import main
    from multiscale.run import results

    if not figures:
        results._write_figures = lambda *_: ([], {})
    sys.argv = ["multiscale", "run", str(case), "--out", str(out), "--quiet"]
    sys.exit(main())


def _spent(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _stage(out: Path) -> str:
    """The first stage that a killed run left unfinished."""
    record = out / "run.json"
    if not record.is_file():
        return "start"
    done = json.loads(record.read_text(encoding="utf-8")).get("stages", {})
    order = ("design", "fill", "full_scale", "evaluate", "export")
    open_stages = [name for name in order if name not in done]
    if "full_scale" in open_stages and not (out / "rounds").is_dir():
        open_stages.remove("full_scale")
    return open_stages[0] if open_stages else "report"
