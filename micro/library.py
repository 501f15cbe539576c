"""The packaged cell library: retrieval by tensor, and correction of a cell toward its target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from micro import cell, tensor
from micro.cellset import CellSet
from micro.chamber import chamber
from micro.errors import InputError
from micro.families import LEADING, Family, family, shifted, threshold_for_volume
from micro.homogenize import Status, homogenize_octants

Floats = NDArray[np.float64]

_SPAN: Floats = tensor.PAPER_RANGE[:, 1] - tensor.PAPER_RANGE[:, 0]


@lru_cache(maxsize=1)
def load_library() -> CellSet:
    """The packaged library, read once and checked."""
    with as_file(files("micro") / "data" / "library.zarr.zip") as path:
        return CellSet.load(path)


def nearest(cells: CellSet, targets: ArrayLike, k: int = 1) -> tuple[NDArray[np.intp], Floats]:
    """The k cells nearest to each target by tensor error (Eq. 4).

    Parameters
    ----------
    cells : CellSet
    targets : array_like, shape (q, 3)
    k : int
        Number of neighbours, at most the number of cells.

    Returns
    -------
    index : int array, shape (q, k)
        Rows of ``cells``, nearest first.
    error : array, shape (q, k)
        Their tensor errors.
    """
    wanted = np.asarray(targets, dtype=np.float64)
    if wanted.ndim != 2 or wanted.shape[1] != 3 or not np.isfinite(wanted).all():
        raise InputError("targets are finite tensors (q, 3)", value=wanted.shape)
    if not 1 <= k <= len(cells):
        raise InputError(f"must lie in 1..{len(cells)}", key="k", value=k)
    # Eq. 4 is a third of the L1 distance once each constant is divided by its range.
    distance, index = cKDTree(cells.C / _SPAN).query(wanted / _SPAN, k=k, p=1)
    return np.asarray(index).reshape(len(wanted), k), np.asarray(distance).reshape(len(wanted), k) / 3


def correct(
    cells: CellSet,
    index: ArrayLike,
    targets: ArrayLike,
    *,
    parameters: int = 3,
    steps: int = 3,
    tolerance: float = 1e-3,
    progress: Callable[[int, int], None] | None = None,
) -> CellSet:
    """Move cells made by formula toward target tensors by their leading parameters.

    A cell's shape stays; its volume (through the threshold) and, with three parameters, the two tilts
    of :mod:`micro.families` change. A quasi-Newton method on Eq. 4's scaled residual: the first Jacobian
    comes from differences at half the resolution (an eighth of the work), later ones from Broyden's
    rank-one update (1965), which with one parameter is the secant method. Every trial is evaluated at the
    cells' own resolution, must be connected, and only replaces a cell when its error is smaller.

    Parameters
    ----------
    cells : CellSet
        With families of :mod:`micro.families`.
    index : int array, shape (q,)
        The cell to start from, for each target.
    targets : array_like, shape (q, 3)
    parameters : 1 or 3
        1 corrects by the threshold alone.
    steps : int
        Trials at full resolution for each cell, at most.
    tolerance : float
        Tensor error at which a cell is left alone.
    progress : callable, optional
        Called with (step, cells still above the tolerance).

    Returns
    -------
    CellSet
        q cells with their own homogenised tensors, none farther from its target than the one it came from.

    Raises
    ------
    InputError
        If the arrays do not match or a cell's family is unknown here.
    """
    rows = np.asarray(index, dtype=np.intp).reshape(-1)
    wanted = np.asarray(targets, dtype=np.float64)
    if wanted.shape != (len(rows), 3):
        raise InputError("one target tensor for each cell is needed", key="targets", value=wanted.shape)
    if parameters not in (1, 3):
        raise InputError("1 (threshold) or 3 (threshold and tilts)", key="parameters", value=parameters)
    start = cells.subset(rows)
    states = [
        _State.begin(family(str(start.family[i])), start.params[i], start.C[i], wanted[i], cells.n)
        for i in range(len(rows))
    ]
    _differences(states, tolerance, parameters)
    for step in range(steps):
        active = [s for s in states if s.error > tolerance and s.radius > _SMALLEST_RADIUS]
        if progress:
            progress(step, len(active))
        if not active:
            break
        _advance(active)
    return _collect(start, states)


def match(cells: CellSet, target: ArrayLike, *, neighbours: int = 6, steps: int = 8) -> CellSet:
    """One cell as close to one target as can be: a longer search from several neighbours.

    For a tensor that a whole region shares. Three parameters, until 0.01 % or ``steps`` trials.

    Returns
    -------
    CellSet
        The single best cell, with its own tensor.
    """
    wanted = np.asarray(target, dtype=np.float64).reshape(1, 3)
    index, _ = nearest(cells, wanted, min(neighbours, len(cells)))
    tried = correct(cells, index[0], np.repeat(wanted, index.shape[1], axis=0), steps=steps, tolerance=1e-4)
    return tried.subset([int(np.argmin(tensor.tensor_error(tried.C, wanted)))])


# Coordinates of the search: volume fraction, then the tilts in units of the level's standard deviation.
_DIFFERENCE: Floats = np.array([0.03, 0.1, 0.1])
"""Steps of the first differences: large against one voxel orbit, small against the curvature of C."""

_REACH: Floats = np.array([0.05, 0.2, 0.2])
"""A step's length in each coordinate at trust radius 1."""

_SMALLEST_RADIUS = 1e-3

_RTOL = 3e-4
"""Relative residual of the trials; the constants' errors are quadratic in it, below 1e-5."""


