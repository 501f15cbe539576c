"""One stage of optimisation at fixed sharpness: optimality criteria, or MMA by nlopt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nlopt
import numpy as np

from micro.runtime.arrays import Floats

_MOVE = 0.2
"""Largest change of a variable in one step of the optimality criteria, or one round of MMA."""

_SETTLED = 0.01
"""Largest change at which they stop."""

_SLOW = 1e-3
"""Relative gain in five steps, or in a round, below which a stage has done its work."""

_ROUND = 12
"""Evaluations of one round of MMA."""

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
    """The method of moving asymptotes (Svanberg 2002) as nlopt has it, ``limit`` evaluations at most.

    In rounds, each within a box about the best design so far: the tensor of a cell is so far from convex
    in its density that unbounded first steps destroy the cell. Best is the one that violates the
    constraints least, then the one of least loss.
    """
    memory = _Memory(evaluate, limit)
    memory(x)
    move = _MOVE
    while memory.left > 0:
        before = memory.rank
        _round(memory, memory.best, move)
        gained = before[1] - memory.rank[1] > _SLOW * abs(memory.rank[1]) or memory.rank[0] < before[0]
        if not gained:
            move *= 0.5
            if move < _SETTLED:
                break
    return memory.best


def _round(memory: _Memory, x: Floats, move: float) -> None:
    def loss(at: Floats, gradient: Floats) -> float:
        found = memory(at)
        if gradient.size:
            gradient[:] = found.loss_gradient
        return found.loss

    def constraints(values: Floats, at: Floats, gradient: Floats) -> None:
        found = memory(at)
        values[:] = found.constraints
        if gradient.size:
            gradient[:] = found.constraint_gradient

    count = len(memory(x).constraints)
    optimiser: Any = nlopt.opt(nlopt.LD_MMA, len(x))
    optimiser.set_lower_bounds(np.maximum(x - move, 0))
    optimiser.set_upper_bounds(np.minimum(x + move, 1))
    optimiser.set_min_objective(loss)
    if count:
        optimiser.add_inequality_mconstraint(constraints, np.full(count, _FEASIBLE))
    optimiser.set_maxeval(min(_ROUND, memory.left + 1))  # the first one is remembered
    try:
        optimiser.optimize(x)
    except nlopt.RoundoffLimited:
        pass  # the subproblem has stalled: what it found on the way is remembered
    except Exception:
        # nlopt may replace the evaluation's own error.
        if memory.failure is not None:
            raise memory.failure from None
        raise
    if memory.failure is not None:
        raise memory.failure


class _Memory:
    """Evaluations by point, since nlopt asks for loss and constraints apart; remembers the best."""

    def __init__(self, evaluate: Evaluate, limit: int) -> None:
        self._evaluate = evaluate
        self._known: list[tuple[Floats, Evaluation]] = []
        self.left = limit
        self.rank = (np.inf, np.inf)
        self.best: Floats = np.empty(0)
        self.failure: BaseException | None = None

    def __call__(self, x: Floats) -> Evaluation:
        for at, found in self._known:
            if np.array_equal(at, x):
                return found
        try:
            found = self._evaluate(x.copy())
        except BaseException as error:
            self.failure = error
            raise
        self.left -= 1
        rank = (max(float(found.constraints.max(initial=0.0)), 2 * _FEASIBLE), found.loss)
        best = rank < self.rank
        if best:
            self.rank, self.best = rank, x.copy()
        # Kept: the last one and the best one, at which the next round begins.
        kept = self._known[:1] if self._known and not best else []
        self._known = [*kept, (x.copy(), found)]
        return found
