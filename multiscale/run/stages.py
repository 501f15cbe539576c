"""The stages of a run, each from what the earlier ones left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.errors import NotConverged
from micro.runtime.npz import write_arrays
from multiscale.case.load_space import WORST_LOAD
from multiscale.case.purpose import START, UNIFORM
from multiscale.design.stage import find_design
from multiscale.lattice.lattice import Lattice
from multiscale.objective.any_load import AnyLoadObjective
from multiscale.objective.combination import Value
from multiscale.problem.tensor_field import load_tensors
from multiscale.run.correction import correct_by_mesh, design_model, fill_design, keep_design, require_mesh
from multiscale.run.given import given_design
from multiscale.run.session import Session, value_table
from multiscale.rundir.directory import RunDirectory
from multiscale.solve import ranks as parallel

#: Values on a mesh twice as fine, of the design and of the lattice's own tensors.
REFINED = ("design_refined", "lattice_refined")


# ----------------------------------------------------------------------- stages
def design_stage(session: Session, directory: RunDirectory) -> None:
    """Optimise the tensor field, or take the one that is given; leaves design.npz and its history."""
    case, reporter = session.case, session.reporter
    if case.design.source is not None:
        given_design(session, directory)
        return
    reporter.say("reference solution")
    mesh = case.optimizer.mesh
    if mesh > 1:
        require_mesh(session, mesh, "optimizer.mesh")
    objective = session.objective if mesh == 1 else session.finer(mesh, case.solver.rtol_forward)
    setup = time.monotonic() - session.started
    settings = session.optimizer_settings
    space = session.space()
    plain = objective.value(session.plain_field)
    what = (START if session.purpose.baseline == UNIFORM else session.purpose.baseline).said
    reporter.say(
        f"design: {3 * space.size} variables, {objective.unknowns} unknowns a solve; "
        f"{objective.quantity} {what} {plain.total:.4g}"
    )
    objective.forget()
    objective.clear_log()
    quantity = objective.quantity
    state, solves = find_design(
        objective,
        space,
        session.gamut,
        settings,
        session.objective.reduction.elements(session.problem.tensor)[session.design_mask],
        directory.path,
        reporter,
        limit=session.limit,
        tensorboard=session.tensorboard,
    )
    if state.best is None:
        raise NotConverged(
            "no design within the mass limit was found: give [optimizer] more iterations, or a larger "
            "objective.mass_limit"
        )
    evaluations = len(state.records)
    macro = float(state.records[-1]["seconds"])  # type: ignore[arg-type]
    metrics: dict[str, Any] = {}
    if case.optimizer.fine_mesh > 1:
        state, metrics, seconds = correct_by_mesh(session, directory, state)
        macro, evaluations = macro + seconds, evaluations + metrics["fine_mesh"]["evaluations"]
    assert state.best is not None
    design = session.first("design.npz")
    keep_design(session, directory, state, design)
    reporter.say(f"design: {quantity} {state.best_value:.4g} after {evaluations} evaluations")
    directory.finish(
        "design",
        # The records' clock runs on through interruptions.
        {"setup": setup, "macro": macro},
        {
            "feasibility": session.feasibility(state.best),
            "solver": {
                **session.solver_metrics(objective),
                "solves": len(solves),
                "iterations_mean": float(np.mean(solves)) if solves else None,
            },
            "optimizer": {"evaluations": evaluations, "algorithm": settings.algorithm},
            **session.mass(state.best),
            **metrics,
        },
        files=(design, "history.jsonl"),
    )


def fill_stage(session: Session, directory: RunDirectory) -> None:
    """Give every element a cell; leaves lattice.zarr."""
    start = time.monotonic()
    design, lattice = session.first("design.npz"), session.first("lattice.zarr")
    model = design_model(session, directory.path / design)
    draft = session.case.full_scale.rounds > 0
    metrics, _ = fill_design(session, directory.path / design, directory.path / lattice, model, draft=draft)
    seconds = {"fill": time.monotonic() - start}
    directory.finish("fill", seconds, metrics, files=(lattice,), reads=(design,))


def evaluate_stage(session: Session, directory: RunDirectory) -> None:
    """Judge the lattice by its cells' own tensors, and the design on finer elements."""
    start = time.monotonic()
    reporter, objective = session.reporter, session.objective
    design = objective.reduction.elements(load_tensors(directory.path / "design.npz", session.problem))
    lattice = parallel.on_root(lambda: Lattice.load(directory.path / "lattice.zarr"))
    fields = {"design": design, "lattice": session.built(lattice)}
    metrics: dict[str, Any] = {}
    baseline = session.purpose.baseline
    if baseline == UNIFORM:
        fields[baseline.name], metrics = session.best_uniform(lattice)
    else:
        fields = {baseline.name: session.plain_field, **fields}
    results: dict[str, Value] = {}
    objective.forget()  # the same figures whether this command solved the earlier stages or not
    displacements: dict[str, list[Floats]] = {}
    if objective.reference is not None:
        displacements["reference"] = objective.reference
    with reporter.task("evaluate", len(fields) + 1) as task:
        for name, field in fields.items():
            results[name], displacements[name] = session.evaluate(field)
            for section, values in objective.details(field, displacements[name]).items():
                metrics.setdefault(section, {})[name] = values
            task.advance(1, f"{name} {results[name].total:.4g}")
        refined = dict(zip(REFINED, session.evaluate_refined(design, fields["lattice"]), strict=True))
        results |= refined
        task.advance(1, ", ".join(f"{name} {value.total:.4g}" for name, value in refined.items()))
    if parallel.is_root():
        _save_displacements(directory.path / "displacements.npz", session, displacements)
    quantity = objective.quantity
    reporter.say(f"evaluate: {quantity} " + ", ".join(f"{k} {v.total:.4g}" for k, v in results.items()))
    metrics[quantity] = value_table(results)
    # The error of trilinear elements between unlike cells falls as their edge (docs/full-scale.md).
    metrics[quantity]["lattice_continuum"] = 2 * results["lattice_refined"].total - results["lattice"].total
    if baseline == UNIFORM:
        metrics[quantity]["gain"] = results[baseline.name].total / results["lattice"].total - 1
    directory.finish(
        "evaluate",
        {"evaluate": time.monotonic() - start},
        metrics,
        files=("displacements.npz",),
        reads=("design.npz", "lattice.zarr"),
    )


