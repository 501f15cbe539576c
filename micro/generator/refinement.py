"""Bringing generated cells onto their targets, by the surrogate's slopes or by the homogeniser's own.

A cell moves in its shape space by the least-norm step that the tensor's slope asks for. To *steer* is to
follow the surrogate: nothing is homogenised. To *refine* is to follow the derivatives that come with each
homogenisation (:mod:`micro.shape.slopes`). Each trial is delivered as it would be (binary, largest component,
connected) and replaces the cell only if it is nearer to its target; one that is not corrects the slope by
Broyden's update (1965) and shortens the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micro.cell import tensor
from micro.homogenize.fields import Status
from micro.homogenize.secant import broyden, cut, least_norm
from micro.homogenize.sensitivity import sensitivities
from micro.runtime import memory
from micro.runtime.arrays import Bools, Floats, Ints, Singles
from micro.shape import slopes as shape_slopes
from micro.shape.space import ShapeSpace

Deliver = Callable[[Singles], tuple[NDArray[np.bool_], NDArray[np.bool_]]]
"""Coordinates (m, d) to octants (m, n, n, n) and whether each is connected (m,)."""

RELATIVE = 0.02
"""Relative error at which a cell is left alone unless told otherwise: what keeps soft cells honest."""

_RTOL = 3e-3
"""Residual tolerance of a trial; C is then right to 2e-5 of its size (three times as much: 8e-4 at worst)."""

_LONGER = 2.0
"""What a longest step that led nearer lengthens the next one by: cells far off are soft ones."""

_LONGEST, _SHORTEST = 3.0, 0.01
"""Longest step at first, in coordinates whose root mean square is one (so a cell has a norm of about 16), and
that at which a cell is given up."""


_THICKER = 0.25
"""Voxels by which the surface of a cell in pieces moves outward in one trial."""

_VOXELS = 2**20
"""Of the cells refined at once, which keep their solutions: 9 MB each at n = 32."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """Refined cells, and what they were.

    Attributes
    ----------
    z, start_z : float32 arrays, shape (m, d)
    octants, start_octants : bool arrays, shape (m, n, n, n)
    C, start_C : arrays, shape (m, 3)
        Their own tensors, NaN where a cell has none (not connected, or its solve did not converge).
    trials : int array, shape (m,)
        Homogenisations spent.
    """

    z: Singles
    octants: NDArray[np.bool_]
    C: Floats
    start_z: Singles
    start_octants: NDArray[np.bool_]
    start_C: Floats
    trials: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.z)

    @staticmethod
    def joined(parts: Sequence[Refinement]) -> Refinement:
        """Several as one, in their order."""
        return Refinement(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Refinement)))

    def rows(self, rows: Ints) -> Refinement:
        """Some of them, in the order of ``rows``."""
        return Refinement(*(getattr(self, f.name)[rows] for f in fields(Refinement)))

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which cells have a tensor, (m,)."""
        return np.asarray(np.isfinite(self.C).all(axis=1))

    @property
    def start_known(self) -> NDArray[np.bool_]:
        """Which had one at the start, (m,)."""
        return np.asarray(np.isfinite(self.start_C).all(axis=1))


