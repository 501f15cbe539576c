"""The run directory: what was asked, which stages are done, and their metrics.

========================  =====================================================
case.toml                 the resolved case, all defaults filled in
run.json                  stages done, each with its versions, machine, times and metrics; seeds
metrics.json              every figure of the run, merged from its stages
history.jsonl             one line an evaluation of the optimiser
state.npz                 where the optimiser stands
design.npz                C11, C12, C44 of the designed field, whole grid
displacements.npz         displacements by load and field, whole grid
fields.vti, fields.vtu    all fields for ParaView, on the whole grid and on the solid elements
lattice.zarr              the filled lattice
region.stl                a part of it, as a mesh in millimetres
``figures/*.png, *.svg``
report.html, report.md    all of it for a reader
verify.npz                displacements of the cells' corners at full scale, after `multiscale verify`
tensorboard/              the design's history for TensorBoard, with `multiscale run --tensorboard`
========================  =====================================================

A stage is done when run.json says so; its outputs were written before. The
same command therefore goes on with the first stage that is not done. Where the
case now asks for something else after the design (another fill, another
export), the stages that depend on it are done again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import tomllib
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micro.runtime.errors import InputError
from micro.runtime.files import atomic_path, check_writable, write_json
from multiscale.case.case import Case, parse_case
from multiscale.rundir import provenance

STAGES = ("design", "fill", "evaluate", "export")

#: Metrics that other commands add, with the stages whose repetition makes them void.
ADDED = {name: ("design", "fill") for name in ("verify", "printability", "unseen")}


class RunDirectory:
    """A directory that belongs to one case.

    Parameters
    ----------
    path : Path
        Made if missing.
    case : Case
    ranks : int
        MPI ranks of this process's run.
    write : bool
        Whether to :meth:`begin`; False on the ranks that must not write.

    Attributes
    ----------
    again : tuple of str
        Stages that were done but are not any more, as the case asks for something else there.

    Raises
    ------
    InputError
        If the directory holds the run of another design, is not one that a run may use, or another process
        works in it.
    """

    def __init__(self, path: Path, case: Case, ranks: int = 1, write: bool = True):
        self.path = path
        self._write = write
        self._file = path / "run.json"
        self._inputs = case.stage_digests()
        self._data: dict[str, Any] = {"stages": {}}
        self.again: tuple[str, ...] = ()
        check_writable(path, "--out")
        if self._file.exists():
            self._data = _read(self._file)
            if self._data.get("design_sha256") != self._inputs["design"]:
                raise InputError(
                    "holds a run of another case, or of this one with other settings of its design: use "
                    "another --out",
                    file=path,
                )
            done = self._data["stages"]
            self.again = tuple(s for s in STAGES if s in done and done[s].get("inputs") != self._inputs[s])
            for stage in self.again:
                del done[stage]
        self._data.update(
            case_sha256=self._inputs["export"],
            design_sha256=self._inputs["design"],
            case_file=str(case.file.resolve()) if case.file else None,
            seeds={"fill": case.fill.seed},
        )
        self._ranks = ranks
        self._case = case
        if write:
            self.begin()

    def begin(self) -> None:
        """Make the directory, lock it and write what was asked; for the rank that writes."""
        self._write = True
        self.path.mkdir(parents=True, exist_ok=True)
        lock = _lock(self.path)
        if lock is not None:
            weakref.finalize(self, os.close, lock)
        with atomic_path(self.path / "case.toml") as temporary:
            temporary.write_text(self._case.to_toml(), encoding="utf-8")
        self._save()

    def done(self, stage: str) -> bool:
        """Whether a stage was finished, now or by an earlier command."""
        return stage in self._data["stages"]

    def finish(self, stage: str, seconds: Mapping[str, float], metrics: Mapping[str, Any]) -> None:
        """Record a stage: its times by name (for ``time.*``) and its metrics (nested)."""
        self._data["stages"][stage] = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "inputs": self._inputs[stage],
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "ranks": self._ranks,
            "seconds": {k: round(v, 3) for k, v in seconds.items()},
            "peak_bytes": provenance.peak_bytes(),
            "metrics": json.loads(json.dumps(metrics, default=_number)),
        }
        if self._write:
            self._save()
            write_json(self.path / "metrics.json", self.metrics() | self._added(stage))

    def metrics(self) -> dict[str, Any]:
        """All metrics so far, with times, memory and provenance: that of the last stage."""
        stages = [self._data["stages"][s] for s in STAGES if s in self._data["stages"]]
        out: dict[str, Any] = {}
        times: dict[str, float] = {}
        for stage in stages:
            _merge(out, stage["metrics"])
            for name, value in stage["seconds"].items():
                times[name] = round(times.get(name, 0.0) + value, 3)
        out["time"] = {**times, "total": round(sum(times.values()), 3)}
        out["memory"] = {"peak_bytes": max((s["peak_bytes"] for s in stages), default=0)}
        out |= {key: self._data[key] for key in ("case_sha256", "seeds")}
        out |= {key: stages[-1][key] for key in ("versions", "machine", "ranks") if stages}
        return out

    def _added(self, stage: str) -> dict[str, Any]:
        """What other commands have added to metrics.json and still holds after ``stage`` was done again."""
        file = self.path / "metrics.json"
        there = read_record(file) if file.is_file() else {}
        return {key: there[key] for key, stages in ADDED.items() if key in there and stage not in stages}

    def _save(self) -> None:
        write_json(self._file, self._data)


def _lock(path: Path) -> int | None:
    """Descriptor of the directory's lock, held until it is closed; None where files can't be locked."""
    number = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(number)
        raise InputError("another process works in this directory", key="--out", value=str(path)) from None
    except OSError:  # a file system without locks
        os.close(number)
        return None
    return number


def read_record(path: Path) -> dict[str, Any]:
    """One of a run's JSON files, such as ``metrics.json``.

    Raises
    ------
    InputError
        If it is missing, can't be read, or holds no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"is not the directory of a run: it has no {path.name}", file=path.parent) from None
    except (OSError, ValueError) as error:
        raise InputError(f"can't be read ({error})", file=path) from None
    if not isinstance(data, dict):
        raise InputError("is not a run's record", file=path)
    return data


def read_case(directory: Path) -> Case:
    """The resolved case of a run; files that it names are looked for where the run was started from.

    Raises
    ------
    InputError
        If there is none, or it can't be read.
    """
    file = directory / "case.toml"
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"is not the directory of a run ({error})", file=directory) from None
    record = directory / "run.json"
    return parse_case(data, (read_record(record).get("case_file") if record.is_file() else None) or file)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"can't be read as a run's record ({error}); use another --out", file=path) from None
    if not isinstance(data, dict) or not isinstance(data.get("stages"), dict):
        raise InputError("is not a run's record; use another --out", file=path)
    return data


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Recursive update."""
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _number(value: Any) -> Any:
    """Numpy scalars as plain ones."""
    return value.tolist()


def find_lattice(run_dir: str | os.PathLike[str]) -> Path:
    """The lattice of a run directory, or the path itself if it is one."""
    path = Path(run_dir)
    if not path.is_dir():
        raise InputError("there is no such run directory", file=run_dir)
    inside = path / "lattice.zarr"
    if inside.is_dir():
        return inside
    if (path / "zarr.json").is_file():
        return path
    raise InputError("this run has no lattice.zarr: was it filled?", file=run_dir)
