"""Topology optimisation of one cubic cell.

A run is a list of stages, each at one resolution and one sharpness of the projection: coarse and soft
first, fine and nearly black and white last. Between stages stands the state; a step runs one stage. So
progress, stopping and resuming are one thing. The result is a binary connected cell with its own tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber
from micro.cell.octant import at_resolution
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.sensitivity import sensitivities
from micro.inverse.binary import BinaryCell, binary_cell
from micro.inverse.goal import Goal
from micro.inverse.matching import match_target
from micro.inverse.polish import polished
from micro.inverse.projection import Design
from micro.inverse.start import as_density, default_start, start_density
from micro.inverse.update import Evaluation, mma, optimality_criteria
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError, NotConverged

_RTOL = 1e-3
"""Residual of the solves while designing: an error of 1e-3 in the gradient, 1e-6 in C."""

_FINAL_RTOL = 1e-5
"""Residual of the finished cell's own tensor."""

_COARSE = ((1.0, 30), (2.0, 20), (4.0, 20), (8.0, 15))
_FINE = ((4.0, 12), (8.0, 12), (16.0, 12), (32.0, 10))
_ALONE = ((1.0, 30), (2.0, 20), (4.0, 20), (8.0, 15), (16.0, 15), (32.0, 10))
"""Sharpness and evaluations of the stages: at half the resolution, after them, and without them."""


