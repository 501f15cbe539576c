"""A finished run, read for reports and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.errors import InputError
from multiscale.case.case import Case
from multiscale.case.purpose import Purpose
from multiscale.lattice.lattice import Lattice
from multiscale.problem.problem import Problem, build_problem
from multiscale.problem.tensor_field import load_tensors
from multiscale.rundir.directory import read_case, read_record


class Run:
    """A run directory, read when asked.

    Raises
    ------
    InputError
        If it is not the directory of a run that was evaluated, or what is needed is damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError("there is no such run directory", file=path)
        self.record = read_record(self.path / "run.json")
        self.metrics = read_record(self.path / "metrics.json")
        quantity = self.purpose.quantity
        if value_at(self.metrics, f"{quantity}.design") is None:
            raise InputError(f"has no {quantity} yet: `multiscale run` goes on where it stopped", file=path)

    @property
    def purpose(self) -> Purpose:
        """What the case is for."""
        return self.case.objective.purpose

    @cached_property
    def case(self) -> Case:
        """The resolved case; files it names are looked for where the run was started from."""
        return read_case(self.path)

    @cached_property
    def problem(self) -> Problem:
        """The case on its grid."""
        return build_problem(self.case)

    @cached_property
    def lattice(self) -> Lattice:
        """The filled lattice."""
        return Lattice.load(self.path / "lattice.zarr")

    @cached_property
    def design(self) -> NDArray[np.float64]:
        """Designed tensors (nx, ny, nz, 3), units of E_s."""
        return load_tensors(self.path / "design.npz", self.problem)

    @cached_property
    def displacements(self) -> dict[str, NDArray]:
        """Displacements (nx+1, ny+1, nz+1, 3) in element edges, by LOAD.STRUCTURE."""
        file = self.path / "displacements.npz"
        try:
            with np.load(file, allow_pickle=False) as data:
                return {key: data[key] for key in data.files}
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"can't be read as displacements ({error})", file=file) from None

    @property
    def finished(self) -> str:
        """When the last stage was finished."""
        return max((str(s.get("finished", "")) for s in self.record.get("stages", {}).values()), default="")


def value_at(metrics: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    here: Any = metrics
    for part in key.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return None
        here = here[part]
    return here
