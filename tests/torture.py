"""What files suffer, in numbers: kills, damage, full disks, wrong input; ``make torture`` prints the table.

A trial *survives* if it ends with the right result, or refused by one line. A result that differs from the
undamaged one without a word is silently wrong; anything else that escapes is a traceback. Both have to be 0.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st

from micro.cell.readers import read_voxels
from micro.runtime.errors import InputError, NotConverged, file_error
from micro.runtime.files import content_digest
from multiscale.case.case import load_case
from multiscale.export.command import export
from multiscale.printability.printability import assess_run
from multiscale.problem.problem import build_problem
from multiscale.problem.tensor_field import load_tensors
from multiscale.report.page import write_report
from multiscale.rundir.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
CASE = ROOT / "tests" / "multiscale" / "minimal.toml"


@dataclass
class Tally:
    """Trials of one kind; ``what`` has the first of each that did not survive."""

    name: str
    tried: int = 0
    right: int = 0
    refused: int = 0
    wrong: int = 0
    tracebacks: int = 0
    what: list[str] = field(default_factory=list)

    def trial(self, label: str, work: Callable[[], Any], expected: Any = None) -> None:
        """One trial: ``expected`` is the undamaged result, None if any will do."""
        self.tried += 1
        try:
            found = work()
        except (InputError, NotConverged, OSError) as error:
            said = str(file_error(error) if isinstance(error, OSError) else error)
            if "\n" in said or not said.strip():
                self._failed("tracebacks", f"{label}: not one line: {said!r}")
            else:
                self.refused += 1
        except Exception:  # what a user would see as a traceback is what is counted here
            self._failed("tracebacks", f"{label}: {traceback.format_exc(limit=-3)}")
        else:
            if expected is None or found == expected:
                self.right += 1
            else:
                self._failed("wrong", f"{label}: another result without a word")

    def _failed(self, kind: str, text: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.what.append(text)


# ------------------------------------------------------------------------- damage
def read_all(run: Path) -> dict[str, Callable[[], Any]]:
    """Every command that reads a run, as what it makes of it."""

    def reported() -> str:
        return write_report(run)[1].read_text(encoding="utf-8")

    def exported() -> str:
        return content_digest(export(run, "vtu", run.parent / "out.vtu"))

    def assessed() -> dict[str, Any]:
        return asdict(assess_run(run))

    def opened() -> tuple[Any, ...]:
        directory = RunDirectory.open(run)
        arrays = [directory.design, directory.lattice.tensors(), *directory.displacements.values()]
        return directory.metrics["distortion"], [a.tobytes() for a in arrays]

    return {"report": reported, "export": exported, "printability": assessed, "open": opened}


def damages(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """A file cut, altered in one bit, emptied, and gone."""
    yield "cut", data[: rng.randrange(len(data))] if data else b""
    at = rng.randrange(len(data)) if data else 0
    yield (
        "flipped",
        data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if data else b"x",
    )
    yield "empty", b""
    yield "gone", None


def damage_every_file(run: Path, seed: int = 0) -> Tally:
    """Each file of a finished run, damaged in each way, and read by each command."""
    rng, tally = random.Random(seed), Tally("damaged files")
    assess_run(run)  # what it adds to the metrics is there from the start
    whole = {name: work() for name, work in read_all(run).items()}
    files = [p for p in sorted(run.rglob("*")) if p.is_file() and "report" not in p.name and p.name[0] != "."]
    for file in files:
        data = file.read_bytes()
        for kind, damaged in damages(data, rng):
            if damaged == data:
                continue
            for name, work in read_all(run).items():
                if damaged is None:
                    file.unlink(missing_ok=True)
                else:
                    file.write_bytes(damaged)
                tally.trial(f"{file.relative_to(run)} {kind}, {name}", work, whole[name])
        file.write_bytes(data)
    return tally


# -------------------------------------------------------------------------- disks
def fill_the_disk(run: Path, trials: int, seed: int = 0) -> Tally:
    """Commands that write, on a disk that takes so many bytes a file and no more; the run stays as it was."""
    rng, tally = random.Random(seed), Tally("full disks")
    metrics = RunDirectory.open(run).metrics["distortion"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(trials):
        size = int(10 ** rng.uniform(0, 5))
        form = ("stl", "3mf", "vti", "vtu", "ply", "svx")[number % 6]
        jobs = {
            "report": lambda: write_report(run),
            form: lambda form=form: export(run, form, run.parent / f"full.{form}"),
            "printability": lambda: assess_run(run),
        }
        for name, job in jobs.items():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                tally.trial(f"{name} at {size} bytes", job)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        tally.trial(
            f"the run after {size} bytes", lambda: RunDirectory.open(run).metrics["distortion"], metrics
        )
    return tally


def write_where_nothing_can_be(run: Path) -> Tally:
    """Outputs below a file and on file systems that take no files."""
    tally = Tally("places that can't be written")
    for place in (run / "run.json" / "x", Path("/proc/torture"), Path("/sys/torture")):
        for form in ("stl", "3mf", "vti", "slices"):
            out = place / (f"x.{form}" if form != "slices" else "x")
            tally.trial(f"{form} to {place}", lambda form=form, out=out: export(run, form, out))
        tally.trial(f"run to {place}", lambda place=place: RunDirectory.create(place, load_case(CASE)))
    return tally


# -------------------------------------------------------------------------- input
def mutated(text: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with a few stretches replaced, repeated, or cut out."""
    odd = [
        b"-",
        b"0",
        b"1e308",
        b"nan",
        b"[",
        b"]",
        b'"',
        b"=",
        b"\n",
        b"\xff",
        b"\xef\xbb\xbf",
        b"true",
        b"{}",
    ]
    piece = st.one_of(st.sampled_from(odd), st.binary(max_size=6))
    change = st.tuples(st.integers(0, len(text)), st.integers(0, 12), piece)

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        out = text
        for at, length, new in changes:
            out = out[:at] + new + out[at + length :]
        return out

    return st.lists(change, min_size=1, max_size=3).map(apply)