@dataclass(frozen=True)
class Settings:
    """What to optimise and how.

    Attributes
    ----------
    goal : Goal
    n : int
        Voxels along the octant's edge of the result.
    start : str or array, shape (m, m, m)
        Name of an initial field (:mod:`micro.inverse.start`), ``auto`` for the one that is known to lead far
        with the goal, or a symmetric octant of numbers or bools.
    wave, sign, seed : int
        Of the initial field.
    radius : float, optional
        Filter radius in voxels of the result; by default 0.07 n, at least 1.5.
    method : str
        ``oc``, ``mma``, or ``auto``: optimality criteria where they hold.
    coarse : bool, optional
        Whether to design at half the resolution first; by default from n = 24 on.
    effort : float
        Factor on the number of evaluations.
    """

    goal: Goal
    n: int = 32
    start: str | NDArray = "auto"
    wave: int = 1
    sign: int = 1
    seed: int = 0
    radius: float | None = None
    method: str = "auto"
    coarse: bool | None = None
    effort: float = 1.0

    def __post_init__(self) -> None:
        if not 4 <= self.n <= 256:
            raise InputError("lies between 4 and 256", key="n", value=self.n)
        if self.method not in ("auto", "oc", "mma"):
            raise InputError("is auto, oc or mma", key="method", value=self.method)
        if self.method == "oc" and not self.goal.monotone:
            reason = "optimality criteria take bulk, shear and young without isotropy; use mma"
            raise InputError(reason, key="method", value=self.goal.name)
        if self.radius is not None and not 1.0 <= self.radius <= self.n / 2:
            raise InputError("lies between 1 and n / 2", key="radius", value=self.radius)
        if not self.effort > 0:
            raise InputError("must be positive", key="effort", value=self.effort)
        if self.coarse and (self.n % 2 or self.n < 8):
            raise InputError("needs an even n of at least 8", key="coarse", value=self.n)

    @property
    def nu(self) -> float:
        """Poisson's ratio of the base material."""
        return self.goal.nu

    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run, in order."""
        coarse = self.n >= 24 and self.n % 2 == 0 if self.coarse is None else self.coarse
        plan = [(self.n // 2, *s) for s in _COARSE] + [(self.n, *s) for s in _FINE] if coarse else []
        plan = plan or [(self.n, *s) for s in _ALONE]
        radius = max(1.5, 0.07 * self.n) if self.radius is None else self.radius
        return tuple(
            Stage(n, max(1.2, radius * n / self.n), beta, max(2, round(count * self.effort)))
            for n, beta, count in plan
        )


@dataclass(frozen=True)
class Stage:
    """Resolution, filter radius in its voxels, sharpness, and evaluations at most."""

    n: int
    radius: float
    beta: float
    evaluations: int


@dataclass(frozen=True)
class State:
    """Where a run stands between two stages.

    Attributes
    ----------
    done : int
        Stages finished.
    x : array, shape (q,)
        Design variables at the resolution of the stage last finished (before the first: of the first).
    n : int
        That resolution.
    solves : int
        Homogenisations so far.
    history : tuple of (n, beta, value, volume)
        The grey design's property and volume after each evaluation.
    cells : tuple of BinaryCell
        The designs made binary after each stage (those that were connected), if asked for.
    """

    done: int
    x: Floats
    n: int
    solves: int = 0
    history: tuple[tuple[int, float, float, float], ...] = ()
    cells: tuple[BinaryCell, ...] = ()


@dataclass(frozen=True)
class Result:
    """A finished cell.

    Attributes
    ----------
    octant : bool array, shape (n, n, n)
        Symmetric and connected.
    C : array, shape (3,)
        Its own homogenised tensor, exact void.
    value : float
        The optimised property of this tensor.
    met : bool
        Whether the constraints on tensor and volume are fulfilled by it.
    solves : int
    seconds : float
    state : State
    nu : float
        Poisson's ratio of the base material.
    """

    octant: Bools
    C: Floats
    value: float
    met: bool
    solves: int
    seconds: float
    state: State
    nu: float

    @property
    def volume(self) -> float:
        """Solid fraction."""
        return float(self.octant.mean())

    def cells(self, attrs: dict[str, Any] | None = None, family: str = "optimised") -> CellSet:
        """The cell, and after it the kept ones of its size, as a CellSet."""
        same = [c for c in self.state.cells if c.octant.shape == self.octant.shape]
        octants = np.stack([self.octant, *(c.octant for c in same)])
        C = np.stack([self.C, *(c.C for c in same)])
        return CellSet.from_octants(octants, C, family=family, attrs=attrs, poisson=self.nu)


def begin(settings: Settings) -> State:
    """The state before the first stage.

    Raises
    ------
    InputError
        If a given start is no octant of numbers.
    """
    stage, volume = settings.stages()[0], settings.goal.volume
    if isinstance(settings.start, str):
        name, first = settings.start, 0
        if name == "auto":
            name, first = default_start(settings.goal.name, settings.goal.isotropic)
        extra = {"wave": settings.wave, "sign": settings.sign, "seed": first + settings.seed}
        return State(0, start_density(name, stage.n, volume, **extra), stage.n)
    given = np.asarray(settings.start, dtype=np.float64)
    if given.ndim != 3 or len(set(given.shape)) != 1 or not np.isfinite(given).all():
        raise InputError("an octant (m, m, m) of numbers is needed", key="start", value=given.shape)
    x = _resampled(given, stage.n)
    inside_unit = x.min() >= 0 and x.max() <= 1
    return State(0, x if inside_unit else as_density(x, stage.n, volume), stage.n)


def step(
    state: State, settings: Settings, *, keep: bool = False, watch: Callable[[State], None] | None = None
) -> State:
    """Run the next stage; ``watch`` is called with the state after every evaluation.

    Parameters
    ----------
    state : State
    settings : Settings
    keep : bool
        Whether the stage's binary cell is kept in the state.
    watch : callable, optional
    """
    stage = settings.stages()[state.done]
    x = state.x
    if stage.n != state.n:
        x = _resampled(chamber(state.n).unfold(x), stage.n)
    problem = _Problem(settings, stage, state, watch)
    if settings.method == "oc" or (settings.method == "auto" and settings.goal.monotone):
        x = optimality_criteria(x, problem, problem.excess, stage.evaluations)
    else:
        x = mma(x, problem, stage.evaluations)
    state = replace(problem.state, done=state.done + 1, x=x, n=stage.n)
    found = _made_binary(state, settings) if keep else None
    if found is not None:
        state = replace(state, solves=state.solves + 1, cells=(*state.cells, found))
    return state


def finish(state: State, settings: Settings, seconds: float = 0.0) -> Result:
    """The binary cell of the last stage's design, corrected where it must be.

    Its surface is moved to its optimum within the constraints (:mod:`micro.inverse.polish`); that of a cell
    that shall match a tensor, onto it (:func:`match_target`).

    Raises
    ------
    NotConverged
        If the design is no connected cell.
    """
    goal = settings.goal
    found = _made_binary(state, settings)
    if found is None:
        raise NotConverged(
            "the design is not connected when made solid and void; another start, a larger filter radius "
            "or a larger volume may help"
        )
    solves = state.solves + 1
    if goal.target is None:
        found, more = polished(found, goal)
        solves += more
    octant = found.octant
    if goal.target is not None:
        target = np.array(goal.target)
        match = match_target(octant, target, tolerance=2e-3, iterations=15, nu=settings.nu, rtol=1e-4)
        octant, solves = match.octant, solves + match.homogenisations
    # The search's own tensors are right to 1e-6 of a stiff cell; a soft one's bulk modulus needs more.
    C = homogenize_octants(octant, nu=settings.nu, rtol=_FINAL_RTOL).C[0]
    solves += 1
    met = goal.met(C, float(octant.mean()))
    return Result(octant, C, goal.value(C), met, solves, seconds, state, settings.nu)


def optimise(
    settings: Settings,
    *,
    state: State | None = None,
    keep: bool = False,
    watch: Callable[[State], None] | None = None,
) -> Result:
    """Run all stages (those left after ``state``) and finish.

    Parameters
    ----------
    settings : Settings
    state : State, optional
        To resume from.
    keep : bool
        Whether to keep the binary cells of all stages.
    watch : callable, optional
        Called with the state after every evaluation and every stage.

    Raises
    ------
    InputError
        If the start is not usable.
    NotConverged
        If the design is no connected cell.
    """
    began = time.perf_counter()
    state = begin(settings) if state is None else state
    while state.done < len(settings.stages()):
        state = step(state, settings, keep=keep, watch=watch)
        if watch is not None:
            watch(state)
    result = finish(state, settings)
    return replace(result, seconds=time.perf_counter() - began)


class _Problem:
    """Loss and constraints of one stage as functions of the variables; counts and records evaluations."""

    def __init__(
        self, settings: Settings, stage: Stage, state: State, watch: Callable[[State], None] | None
    ) -> None:
        self._settings, self._stage, self._watch = settings, stage, watch
        self.state = state
        self._weights = chamber(stage.n).weights / stage.n**3
        self._fluctuations: dict[int, Any] = {}

    def excess(self, x: Floats) -> float:
        """Volume of variables over the wanted one, minus one."""
        density = Design.of(x, self._stage.n, self._stage.radius, self._stage.beta).density
        return float(density @ self._weights) / self._settings.goal.volume - 1

    def __call__(self, x: Floats) -> Evaluation:
        goal, stage = self._settings.goal, self._stage
        designs = [Design.of(x, stage.n, stage.radius, stage.beta, 0.5 + shift) for shift in goal.shifts]
        tensors, slopes = zip(*(self._tensor(i, design) for i, design in enumerate(designs)), strict=True)
        middle = designs[0] if len(designs) == 1 else Design.of(x, stage.n, stage.radius, stage.beta)
        volume = float(middle.density @ self._weights)
        loss, loss_slope, values, rows = 0.0, np.zeros(len(x)), [], []
        for C, by_x in zip(tensors, slopes, strict=True):
            by_C, constraints_by_C = goal.derivatives(C)
            loss += goal.loss(C) / len(designs)
            loss_slope += by_C @ by_x / len(designs)
            values.append(goal.constraints(C))
            rows.append(constraints_by_C @ by_x)
        if goal.name != "match":
            values.insert(0, np.array([volume / goal.volume - 1]))
            rows.insert(0, middle.by_density(self._weights / goal.volume)[None])
        value = float(np.mean([goal.value(C) for C in tensors]))
        record = (stage.n, stage.beta, value, volume)
        self.state = replace(
            self.state,
            solves=self.state.solves + len(designs),
            history=(*self.state.history, record),
            x=x,
            n=stage.n,
        )
        if self._watch is not None:
            self._watch(self.state)
        return Evaluation(loss, loss_slope, np.concatenate(values), np.vstack(rows))

    def _tensor(self, number: int, design: Design) -> tuple[Floats, Floats]:
        """C (3,) of one of the designs and its derivatives (3, q) by the variables."""
        n = self._stage.n
        grid = chamber(n)
        start = self._fluctuations.get(number)
        found = sensitivities(grid.unfold(design.moduli), nu=self._settings.nu, rtol=_RTOL, start=start)
        if found.status[0] != Status.OK:
            raise NotConverged(f"the design of n = {n} could not be homogenised; try another start")
        self._fluctuations[number] = found.fluctuation
        return found.C[0], design.by_moduli(grid.fold(found.gradient[0]) * grid.weights)


def _made_binary(state: State, settings: Settings) -> BinaryCell | None:
    stage = settings.stages()[max(state.done, 1) - 1]
    design = Design.of(state.x, stage.n, stage.radius, stage.beta)
    volume = float(design.density @ chamber(stage.n).weights) / stage.n**3
    if settings.goal.name != "match":
        volume = (
            min(volume, settings.goal.volume) if settings.goal.name == "poisson" else settings.goal.volume
        )
    return binary_cell(design.filtered, stage.n, volume, settings.nu)


def _resampled(field: Floats, n: int) -> Floats:
    """An octant field (m, m, m) at the voxel centres of another resolution, on the chamber; (q,)."""
    m = len(field)
    if n < m and m % n == 0:
        k = m // n
        return chamber(n).fold(field.reshape(n, k, n, k, n, k).mean(axis=(1, 3, 5)))
    return chamber(n).fold(at_resolution(field, n))
