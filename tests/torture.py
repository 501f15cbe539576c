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
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

# The folders beside this file are named as the packages are.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from direct_solves import direct_octant
from hypothesis import HealthCheck, given, settings, strategies as st
from kills import Killed, full_scale_rounds, kill_and_resume, small_run
from small_cells import thin_cells
from tally import Tally, table

from micro.cell.readers import read_voxels
from micro.cell.surface import read_triangles
from micro.generator.generate import read_targets
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.runtime.files import content_digest, write_json
from multiscale.case.case import load_case
from multiscale.export.command import export
from multiscale.printability.printability import assess_run
from multiscale.problem.problem import build_problem
from multiscale.problem.tensor_field import load_tensors
from multiscale.report.page import write_report
from multiscale.rundir.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
CASE = ROOT / "tests" / "multiscale" / "minimal.toml"


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
    """Case files, arrays, tables and meshes with random changes, each taken or refused by one line."""
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
        "targets.csv": (
            b"# a table\r\nC11;C12;C44;volume\r\n0,3;0,126;0,089;0,4\r\n0.2;0.08;0.05;\r\n",
            lambda file: read_targets(file) and None,
        ),
        "bracket_pin.msh": (
            (ROOT / "docs" / "examples" / "bracket_pin.msh").read_bytes(),
            lambda file: read_triangles(file, "pin"),
        ),
    }
    for name, (data, work) in seeds.items():

        @settings(
            max_examples=-(-trials // len(seeds)),
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


# -------------------------------------------------------------------------- cells
def solve_thin_cells(count: int, samples: int, seed: int = 0) -> Tally:
    """Random trusses and level sets of volume 5 to 20 %; ``samples`` of them against a direct solve."""
    tally = Tally("thin random cells")
    octants = thin_cells(count)
    found = homogenize_octants(octants)
    good = found.status == Status.OK
    sampled = set(np.random.default_rng(seed).permutation(np.flatnonzero(good))[:samples].tolist())
    tally.where = {"of these against a direct solve": len(sampled)}

    def close(a: Any, b: Any) -> bool:
        """Errors are quadratic in that of the displacements, solved to 1e-5."""
        return bool(np.allclose(a, b, rtol=1e-4, atol=0))

    for row in range(count):
        if row in sampled:
            C = direct_octant(octants[row])
            tally.trial(f"thin cell {row}", lambda row=row: found.C[row], C, close)
        else:
            tally.tried += 1
            tally.right += bool(good[row])
            tally.refused += not good[row]  # said in its status
    return tally


# --------------------------------------------------------------------------- all
def main() -> int:
    """Everything, on a run of the smallest case; exit code 1 if anything did not survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=30, help="of a small run, and as many of full-scale rounds"
    )
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--disks", type=int, default=30)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--run", type=Path, help="a finished run to damage copies of; default: one is made")
    parser.add_argument(
        "--record",
        type=Path,
        default=Path("runs/torture.json"),
        help="results; what it holds is not done again",
    )
    parser.add_argument("--only", nargs="+", help="of inputs cells disks places damage kills rounds")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.record.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        @cache
        def small() -> Killed:
            return small_run(folder)

        @cache
        def made() -> Path:
            if options.run is None:
                small()  # leaves one with figures
            shutil.copytree(options.run or folder / "drawn", folder / "run")
            return folder / "run"

        parts: dict[str, Callable[[], Iterator[Tally]]] = {
            "inputs": lambda: iter([mutate_inputs(folder, options.inputs)]),
            "cells": lambda: iter([solve_thin_cells(options.cells, 50)]),
            "disks": lambda: iter([fill_the_disk(made(), options.disks)]),
            "places": lambda: iter([write_where_nothing_can_be(made())]),
            "damage": lambda: iter([damage_every_file(made())]),
            "kills": lambda: kill_and_resume(small(), folder, options.kills, kept("kills")),
            "rounds": lambda: kill_and_resume(
                full_scale_rounds(folder), folder, options.kills, kept("rounds")
            ),
        }
        record: dict[str, Any] = json.loads(options.record.read_text()) if options.record.is_file() else {}

        def kept(part: str) -> Tally | None:
            return Tally(**record[part]) if part in record else None

        wanted = dict.fromkeys(parts, 1) | {"kills": options.kills, "rounds": options.kills}
        for part, work in parts.items():
            before = kept(part)
            if part not in (options.only or parts) or (before and before.tried >= wanted[part]):
                continue
            for tally in work():
                print("\n".join(tally.what), table([tally]), tally.where, sep="\n", flush=True)
                record[part] = asdict(tally)
                write_json(options.record, record)
    tallies = [Tally(**record[part]) for part in parts if part in record]
    print(table(tallies))
    return int(any(t.wrong or t.tracebacks for t in tallies))


if __name__ == "__main__":
    sys.exit(main())
