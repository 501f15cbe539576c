"""Improving a binary cell by moving its surface, within its volume and the goal's constraints.

At an optimal surface the density of the objective, plus those of the constraints times their multipliers (the
shape derivatives of :mod:`micro.inverse.surface`), is the same everywhere: material moves from where it is
low to where it is high. Which mix of the three constants' densities that is, the surface's own estimate of a
displacement's effect tells without a solve; a model that learns from every homogenisation by Broyden's
update (1965) corrects the estimate, as in :mod:`micro.inverse.matching`. Grey designs end a little off the
optimum, for their filter rounds every edge and their hinges are grey.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from micro.cell import tensor
from micro.cell.chamber import chamber
from micro.cell.octant import connectivity
from micro.homogenize.fields import Status
from micro.homogenize.sensitivity import Sensitivity, sensitivities
from micro.inverse.binary import BinaryCell
from micro.inverse.goal import PENALTY, Goal
from micro.inverse.surface import Surface
from micro.runtime.arrays import Bools, Floats

_RADIUS, _LEAST = 1.5, 0.15
"""Largest displacement of the first trial in voxels, and the one at which the search ends."""

_FEW = 31
"""Orbits flipped at once at most where the whole surface does not move."""

_CLOUD, _SPREADS = 24, (1.0, 0.4, 0.15)
"""Mixes tried in a round, and how far they are strewn in each."""

_BISECTIONS = 24


@dataclass(frozen=True)
class _Place:
    """A cell with what is needed to leave it."""

    cell: BinaryCell
    surface: Surface
    merit: float

    @staticmethod
    def of(octant: Bools, result: Sensitivity, goal: Goal) -> _Place:
        C = result.C[0]
        surface = Surface.of(octant, result.gradient[0])
        return _Place(BinaryCell(octant, C), surface, goal.merit(C, float(octant.mean())))


def polished(cell: BinaryCell, goal: Goal, trials: int = 24) -> tuple[BinaryCell, int]:
    """A cell that is nearer to the goal or as near, and the number of homogenisations.

    What is compared is the loss plus a penalty on what violates the constraints, the volume's among them.

    Parameters
    ----------
    cell : BinaryCell
    goal : Goal
    trials : int
        Homogenisations at most.
    """
    result = sensitivities(cell.octant, nu=goal.nu, rtol=1e-3)
    best, solves, radius, few = _Place.of(cell.octant, result, goal), 1, _RADIUS, _FEW
    model = np.hstack([np.eye(3), np.eye(3)])
    attempt, by_flips = 0, False
    while solves < trials and (radius > _LEAST or few > 0):
        attempt += 1
        by_flips = few > 0 and (by_flips or radius <= _LEAST)
        if by_flips:
            displacement = _flips(best, goal, model, few, attempt)
        else:
            displacement = _displacement(best, goal, model, radius, attempt)
        octant, better = best.surface.moved(displacement), False
        if not np.array_equal(octant, best.cell.octant) and connectivity(octant).connected:
            trial = sensitivities(octant, nu=goal.nu, rtol=1e-3)
            solves += 1
            if trial.status[0] == Status.OK:
                model = best.surface.learned(model, displacement, trial.C[0] - best.cell.C)
                place = _Place.of(octant, trial, goal)
                better = place.merit < best.merit
                best = place if better else best
        if better:
            radius, few = min(_RADIUS, 1.3 * radius), min(_FEW, 2 * few + 1)
        elif by_flips:
            few //= 2
        else:
            radius *= 0.6
        by_flips = by_flips if better else not by_flips
    return best.cell, solves


def _flips(at: _Place, goal: Goal, model: Floats, most: int, seed: int) -> Floats:
    """A displacement (q,) that flips up to ``most`` orbits of voxels at the surface, the best one by one.

    Where moving the whole surface fails, because a hinge of a voxel or two is cut or doubled by it. Only a
    random half of the orbits is looked at, so that the next attempt is another one.
    """
    rng = np.random.default_rng([seed, 1])
    surface, C = at.surface, at.cell.C.copy()
    n = len(at.cell.octant)
    near = surface.near(rng)
    solid = surface.level[near] > 0
    model = model * tensor.PAPER_SPAN[:, None] / np.tile(tensor.PAPER_SPAN, 2)
    rate = surface.rate[:, near]
    effect = np.where(solid, -model[:, :3] @ rate, model[:, 3:] @ rate)
    size = np.where(solid, -1, 1) * chamber(n).weights[near] / n**3
    volume = at.cell.volume
    displacement, left = np.zeros(len(surface.level)), np.ones(len(near), dtype=bool)
    for _ in range(most):
        slope, rows = goal.derivatives(C)
        values = goal.constraints(C)
        gain = goal.loss(C) + slope @ effect
        for value, row in zip(values, rows, strict=True):
            gain = gain + PENALTY * np.maximum(value + row @ effect, 0)
        gain = gain + PENALTY * np.maximum((volume + size) / goal.volume - 1, 0)
        gain[~left] = np.inf
        i = int(np.argmin(gain)) if len(gain) else -1
        if i < 0 or gain[i] >= goal.merit(C, volume):
            break
        C, volume, left[i] = C + effect[:, i], volume + size[i], False
        displacement[near[i]] = -2 * surface.level[near[i]]
    return displacement


def _displacement(at: _Place, goal: Goal, model: Floats, radius: float, seed: int) -> Floats:
    """The displacement (q,) within ``radius`` of the best merit predicted.

    A random search over the mixes of the densities, about that of the loss alone and the best so far.
    """
    rng = np.random.default_rng(seed)
    surface, C = at.surface, at.cell.C
    n = len(at.cell.octant)
    weights = chamber(n).weights / n**3
    near = np.abs(surface.level) < 1.5
    size = np.linalg.norm(surface.velocities[:, near], axis=1)
    slope, rows = goal.derivatives(C)

    def moved(mix: Floats) -> Floats:
        density = mix @ surface.velocities
        density = density / max(float(np.std(density[near])), 1e-30)
        low, high = -4.0, 4.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            solid = surface.level + np.clip(density - middle, -1, 1) * radius > 0
            low, high = (middle, high) if solid @ weights > goal.volume else (low, middle)
        return np.asarray(np.clip(density - high, -1, 1) * radius)

    def predicted(displacement: Floats) -> float:
        change = model @ (surface.predicted(displacement) / tensor.PAPER_SPAN).ravel()
        solid = float((surface.level + displacement > 0) @ weights)
        return goal.merit(C + change * tensor.PAPER_SPAN, solid)

    # In units of the velocities: a velocity is a density over its typical size.
    first = -slope * surface.typical
    first = first / max(float(np.linalg.norm(first * size)), 1e-30)
    constrained = [-row * surface.typical for row in rows if np.any(row)]
    best = moved(first)
    mix, merit = first, predicted(best)
    if not len(rows):
        return best
    for spread in _SPREADS:
        centre = mix
        for _ in range(_CLOUD):
            change = rng.standard_normal(3) / np.maximum(size, 1e-30) * spread
            for row in constrained:
                scaled = row / max(float(np.linalg.norm(row * size)), 1e-30)
                change = change + spread * rng.standard_normal() * scaled
            displacement = moved(centre + change)
            value = predicted(displacement)
            if value < merit:
                best, mix, merit = displacement, centre + change, value
    return best
