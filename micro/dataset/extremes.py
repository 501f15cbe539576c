"""Cells at and beyond the edge of what formulas reach, by inverse homogenisation.

Two kinds of runs, each a file of binary, connected, homogenised cells:

- **designs**: topology optimisation for an objective at a volume (:mod:`micro.inverse.optimise`); the
  result, the designs of its last stages made binary, and the cells on a way from the result back to the
  nearest tensor of the library, which fill what lies between;
- **pushes**: cells at the edge of the gamut that library and early rounds span, spread evenly over it; their
  surfaces move toward a tensor ahead of them along the gamut's outward normal
  (:func:`micro.inverse.matching.match_target`), and every cell on the way is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micro.cell.cellset import CellSet
from micro.cell.tensor import POISSON, from_scaled_moduli, scaled_moduli
from micro.data.packaged import load_library
from micro.gamut.gamut import Gamut
from micro.inverse import Goal, Settings, match_target, optimise
from micro.library.build import choose
from micro.library.labelling import COARSE_RTOL
from micro.library.retrieval import nearest
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import NotConverged

RIM = 0.015
"""Cells whose phi is below this (in scaled moduli) stand at the edge."""

AHEAD = 0.08
"""How far ahead a goal lies, in scaled moduli."""

LEAST = 0.4
"""No modulus of a goal is less than this share of the start's: moduli stay positive."""

OBJECTIVES: tuple[tuple[str, bool, tuple[float, ...], tuple[str, ...]], ...] = (
    ("poisson", False, (0.2, 0.3, 0.15, 0.4), ("i-wp",)),
    ("shear", True, (0.3, 0.6), ("i-wp",)),
    ("poisson", True, (0.25,), ("i-wp",)),
    ("bulk", True, (0.1, 0.5), ("schwarz-p",)),
    ("young", False, (0.1, 0.4), ("schwarz-p",)),
    ("shear", False, (0.1, 0.4), ("i-wp",)),
    ("bulk", False, (0.05, 0.95), ("schwarz-p",)),
    ("young", True, (0.3,), ("i-wp",)),
)
"""Objective, whether isotropic, volumes, and initial fields of the designs."""


EFFORT = 0.5
"""Share of the usual number of evaluations of a design: data need not be the optimum."""

_SEED = 120


@dataclass(frozen=True)
class Push:
    """One run from an octant toward a tensor.

    Attributes
    ----------
    path : Path
        File of the cells found on the way.
    octant : bool array, shape (n, n, n)
    goal : array, shape (3,)
        C11, C12, C44 in units of E_s; it need not be reachable.
    iterations : int
        Homogenisations at most.
    nu : float
        Poisson's ratio of the base material.
    """

    path: Path
    octant: Bools
    goal: Floats
    iterations: int
    nu: float = POISSON

    def cells(self) -> CellSet:
        """The cells passed, the start left out."""
        return _way(self.octant, self.goal, self.iterations, "inverse", self.nu)

    def make(self) -> None:
        """Write the cells."""
        self.cells().save(self.path)


@dataclass(frozen=True)
class Design:
    """One topology optimisation.

    Attributes
    ----------
    path : Path
        File of its cells.
    settings : micro.inverse.Settings
    """

    path: Path
    settings: Settings

    def cells(self) -> CellSet:
        """The result, its last stages and the way back to the library; none if it does not converge."""
        name, nu = f"inverse-{self.settings.goal.name}", self.settings.nu
        try:
            result = optimise(self.settings, keep=True)
        except NotConverged:
            # A start that leads to no connected cell is an outcome, not to be tried again on resuming.
            return _set(self.settings.n, [], [], name, nu)
        library = load_library()
        home = library.C[nearest(library, result.C[None])[0][0, 0]]
        return CellSet.concat([result.cells(family=name), _way(result.octant, home, 8, name, nu)])

    def make(self) -> None:
        """Write the cells."""
        self.cells().save(self.path)


def designs(n: int, folder: Path, nu: float = POISSON) -> list[Design]:
    """The runs of :data:`OBJECTIVES` at resolution n."""
    out = []
    for name, isotropic, volumes, starts in OBJECTIVES:
        for start in starts:
            for volume in volumes:
                kind = "isotropic" if isotropic else "cubic"
                path = folder / f"{name}-{kind}-{start}-{round(100 * volume):02d}.zarr.zip"
                goal = Goal(name, volume, isotropic=isotropic, nu=nu)
                out.append(Design(path, Settings(goal, n=n, start=start, effort=EFFORT)))
    return out


def pushes(cells: CellSet, count: int, folder: Path, iterations: int = 15) -> list[Push]:
    """Runs from ``count`` cells at the edge outwards, the softest left out, which have nowhere to go.

    The starts are chosen by farthest-point sampling in scaled moduli (more runs leave the first ones as
    they are); half of the goals lie along the outward normal, the others also aside of it at random.

    Parameters
    ----------
    cells : CellSet
    count : int
    folder : Path
        For the files.
    iterations : int
        Homogenisations of a run at most.
    """
    gamut = Gamut.fit(cells.C)
    m = scaled_moduli(cells.C)
    edge = np.flatnonzero((gamut.phi(cells.C) < RIM) & (m.min(axis=1) > 0.01))
    starts = edge[choose(cells.C[edge], count)]
    slope = gamut.spline.evaluate(m[starts])[1]
    out = []
    for number, (row, inward) in enumerate(zip(starts.tolist(), slope, strict=True)):
        outward = -inward / np.linalg.norm(inward)
        if number % 2:
            aside = np.random.default_rng([number, _SEED]).standard_normal(3)
            outward = outward + 0.7 * aside / np.linalg.norm(aside)
        goal = np.maximum(m[row] + AHEAD * outward, LEAST * m[row])
        path = folder / f"push{number:04d}.zarr.zip"
        wanted = from_scaled_moduli(np.minimum(goal, 1.0))
        out.append(Push(path, cells.octants(row), wanted, iterations, cells.poisson))
    return out


def _way(octant: Bools, goal: Floats, iterations: int, family: str, nu: float) -> CellSet:
    """The cells from an octant toward a tensor, without the first."""
    found = match_target(octant, goal, iterations=iterations, nu=nu, rtol=COARSE_RTOL, keep=True)
    return _set(len(octant), [o for o, _ in found.trail[1:]], [C for _, C in found.trail[1:]], family, nu)


def _set(n: int, octants: list[Bools], C: list[Floats], family: str, nu: float) -> CellSet:
    solid = np.array(octants, dtype=bool).reshape(-1, n, n, n)
    return CellSet.from_octants(solid, C, family=family, poisson=nu)
