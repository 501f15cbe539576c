"""The run directory: what was asked, which stages are done, what they left, and their metrics.

========================  =====================================================
case.toml                 the resolved case, all defaults filled in
run.json                  stages done: :mod:`multiscale.rundir.record`
metrics.json              every figure of the run, merged from its stages
history.jsonl             one line an evaluation of the optimiser
evaluations/              every evaluation of the optimiser, which an interrupted run goes on from
design.npz                C11, C12, C44 of the designed field, whole grid
displacements.npz         displacements by load and field, whole grid
fields.vti, fields.vtu    all fields for ParaView, on the whole grid and on the solid elements
lattice.zarr              the filled lattice
region.stl                a part of it, as a mesh in millimetres
``figures/*.png, *.svg``
report.html, report.md    all of it for a reader
full_scale.npz            displacements of the cells' corners at full scale, with `[full_scale]`
rounds/N                  design, lattice and solutions of each round of `[full_scale]`; 0: the first
verify_N.npz              displacements of the cells' corners at full scale, after `multiscale verify`
tensorboard/              the design's history for TensorBoard, with `multiscale run --tensorboard`
earlier/N                 results that another filling or a repair replaced
========================  =====================================================

A stage is done when run.json says so, what it left is as it left it, and what it read is still what its
maker left. The same command therefore goes on with the first stage that is not done, and makes again what
is missing or damaged. Nothing is thrown away: what a stage is going to replace moves to ``earlier``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import BaseFileLock
from numpy.typing import NDArray

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.files import (
    PathLike,
    atomic_path,
    check_writable,
    clear_temporaries,
    content_digest,
    write_json,
)
from micro.runtime.npz import read_arrays
from multiscale.case.case import Case, parse_case
from multiscale.case.differences import described, differences
from multiscale.case.purpose import Purpose
from multiscale.lattice.lattice import Lattice
from multiscale.problem.problem import Problem, build_problem
from multiscale.problem.tensor_field import load_tensors
from multiscale.rundir import aside, lock, provenance, record, refusals
from multiscale.rundir.record import STAGES

#: Seconds that a command waits for another one to write its part of the record.
_PATIENCE = 60.0


class RunDirectory:
    """A run on disk: the one that writes its record and its metrics, and the one that reads its files.

    ``RunDirectory.open(path)`` reads one; ``RunDirectory.create(path, case)`` begins one, or goes on with
    it. By itself it is a name only: ranks that do not write hold such a one.

    Attributes
    ----------
    path : Path
    notes : list of str
        What a user has to know of how this run goes on: what is done again and why, what was moved.
    """

    def __init__(self, path: PathLike, ranks: int = 1):
        self.path = Path(path)
        self.notes: list[str] = []
        self._ranks = ranks
        self._data: dict[str, Any] = {}
        self._inputs: dict[str, str] = {}
        self._lock: BaseFileLock | None = None
        self._checked: dict[str, str] = {}

    # ------------------------------------------------------------------ open
    @classmethod
    def open(cls, path: PathLike) -> RunDirectory:
        """A run that is there, for reading and :meth:`add`.

        Raises
        ------
        InputError
            If it is not the directory of a run, its record is damaged, or its ``case.toml`` is not the one
            that its results were made for.
        """
        self = cls(path)
        if not self.path.is_dir():
            raise InputError("there is no such run directory", file=path)
        self._data = record.read_run(self.path)
        refusals.check_case(self.path, self._data)
        return self

    @classmethod
    def create(cls, path: PathLike, case: Case, ranks: int = 1) -> RunDirectory:
        """Begin a run, or go on with it: :meth:`begin`."""
        self = cls(path, ranks)
        self.begin(case)
        return self

    def begin(self, case: Case) -> None:
        """Make the directory, lock it, see what stands, write what is asked; for the rank that writes.

        Raises
        ------
        InputError
            If the directory holds the run of another design, or something else, can't be written to, or
            another run works in it. Nothing was changed then.
        """
        check_writable(self.path, "--out")
        self._inputs = case.stage_digests()
        refusals.refuse_other(self.path, case, self._inputs["design"])
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock.acquired(self.path, lock.WORK, 0.0)
        except InputError as error:
            raise InputError(error.reason, key="--out", value=str(self.path)) from None
        clear_temporaries(self.path)
        refusals.refuse_other(self.path, case, self._inputs["design"])
        asked = case.model_dump(mode="json", exclude_none=True)
        toml = case.to_toml()
        new = {
            "format": record.FORMAT,
            "case": asked,
            "sources": case.files(),
            "case_file": str(case.file.resolve()) if case.file else None,
            "changes": case.changes,
            "toml": hashlib.sha256(toml.encode()).hexdigest(),
            "case_sha256": self._inputs["export"],
            "design_sha256": self._inputs["design"],
            "seeds": {"fill": case.fill.seed},
        }
        if (self.path / record.NAME).exists():
            self._data = record.read_run(self.path)
            self._set_aside_changed(asked)
            self._set_aside_damaged()
        self._data = {"stages": {}, "added": {}} | self._data | new
        with lock.held(self.path, lock.RECORD, _PATIENCE):
            self._write()
        with atomic_path(self.path / "case.toml") as temporary:
            temporary.write_text(toml, encoding="utf-8")

    def release(self) -> None:
        """Let another run work here; the end of the process does it too."""
        if self._lock is not None:
            self._lock.release()

    # ---------------------------------------------------------------- stages
    def done(self, stage: str) -> bool:
        """Whether a stage was finished, now or by an earlier command, and what it left is there as it was."""
        entry = self._data.get("stages", {}).get(stage)
        return (
            entry is not None
            and entry["inputs"] == self._inputs.get(stage, entry["inputs"])
            and record.stands(self._data, stage)
            and not any(self._spoilt(name) for name in entry["files"])
        )

    def start(self, stage: str) -> None:
        """Before a stage is done again: what it left moves aside if it was made from something else."""
        if stage in self._data.get("stages", {}) and not record.stands(self._data, stage):
            self.set_aside(self._data["stages"][stage]["files"], f"{stage}: made anew from another design")

    def finish(
        self,
        stage: str,
        seconds: Mapping[str, float],
        metrics: Mapping[str, Any],
        files: Iterable[str] = (),
        reads: Iterable[str] = (),
    ) -> None:
        """Record a stage.

        Parameters
        ----------
        stage : str
        seconds : mapping
            Its times by name, for ``time.*``.
        metrics : mapping
            Nested.
        files, reads : iterables of str
            What it left and what it was made from, by name in this directory.
        """
        if not self._data:
            return
        entry = {
            "inputs": self._inputs[stage],
            **self._made(metrics, files, reads),
            "ranks": self._ranks,
            "seconds": {k: round(v, 3) for k, v in seconds.items()},
        }
        self._update("stages", stage, entry)

    def add(
        self, name: str, metrics: Mapping[str, Any], files: Iterable[str] = (), reads: Iterable[str] = ()
    ) -> None:
        """Add a section to the metrics, of another command than the run; parameters as :meth:`finish`.

        Parameters
        ----------
        name : str
            Of the section; ``verify/8`` for one of several variants.
        metrics, files, reads
            As :meth:`finish`.

        Raises
        ------
        InputError
            If what it was made from is not what the run has any more.
        """
        self._update("added", name, self._made(metrics, files, reads))

    def check_addable(self) -> None:
        """Before long work whose result is to be added.

        Raises
        ------
        InputError
            If the directory can't be written to.
        """
        check_writable(self.path)

    @property
    def metrics(self) -> dict[str, Any]:
        """All metrics so far, with times, memory and provenance: that of the last stage."""
        data = self._data
        out = record.merged([data["stages"][s] for s in STAGES if record.stands(data, s)])
        out |= {key: data[key] for key in ("case_sha256", "seeds")}
        return out | record.added_sections(data)

    @property
    def finished(self) -> str:
        """When the last stage was finished."""
        return max((str(s["finished"]) for s in self._data["stages"].values()), default="")

    def require(self, stage: str) -> None:
        """Refuse a run that has not come so far.

        Raises
        ------
        InputError
        """
        if not record.stands(self._data, stage):
            raise InputError(f"its stage {stage} is not done: {self._command()} goes on", file=self.path)

    # ----------------------------------------------------------------- files
    def file(self, name: str) -> Path:
        """A file that a stage or another command left, checked to be as they left it.

        Raises
        ------
        InputError
            If nothing left it, or it is missing or damaged, with the command that makes it anew.
        """
        maker = record.maker_of(self._data, name)
        if maker is None:
            raise InputError(f"this run has no {name} yet: {self._command()} makes it", file=self.path)
        if not record.stands(self._data, maker):
            raise InputError(
                f"was made from another design: {self._command(maker)} makes it anew", file=self.path / name
            )
        wrong = self._spoilt(name)
        if wrong:
            raise InputError(f"{wrong}: {self._command(maker)} makes it anew", file=self.path / name)
        return self.path / name

    @property
    def names(self) -> tuple[str, ...]:
        """The files that stages and other commands left."""
        return tuple(file for entry in record.entries(self._data).values() for file in entry["files"])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved case as nested tables."""
        return dict(self._data["case"])

    @cached_property
    def case(self) -> Case:
        """The resolved case; files that it names are looked for where the run was started from.

        Raises
        ------
        InputError
            If one of these is missing or has changed since.
        """
        file = self._data["case_file"]
        case = parse_case(self.settings, file or self.path / "case.toml")
        for name, digest in case.files().items():
            if self._data["sources"].get(name) != digest:
                raise InputError("has changed since this run was made", file=case.path(name))
        return case

    @cached_property
    def purpose(self) -> Purpose:
        """What the case is for."""
        return self.case.objective.purpose

    @cached_property
    def problem(self) -> Problem:
        """The case on its grid."""
        return build_problem(self.case)

    @cached_property
    def lattice(self) -> Lattice:
        """The filled lattice."""
        return Lattice.load(self.file("lattice.zarr"))

    @cached_property
    def design(self) -> Floats:
        """Designed tensors (nx, ny, nz, 3), units of E_s."""
        return load_tensors(self.file("design.npz"), self.problem)

    @cached_property
    def displacements(self) -> dict[str, NDArray]:
        """Displacements (nx+1, ny+1, nz+1, 3) in element edges, by LOAD.STRUCTURE."""
        return read_arrays(self.file("displacements.npz"))

    # ---------------------------------------------------------------- record
    def _made(self, metrics: Mapping[str, Any], files: Iterable[str], reads: Iterable[str]) -> dict[str, Any]:
        """The part of an entry that stages and additions share."""
        known: dict[str, str] = {}
        for made in record.entries(self._data).values():
            known |= made["files"]
        return {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "reads": {name: known[name] for name in reads},
            "files": {name: content_digest(self.path / name) for name in files},
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "peak_bytes": provenance.peak_bytes(),
            "metrics": metrics,
        }

    def _update(self, kind: str, name: str, entry: dict[str, Any]) -> None:
        """Put an entry into the record as it stands on disk now, and write it with the metrics."""
        with lock.held(self.path, lock.RECORD, _PATIENCE):
            self._data = record.read_run(self.path)
            self._data[kind][name] = entry
            if not record.stands(self._data, name):
                what = ", ".join(entry["reads"])
                raise InputError(f"{what} was made anew meanwhile: do this again", file=self.path)
            void = [n for n in self._data["added"] if not record.stands(self._data, n)]
            for other in void:
                del self._data["added"][other]
            self._checked = {}
            self._write()

    def _write(self) -> None:
        """Record and metrics; the record's lock is held."""
        record.write_run(self.path, self._data)
        self._data = record.read_run(self.path)
        write_json(self.path / "metrics.json", self.metrics)

    def _spoilt(self, name: str) -> str:
        """What is wrong with a file that was left: "is missing", "is damaged", or nothing."""
        if name not in self._checked:
            maker = record.maker_of(self._data, name)
            digest = record.entries(self._data)[maker]["files"][name] if maker else ""
            found = content_digest(self.path / name)
            self._checked[name] = "" if found == digest else "is damaged" if found else "is missing"
        return self._checked[name]

    def _command(self, maker: str | None = None) -> str:
        return refusals.command(self.path, self._data, maker)

    # ---------------------------------------------------------------- aside
    def _set_aside_changed(self, asked: Mapping[str, Any]) -> None:
        """Stages that the case now wants differently: not done any more, and what they left moves."""
        stages = self._data["stages"]
        again = [s for s in STAGES if s in stages and stages[s]["inputs"] != self._inputs[s]]
        if not again:
            return
        found = differences(self._data["case"], asked)
        files = [name for stage in again for name in stages[stage]["files"]]
        left = {k: v for k, v in self._data.items() if k != "stages"}
        kept = left | {"stages": {s: e for s, e in stages.items() if s not in again}}
        gone = [n for n in kept["added"] if not record.stands(kept, n)]
        files += [name for addition in gone for name in kept["added"][addition]["files"]]
        reason = f"the case asks for something else now ({described(found) or 'other files'}); done again: "
        extra = f"; no longer true: {', '.join(gone)}" if gone else ""
        self.set_aside(files, reason + ", ".join(again) + extra, copies=True)
        kept["added"] = {n: e for n, e in kept["added"].items() if n not in gone}
        self._data = kept

    def _set_aside_damaged(self) -> None:
        """What was altered since it was left moves; that, and what is missing, is made again."""
        damaged = []
        for stage, entry in self._data["stages"].items():
            wrong = {name: self._spoilt(name) for name in entry["files"] if self._spoilt(name)}
            damaged += [name for name, what in wrong.items() if what == "is damaged"]
            if wrong:
                named = ", ".join(f"{name} {what}" for name, what in wrong.items())
                self.notes.append(f"{named}: {stage} is done again")
        file = self.path / "case.toml"
        if file.is_file() and content_digest(file) != self._data["toml"]:
            damaged.append("case.toml")
        if damaged:
            self.set_aside(damaged, "not as this run left it")

    def set_aside(self, names: Iterable[str], reason: str, *, copies: bool = False) -> None:
        """Move what is of no use any more to ``earlier``, by name in this directory; those that are there.

        With ``copies`` reports move too, and copies of the record are kept beside.
        """
        note = aside.move(self.path, names, reason, copies=copies)
        self._checked = {}
        self.notes += note


def addable_run(path: PathLike) -> RunDirectory | None:
    """The run in a directory, if it can be added to; None where there is none, as in a lattice by itself.

    Raises
    ------
    InputError
        If there is a run that is damaged, or can't be added to.
    """
    if not (Path(path) / record.NAME).is_file():
        return None
    run = RunDirectory.open(path)
    run.check_addable()
    return run


def find_lattice(run_dir: PathLike) -> Path:
    """The lattice of a run directory, or the path itself if it is one.

    Raises
    ------
    InputError
        If there is none, or the run's is missing or damaged.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise InputError("there is no such run directory", file=run_dir)
    if (path / record.NAME).is_file():
        return RunDirectory.open(path).file("lattice.zarr")
    inside = path / "lattice.zarr"
    if (path / "case.toml").is_file():
        raise InputError(f"the record of this run is missing: give {inside} itself", file=path / record.NAME)
    if inside.is_dir():
        return inside
    if (path / "zarr.json").is_file():
        return path
    raise InputError("this run has no lattice.zarr: was it filled?", file=run_dir)
