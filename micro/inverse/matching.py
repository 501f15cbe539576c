"""Bringing a given binary cell to a target tensor.

Every iteration homogenises one binary octant. Among all small displacements of its surface, combinations
of the three energy densities are the smallest that change (C11, C12, C44) as wanted; their three weights
are found on the densities alone (no solve), against a model of the change that learns from every
homogenisation by Broyden's update (1965). The cell stays binary and connected all along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from micro.cell import tensor
from micro.cell.chamber import chamber
from micro.cell.octant import connectivity, is_symmetric
from micro.homogenize.fields import Status
from micro.homogenize.secant import least_norm
from micro.homogenize.sensitivity import sensitivities
from micro.inverse.surface import Surface
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError

_LARGEST = 1.5
"""Largest displacement of one iteration in voxels."""

_SMALLEST = 0.2
"""Least radius of a trial: below it hardly a voxel changes sides."""

_WEIGHT_STEPS = 12
"""Newton steps for the weights of one displacement; they need no solve."""

_WAVES, _CLOUD, _CLOUD_SCALES = 3, 40, (0.5, 0.5, 0.25, 0.25, 0.1, 0.05)
"""Random waves that take part in a displacement; random weights tried in a round; the rounds' spreads."""

_FEW = 60
"""Orbits flipped at once at most where the whole surface does not move."""

_ATTEMPTS = 8
"""How often a displacement that would cut the cell in pieces is searched for again, and smaller."""


@dataclass(frozen=True)
class Match:
    """A cell on its way to a target.

    Attributes
    ----------
    octant : bool array, shape (n, n, n)
        The nearest cell so far: binary and connected.
    C : array, shape (3,)
        Its own homogenised tensor.
    error : float
        Tensor error (Eq. 4) against the target; the relative one over its bound times the other's, if larger.
    homogenisations : int
        Octants homogenised so far, the given one included.
    trail : tuple of (octant, C)
        Every connected cell that was homogenised, if asked for.
    """

    octant: Bools
    C: Floats
    error: float
    homogenisations: int
    trail: tuple[tuple[Bools, Floats], ...] = ()


@dataclass(frozen=True)
class _State:
    best: Match
    surface: Surface
    solution: Tensor  # the best cell's fluctuations, from which its neighbours' are not far
    model: Floats  # (3, 6): actual change of C per change predicted, by removals and by additions
    radius: float  # largest displacement of the next trial, in voxels
    few: bool = False  # whether the next trial flips a few orbits instead of moving the whole surface


@dataclass(frozen=True)
class _Aim:
    """What is wanted of every trial, and how it is homogenised."""

    target: Floats
    bounds: tensor.Bounds
    allowed: Callable[[Bools], bool] | None
    nu: float
    rtol: float
    keep: bool

    def error(self, C: Floats) -> float:
        """How far a tensor is from the target."""
        return float(self.bounds.error(C, self.target))

    def takes(self, octant: Bools) -> bool:
        """Whether a trial is worth homogenising."""
        if not octant.any() or not connectivity(octant).connected:
            return False
        return self.allowed is None or self.allowed(octant)


