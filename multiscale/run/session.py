"""What the stages of a run share: the case on its grid, the objective, the gamut."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from micro.cell import tensor
from micro.data.packaged import load_dataset, load_least_volume
from micro.gamut.gamut import Gamut
from micro.runtime.arrays import Bools, Floats
from micro.runtime.progress import Reporter
from multiscale.case.case import Case
from multiscale.case.purpose import Purpose
from multiscale.design.feasibility import case_gamut, feasibility
from multiscale.design.filter import cone_filter
from multiscale.design.mass import MassLimit
from multiscale.design.optimize import Settings
from multiscale.design.space import DesignSpace
from multiscale.design.uniform import best_uniform
from multiscale.fill.make_source import make_source
from multiscale.fill.set_source import lightened
from multiscale.fill.source import CellSource
from multiscale.lattice.lattice import Lattice
from multiscale.objective.combination import Value
from multiscale.objective.compliance import ComplianceObjective
from multiscale.objective.objective import Objective
from multiscale.objective.purpose import make_objective
from multiscale.problem.problem import Problem, build_problem
from multiscale.solve.ranks import from_root

#: The refined mesh splits every element's edges into this many.
_REFINE = 2


class Session:
    """A case with what is built from it when first needed.

    Attributes
    ----------
    case : Case
    reporter : Reporter
    tensorboard : bool
    started : float
        When it was made, by the monotonic clock.
    """

    def __init__(self, case: Case, reporter: Reporter, *, tensorboard: bool = False):
        self.case = case
        self.reporter = reporter
        self.tensorboard = tensorboard
        self.started = time.monotonic()
        self._uniform: dict[float, tuple[Floats, dict[str, Any]]] = {}

    @cached_property
    def problem(self) -> Problem:
        """The case on its grid."""
        return build_problem(self.case)

    @cached_property
    def gamut(self) -> Gamut:
        """The feasible tensors."""
        return case_gamut(self.case)

    @cached_property
    def cells(self) -> CellSource:
        """Where the lattice's cells come from."""
        source = make_source(self.case.fill, self.case.path, self.case.base_material.poisson)
        return source if self.limit is None else lightened(source, load_least_volume())

    @property
    def purpose(self) -> Purpose:
        """What the case is for."""
        return self.case.objective.purpose

    @cached_property
    def limit(self) -> MassLimit | None:
        """The limit on mass, if there is one."""
        share = self.case.objective.mass_limit
        return None if share is None else MassLimit(load_least_volume(), share)

    @cached_property
    def objective(self) -> Objective:
        """The objective, its reference solutions solved."""
        return make_objective(self.case, self.problem)

    @cached_property
    def design_mask(self) -> Bools:
        """Design elements of the reduced grid."""
        return self.objective.reduction.elements(self.problem.design)

    @cached_property
    def plain_field(self) -> Floats:
        """The structure without a design, reduced grid: the reference or initial material instead."""
        if self.case.objective.reference is None:
            return self.objective.reduction.elements(self.problem.tensor)
        field = self.objective.reduction.elements(self.problem.tensor)
        field[self.design_mask] = self.objective.reduction.elements(self.problem.reference)[self.design_mask]
        return field

    def first(self, name: str) -> str:
        """Where the first design or lattice stands in a run: ``name``, unless rounds replace it by better."""
        return f"rounds/0/{name}" if self.case.full_scale.rounds else name

    @property
    def optimizer_settings(self) -> Settings:
        """How the first design is found."""
        o = self.case.optimizer
        return Settings(
            algorithm=o.algorithm if o.algorithm != "auto" else "lbfgs" if self.limit is None else "mma",
            uniform_evaluations=o.uniform_iterations,
            stages=o.stages,
            evaluations=o.iterations,
            slack=o.slack,
            margin=self.case.gamut.margin,
            tolerance=o.tolerance,
        )

    def feasibility(self, tensors: Floats) -> dict[str, float]:
        """What metrics say of tensors (N, 3) of the reduced grid's design elements."""
        weight = self.objective.reduction.element_weight
        return feasibility(self.gamut.phi(tensors), self.case.gamut.margin, weight)

    def solver_metrics(self, objective: Objective) -> dict[str, Any]:
        """What every design says of the solves of its objective."""
        return {
            "preconditioner": self.case.solver.preconditioner,
            "unknowns": objective.unknowns,
            "mirror_axes": ["xyz"[a] for a in objective.reduction.axes],
        }

    def mass(self, tensors: Floats) -> dict[str, Any]:
        """The section ``mass`` of the metrics of a design (N, 3), if there is a limit."""
        if self.limit is None:
            return {}
        return {"mass": {"limit": self.limit.limit, "design": self.limit.density(tensors)}}

    def space(self) -> DesignSpace:
        """The optimisation variables' meaning."""
        background = self.plain_field.copy()
        background[self.design_mask] = 0.0
        lower, upper = self.gamut.box
        matrix = cone_filter(self.design_mask, self.case.filter.radius, self.objective.reduction.axes)
        return DesignSpace(self.design_mask, background, matrix, lower, upper)

    def built(self, lattice: Lattice | None) -> Floats:
        """A lattice's tensors (None on ranks but 0) on the reduced grid; the case's own elsewhere."""
        reduction = self.objective.reduction
        own = None if lattice is None else reduction.elements(lattice.tensors())
        cells = from_root(own, (*reduction.shape, 3))
        filled = reduction.elements(self.problem.filled)[..., None]
        return np.where(filled, cells, reduction.elements(self.problem.tensor))

    def best_uniform(self, lattice: Lattice | None) -> tuple[Floats, dict[str, Any]]:
        """Of a compliance: the field of the best uniform cell as heavy as a lattice, and metrics of both.

        The lattice is None on ranks but 0.
        """
        own = None if lattice is None else np.array([lattice.densities()[self.problem.design].mean()])
        density = float(from_root(own, (1,))[0])
        if density not in self._uniform:
            self._uniform[density] = self._searched(density)
        C, metrics = self._uniform[density]
        space = self.space()
        return space.field(np.broadcast_to(C, (space.size, 3))), {"mass": {"lattice": density}, **metrics}

    def _searched(self, density: float) -> tuple[Floats, dict[str, Any]]:
        """The tensor (3,) of the data set's best cell of a density, and metrics of it."""
        assert isinstance(self.objective, ComplianceObjective)
        cells = load_dataset()
        best = best_uniform(self.objective, cells, density, self.space().field, self.design_mask)
        C = cells.C[best.row]
        self.reporter.say(
            f"best uniform cell of the data set at density {density:.4f}: {cells.family[best.row]}, "
            f"E = {float(tensor.young(C)):.3f} E_s, {best.solved} solved"
        )
        volume = float(cells.volume[best.row])
        return C, {"uniform": {"volume": volume, "tensor": C.tolist(), "solved": best.solved}}

    def evaluate(self, field: Floats) -> tuple[Value, list[Floats]]:
        """Value and displacements of a reduced field at the reporting tolerance."""
        displacements = self.objective.displacements(field, self.case.solver.rtol_evaluate)
        return self.objective.value_of(displacements), displacements

    def evaluate_refined(self, *fields: Floats, refine: int = _REFINE) -> list[Value]:
        """Values of the same structures on a mesh ``refine`` times as fine, one operator at a time."""
        problem, found = build_problem(self.case, refine=refine), []
        for numbers in self.objective.groups:
            loads = tuple(problem.loads[i] for i in numbers)
            targets = tuple(problem.targets[i] for i in numbers) if problem.targets else ()
            fine = self._finer(replace(problem, loads=loads, targets=targets), refine)
            found.append([fine.value(field) for field in fields])
            del fine  # the next one takes its memory
        return [self.objective.joined(parts) for parts in zip(*found, strict=True)]

    def finer(self, refine: int, rtol: float | None = None) -> Objective:
        """The objective on a mesh of ``refine`` elements an edge of a cell, for fields of one tensor a cell.

        Its solves have the relative residual ``rtol``, that of reported values by default.
        """
        return self._finer(build_problem(self.case, refine=refine), refine, rtol)

    def _finer(self, problem: Problem, refine: int, rtol: float | None = None) -> Objective:
        rtol = rtol or self.case.solver.rtol_evaluate
        return make_objective(self.case, problem, rtol).of_cells(refine)


def value_table(results: dict[str, Value]) -> dict[str, Any]:
    """Values by name, and the same for each load, as metrics.json keeps them."""
    loads = next(iter(results.values())).per_load
    return {
        **{name: value.total for name, value in results.items()},
        "per_load": {load: {name: value.per_load[load] for name, value in results.items()} for load in loads},
    }
