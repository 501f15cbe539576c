"""Runs killed (SIGKILL) at random moments, again and again, and taken up each time by the same command.

A chain is one run: started, killed, started again, until it has been killed :data:`CHAIN` times; the last
start is left alone, and its result compared with that of a run that nobody killed. Moments are drawn in
seconds of the processor, so that they fall alike on a busy machine.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tally import Tally

from micro.runtime.files import content_digest

ROOT = Path(__file__).resolve().parents[1]
CHAIN = 5
_START = "import sys; from multiscale.cli.main import main; sys.argv[0] = 'multiscale'; sys.exit(main())"
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
#: Of metrics, what need not come back: how long, on what, and what was written when.
_PASSING = ("time", "seconds", "memory", "bytes", "versions", "machine", "export")

#: The smallest case, its search short enough for many runs.
SMALL = (
    (ROOT / "tests" / "multiscale" / "minimal.toml").read_text(encoding="utf-8")
    + """
[optimizer]
uniform_iterations = 5
iterations = 8

[fill]
source = "library"
polish = 0
"""
)
ROUNDS = SMALL + "\n[full_scale]\nvoxels_per_cell = 8\nrounds = 1\niterations = 5\nleast_gain = 0.05\n"


@dataclass(frozen=True)
class Killed:
    """What is killed.

    Attributes
    ----------
    name : str
    case : Path
    start : callable
        Makes the run's directory as each chain finds it.
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
    """All stages of a small run."""
    case, whole = folder / "small.toml", folder / "small"
    case.write_text(SMALL, encoding="utf-8")
    _run(case, folder / "compiled")  # what the first run of all compiles is not counted
    seconds, idle = (_run(case, whole) for _ in range(2))
    return Killed("kills of a small run", case, lambda out: None, whole, seconds, idle)


def full_scale_rounds(folder: Path) -> Killed:
    """The stage of full scale and those after it: a solve, a corrected design, its filling, its solve."""
    first, whole, case = folder / "first", folder / "rounds", folder / "rounds.toml"
    case.write_text(ROUNDS, encoding="utf-8")
    _run(case, first)
    # Another end of the rounds leaves design and lattice done.
    case.write_text(ROUNDS.replace("least_gain = 0.05", "least_gain = 0.04"), encoding="utf-8")

    def start(out: Path) -> None:
        shutil.copytree(first, out)
        for name in ("1", "solutions"):
            shutil.rmtree(out / "rounds" / name)

    start(whole)
    seconds, idle = (_run(case, whole) for _ in range(2))
    return Killed("kills of full-scale rounds", case, start, whole, seconds, idle)


def kill_and_resume(killed: Killed, folder: Path, trials: int, seed: int = 0) -> Iterator[Tally]:
    """The tally after each chain; its ``where`` counts the stage that each kill found unfinished."""
    tally = Tally(killed.name)
    expected = result_of(killed.whole)
    where: Counter[str] = Counter()
    for chain in range(math.ceil(trials / CHAIN)):
        rng = random.Random(f"{seed} {chain}")
        count = min(CHAIN, trials - chain * CHAIN)
        out = folder / f"chain{chain}"
        killed.start(out)
        done = 0
        while done < count:
            moment = killed.idle + rng.uniform(0.0, 0.4) * (killed.seconds - killed.idle)
            if _killed(killed.case, out, moment):
                done += 1
                where[_stage(out)] += 1
            else:  # it came to its end before that: another directory, the same chain
                _compare(tally, killed, out, expected, 0)
                shutil.rmtree(out)
                killed.start(out)
        _compare(tally, killed, out, expected, count)
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


def _compare(tally: Tally, killed: Killed, out: Path, expected: dict[str, Any], counts: int) -> None:
    def resumed() -> dict[str, Any]:
        _run(killed.case, out)
        return result_of(out)

    tally.trial(f"{killed.name}: {out.name}", resumed, expected, same_result, counts)


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


def _line(case: Path, out: Path) -> list[str]:
    return [sys.executable, "-c", _START, "run", str(case), "--out", str(out), "--quiet"]


def _run(case: Path, out: Path) -> float:
    """Let the command end; returns the seconds of the processor."""
    with subprocess.Popen(_line(case, out), env=_ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        before = os.times()
        _, said = process.communicate()
        after = os.times()
    if process.returncode:
        raise RuntimeError(said)
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def _killed(case: Path, out: Path, moment: float) -> bool:
    """Start the command and kill it, with all it started, after so many seconds of the processor."""
    with subprocess.Popen(_line(case, out), env=_ENVIRONMENT, start_new_session=True) as process:
        while process.poll() is None:
            if _spent(process.pid) >= moment:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.05)
    return False


def _spent(pid: int) -> float:
    total = 0.0
    try:
        own = psutil.Process(pid)
        for one in (own, *own.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system
    except psutil.NoSuchProcess:
        pass
    return total


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