def match_target(
    octant: ArrayLike,
    target: ArrayLike,
    *,
    tolerance: float = 3e-3,
    relative: float = np.inf,
    iterations: int = 20,
    nu: float = 0.3,
    rtol: float = 1e-3,
    allowed: Callable[[Bools], bool] | None = None,
    keep: bool = False,
    watch: Callable[[Match], None] | None = None,
) -> Match:
    """Move the surface of a connected binary octant until its tensor is the target's.

    Parameters
    ----------
    octant : bool array, shape (n, n, n)
        Connected and symmetric.
    target : array_like, shape (3,)
        C11, C12, C44 in units of E_s.
    tolerance, relative : float
        Tensor error (Eq. 4) and relative error at which, both, to stop; by default the relative one is free.
    iterations : int
        Trials at most, each one homogenisation.
    nu : float
        Poisson's ratio of the base material.
    rtol : float
        Relative residual of the solves; the error of C is of the order of its square.
    allowed : callable, optional
        Whether an octant on the way will do, besides being connected; asked before it is homogenised.
    keep : bool
        Whether to keep every cell homogenised on the way (``trail``).
    watch : callable, optional
        Called after every iteration with the best so far.

    Returns
    -------
    Match
        Never farther from the target than the given cell (a solid one, which has no surface, is given back).
        Whether the tolerance was met is for the caller to see in ``error``: an unreachable target is no
        failure.

    Raises
    ------
    InputError
        If the octant is not bool, symmetric and connected, or the target no positive definite tensor.
    """
    wanted = np.asarray(target, dtype=np.float64)
    if wanted.shape != (3,) or not tensor.is_definite(wanted):
        raise InputError(
            "a target is a positive definite (C11, C12, C44)", key="target", value=wanted.tolist()
        )
    start = np.asarray(octant)
    if start.dtype != bool or start.ndim != 3 or not is_symmetric(start):
        raise InputError("a bool octant (n, n, n), symmetric under permutation, is needed", key="octant")
    if not connectivity(start).connected:
        raise InputError("the octant must be connected", key="octant")
    aim = _Aim(wanted, tensor.Bounds(tolerance, relative), allowed, nu, rtol, keep)
    if start.all():  # without a surface nothing can move
        return _first(start, sensitivities(start, nu=nu, rtol=rtol).C[0], aim)
    state = _begin(start, aim)
    for _ in range(iterations):
        if state.best.error <= tolerance or state.radius == 0:
            break
        state = _step(state, aim)
        if watch is not None:
            watch(state.best)
    return state.best


def _begin(octant: Bools, aim: _Aim) -> _State:
    result = sensitivities(octant, nu=aim.nu, rtol=aim.rtol)
    best = _first(octant, result.C[0], aim)
    model = np.hstack([np.eye(3), np.eye(3)])
    return _State(best, Surface.of(octant, result.gradient[0]), result.fluctuation, model, _LARGEST)


def _first(octant: Bools, C: Floats, aim: _Aim) -> Match:
    """What is known before the first trial."""
    return Match(octant, C, aim.error(C), 1, ((octant, C),) if aim.keep else ())


def _step(state: _State, aim: _Aim) -> _State:
    """One trial: move, homogenise, learn, accept if nearer."""
    best, surface = state.best, state.surface
    displacement, trial, radius = _few_orbits(state, aim) if state.few else _trial(state, aim)
    if trial is None:
        # Neither way leads on: the end. Otherwise the other way is tried.
        return replace(state, radius=0.0 if state.few else radius, few=not state.few)
    result = sensitivities(
        trial,
        nu=aim.nu,
        rtol=aim.rtol,
        start=state.solution,
        needed=lambda found: np.array([aim.error(found[0]) < state.best.error]),
    )
    C = result.C[0]
    best = replace(best, homogenisations=best.homogenisations + 1)
    if result.status[0] != Status.OK:
        return replace(state, best=best, radius=0.5 * radius, few=not state.few)
    if aim.keep:
        best = replace(best, trail=(*best.trail, (trial, C)))
    model = surface.learned(state.model, displacement, C - state.best.C)
    distance = aim.error(C)
    if distance < best.error:
        best = replace(best, octant=trial, C=C, error=distance)
        onward = Surface.of(trial, result.gradient[0])
        return _State(best, onward, result.fluctuation, model, min(_LARGEST, 1.5 * radius))
    if not state.few:
        radius = 0.5 * min(radius, float(surface.size(displacement)))
    return _State(best, surface, state.solution, model, max(radius, _SMALLEST), not state.few)


