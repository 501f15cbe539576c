"""The fill stage of a run: the model of the objective, the lattice, its polish, and their metrics.

Every rank solves, and makes cells that rank 0 asks for; rank 0 alone chooses among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micro.cell.cellset import CellSet
from micro.runtime.arrays import Floats
from micro.runtime.progress import Progress, Reporter, unheard
from multiscale.case.settings import FillSettings
from multiscale.fill.filling import Filled, Filling
from multiscale.fill.source import CellSource
from multiscale.objective.influence import influence
from multiscale.objective.objective import Objective
from multiscale.problem.problem import Role
from multiscale.solve import ranks as parallel


@dataclass(frozen=True)
class Polish:
    """How the objective of the lattice's own tensors came down.

    Attributes
    ----------
    predicted : float
        What the first choice was expected to have.
    values : list of float
        Of the first choice and after each pass that was kept.
    """

    predicted: float
    values: list[float]


def fill_lattice(
    objective: Objective,
    wanted: Floats,
    source: Callable[[], CellSource],
    settings: FillSettings,
    reporter: Reporter,
    progress: Progress = unheard,
    *,
    steered: bool = True,
    rtol: float | None = None,
    earlier: CellSet | None = None,
    draft: bool = False,
) -> tuple[Filling | None, Polish]:
    """Fill a design and polish the lattice; the filling is on rank 0 alone.

    A pass of the polish solves the lattice with its cells' own tensors, expands the objective there and
    chooses again; it is kept if the sum that the selection minimises is lower with the solved objective.

    Parameters
    ----------
    objective : Objective
    wanted : array, shape (mx, my, mz, 3)
        Designed tensors on the reduced grid, zero in voids.
    source : callable
        Gives the source of cells; called on rank 0.
    settings : FillSettings
    reporter : Reporter
    progress : Progress, optional
        Of the choice.
    steered : bool
        Whether the objective chooses among cells. Under a mass limit it must not: it would buy stiffness
        by mass. Tensor errors then count alike, and nothing is polished.
    rtol : float, optional
        Relative residual of the solves whose values are reported; the objective's own if left out.
    earlier : CellSet, optional
        Cells of an earlier lattice, to be taken again where they serve; on rank 0.
    draft : bool
        Whether another lattice is to follow this one: it is not polished, and nothing is made anew for groups
        that come off worst.
    """
    problem, reduction = objective.problem, objective.reduction
    design = reduction.elements(problem.role) == Role.DESIGN
    elements = int((reduction.elements(problem.role) != Role.VOID).sum())
    model = None
    objective.forget()
    if steered:
        reporter.say("fill: what tensor errors do to the objective")
        model = influence(objective, wanted, design, seed=settings.seed)

    def first() -> Filling:
        filling = Filling(problem, reduction, wanted, source(), settings, progress, earlier, draft)
        filling.choose(model)
        return filling

    if parallel.ranks() > 1 and not parallel.shares_jobs():
        reporter.say("fill: rank 0 alone makes cells; with mpi4py installed the other ranks help")
    filling = parallel.with_ranks(first)

    def built() -> Floats:
        own = None if filling is None else filling.tensors()
        return parallel.from_root(own, (*reduction.shape, 3))

    def rest() -> float:
        """What the selection minimises besides the objective, an element."""
        if filling is None or filling.selection is None:
            return 0.0
        return filling.selection.cost / elements - filling.selection.predicted

    field = built()
    if model is None:
        return filling, Polish(objective.value(wanted, rtol).total, [objective.value(field, rtol).total])
    predicted = float(model.value(model.amplitudes(field)))
    values = [objective.value(field, rtol).total]
    others = rest()
    for number in range(0 if draft else settings.polish):
        model = influence(objective, field, design, seed=settings.seed)
        kept = None if filling is None else filling.selection
        if filling is not None:
            filling.improve(model)
        before, field = field, built()
        if np.array_equal(field, before):
            break
        value = objective.value(field, rtol).total
        gain = values[-1] + others - value - rest()
        # Rank 0 decides for all.
        if parallel.from_root(np.array([gain]), (1,))[0] <= 0:
            if filling is not None:
                filling.restore(kept)
            break
        values.append(value)
        others = rest()
        reporter.say(f"fill: pass {number + 1}, {objective.quantity} of the lattice {value:.4f}")
    return filling, Polish(predicted, values)


def fill_metrics(filled: Filled, polish: Polish, source: str, path: Path) -> dict[str, Any]:
    """Save the lattice as ``path`` and describe it.

    Parameters
    ----------
    filled : Filled
    polish : Polish
    source : str
        Where the case has its cells from.
    path : Path
    """
    lattice = filled.lattice
    lattice.save(path)
    contacts, holds = lattice.contacts(), lattice.holds(weakest=0)
    error, relative = filled.error[lattice.solid], filled.relative[lattice.solid]
    return {
        "cells": {
            "unique": len(lattice.cells),
            "elements": int(lattice.solid.sum()),
            "groups": filled.groups,
            "groups_generated": filled.generated,
            "source": source,
            "resolution": lattice.cells.n,
            "tensor_error_mean": float(error.mean()),
            "tensor_error_max": float(error.max()),
            "tensor_error_design_mean": float(filled.error_design.mean()),
            "relative_error_mean": float(relative.mean()),
            "relative_error_max": float(relative.max()),
            "relative_error_design_mean": float(filled.relative_design.mean()),
            "relative_error_design_max": float(filled.relative_design.max()),
            "disconnected": len(lattice.disconnected_cells()),
            "enclosing_void": filled.enclosing,
            "enclosing_void_elements": filled.enclosing_elements,
        },
        "interfaces": {
            "count": contacts.count,
            "unlike": contacts.unlike,
            "unconnected": contacts.unconnected,
            "mean_overlap": _finite(contacts.mean_overlap),
            "mean_overlap_unlike": _finite(contacts.mean_overlap_unlike),
            "min_overlap": _finite(contacts.min_overlap),
            "min_area": _finite(contacts.min_area),
            "groups_below_min_contact": filled.weak,
            "weak_holds": holds.weak,
            "least_hold": holds.least,
        },
        "lattice": {"components": lattice.components(), "solid_volume_m3": lattice.solid_volume_m3},
        "selection": {"foretold": polish.predicted, "polish": polish.values},
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
