"""Bringing generated cells onto their targets, by the surrogate's slopes or by the homogeniser's own.

A cell moves in its shape space by the least-norm step that the tensor's slope asks for. To *steer* is to
follow the surrogate: nothing is homogenised. To *refine* is to follow the derivatives that come with each
homogenisation (:mod:`micro.shape.slopes`). Voxels flip in lumps, and the step is one whose flips, by their
rates, do what is missing. Each trial is delivered as it would be (binary, largest component, connected) and
replaces the cell only if it is nearer to its target; one that is not shortens the next step, and all correct
what is expected of the rates by Broyden's update (1965).

A few cells get stuck, mostly soft ones that hang by little: the shape space has no step that takes a voxel
here and puts another there. They leave it, and their surface moves voxel by voxel
(:func:`micro.inverse.matching.match_target`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micro.cell import tensor
from micro.homogenize.fields import Status
from micro.homogenize.secant import broyden, cut, least_norm
from micro.homogenize.sensitivity import sensitivities
from micro.inverse import match_target
from micro.runtime import memory
from micro.runtime.arrays import Bools, Floats, Ints, Singles
from micro.shape import slopes as shape_slopes
from micro.shape.channels import is_open
from micro.shape.derivative import voxel_rates
from micro.shape.space import ShapeSpace, distance_at

Deliver = Callable[[Singles], tuple[NDArray[np.bool_], NDArray[np.bool_]]]
"""Coordinates (m, d) to octants (m, n, n, n) and whether each is connected (m,)."""

RELATIVE = 0.02
"""Relative error at which a cell is left alone unless told otherwise: what keeps soft cells honest."""

_RTOL = 3e-3
"""Residual tolerance of a trial; C is then right to 2e-5 of its size (three times as much: 8e-4 at worst)."""

_LONGER = 2.0
"""What a longest step that led nearer lengthens the next one by: cells far off are soft ones."""

_LONGEST, _SHORTEST, _LEAST_LONGEST = 0.19, 0.0006, 3.0
"""Longest step at first and that at which a cell is given up, over a cell's norm (the root of the number of
coordinates, whose root mean square is one); and the least that the first is: models of few coordinates need
it to get anywhere in a few trials."""


_AIMS = 6
"""Corrections of a step by what the voxels that change sides do."""

_EXPECTED = 2.0
"""Change of the tensor over the sum of its voxels' rates, until a trial says better. On average it is 1.4 in
short steps, but a step somewhat too short costs less than one too long: of 64 cells of the flagship 83 % are
within half its tolerances after 192 homogenisations (five each at most) with 1.8, 67 % after 219 with 1."""

_FAR = 4.0
"""Errors, in tolerances, from which the slope's own step is taken: rates say little of what is far away.
The worst of 64 random cells of the flagship ends with a tensor error of 1.4 %, without this of 2.7 %."""

_NOISE = 2e-3
"""Sums of rates (in units of Eq. 4's ranges) below this teach little."""

MOVES = 12
"""Homogenisations that a cell which got stuck is given to move voxel by voxel. Of twelve such cells of the
flagship, 1.6 to 9 tolerances off, nine are within the tolerance then, after two to thirteen of them."""

_THICKER = 0.25
"""Voxels by which the surface of a cell in pieces moves outward in one trial."""

_VOXELS = 2**20
"""Of the cells refined at once, which keep their solutions: 9 MB each at n = 32."""


class _Rows:
    """A dataclass of arrays with a row for each cell."""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several as one, in their order."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Refinement(_Rows):
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

    def rows(self, rows: Ints) -> Refinement:
        """Some of them, in the order of ``rows``."""
        return Refinement(*(getattr(self, f.name)[rows] for f in fields(Refinement)))

    def take(
        self, space: ShapeSpace, rows: Ints, moved: Moved, targets: Floats, bounds: tensor.Bounds
    ) -> None:
        """Put cells moved voxel by voxel in the place of some, where they are nearer to their targets.

        Parameters
        ----------
        space : ShapeSpace
        rows : int array, shape (k,)
            Whose place.
        moved : Moved
            The k others.
        targets : array, shape (m, 3)
            Of all.
        bounds : Bounds
            By which near is meant.
        """
        self.trials[rows] += moved.trials
        nearer = ~(bounds.error(self.C[rows], targets[rows]) <= bounds.error(moved.C, targets[rows]))
        rows, octants = rows[nearer], moved.octants[nearer]
        self.octants[rows], self.C[rows] = octants, moved.C[nearer]
        if len(rows):
            self.z[rows] = space.encode(distance_at(octants, space.n))

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
    moves: int = 0,
    open: bool = False,
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
        Homogenisations of a cell in the shape space at most, the first one included.
    moves : int
        Homogenisations after these of a cell that got stuck, moved voxel by voxel; its coordinates are then
        those of its signed distance.
    open : bool
        Whether those are to enclose no void.
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
    found = Refinement.joined(parts)
    # Not NaN: those have no tensor.
    stuck = np.flatnonzero(homogenised.bounds.error(found.C, targets) > tolerance)
    if moves > 0 and len(stuck):
        bounds = homogenised.bounds
        there = move(found.octants[stuck], targets[stuck], bounds, moves=moves, open=open, nu=nu)
        found.take(space, stuck, there, targets, bounds)
    return found


@dataclass(frozen=True, eq=False)
class Moved(_Rows):
    """Cells moved voxel by voxel: octants (m, n, n, n), tensors (m, 3), homogenisations spent (m,)."""

    octants: Bools
    C: Floats
    trials: Ints

    def __len__(self) -> int:
        return len(self.C)


def move(
    octants: Bools,
    targets: Floats,
    bounds: tensor.Bounds,
    *,
    moves: int = MOVES,
    open: bool = False,
    nu: float = tensor.POISSON,
) -> Moved:
    """Move connected cells voxel by voxel toward target tensors.

    Parameters
    ----------
    octants : bool array, shape (m, n, n, n)
    targets : array, shape (m, 3)
    bounds : Bounds
        Errors at which a cell is left alone.
    moves : int
        Homogenisations of a cell at most, besides the first one.
    open : bool
        Whether cells are to enclose no void all the way.
    nu : float
        Poisson's ratio of the base material.
    """
    found = [
        match_target(
            octant,
            target,
            tolerance=bounds.tolerance,
            relative=bounds.relative,
            iterations=moves,
            nu=nu,
            rtol=_RTOL,
            allowed=is_open if open else None,
        )
        for octant, target in zip(octants, targets, strict=True)
    ]
    return Moved(
        np.reshape([match.octant for match in found], octants.shape),
        np.reshape([match.C for match in found], (len(found), 3)),
        np.array([match.homogenisations for match in found], dtype=np.int64),
    )


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
    now = homogenised(z, targets)
    start_z, start, start_C = z.copy(), now.octants.copy(), now.C.copy()
    used = np.ones(len(z), dtype=np.int64)
    norm = z.shape[1] ** 0.5
    longest = np.full(len(z), max(_LEAST_LONGEST, _LONGEST * norm))
    model = np.tile(_EXPECTED * np.hstack([np.eye(3), np.eye(3)]), (len(z), 1, 1))
    for _ in range(1, trials):
        error: Floats = np.asarray(bounds.error(now.C, targets))
        # Not `error > tolerance`: NaN is a cell that is not connected yet.
        rows = np.flatnonzero(~np.less_equal(error, bounds.tolerance) & (longest > _SHORTEST * norm))
        if len(rows) == 0:
            break
        known = np.asarray(np.isfinite(now.C[rows]).all(axis=1))
        # A cell in pieces has no tensor and no slope: it is thickened until it holds together.
        step = np.tile(_THICKER / (2 * space.n) * space.shift(), (len(rows), 1))
        change = np.zeros((len(rows), 6))
        some = rows[known]
        step[known], change[known] = _aimed(
            space, z[some], now, some, targets[some], model[some], longest[some], bounds, free
        )
        tried = (z[rows] + step).astype(np.float32)
        there = homogenised(tried, targets[rows], now.solution[:, :, rows])
        used[rows] += 1
        solved = np.isfinite(there.C).all(axis=1)
        seen = (there.C - now.C[rows]) / tensor.PAPER_SPAN
        for i in np.flatnonzero(known & solved):
            model[rows[i]] = broyden(model[rows[i]], change[i], seen[i], _NOISE)
        nearer = (solved & (bounds.error(there.C, targets[rows]) < error[rows])) | ~known
        length = np.linalg.norm(step, axis=1)
        stretched = np.where(length > 0.99 * longest[rows], _LONGER, 1.0) * longest[rows]
        longest[rows] = np.where(nearer, stretched, 0.4 * np.minimum(longest[rows], length))
        z[rows[nearer]] = tried[nearer]
        now.replace(rows[nearer], there.rows(np.flatnonzero(nearer)))
    return Refinement(z, now.octants, now.C, start_z, start, start_C, used)


def _aimed(
    space: ShapeSpace,
    z: Singles,
    now: _Cells,
    rows: Ints,
    targets: Floats,
    model: Floats,
    longest: Floats,
    bounds: tensor.Bounds,
    free: Floats | None,
) -> tuple[Singles, Floats]:
    """Steps (m, d) after which the voxels that change sides change the tensor by what is missing.

    Voxels flip in lumps: of a short step what the slope promises is far from what they do. So the step is
    corrected by the sum of their rates, a few times over; nothing is homogenised. The cells are ``rows`` (m,)
    of ``now``. ``model`` (m, 3, 6) says what is learned of these sums, which are returned beside the steps:
    of what is taken away, and added.
    """
    octants, rate = now.octants[rows], now.rate[rows]
    n = octants.shape[-1]
    missing = (targets - now.C[rows]) / tensor.PAPER_SPAN
    slope = (model[:, :, :3] + model[:, :, 3:]) / 2 @ now.slope[rows]
    inside = space.levels(z, n) > 0
    step = cut(least_norm(slope, missing, free=free), longest)
    far = np.asarray(bounds.error(now.C[rows], targets) > _FAR * bounds.tolerance)
    # Far away what trials have taught of the slope counts, the caution of the rates' sums does not.
    step[far] = cut(least_norm(slope[far] / _EXPECTED, missing[far], free=free), longest[far])
    best, least, sums = step, np.full(len(z), np.inf), np.zeros((len(z), 6))
    for number in range(_AIMS):
        after = space.levels((z + step).astype(np.float32), n) > 0
        gone, come = inside & ~after & octants, after & ~inside & ~octants
        found = np.concatenate([-_sums(rate, gone), _sums(rate, come)], axis=1)
        left = missing - (model @ found[:, :, None])[:, :, 0]
        error = np.asarray(bounds.error(targets - left * tensor.PAPER_SPAN, targets))
        better = (error < least) & (~far | (number == 0))
        least = np.where(better, error, least)
        best, sums = np.where(better[:, None], step, best), np.where(better[:, None], found, sums)
        step = cut(step + least_norm(slope, left, free=free), longest)
    return best.astype(np.float32), sums


def _sums(rate: Singles, voxels: Bools) -> Floats:
    """Sums (m, 3) of rates (m, 3, n, n, n) over some voxels (m, n, n, n)."""
    parts = [own.reshape(3, -1) @ some.ravel() for own, some in zip(rate, voxels, strict=True)]
    return np.reshape(parts, (len(parts), 3))


@dataclass(eq=False)
class _Cells:
    """Delivered cells, their tensors, slopes (m, 3, d), voxels' rates (m, 3, n, n, n) and solutions.

    Slopes and rates are on the scale of Eq. 4. NaN where a cell is in pieces or its solve failed; slopes and
    rates also where they are not needed.
    """

    octants: Bools
    C: Floats
    slope: Floats
    rate: Singles
    solution: Tensor

    def rows(self, rows: Ints) -> _Cells:
        """Some of them."""
        return _Cells(
            self.octants[rows], self.C[rows], self.slope[rows], self.rate[rows], self.solution[:, :, rows]
        )

    def replace(self, rows: Ints, by: _Cells) -> None:
        """Put others in the place of some."""
        for mine, other in (
            (self.octants, by.octants),
            (self.C, by.C),
            (self.slope, by.slope),
            (self.rate, by.rate),
        ):
            mine[rows] = other
        self.solution[:, :, rows] = by.solution


@dataclass(frozen=True)
class _Homogenised:
    """Delivers cells and homogenises them, with slopes where they are not near enough yet."""

    space: ShapeSpace
    deliver: Deliver
    bounds: tensor.Bounds
    nu: float

    def __call__(self, z: Singles, targets: Floats, start: Tensor | None = None) -> _Cells:
        """Cells of coordinates (m, d)."""
        octants, connected = self.deliver(z)
        m, n = len(octants), octants.shape[-1]
        C, slope = np.full((m, 3), np.nan), np.full((m, 3, self.space.dimension), np.nan)
        rate = np.full((m, 3, n, n, n), np.nan, dtype=np.float32)
        solution = torch.zeros((3, 2, m, *(n + 1,) * 3), dtype=torch.float64)
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
            far = np.flatnonzero(good & needed(result.C))
            for row, gradient in zip(rows[far], result.gradient[far], strict=True):
                rate[row] = voxel_rates(gradient, octants[row]) / tensor.PAPER_SPAN[:, None, None, None]
            moving = rows[far]
            slope[moving] = shape_slopes.of_rates(self.space, z[moving], rate[moving])
        return _Cells(octants, C, slope, rate, solution)
