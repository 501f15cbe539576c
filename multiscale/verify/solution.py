"""One structure's solution at full scale, and its file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.npz import read_arrays, write_arrays
from multiscale.case.case import Case
from multiscale.lattice.lattice import Lattice


@dataclass(frozen=True, eq=False)
class FullScale:
    """One structure solved at full scale.

    Attributes
    ----------
    corners : list of arrays (mx+1, my+1, mz+1, 3)
        Displacements of the wanted cells' corners for each load, in cell edges, reduced grid.
    work : list of float
        Work of each load's forces on the reduced grid, E_s h^3 with the cell's edge h.
    iterations : list of int
        Conjugate gradient iterations of each load.
    residual : float
        Largest relative residual.
    unknowns, removed, averaged : int
        Degrees of freedom; voxels taken out because nothing holds them; wanted corners in the void.
    setup_seconds, solve_seconds : float
    """

    corners: list[Floats]
    work: list[float]
    iterations: list[int]
    residual: float
    unknowns: int
    removed: int
    averaged: int
    setup_seconds: float
    solve_seconds: float


def save_solution(file: Path, solution: FullScale) -> None:
    """Keep one structure's solution; :func:`load_solution` reads it."""
    numbers = {f.name: np.array(getattr(solution, f.name)) for f in fields(solution) if f.name != "corners"}
    write_arrays(file, {**numbers, **{f"corners.{i}": u for i, u in enumerate(solution.corners)}})


def load_solution(file: Path) -> FullScale:
    """A solution that :func:`save_solution` left.

    Raises
    ------
    InputError
        If it can't be read.
    """
    arrays = read_arrays(file)
    corners = [arrays.pop(f"corners.{i}") for i in range(len(arrays["work"]))]
    return FullScale(corners=corners, **{name: value.tolist() for name, value in arrays.items()})


#: Tables of a case that mean nothing to a lattice that is there.
_OF_THE_DESIGN = ("filter", "gamut", "optimizer", "fill", "export", "full_scale")


def content(case: Case, lattice: Lattice, rtol: float) -> str:
    """Digest of all that a solution depends on: cells and index, grid, supports, loads, tolerance."""
    said = [lattice.compact().digest(), case.digest(without=_OF_THE_DESIGN), repr(rtol)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()