def refine(
    space: ShapeSpace,
    z: Singles,
    targets: Floats,
    deliver: Deliver,
    *,
    n: int,
    tolerance: float = 2e-3,
    relative: float = RELATIVE,
    trials: int = 6,
    nu: float = tensor.POISSON,
    free: Floats | None = None,
) -> Refinement:
    """Refine cells toward target tensors.

    Parameters
    ----------
    space : ShapeSpace
    z : float32 array, shape (m, d)
    targets : array, shape (m, 3)
        Units of E_s.
    deliver : callable
        Makes octants of coordinates.
    n : int
        Edge of these octants in voxels.
    tolerance, relative : float
        Tensor error (Eq. 4) and relative error at which, both, a cell is left alone.
    trials : int
        Homogenisations of a cell at most, the first one included.
    nu : float
        Poisson's ratio of the base material.
    free : array, shape (d, d), optional
        How readily steps take each direction (:func:`micro.homogenize.secant.least_norm`).
    """
    together = max(1, _VOXELS // n**3)
    homogenised = _Homogenised(space, deliver, tensor.Bounds(tolerance, relative), nu)
    parts = []
    for i in range(0, max(1, len(z)), together):
        some = slice(i, i + together)
        parts.append(_refined(space, z[some], targets[some], homogenised, trials, free))
        memory.trim()
    return Refinement.joined(parts)


def _refined(
    space: ShapeSpace,
    z: Singles,
    targets: Floats,
    homogenised: _Homogenised,
    trials: int,
    free: Floats | None,
) -> Refinement:
    """So many cells of :func:`refine` as are homogenised at once."""
    bounds, z = homogenised.bounds, z.astype(np.float32).copy()
    octants, C, slope, solution = homogenised(z, targets)
    start_z, start, start_C = z.copy(), octants.copy(), C.copy()
    used = np.ones(len(z), dtype=np.int64)
    longest = np.full(len(z), _LONGEST)
    for _ in range(1, trials):
        error: Floats = np.asarray(bounds.error(C, targets))
        # Not `error > tolerance`: NaN is a cell that is not connected yet.
        rows = np.flatnonzero(~np.less_equal(error, bounds.tolerance) & (longest > _SHORTEST))
        if len(rows) == 0:
            break
        known = np.asarray(np.isfinite(C[rows]).all(axis=1))
        missing = (targets[rows] - np.nan_to_num(C[rows])) / tensor.PAPER_SPAN
        step = cut(least_norm(np.nan_to_num(slope[rows]), missing, free=free), longest[rows])
        # A cell in pieces has no tensor and no slope: it is thickened until it holds together.
        step[~known] = _THICKER / (2 * space.n) * space.shift()
        tried = (z[rows] + step).astype(np.float32)
        new, C_new, slope_new, solved_new = homogenised(tried, targets[rows], solution[:, :, rows])
        used[rows] += 1
        for i, row in enumerate(rows):
            solved = bool(np.isfinite(C_new[i]).all())
            nearer = solved and float(bounds.error(C_new[i], targets[row])) < error[row]
            if nearer or not known[i]:
                z[row], octants[row], C[row], slope[row] = tried[i], new[i], C_new[i], slope_new[i]
                solution[:, :, row] = solved_new[:, :, i]
                if np.linalg.norm(step[i]) > 0.99 * longest[row]:
                    longest[row] *= _LONGER
            else:
                longest[row] = 0.4 * min(longest[row], float(np.linalg.norm(step[i])))
                if solved:
                    slope[row] = broyden(slope[row], step[i], (C_new[i] - C[row]) / tensor.PAPER_SPAN)
    return Refinement(z, octants, C, start_z, start, start_C, used)


@dataclass(frozen=True)
class _Homogenised:
    """Delivers cells and homogenises them, with slopes where they are not near enough yet."""

    space: ShapeSpace
    deliver: Deliver
    bounds: tensor.Bounds
    nu: float

    def __call__(
        self, z: Singles, targets: Floats, start: Tensor | None = None
    ) -> tuple[NDArray[np.bool_], Floats, Floats, Tensor]:
        """Octants of coordinates (m, d), tensors (m, 3), their slopes (m, 3, d), and the solutions.

        NaN where a cell is in pieces or its solve failed; slopes also where they are not needed.
        """
        octants, connected = self.deliver(z)
        C = np.full((len(octants), 3), np.nan)
        slope = np.full((len(octants), 3, self.space.dimension), np.nan)
        nodes = (octants.shape[-1] + 1,) * 3
        solution = torch.zeros((3, 2, len(octants), *nodes), dtype=torch.float64)
        rows = np.flatnonzero(connected)
        if len(rows):
            wanted = targets[rows]

            def needed(found: Floats) -> Bools:
                return np.asarray(self.bounds.error(found, wanted) > self.bounds.tolerance)

            result = sensitivities(
                octants[rows],
                nu=self.nu,
                rtol=_RTOL,
                start=None if start is None else start[:, :, rows],
                needed=needed,
            )
            good = result.status == Status.OK
            C[rows[good]] = result.C[good]
            solution[:, :, rows[good]] = result.fluctuation[:, :, good]
            far = good & needed(result.C)
            moving = rows[far]
            slope[moving] = shape_slopes.slopes(self.space, z[moving], octants[moving], result.gradient[far])
        return octants, C, slope, solution
