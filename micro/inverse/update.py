"""One stage of optimisation at fixed sharpness: optimality criteria, or the method of moving asymptotes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from micro.inverse.asymptotes import Asymptotes, next_design
from micro.runtime.arrays import Floats

_MOVE = 0.2
"""Largest change of a variable in one step of the optimality criteria, or one round of MMA."""

_SETTLED = 0.01
"""Largest change at which they stop."""

_SLOW = 1e-3
"""Relative gain in five steps, or in a round, below which a stage has done its work."""

_FEASIBLE = 1e-3
"""Violation of a constraint that passes."""


@dataclass(frozen=True)
class Evaluation:
    """Loss and constraints (<= 0) at a design with their derivatives; the volume's constraint comes first.

    Attributes
    ----------
    loss : float
    loss_gradient : array, shape (q,)
    constraints : array, shape (c,)
    constraint_gradient : array, shape (c, q)
    """

    loss: float
    loss_gradient: Floats
    constraints: Floats
    constraint_gradient: Floats


Evaluate = Callable[[Floats], Evaluation]


def optimality_criteria(x: Floats, evaluate: Evaluate, mean: Callable[[Floats], float], limit: int) -> Floats:
    """Fixed-point steps x sqrt(-dloss / (multiplier dvolume)), Bendsoe and Sigmund (2003), eq. 1.12.

    For one constraint, the volume, and a loss that falls with every variable. ``mean`` gives the volume's
    constraint of variables without a solve.

    Parameters
    ----------
    x : array
        Variables.
    evaluate : callable
    mean : callable
    limit : int
        Evaluations at most.
    """
    losses: list[float] = []
    for _ in range(limit):
        at = evaluate(x)
        losses.append(at.loss)
        if len(losses) > 5 and losses[-6] - losses[-1] < _SLOW * abs(losses[-1]):
            break
        gain = np.maximum(-at.loss_gradient, 0.0) / np.maximum(at.constraint_gradient[0], 1e-30)
        low, high = 0.0, float(gain.max()) * 1e4 + 1e-12
        for _ in range(60):
            middle = (low + high) / 2
            step = x * np.sqrt(gain / middle)
            new = np.clip(step, np.maximum(x - _MOVE, 0), np.minimum(x + _MOVE, 1))
            low, high = (middle, high) if mean(new) > 0 else (low, middle)
        change = float(np.abs(new - x).max())
        x = new
        if change < _SETTLED:
            break
    return x


def mma(x: Floats, evaluate: Evaluate, limit: int) -> Floats:
    """The method of moving asymptotes (:mod:`micro.inverse.asymptotes`), ``limit`` evaluations at most.

    Returns the best design met: the one that violates the constraints least, then the one of least loss.
    """
    best, rank, losses = x, (np.inf, np.inf), []
    asymptotes = Asymptotes()
    for _ in range(limit):
        at = evaluate(x)
        violation = max(float(at.constraints.max(initial=0.0)), _FEASIBLE)
        losses.append(at.loss)
        if (violation, at.loss) < rank:
            best, rank = x, (violation, at.loss)
        rows = np.vstack([at.loss_gradient, at.constraint_gradient])
        new, asymptotes = next_design(x, rows, at.constraints, asymptotes, _MOVE)
        change = float(np.abs(new - x).max())
        x = new
        if change < _SETTLED:
            break
    return best