def mutate_inputs(folder: Path, trials: int) -> Tally:
    """Case files, arrays and meshes with random changes, each taken or refused by one line."""
    tally = Tally("mutated inputs")
    cube = np.ones((4, 4, 4), dtype=bool)
    cube[2:, 2:] = False
    np.save(folder / "cell.npy", cube)
    field_arrays = {k: np.full((6, 4, 4), v) for k, v in (("C11", 0.3), ("C12", 0.1), ("C44", 0.09))}
    np.savez(folder / "field.npz", **field_arrays)
    case = load_case(CASE)
    problem = build_problem(case)
    mesh_case = (ROOT / "cases" / "cloak_stl.toml").read_text(encoding="utf-8")
    (folder / "mesh.toml").write_text(mesh_case, encoding="utf-8")
    seeds: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
        "case.toml": (CASE.read_bytes(), lambda file: build_problem(load_case(file)) and None),
        "field.npz": ((folder / "field.npz").read_bytes(), lambda file: load_tensors(file, problem)),
        "cell.npy": ((folder / "cell.npy").read_bytes(), lambda file: read_voxels(file)),
        "three_lobes.stl": (
            (ROOT / "cases" / "three_lobes.stl").read_bytes(),
            lambda file: load_case(folder / "mesh.toml"),
        ),
    }
    for name, (data, work) in seeds.items():

        @settings(
            max_examples=max(1, trials // len(seeds)),
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(mutated(data))
        def one(changed: bytes) -> None:
            (folder / name).write_bytes(changed)  # noqa: B023  called before the loop goes on
            tally.trial(name, lambda: work(folder / name))  # noqa: B023

        one()
    return tally


# -------------------------------------------------------------------------- kills
def run_line(out: Path) -> list[str]:
    start = "import sys; from multiscale.cli.main import main; sys.argv[0] = 'multiscale'; sys.exit(main())"
    return [sys.executable, "-c", start, "run", str(CASE), "--out", str(out), "--quiet"]


def result_of(run: Path) -> tuple[Any, ...]:
    """Everything that a run found: files and figures, without times."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for key in ("time", "memory", "versions", "machine", "export"):
        metrics.pop(key, None)
    names = ("design.npz", "lattice.zarr", "displacements.npz")
    return metrics, [content_digest(run / name) for name in names]


def kill_and_resume(folder: Path, trials: int, seed: int = 0) -> Tally:
    """A small run killed (SIGKILL) at random moments, then run again: the same, bit for bit."""
    rng, tally = random.Random(seed), Tally("kills")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    whole = folder / "whole"
    started = time.monotonic()
    subprocess.run(run_line(whole), env=environment, check=True)
    seconds = time.monotonic() - started
    expected = result_of(whole)
    for number in range(trials):
        out = folder / f"killed{number}"
        moment = rng.uniform(0.02, 0.98) * seconds
        process = subprocess.Popen(run_line(out), env=environment, start_new_session=True)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

        def resumed(out: Path = out) -> tuple[Any, ...]:
            done = subprocess.run(
                run_line(out), env=environment, stderr=subprocess.PIPE, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(done.stderr)
            return result_of(out)

        tally.trial(f"killed after {moment:.1f} of {seconds:.1f} s", resumed, expected)
        shutil.rmtree(out)
    return tally


def table(tallies: list[Tally]) -> str:
    """The figures, in Markdown."""
    lines = ["| trial | tried | right result | refused in a line | silently wrong | tracebacks |"]
    lines.append("|---|---|---|---|---|---|")
    for t in tallies:
        lines.append(f"| {t.name} | {t.tried} | {t.right} | {t.refused} | {t.wrong} | {t.tracebacks} |")
    return "\n".join(lines)


def main() -> int:
    """Everything, on a run of the smallest case; exit code 1 if anything did not survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--disks", type=int, default=30)
    parser.add_argument("--run", type=Path, help="a finished run to damage copies of; default: one is made")
    options = parser.parse_args()
    tallies = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        if options.run is None:
            subprocess.run(run_line(run), env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        else:
            shutil.copytree(options.run, run)
        for work in (
            lambda: mutate_inputs(folder, options.inputs),
            lambda: fill_the_disk(run, options.disks),
            lambda: write_where_nothing_can_be(run),
            lambda: damage_every_file(run),
            lambda: kill_and_resume(folder, options.kills),
        ):
            tallies.append(work())
            print("\n".join(tallies[-1].what), table(tallies[-1:]), sep="\n", flush=True)
    print(table(tallies))
    return int(any(t.wrong or t.tracebacks for t in tallies))


if __name__ == "__main__":
    sys.exit(main())
