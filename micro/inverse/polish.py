"""Improving a binary cell at constant volume by moving its surface.

At an optimal surface the density of the objective (the shape derivative of :mod:`micro.inverse.surface`)
is the same everywhere: material moves from where it is low to where it is high. Grey designs end a little
off that, for their filter rounds every edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micro.cell.chamber import chamber, fundamental_domain
from micro.cell.octant import connectivity
from micro.homogenize.fields import Status
from micro.homogenize.sensitivity import sensitivities
from micro.inverse.binary import BinaryCell
from micro.inverse.goal import Goal
from micro.inverse.surface import Surface
from micro.runtime.arrays import Floats
from micro.shape.derivative import carried_over

_RADIUS, _LEAST = 1.5, 0.15
"""Largest displacement of the first trial in voxels, and the one at which the search ends."""


def polished(cell: BinaryCell, goal: Goal, nu: float, trials: int = 24) -> tuple[BinaryCell, int]:
    """A cell of at most the goal's volume and no smaller property, and the number of homogenisations.

    For goals without constraints on the tensor.
    """
    result = sensitivities(cell.octant, nu=nu, rtol=1e-3)
    best, solves, radius = BinaryCell(cell.octant, result.C[0]), 1, _RADIUS
    while solves < trials and radius > _LEAST:
        octant = _moved(best, result.gradient[0], goal, radius)
        if np.array_equal(octant, best.octant) or not connectivity(octant).connected:
            radius *= 0.6
            continue
        trial = sensitivities(octant, nu=nu, rtol=1e-3)
        solves += 1
        if trial.status[0] == Status.OK and goal.loss(trial.C[0]) < goal.loss(best.C):
            best, result = BinaryCell(octant, trial.C[0]), trial
        else:
            radius *= 0.6
    return best, solves


def _moved(cell: BinaryCell, gradient: Floats, goal: Goal, radius: float) -> NDArray[np.bool_]:
    """The surface moved by its objective's density above a level that keeps the volume."""
    n = len(cell.octant)
    inside, _ = fundamental_domain(n)
    weights = chamber(n).weights / n**3
    surface = Surface.of(cell.octant, gradient)
    slope, _ = goal.derivatives(cell.C)
    density = -np.tensordot(slope, carried_over(gradient, cell.octant, 1.0), axes=1).ravel()[inside]
    near = np.abs(surface.level) < 1.5
    density = density / max(float(np.std(density[near])), 1e-30)
    low, high = float(density.min()) - 1, float(density.max()) + 1
    for _ in range(50):
        middle = (low + high) / 2
        moved = surface.level + np.clip(density - middle, -1, 1) * radius > 0
        low, high = (middle, high) if moved @ weights > goal.volume else (low, middle)
    return surface.moved(np.clip(density - high, -1, 1) * radius)