def export_stage(session: Session, directory: RunDirectory) -> None:
    """Write fields, surfaces, figures and the report."""
    from multiscale.run.results import write_results

    start = time.monotonic()

    def work() -> dict[str, Any]:
        return write_results(
            session.case, session.problem, session.gamut, session.cells.known, directory, session.reporter
        )

    metrics = parallel.on_root(work) or {}
    directory.finish(
        "export",
        {"export": time.monotonic() - start},
        {"export": metrics},
        files=metrics.get("written", ()),
        reads=("design.npz", "history.jsonl", "lattice.zarr", "displacements.npz"),
    )


# ------------------------------------------------------------------------ files
def _save_displacements(path: Path, session: Session, fields: dict[str, list[Floats]]) -> None:
    """Whole-grid displacements (nx+1, ny+1, nz+1, 3) in element edges, float32, as LOAD.FIELD.

    The worst combination for the lattice is kept as one load more.
    """
    reduction = session.objective.reduction
    arrays = {
        f"{load.name}.{name}": reduction.expand_displacement(u, load).astype(np.float32)
        for name, values in fields.items()
        for load, u in zip(reduction.loads, values, strict=True)
    }
    objective = session.objective
    if isinstance(objective, AnyLoadObjective):
        worst = objective.worst(fields["lattice"])
        load = next(load for load in reduction.loads if load.name in worst.loads)
        for name, values in fields.items():
            whole = reduction.expand_displacement(objective.combine(values, worst), load)
            arrays[f"{WORST_LOAD}.{name}"] = whole.astype(np.float32)
    write_arrays(path, arrays)
