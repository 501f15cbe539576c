"""The stage ``full_scale``: the lattice solved voxel by voxel, and the design corrected by what that shows.

Round 0 is the first design and its lattice. Every further round corrects the objective by the full-scale
solution of the best lattice so far (:mod:`multiscale.objective.correction`), goes on with that design, fills
it, and solves the new lattice at full scale. The lattice that is best *at full scale* is the run's. All of a
round stands in ``rounds/N``; what is there and was made from the same case is not made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

from micro.runtime.errors import InputError, NotConverged
from micro.runtime.files import atomic_path, write_json
from micro.runtime.npz import read_arrays
from multiscale.case.purpose import UNIFORM
from multiscale.lattice.lattice import Lattice
from multiscale.objective.correction import Correction
from multiscale.run.correction import design_model, fill_design, keep_design, redesign
from multiscale.run.session import Session
from multiscale.rundir.directory import RunDirectory
from multiscale.rundir.record import read_record
from multiscale.solve import ranks as parallel
from multiscale.solve.errors import RankFailed
from multiscale.verify.coarse_cells import Composites
from multiscale.verify.full_scale import Measurement, measure, save_displacements
from multiscale.verify.solution import load_solution

_KEPT = "solutions"


@dataclass(frozen=True)
class Round:
    """One round, as ``metrics.json`` has it in ``full_scale.rounds``.

    Attributes
    ----------
    number : int
    value : float
        J of the lattice at full scale; infinite if its solve failed.
    predicted : float
        J of the lattice by the model that it was designed with.
    seconds : dict of str to float
        For the design, the filling, and the solve.
    failed : str
        Why there is no value.
    """

    number: int
    value: float
    predicted: float
    seconds: dict[str, float]
    failed: str = ""


def full_scale_stage(session: Session, directory: RunDirectory) -> None:
    """Solve the lattice at full scale, and as many rounds as the case asks for."""
    start = time.monotonic()
    settings, reporter = session.case.full_scale, session.reporter
    quantity = session.purpose.quantity
    rounds: list[Round] = []
    best = 0
    known = Composites(session.problem.poisson)
    for number in range(settings.rounds + 1):
        work = _Work(session, directory, number, known)
        rounds.append(work.run(rounds[best] if rounds else None))
        latest = rounds[-1]
        if latest.failed:
            reporter.say(
                f"[bold]round {number} failed[/bold] ({latest.failed}): the lattice of round {best} stays"
            )
            break
        said = f"{quantity} {latest.value:.4g} at full scale, predicted {latest.predicted:.4g}"
        reporter.say(f"[bold]round {number}[/bold]: {said}")
        gain = 1.0 if number == 0 else 1 - latest.value / rounds[best].value
        if gain > 0:
            best = number
        if gain < settings.least_gain:
            break
    metrics = parallel.on_root(lambda: _hand_over(session, directory, rounds, best)) or {}
    files = ["full_scale.npz"] + (["design.npz", "lattice.zarr"] if settings.rounds else [])
    directory.finish(
        "full_scale",
        {"full_scale": time.monotonic() - start},
        metrics,
        files=files,
        reads=(session.first("design.npz"), session.first("lattice.zarr")),
    )


class _Work:
    """What a round does, step by step; each is skipped if its result is there."""

    def __init__(
        self, session: Session, directory: RunDirectory, number: int, known: Composites | None = None
    ):
        self.session = session
        self.known = known
        self.directory = directory
        self.number = number
        self.path = directory.path / "rounds" / str(number)
        self.kept = directory.path / "rounds" / _KEPT
        self.file = self.path / "round.json"

    def run(self, before: Round | None) -> Round:
        """Design, fill, solve; ``before`` is the best round so far, None for the first lattice."""
        if before is None:
            predicted = self._first_prediction()
            seconds: dict[str, float] = {}
        else:
            filled = self._design_and_fill(before)
            predicted, seconds = filled["predicted"], dict(filled["seconds"])
        start = time.monotonic()
        value, failed = self._measure()
        seconds["solve"] = round(time.monotonic() - start, 2)
        return Round(self.number, value, predicted, seconds, failed)

    @property
    def inputs(self) -> str:
        """Digest of what a round is made from, but for the number of rounds."""
        case = self.session.case
        own = case.full_scale.model_dump(mode="json", include={"voxels_per_cell", "iterations"})
        said = [case.digest(without=("full_scale", "export")), json.dumps(own), str(self.number)]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    def place(self, name: str) -> Path:
        """Where this round's design or lattice stands."""
        return self.path / name if self.number else self.directory.path / self.session.first(name)

    def _first_prediction(self) -> float:
        """The objective of the first lattice by the model that its design was filled by."""
        session = self.session
        lattice = parallel.on_root(lambda: Lattice.load(self.place("lattice.zarr")))
        model = design_model(session, self.place("design.npz"))
        return model.value(session.built(lattice), session.case.solver.rtol_evaluate).total

    # ------------------------------------------------------------ design and fill
    def _design_and_fill(self, before: Round) -> dict[str, Any]:
        session, name = self.session, f"rounds/{self.number}"
        parallel.on_root(self._clear)
        record = self._record()
        if "fill" in record:
            return record
        earlier = _Work(session, self.directory, before.number)
        corrected = session.objective.corrected(earlier.correction())
        start = time.monotonic()
        state = redesign(
            session,
            corrected,
            earlier.variables(),
            self.path,
            session.case.full_scale.iterations,
            f"design corrected at full scale, round {self.number}",
        )
        if state.best is None:
            raise NotConverged(f"round {self.number} found no design within the mass limit")
        keep_design(session, self.directory, state, f"{name}/design.npz")
        designed = time.monotonic() - start
        start = time.monotonic()
        # Most of the design stays nearly as it was, and so do its cells.
        known = parallel.on_root(lambda: Lattice.load(earlier.place("lattice.zarr")).compact().cells)
        fill, predicted = fill_design(
            session, self.place("design.npz"), self.place("lattice.zarr"), corrected, known
        )
        seconds = {"design": round(designed, 2), "fill": round(time.monotonic() - start, 2)}
        record = {
            "inputs": self.inputs,
            "designed": state.best_value,
            "predicted": predicted,
            "evaluations": len(state.records),
            "seconds": seconds,
            "feasibility": session.feasibility(state.best),
            "fill": fill,
        }
        parallel.on_root(lambda: write_json(self.file, record))
        return record

    def _clear(self) -> None:
        """Move aside what an earlier command made here from another case."""
        mark = self.path / "inputs.json"
        there = read_record(mark).get("inputs") if mark.is_file() else None
        if there == self.inputs:
            return
        if self.path.is_dir():
            self.directory.set_aside([f"rounds/{self.number}"], f"round {self.number}: of another case")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(mark, {"inputs": self.inputs})

    def _record(self) -> dict[str, Any]:
        """What the round has left so far, empty if it is not filled."""
        return read_record(self.file) if self.file.is_file() else {}

    def variables(self) -> Any:
        """The optimiser's variables (N, 3) that this round's design ended with."""
        return read_arrays(self.place("variables.npz"))["x"]

    # -------------------------------------------------------------------- solve
    def _measure(self) -> tuple[float, str]:
        """J at full scale; infinite with the reason where a later round's solve fails."""
        settings = self.session.case.full_scale
        try:
            found = self.measurement()
        except (NotConverged, InputError, RankFailed) as error:
            if self.number == 0:
                raise
            return float("inf"), str(error)
        solutions = {"voxels_per_cell": settings.voxels_per_cell, "files": found.files}

        def keep() -> None:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / "full_scale.json", {"metrics": found.metrics, **solutions})
            save_displacements(self.path / "full_scale.npz", found)

        parallel.on_root(keep)
        return found.value, ""

    def measurement(self) -> Measurement:
        """The lattice at full scale, solved unless it was before."""
        session, settings = self.session, self.session.case.full_scale
        assert settings.voxels_per_cell is not None
        limit = settings.max_memory_gb
        parallel.on_root(lambda: self.kept.mkdir(parents=True, exist_ok=True))
        lattice = Lattice.load(self.place("lattice.zarr"))
        uniform = None
        if session.purpose.baseline == UNIFORM:
            _, told = session.best_uniform(lattice if parallel.is_root() else None)
            uniform = told["uniform"]["tensor"]
        return measure(
            session.case,
            session.problem,
            lattice,
            uniform,
            voxels_per_cell=settings.voxels_per_cell,
            max_memory=None if limit is None else 1e9 * limit,
            reporter=session.reporter,
            kept=self.kept,
            known=self.known,
        )

    def correction(self) -> Correction:
        """What the full-scale solution of this round's lattice adds to the objective."""
        session = self.session
        objective = session.objective
        shape = (*(n + 1 for n in objective.reduction.shape), 3)

        def solved(name: str) -> list[Any] | None:
            """Displacements of every load, on every rank."""

            def read() -> list[Any]:
                files = read_record(self.path / "full_scale.json")["files"]
                return load_solution(self.kept / files[name]).corners

            mine = parallel.on_root(read)
            return [
                parallel.from_root(None if mine is None else mine[i], shape)
                for i in range(len(objective.loads))
            ]

        lattice = parallel.on_root(lambda: Lattice.load(self.place("lattice.zarr")))
        found = solved("lattice")
        assert found is not None
        reference = solved("reference") if session.purpose.has_reference else None
        rtol = session.case.solver.rtol_evaluate
        return objective.correction(session.built(lattice), found, reference, rtol)


