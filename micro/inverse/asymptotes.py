"""The method of moving asymptotes: the next design from the gradients of the last one.

Around a design x every function is replaced by a convex separable one, sum_j p_j / (U_j - x_j) + q_j / (x_j -
L_j), whose asymptotes L and U come nearer where a variable swings and go apart where it keeps its direction
(Svanberg 1987; the coefficients with the small convex term of his notes of 2007). With a handful of
constraints the dual of the subproblem has as many unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from micro.runtime.arrays import Floats

_FIRST, _CLOSER, _APART = 0.5, 0.7, 1.2
"""Distance of the first asymptotes over a variable's range; factors where it swings, where it goes on."""

_NEAREST, _FARTHEST = 0.01, 10.0
"""Least and largest distance of an asymptote."""

_LARGEST = 1e3
"""Largest multiplier: beyond it a constraint that no design within the move can meet stays violated."""


@dataclass(frozen=True)
class Asymptotes:
    """What is remembered between two steps: the asymptotes' distances and the last two designs (q,)."""

    distance: Floats | None = None
    last: Floats | None = None
    before: Floats | None = None

    def moved(self, x: Floats) -> Asymptotes:
        """The asymptotes around x."""
        if self.distance is None or self.last is None or self.before is None:
            return Asymptotes(np.full(len(x), _FIRST), x, self.last)
        turn = (x - self.last) * (self.last - self.before)
        factor = np.where(turn > 0, _APART, np.where(turn < 0, _CLOSER, 1.0))
        return Asymptotes(np.clip(self.distance * factor, _NEAREST, _FARTHEST), x, self.last)


def next_design(
    x: Floats, rows: Floats, values: Floats, asymptotes: Asymptotes, move: float
) -> tuple[Floats, Asymptotes]:
    """One step.

    Parameters
    ----------
    x : array, shape (q,)
        Variables in [0, 1].
    rows : array, shape (1 + c, q)
        Gradients of the loss and of the constraints (<= 0).
    values : array, shape (c,)
        The constraints at x.
    asymptotes : Asymptotes
        Of the last step.
    move : float
        Largest change of a variable.

    Returns
    -------
    x, asymptotes
        The next design, and what the step after it needs.
    """
    kept = asymptotes.moved(x)
    distance = np.asarray(kept.distance)
    lower, upper = x - distance, x + distance
    low = np.maximum.reduce([np.zeros_like(x), x - move, x - 0.9 * distance])
    high = np.minimum.reduce([np.ones_like(x), x + move, x + 0.9 * distance])
    rising, falling = np.maximum(rows, 0), np.maximum(-rows, 0)
    # The convex term keeps the subproblem strictly convex where a gradient vanishes.
    convex = 1e-3 * np.abs(rows) + 1e-5 * np.abs(rows).max(axis=1, keepdims=True)
    p = distance**2 * (rising + convex)
    q = distance**2 * (falling + convex)
    level = ((p + q) / distance).sum(axis=1)

    def at(multipliers: Floats) -> Floats:
        weights = np.concatenate([[1.0], multipliers])
        root_p, root_q = np.sqrt(weights @ p), np.sqrt(weights @ q)
        return np.asarray(np.clip((root_p * lower + root_q * upper) / (root_p + root_q), low, high))

    def approximated(at_x: Floats) -> Floats:
        found = (p / (upper - at_x) + q / (at_x - lower)).sum(axis=1) - level
        found[1:] += values
        return np.asarray(found)

    def dual(multipliers: Floats) -> tuple[float, Floats]:
        found = approximated(at(multipliers))
        return -float(found[0] + multipliers @ found[1:]), -found[1:]

    count = len(values)
    if not count:
        return at(np.empty(0)), kept
    # Multipliers in units in which loss and constraint weigh the same.
    scale = max(float(np.abs(rows[0]).sum()), 1e-30) / np.maximum(np.abs(rows[1:]).sum(axis=1), 1e-30)

    def scaled(multipliers: Floats) -> tuple[float, Floats]:
        value, slope = dual(multipliers * scale)
        return value, slope * scale

    best = minimize(
        scaled,
        np.full(count, 0.1),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, _LARGEST)] * count,
        options={"maxiter": 200},
    )
    return at(best.x * scale), kept
