"""From what a case is for to the objective that computes it."""

from __future__ import annotations

from importlib import import_module

from multiscale.case.case import Case
from multiscale.case.purpose import PURPOSES, Purpose
from multiscale.objective.objective import Objective
from multiscale.problem.problem import Problem
from multiscale.solve.elasticity import SolverOptions


def objective_class(purpose: Purpose) -> type[Objective]:
    """The class of a purpose, imported now.

    Raises
    ------
    TypeError
        If it is no :class:`Objective`, or measures something else than its purpose says.
    """
    module, _, name = purpose.objective.partition(":")
    found = getattr(import_module(module), name)
    if not (issubclass(found, Objective) and found.quantity == purpose.quantity):
        raise TypeError(f"{purpose.objective} is no objective that measures {purpose.quantity}")
    return found


def solver_options(case: Case, rtol: float | None = None) -> SolverOptions:
    """The case's table ``solver``; ``rtol`` instead of its ``rtol_forward``."""
    s = case.solver
    levels = None if s.levels == "auto" else int(s.levels)
    return SolverOptions(s.preconditioner, rtol or s.rtol_forward, s.max_iterations, levels)


def make_objective(case: Case, problem: Problem, rtol: float | None = None) -> Objective:
    """The objective of a case on a grid.

    Parameters
    ----------
    case : Case
    problem : Problem
        The case's, or one made from it (a finer grid, another reference).
    rtol : float, optional
        Relative residual of the forward solves; ``solver.rtol_forward`` if left out.

    Raises
    ------
    InputError
        If the loads and the objective do not go together.
    """
    kind = objective_class(PURPOSES[case.objective.type])
    return kind(problem, solver_options(case, rtol), case.solver.rtol_adjoint)