def _trial(state: _State, aim: _Aim) -> tuple[Floats, Bools | None, float]:
    """A displacement, the octant that it leads to (None: none will do) and the radius for it."""
    radius = state.radius
    for attempt in range(_ATTEMPTS):
        seed = _ATTEMPTS * state.best.homogenisations + attempt
        displacement = _displacement(state.surface, state.model, aim.target - state.best.C, radius, seed)
        trial = state.surface.moved(displacement)
        if not aim.takes(trial):
            radius *= 0.6
        elif not np.array_equal(trial, state.best.octant):
            return displacement, trial, radius
        else:
            radius = min(_LARGEST, 1.5 * radius)
    return displacement, None, radius


def _few_orbits(state: _State, aim: _Aim) -> tuple[Floats, Bools | None, float]:
    """A few orbits at the surface flipped, as :func:`_trial` returns it.

    Where a displacement fails, because it flips too many voxels at once or the wrong ones: matching pursuit
    (Mallat and Zhang 1993) among a random half of the surface's orbits.
    """
    surface, radius = state.surface, state.radius
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng(_ATTEMPTS * state.best.homogenisations + attempt)
        near = surface.near(rng)
        solid = surface.level[near] > 0
        rate = surface.rate[:, near] / tensor.PAPER_SPAN[:, None]
        effect = np.where(solid, -state.model[:, :3] @ rate, state.model[:, 3:] @ rate)
        left = (aim.target - state.best.C) / tensor.PAPER_SPAN
        displacement = np.zeros(len(surface.level))
        for _ in range(_FEW):
            rest = ((left[:, None] - effect) ** 2).sum(axis=0)
            rest[displacement[near] != 0] = np.inf
            i = int(np.argmin(rest)) if len(rest) else 0
            if not len(rest) or rest[i] >= left @ left:
                break
            left = left - effect[:, i]
            displacement[near[i]] = -2 * surface.level[near[i]]
        trial = surface.moved(displacement)
        if not np.array_equal(trial, state.best.octant) and aim.takes(trial):
            return displacement, trial, radius
    return displacement, None, radius


def _displacement(surface: Surface, model: Floats, change: Floats, radius: float, seed: int) -> Floats:
    """A displacement (q,) within ``radius`` whose predicted change of C is near to ``change``.

    Of all displacements within a radius that change C as wanted the smallest one is a combination of the
    densities cut off at the radius. Newton's method finds its weights; then, as voxels change sides in
    lumps, a random search around its result, in which a few waves take part too.
    """
    rng = np.random.default_rng(seed)
    waves = chamber(len(surface.octant)).waves
    mixed = rng.standard_normal((_WAVES, len(waves))) @ waves / np.sqrt(len(waves))
    basis, wanted = np.concatenate([surface.velocities, mixed]), change / tensor.PAPER_SPAN
    near = np.abs(surface.level) <= radius  # a fifth of the voxels; the others stay what they are
    reached, there = surface.part(near), basis[:, near]

    def missing(weights: Floats) -> Floats:
        """What weights (c, b) leave to be done; (c, 3)."""
        displacement = np.clip(weights @ there, -radius, radius)
        return wanted - (reached.predicted(displacement) / tensor.PAPER_SPAN).reshape(-1, 6) @ model.T

    A = (model[:, :3] + model[:, 3:]) / 2 @ (surface.slope(basis[:3]) / tensor.PAPER_SPAN[:, None])
    best, left = np.zeros(len(basis)), wanted
    weights, rest = best, left
    for _ in range(_WEIGHT_STEPS):
        weights = weights.copy()
        weights[:3] += least_norm(A, rest)
        rest = missing(weights[None])[0]
        if rest @ rest < left @ left:
            best, left = weights, rest
    for scale in _CLOUD_SCALES:
        unit = scale * max(radius, float(np.abs(best).max()))
        cloud = best + unit * rng.standard_normal((_CLOUD, len(basis)))
        rests = missing(cloud)
        i = int(np.argmin((rests**2).sum(axis=1)))
        if rests[i] @ rests[i] < left @ left:
            best, left = cloud[i], rests[i]
    return np.clip(best @ basis, -radius, radius)
