"""From a cell toward a goal in property space, by all the parameters of its family.

Gauss-Newton with one-sided differences and a least-norm step: the moduli are three, the parameters many, so
a cell far from the goal can bend its shape rather than only its density. Every cell evaluated on the way is
kept: they are new candidates just where the search went.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from micro.cell.chamber import chamber
from micro.families.families import GRAIN, LEADING, Family, family
from micro.families.solids import ABSENT
from micro.homogenize.secant import least_norm, within
from micro.runtime.arrays import Bools, Floats

_VOLUME_STEP = 0.02
_SHAPE_STEP = 0.1
"""Difference steps: volume fraction, and parameters in units of the level's standard deviation."""

_DAMPING = 1e-2
"""Of the least-norm step: differences of cells of few voxels are noisy."""

Evaluate = Callable[[list[Floats]], tuple[Floats, Bools]]
"""Parameter vectors to their scaled moduli (m, 3) and which are good (m,)."""


def reach(name: str, params: Floats, goal: Floats, n: int, evaluate: Evaluate, iterations: int = 10) -> None:
    """Move a cell of the family ``name`` toward ``goal`` (scaled moduli, (3,)).

    ``evaluate`` sees every cell tried, ``iterations`` batches of one more than the active parameters; what
    becomes of them is its affair. Volumes are met at resolution n.

    Parameters
    ----------
    name, params : str, array (p,)
        The start.
    goal : array, shape (3,)
    n : int
    evaluate : callable
        Parameters of some cells to their scaled moduli, and whether each is any good.
    iterations : int
    """
    formula = family(name)
    search = _Coordinates(formula, params[: len(formula.parameters)], n)
    x, radius = search.start, 1.0
    best, best_distance = x, np.inf
    for _ in range(iterations):
        trials = [x] + [x + search.steps * axis for axis in np.eye(len(x))]
        moduli, good = evaluate([search.params(t) for t in trials])
        if not good[0] or np.linalg.norm(goal - moduli[0]) >= best_distance:
            # A step too far: half of it, with the slopes as they were.
            radius *= 0.5
            x = (best + x) / 2
            if radius < 0.1 or not np.isfinite(best_distance):
                return
            continue
        best, best_distance = x, float(np.linalg.norm(goal - moduli[0]))
        slopes = np.where(good[1:, None], moduli[1:] - moduli[0], 0.0).T
        # In units of the difference steps.
        z = least_norm(slopes, goal - moduli[0], _DAMPING)
        x = x + search.steps * within(z, 2.0 * radius)


class _Coordinates:
    """Volume, tilts and the shape parameters that matter, as one vector, and back."""

    def __init__(self, formula: Family, params: Floats, n: int):
        self.formula, self.base, self.n = formula, params.copy(), n
        lead = len(LEADING)
        level = formula.shape_level(params, n)
        unit = float(np.std(level)) or 1.0
        self.active = [*range(1, lead), *self._sensitive(level, unit)]
        volume = chamber(n).mean(formula.chamber_field(params, n) > 0)
        self.start = np.array([volume, *params[self.active]])
        self.steps = np.array([_VOLUME_STEP, *([_SHAPE_STEP * unit] * len(self.active))])

    def _sensitive(self, level: Floats, unit: float) -> list[int]:
        """Shape parameters that change the level; what is absent stays absent."""
        found = []
        for i in range(len(LEADING), len(self.base)):
            if self.base[i] == ABSENT:
                continue
            moved = self.base.copy()
            moved[i] += _SHAPE_STEP * unit
            if not np.array_equal(self.formula.shape_level(moved, self.n), level):
                found.append(i)
        return found

    def params(self, x: Floats) -> Floats:
        """Parameters of the family for search coordinates."""
        params = self.base.copy()
        params[self.active] = np.round(x[1:] / GRAIN) * GRAIN
        return self.formula.with_volume(params, float(np.clip(x[0], 0.03, 0.97)), self.n)
