"""The optimisation loop: L-BFGS-B or nlopt inside a stage, projection between stages.

The optimiser is an explicit state (:class:`State`) and a step (:func:`run_stage`):
``state -> stage -> projected state``. Every evaluation is kept on disk, and a
command that goes on after a kill is answered from there:
:mod:`multiscale.design.evaluations`.

Stage 0 moves one tensor for the whole design region (three variables), which
costs little and finds the right basin; the later stages move every element.

What is evaluated is always feasible: the filtered tensors are projected onto the
gamut and the projection is differentiated. One aggregated constraint, or with
L-BFGS-B a penalty on each element, keeps the unprojected tensors within ``slack``
of the gamut, where the projection is well behaved; after each stage the variables
take over what the projection moved. The
objective given to the optimiser is J / J at the start of the stage, squared if J is a
norm: a sum of squares of displacement differences is smooth, their norm is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import nlopt
import numpy as np

from micro.gamut.gamut import Gamut
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from multiscale.design import quasi_newton
from multiscale.design.evaluations import FOLDER, Evaluation, Evaluations
from multiscale.design.feasibility import (
    FeasibilityConstraint,
    FeasibilityPenalty,
    FeasibleProjection,
    count_violations,
)
from multiscale.design.mass import LIMIT_TOLERANCE, MassLimit
from multiscale.design.space import DesignSpace
from multiscale.design.state import Record, State
from multiscale.objective.objective import Objective

ALGORITHMS = ("lbfgs", "mma", "ccsaq")

#: L-BFGS-B: weight of the penalty on phi, and the share of the slack that it leaves free. Beyond the gamut's
#: radius of curvature (0.02 to 0.05 in scaled moduli) the nearest point jumps; a step to there makes the
#: seventh digit of J the first one of the design (docs/method.md has the figures).
_PENALTY = 100.0
_FREE = 0.4

#: The first stage only has to find the right basin: it ends at this relative change of J^2.
_UNIFORM_TOLERANCE = 1e-3

#: Evaluations over which a gain is asked for: longer than the plateaus of searches that went on to gain.
PATIENCE = 12


@dataclass(frozen=True)
class Settings:
    """How to optimise.

    Attributes
    ----------
    algorithm : {"lbfgs", "mma", "ccsaq"}
        :mod:`multiscale.design.quasi_newton`, with MMA for the first stage and for what it leaves when
        its line searches fail; or one of nlopt's throughout.
    uniform_evaluations : int
        Evaluations of stage 0 (0 skips it).
    stages : int
        Stages that move every element.
    evaluations : int
        Evaluations per such stage.
    sharpness : float
        Of the feasibility aggregate.
    slack : float
        How far the unprojected tensors may leave the gamut, in units of phi.
    margin : float
        phi that is asked of every (projected) element.
    tolerance : float
        Relative change of J^2 over one iteration below which a stage ends.
    least_gain : float
        Share of J that :data:`PATIENCE` evaluations of a stage after the first have to gain together, or it
        ends.
    """

    algorithm: str = "lbfgs"
    uniform_evaluations: int = 25
    stages: int = 1
    evaluations: int = 100
    sharpness: float = 40.0
    slack: float = 0.05
    margin: float = 0.0
    tolerance: float = 1e-6
    least_gain: float = 0.0


class Optimiser:
    """Minimises an objective of a design under the feasibility constraint.

    Parameters
    ----------
    objective : Objective
    space : DesignSpace
    gamut : Gamut
    settings : Settings
    directory : Path or None
        Where ``history.jsonl`` and the evaluations are kept; None keeps nothing.
    report : callable, optional
        Called with each record as it is made.
    limit : MassLimit, optional
        A further constraint, on the projected tensors.
    write : bool
        Whether this process writes what is kept (one rank does, all read).

    Raises
    ------
    InputError
        If there is no such algorithm, or it can't keep the limit.
    """

    def __init__(
        self,
        objective: Objective,
        space: DesignSpace,
        gamut: Gamut,
        settings: Settings,
        directory: Path | None = None,
        report: Callable[[Record], None] | None = None,
        limit: MassLimit | None = None,
        write: bool = True,
    ):
        if settings.algorithm not in ALGORITHMS:
            raise InputError(
                f"must be one of {', '.join(ALGORITHMS)}", key="optimizer.algorithm", value=settings.algorithm
            )
        if limit is not None and settings.algorithm == "lbfgs":
            raise InputError("keeps no mass limit", key="optimizer.algorithm", value="lbfgs")
        self.objective = objective
        self.space = space
        self.gamut = gamut
        self.projection = FeasibleProjection(gamut, settings.margin)
        self.settings = settings
        self.report = report
        self.limit = limit
        folder = None if directory is None else directory / FOLDER
        self.evaluations = Evaluations(objective, space, folder, write)
        self._history = None if directory is None or not write else directory / "history.jsonl"

    # ------------------------------------------------------------------ run
    def run(self, state: State) -> State:
        """Go through the stages that ``state`` has not finished; returns the final state."""
        last = self.settings.stages
        while state.stage <= last:
            self.objective.sharpen(state.stage)
            budget = self.settings.evaluations if state.stage else self.settings.uniform_evaluations
            if budget > state.evaluation:
                state = self._run_stage(state, budget)
            state = self._finish_stage(state)
        self.objective.sharpen(0)
        return state

    def initial_state(self, tensors: Floats) -> State:
        """Start from the tensors (N, 3) of the case's initial design, softened to the mass limit."""
        start = self.gamut.project(tensors, self.settings.margin)
        if self.limit is not None and self.limit.density(start) > self.limit.limit:
            # MMA keeps within a constraint more easily than it comes back to it.
            low, high = 0.0, 1.0
            for _ in range(30):
                middle = (low + high) / 2
                start = self.gamut.project(middle * tensors, self.settings.margin)
                low, high = (low, middle) if self.limit.density(start) > self.limit.limit else (middle, high)
            start = self.gamut.project(low * tensors, self.settings.margin)
        return State(self.space.variables(start))

    # ---------------------------------------------------------------- stage
    def _run_stage(self, state: State, budget: int) -> State:
        uniform = state.stage == 0
        settings = self.settings
        aggregate = FeasibilityConstraint(self.gamut, settings.margin - settings.slack, settings.sharpness)
        start = state.x.mean(axis=0) if uniform else state.x.reshape(-1)
        search = _Search(self, state, aggregate, uniform)

        tolerance = max(settings.tolerance, _UNIFORM_TOLERANCE) if uniform else settings.tolerance
        # Stage 0 is left to MMA: of three variables each means much, and its steps overshoot less.
        if settings.algorithm == "lbfgs" and not uniform:
            left = budget - state.evaluation
            with suppress(nlopt.ForcedStop):
                quasi_newton.minimise(search.objective, [search.penalty], start, left, tolerance)
            start = search.state.x.reshape(-1)
        left = budget - search.state.evaluation
        if left == 0 or search.stalled():
            return search.state
        # After L-BFGS: where the projection's kinks stop line searches, MMA's steps still gain.
        algorithm = nlopt.LD_CCSAQ if settings.algorithm == "ccsaq" else nlopt.LD_MMA
        optimiser = nlopt.opt(algorithm, len(start))
        optimiser.set_lower_bounds(0.0)
        optimiser.set_upper_bounds(1.0)
        optimiser.set_min_objective(search.objective)
        optimiser.add_inequality_constraint(search.constraint, 1e-6)
        if self.limit is not None:
            optimiser.add_inequality_constraint(search.limit, 1e-6)
        optimiser.set_maxeval(left)
        optimiser.set_ftol_rel(tolerance)
        # Roundoff: no further progress is possible in floating point, and the best point so far stands.
        with suppress(nlopt.RoundoffLimited, nlopt.ForcedStop):
            optimiser.optimize(start)
        return search.state

    def expand(self, x: Floats, uniform: bool) -> Floats:
        """Variables (N, 3) from the optimiser's flat vector."""
        return np.broadcast_to(x, (self.space.size, 3)) if uniform else x.reshape(-1, 3)

    def _finish_stage(self, state: State) -> State:
        """Project every element onto the gamut, keep the design if it is the best so far."""
        raw = self.space.forward(state.x)
        projected = self.projection.forward(raw)
        evaluation = self.evaluations.evaluate(projected, slope=False)
        value = evaluation.value
        record = self.record_of(state, evaluation, projected, projection=True)
        if value.total < state.best_value and self.excess(projected) == 0.0:
            state = replace(state, best=projected, best_value=value.total)
        # The variables move by what the projection moved, so that filtering does not blur them again.
        x = self.space.variables(self.space.unfiltered(state.x) + projected - raw)
        state = replace(state, x=x, stage=state.stage + 1, evaluation=0, records=(*state.records, record))
        self.keep(state, record)
        return state

    def excess(self, tensors: Floats) -> float:
        """By what share tensors (N, 3) exceed the mass limit and its tolerance; 0 if they don't."""
        if self.limit is None:
            return 0.0
        return max(0.0, self.limit.density(tensors) / self.limit.limit - 1 - LIMIT_TOLERANCE)

    # --------------------------------------------------------------- records
    def record_of(
        self, state: State, evaluation: Evaluation, tensors: Floats, projection: bool = False
    ) -> Record:
        """What the history keeps of a design (N, 3).

        Parameters
        ----------
        state : State
        evaluation : Evaluation
        tensors : array, shape (N, 3)
            The design, in units of E_s.
        projection : bool
            Whether it ends a stage.
        """
        phi, value = self.gamut.phi(tensors), evaluation.value
        limited = {} if self.limit is None else {self.limit.name: self.limit.density(tensors)}
        return {
            "stage": state.stage,
            "kind": "projection" if projection else "evaluation",
            "evaluation": state.evaluation,
            "count": len(state.records) + 1,
            self.objective.quantity: value.total,
            "per_load": value.per_load,
            **limited,
            "constraint": float(self.settings.margin - phi.min()),
            "violations": count_violations(phi, self.settings.margin),
            "seconds": round(evaluation.seconds, 3),
        }

    def keep(self, state: State, record: Record) -> None:
        """Add the state's last record to the history, and report it."""
        if self._history is not None:
            mode = "w" if len(state.records) == 1 else "a"
            with self._history.open(mode, encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
        if self.report is not None:
            self.report(record)


class _Search:
    """The optimiser's callbacks for one stage: evaluates each point once, keeps the best and the state."""

    def __init__(self, owner: Optimiser, state: State, constraint: FeasibilityConstraint, uniform: bool):
        self.owner = owner
        self.state = state
        self.aggregate = constraint
        settings = owner.settings
        self._beyond = FeasibilityPenalty(owner.gamut, settings.margin - _FREE * settings.slack)
        self.uniform = uniform
        self._scale = 0.0
        self._seen: tuple[Floats, Floats, Floats] | None = None
        self._best_merit = (float("inf"), float("inf"))
        self._merits: list[tuple[float, float]] = []

    def stalled(self) -> bool:
        """Whether the best design has hardly gained for some time."""
        if self.uniform or len(self._merits) <= PATIENCE:
            return False
        (beyond, value), (beyond_before, before) = self._merits[-1], self._merits[-1 - PATIENCE]
        return beyond == beyond_before and before - value < self.owner.settings.least_gain * before

    def objective(self, x: Floats, gradient: Floats) -> float:
        if self.stalled():
            raise nlopt.ForcedStop
        owner = self.owner
        variables = owner.expand(x, self.uniform)
        raw, tensors = self._design(x)
        evaluation = owner.evaluations.evaluate(tensors, slope=True)
        value, sensitivity = evaluation.value, evaluation.sensitivity
        self._scale = self._scale or value.total
        if gradient.size and sensitivity is not None:
            pulled = owner.projection.backward(raw, tensors, sensitivity)
            power = owner.objective.exponent
            slope = power * (value.total / self._scale) ** (power - 1) / self._scale
            gradient[:] = self._flat(owner.space.backward(pulled)) * slope
        self._note(variables, raw, tensors, evaluation)
        return (value.total / self._scale) ** owner.objective.exponent

    def _design(self, x: Floats) -> tuple[Floats, Floats]:
        """Tensors (N, 3) before and after their projection; the last ones are kept."""
        if self._seen is None or not np.array_equal(self._seen[0], x):
            raw = self.owner.space.forward(self.owner.expand(x, self.uniform))
            if self.uniform:  # one tensor for all: the filter keeps constants, so one projection serves
                tensors = np.tile(self.owner.projection.forward(raw[:1]), (len(raw), 1))
            else:
                tensors = self.owner.projection.forward(raw)
            self._seen = np.array(x), raw, tensors
        return self._seen[1], self._seen[2]

    def limit(self, x: Floats, gradient: Floats) -> float:
        owner = self.owner
        assert owner.limit is not None
        raw, tensors = self._design(x)
        value, sensitivity = owner.limit.value_and_gradient(tensors)
        if gradient.size:
            pulled = owner.projection.backward(raw, tensors, sensitivity)
            gradient[:] = self._flat(owner.space.backward(pulled))
        return value

    def constraint(self, x: Floats, gradient: Floats) -> float:
        space = self.owner.space
        tensors = space.forward(self.owner.expand(x, self.uniform))
        value, sensitivity = self.aggregate.value_and_gradient(tensors)
        if gradient.size:
            gradient[:] = self._flat(space.backward(sensitivity))
        return value

    def penalty(self, x: Floats, gradient: Floats) -> float:
        """What L-BFGS-B has instead of the constraint."""
        raw, _ = self._design(x)
        value, sensitivity = self._beyond.value_and_gradient(raw)
        gradient[:] = self._flat(self.owner.space.backward(_PENALTY * sensitivity))
        return _PENALTY * value

    def _flat(self, gradient: Floats) -> Floats:
        return gradient.sum(axis=0) if self.uniform else gradient.reshape(-1)

    def _note(self, variables: Floats, raw: Floats, tensors: Floats, evaluation: Evaluation) -> None:
        """Count the evaluation; the state's x follows the best point.

        Every evaluated design is feasible after its projection, so the lowest J counts, but points
        whose unprojected tensors are far beyond the slack (twice it, in the aggregate) come last,
        and so do those that are too heavy.
        """
        state = replace(self.state, evaluation=self.state.evaluation + 1)
        record = self.owner.record_of(state, evaluation, tensors)
        beyond = max(0.0, self.aggregate.value(raw) - self.owner.settings.slack)
        merit = (beyond + self.owner.excess(tensors), evaluation.value.total)
        x = self.state.x
        if merit < self._best_merit:
            self._best_merit = merit
            x = np.array(variables)
        self._merits.append(self._best_merit)
        self.state = replace(state, x=x, records=(*state.records, record))
        self.owner.keep(self.state, record)