@dataclass
class _State:
    """The search for one cell: where it is best, what it knows of the slope."""

    family: Family
    shape: Floats
    level: Floats
    n: int
    unit: float
    target: Floats
    x: Floats
    C: Floats
    leading: Floats
    octant: NDArray[np.bool_] | None
    jacobian: Floats
    radius: float = 1.0

    @property
    def error(self) -> float:
        return float(tensor.tensor_error(self.C, self.target))

    @staticmethod
    def begin(formula: Family, params: Floats, C: Floats, target: Floats, n: int) -> _State:
        level = formula.shape_level(params, n)
        unit = float(np.std(level)) or 1.0
        leading = np.array(params[: len(LEADING)])
        shape = np.array(params[len(LEADING) : len(formula.parameters)])
        volume = formula.octant(params, n).mean()
        x = np.array([volume, *(leading[1:] / unit)])
        return _State(formula, shape, level, n, unit, target, x, C, leading, None, np.zeros((3, 3)))

    def leading_at(self, x: Floats, n: int) -> Floats:
        """Leading parameters of the search coordinates; the threshold from the volume at resolution n."""
        leading = np.array([0.0, *(x[1:] * self.unit)])
        level = self.level if n == self.n else self.family.level(chamber(n), self.shape)
        leading[0] = threshold_for_volume(shifted(level, leading, n), float(np.clip(x[0], 0.02, 0.98)), n)
        return leading

    def octant_at(self, leading: Floats, n: int) -> NDArray[np.bool_]:
        return self.family.octant(np.concatenate([leading, self.shape]), n)

    def propose(self) -> Floats:
        """The damped step that the linear model likes best, within the trust radius; (3,)."""
        reach = _REACH * self.radius
        A = self.jacobian / _SPAN[:, None] * reach
        b = (self.target - self.C) / _SPAN
        # Damping keeps directions that hardly move C from taking long steps.
        z = np.linalg.solve(A.T @ A + 1e-3 * (np.trace(A.T @ A) / 3 + 1e-12) * np.eye(3), A.T @ b)
        return np.asarray(z / max(1.0, float(np.abs(z).max())) * reach)

    def learn(self, x: Floats, C: Floats) -> None:
        """Broyden's update with what a trial showed."""
        d = (x - self.x) / _REACH
        length = float(d @ d)
        if length > 1e-10:
            scaled = self.jacobian * _REACH
            scaled = scaled + np.outer(C - self.C - scaled @ d, d) / length
            free = self.jacobian.any(axis=0)
            self.jacobian = np.where(free, scaled / _REACH, 0.0)


def _differences(states: list[_State], tolerance: float, parameters: int) -> None:
    """First Jacobians from one-sided differences at half the resolution, all cells in one batch."""
    moving = [s for s in states if s.error > tolerance]
    if not moving:
        return
    n = max(4, moving[0].n // 2)
    octants, places = [], []
    for number, state in enumerate(moving):
        for axis in range(-1, parameters):
            x = state.x.copy()
            if axis >= 0:
                # Toward the target's side in volume, away from the ends.
                x[axis] += _DIFFERENCE[axis] * (-1.0 if axis == 0 and x[0] > 0.5 else 1.0)
            octant = state.octant_at(state.leading_at(x, n), n)
            octants.append(octant)
            places.append((number, axis, float(octant.mean())))
    result = homogenize_octants(np.stack(octants), rtol=1e-3)
    base: dict[int, tuple[Floats, float]] = {}
    for (number, axis, volume), C, status in zip(places, result.C, result.status, strict=True):
        state = moving[number]
        if axis < 0:
            base[number] = (C, volume) if status == Status.OK else (np.full(3, np.nan), volume)
            continue
        C0, volume0 = base[number]
        step = volume - volume0 if axis == 0 else _DIFFERENCE[axis]
        usable = status == Status.OK and np.isfinite(C0).all() and abs(step) > 1e-6
        if usable:
            state.jacobian[:, axis] = (C - C0) / step
        elif axis == 0:
            # Bending-dominated scaling, stiffness as the square of density (Gibson and Ashby 1997).
            state.jacobian[:, 0] = 2 * state.C / state.x[0]


def _advance(states: list[_State]) -> None:
    """One trial for each state, homogenised in one batch."""
    trials = []
    for state in states:
        x = state.x + state.propose()
        leading = state.leading_at(x, state.n)
        octant = state.octant_at(leading, state.n)
        x[0] = octant.mean()
        trials.append((state, x, leading, octant, cell.connectivity(octant).connected))
    whole = [t for t in trials if t[4]]
    for state, *_ in (t for t in trials if not t[4]):
        state.radius *= 0.3
    if not whole:
        return
    result = homogenize_octants(np.stack([t[3] for t in whole]), rtol=_RTOL)
    for (state, x, leading, octant, _), C, status in zip(whole, result.C, result.status, strict=True):
        if status != Status.OK:
            state.radius *= 0.3
            continue
        state.learn(x, C)
        if tensor.tensor_error(C, state.target) < state.error:
            state.x, state.C, state.leading, state.octant = x, C, leading, octant
            state.radius = min(1.0, 1.5 * state.radius)
        else:
            state.radius *= 0.4


def _collect(start: CellSet, states: list[_State]) -> CellSet:
    """The cells where each search ended."""
    packed, C = start.packed.copy(), start.C.copy()
    params, volume = start.params.copy(), start.volume.copy()
    moved = [i for i, s in enumerate(states) if s.octant is not None]
    if moved:
        octants = np.stack([o for i in moved if (o := states[i].octant) is not None])
        packed[moved] = cell.pack(octants)
        volume[moved] = octants.mean(axis=(1, 2, 3))
        C[moved] = [states[i].C for i in moved]
        params[moved, : len(LEADING)] = [states[i].leading for i in moved]
    return replace(start, packed=packed, C=C, volume=volume, params=params)
