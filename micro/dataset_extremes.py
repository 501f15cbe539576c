"""Cells at and beyond the edge of what formulas reach, by inverse homogenisation.

Cells at the edge of the gamut that library and early rounds span, spread evenly over it, are pushed
outwards: their surfaces move toward a tensor that lies ahead of them along the gamut's outward normal
(:func:`micro.inverse.matching.match_target`). Every cell on the way is binary, connected and homogenised,
and all of them are kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.cellset import CellSet
from micro.gamut import Gamut
from micro.inverse.matching import match_target
from micro.labelling import COARSE_RTOL, Shards
from micro.library_build import choose
from micro.tensor import from_scaled_moduli, scaled_moduli

Floats = NDArray[np.float64]

RIM = 0.015
"""Cells whose phi is below this (in scaled moduli) stand at the edge."""

AHEAD = 0.08
"""How far ahead a goal lies, in scaled moduli."""

LEAST = 0.4
"""No modulus of a goal is less than this share of the start's: moduli stay positive."""


@dataclass(frozen=True)
class Push:
    """One run: from an octant toward a tensor.

    Attributes
    ----------
    path : Path
        File of the cells found on the way.
    octant : bool array, shape (n, n, n)
    goal : array, shape (3,)
        C11, C12, C44 in units of E_s; it need not be reachable.
    iterations : int
        Homogenisations at most.
    """

    path: Path
    octant: NDArray[np.bool_]
    goal: Floats
    iterations: int


def pushes(cells: CellSet, count: int, folder: Path, iterations: int = 15) -> list[Push]:
    """Runs from ``count`` cells at the edge outwards, the softest left out, which have nowhere to go.

    The starts are chosen by farthest-point sampling in scaled moduli; half of the goals lie along the
    outward normal, the others also aside of it at random, by each run's own random numbers.
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
            aside = np.random.default_rng([number, count]).standard_normal(3)
            outward = outward + 0.7 * aside / np.linalg.norm(aside)
        goal = np.maximum(m[row] + AHEAD * outward, LEAST * m[row])
        path = folder / f"push{number:04d}.zarr.zip"
        out.append(Push(path, cells.octants(row), from_scaled_moduli(np.minimum(goal, 1.0)), iterations))
    return out


def run(jobs: Sequence[Push], shards: Shards) -> None:
    """Make the runs whose files are not there yet, in the shards' processes."""
    missing = [job for job in jobs if not job.path.exists()]
    started = time.time()
    for number, _ in enumerate(shards.run(push, missing), start=1):
        if shards.report:
            left = (time.time() - started) / number * (len(missing) - number)
            shards.report("extremes", len(jobs) - len(missing) + number, len(jobs), left)


def push(job: Push) -> int:
    """One run; writes the cells it passed, the start left out, and returns their number."""
    found = match_target(job.octant, job.goal, iterations=job.iterations, rtol=COARSE_RTOL, keep=True)
    n = len(job.octant)
    octants = [octant for octant, _ in found.trail[1:]]
    tensors = [C for _, C in found.trail[1:]]
    CellSet.from_octants(
        np.array(octants, dtype=bool).reshape(-1, n, n, n), np.array(tensors).reshape(-1, 3), family="inverse"
    ).save(job.path)
    return len(octants)
