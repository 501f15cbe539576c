"""Every evaluation of a design kept on disk: what an interrupted search goes on from.

An optimiser cannot be stopped and taken up again, but it is deterministic: given the same values and slopes
it asks for the same points. A resumed run therefore searches from its start, and is answered from what was
kept until that ends, in seconds; what follows is solved. So it ends where the uninterrupted run ends.

=====================  =====================================================
``0001.npz`` ...       ``point`` (SHA-256 of the tensors asked for), ``value``, ``per_load``, ``sensitivity``
                       (N, 3) if it was asked for, ``iterations`` of the solves, ``seconds`` since the start
``0001.warm.npz``      displacements by load, from which the next solves start; the last evaluation's only
=====================  =====================================================
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.npz import read_arrays, write_arrays
from multiscale.design.space import DesignSpace
from multiscale.objective.combination import Value
from multiscale.objective.objective import Objective

FOLDER = "evaluations"
"""Name of their directory in a run directory."""


@dataclass(frozen=True)
class Evaluation:
    """A design's value.

    Attributes
    ----------
    value : Value
    sensitivity : array (N, 3), or None if it was not asked for
        dJ/dC of the design elements.
    seconds : float
        Of the search when this was known, interruptions not counted.
    """

    value: Value
    sensitivity: Floats | None
    seconds: float


class Evaluations:
    """Evaluates designs in the order they are asked for; answers from disk what was evaluated before.

    Parameters
    ----------
    objective : Objective
    space : DesignSpace
    folder : Path or None
        None keeps nothing.
    write : bool
        Whether this process writes; every rank reads.

    Attributes
    ----------
    kept : int
        Evaluations that an earlier command left.
    iterations : list of int
        Of every solve of the search.
    """

    def __init__(
        self, objective: Objective, space: DesignSpace, folder: Path | None = None, write: bool = True
    ):
        self._objective = objective
        self._space = space
        self._folder = folder
        self._write = write
        self._count = 0
        self._clock: float | None = None
        self._seconds = 0.0
        self.iterations: list[int] = []
        self.kept = 0
        while folder is not None and (folder / f"{self.kept + 1:04d}.npz").exists():
            self.kept += 1

    def evaluate(self, tensors: Floats, *, slope: bool) -> Evaluation:
        """Value, and with ``slope`` the sensitivity, of tensors (N, 3) of the design elements."""
        self._count += 1
        point = hashlib.sha256(np.ascontiguousarray(tensors).tobytes() + bytes([slope])).hexdigest()
        found = self._recall(point) if self._count <= self.kept else None
        return found or self._solve(tensors, point, slope)

    def _recall(self, point: str) -> Evaluation | None:
        """What was kept of this evaluation; nothing if it is damaged or of another point."""
        assert self._folder is not None
        try:
            held = read_arrays(self._folder / f"{self._count:04d}.npz")
            per_load = dict(zip(map(str, held["loads"]), map(float, held["per_load"]), strict=True))
            value, seconds = Value(float(held["value"]), per_load), float(held["seconds"])
            same = str(held["point"]) == point
        except (InputError, KeyError):
            same = False
        if not same:
            self.kept = self._count - 1  # what follows belongs to a search that went elsewhere
            return None
        self._seconds = seconds
        self.iterations += [int(n) for n in held["iterations"]]
        return Evaluation(value, held.get("sensitivity"), seconds)

    def _solve(self, tensors: Floats, point: str, slope: bool) -> Evaluation:
        objective = self._objective
        if self._clock is None:
            self._clock = time.monotonic() - self._seconds
            self._start_warm()
        field = self._space.field(tensors)
        before = len(objective.iterations)
        sensitivity = None
        if slope:
            value, gradient = objective.value_and_gradient(field)
            sensitivity = gradient[self._space.design]
        else:
            value = objective.value(field)
        solves = objective.iterations[before:]
        self.iterations += solves
        self._seconds = time.monotonic() - self._clock
        evaluation = Evaluation(value, sensitivity, self._seconds)
        if self._folder is not None and self._write:
            self._keep(self._folder, point, evaluation, solves)
        return evaluation

    def _start_warm(self) -> None:
        """Before the first solve of this command: the warm starts that the evaluation before it left."""
        self._objective.forget()
        if self._folder is None or self._count == 1:
            return
        try:
            held = read_arrays(self._folder / f"{self._count - 1:04d}.warm.npz")
            starts = [held[load.name] for load in self._objective.loads]
        except (InputError, KeyError):  # the solves then start cold, and end within their tolerance
            return
        self._objective.start_from(starts)

    def _keep(self, folder: Path, point: str, evaluation: Evaluation, iterations: list[int]) -> None:
        """Write the evaluation, and its warm start before it: a kill leaves none without it."""
        loads = self._objective.loads
        warm = {
            load.name: u
            for load, u in zip(loads, self._objective.warm_starts(), strict=True)
            if u is not None
        }
        write_arrays(folder / f"{self._count:04d}.warm.npz", warm, pack=False)
        arrays = {
            "point": np.array(point),
            "value": np.array(evaluation.value.total),
            "loads": np.array(list(evaluation.value.per_load)),
            "per_load": np.array(list(evaluation.value.per_load.values())),
            "iterations": np.array(iterations, dtype=np.int64),
            "seconds": np.array(evaluation.seconds),
        }
        if evaluation.sensitivity is not None:
            arrays["sensitivity"] = evaluation.sensitivity
        write_arrays(folder / f"{self._count:04d}.npz", arrays, pack=False)
        (folder / f"{self._count - 1:04d}.warm.npz").unlink(missing_ok=True)