def _hand_over(session: Session, directory: RunDirectory, rounds: list[Round], best: int) -> dict[str, Any]:
    """The best lattice and its design become the run's; returns the metrics."""
    work = _Work(session, directory, best)
    record = read_record(work.path / "full_scale.json")
    _copy(work.path / "full_scale.npz", directory.path / "full_scale.npz")
    if session.case.full_scale.rounds:
        _copy(work.place("design.npz"), directory.path / "design.npz")
        Lattice.load(work.place("lattice.zarr")).save(directory.path / "lattice.zarr")
    metrics: dict[str, Any] = {}
    if best:
        made = read_record(work.file)
        metrics = {**made["fill"], "feasibility": made["feasibility"]}
    listed = []
    for r in rounds:
        file = _Work(session, directory, r.number).path / "full_scale.json"
        own = read_record(file)["metrics"] if not r.failed else {}
        listed.append(
            {
                "round": r.number,
                "value": None if r.failed else r.value,
                "predicted": r.predicted,
                "voxels_per_cell": session.case.full_scale.voxels_per_cell,
                "seconds": r.seconds,
                "iterations": own.get("iterations"),
                **({"failed": r.failed} if r.failed else {}),
            }
        )
    return {**metrics, "full_scale": {**record["metrics"], "round": best, "rounds": listed}}


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        copyfile(source, temporary)
