"""Running a case: design, fill, evaluate, export; each stage kept, the same command goes on.

Every rank runs the same code on the same whole arrays; rank 0 alone fills, writes and talks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape

from micro import tensor
from micro.dataset import load_dataset
from micro.errors import InputError, NotConverged
from micro.files import atomic_path, check_writable, write_json
from micro.gamut import Gamut, load_gamut
from micro.least_volume import load_least_volume
from multiscale import board, parallel, provenance
from multiscale.case import Case, load_case
from multiscale.cell_source import CellSource, make_source
from multiscale.combination import Value
from multiscale.compliance import ComplianceObjective
from multiscale.design_space import DesignSpace
from multiscale.directory import RunDirectory
from multiscale.elasticity import SolverOptions
from multiscale.feasibility import count_violations
from multiscale.fill_stage import fill_lattice, fill_metrics
from multiscale.filter import cone_filter
from multiscale.lattice import Lattice
from multiscale.mass import MassLimit, lightened
from multiscale.objective import DistortionObjective, Objective
from multiscale.optimize import Optimiser, Record, Settings
from multiscale.problem import Problem, build_problem
from multiscale.progress import Reporter, Style
from multiscale.purpose import PURPOSES, Purpose
from multiscale.tensor_field import load_tensors, save_tensors
from multiscale.uniform import best_uniform

Array = NDArray[np.float64]

#: The refined mesh splits every element's edges into this many.
_REFINE = 2


class Session:
    """A case with what is built from it when first needed.

    Attributes
    ----------
    case : Case
    reporter : Reporter
    tensorboard : bool
    """

    def __init__(self, case: Case, reporter: Reporter, *, tensorboard: bool = False):
        self.case = case
        self.reporter = reporter
        self.tensorboard = tensorboard
        self.setup_seconds = 0.0

    @cached_property
    def problem(self) -> Problem:
        """The case on its grid."""
        return build_problem(self.case)

    @cached_property
    def gamut(self) -> Gamut:
        """The feasible tensors."""
        source = self.case.gamut.source
        if source in ("library", "dataset"):
            return load_gamut("dataset" if source == "dataset" else "library")
        return Gamut.load(self.case.path(source))

    @cached_property
    def cells(self) -> CellSource:
        """Where the lattice's cells come from."""
        source = make_source(self.case.fill, self.case.path)
        return source if self.limit is None else lightened(source, load_least_volume())

    @property
    def purpose(self) -> Purpose:
        """What the case is for."""
        return PURPOSES[self.case.objective.type]

    @cached_property
    def limit(self) -> MassLimit | None:
        """The limit on mass, if there is one."""
        share = self.case.objective.mass_limit
        return None if share is None else MassLimit(load_least_volume(), share)

    @cached_property
    def objective(self) -> Objective:
        """The objective, its reference solutions solved."""
        start = time.monotonic()
        objective = self.purpose.objective(self.problem, self.solver(), self.case.solver.rtol_adjoint)
        self.setup_seconds += time.monotonic() - start
        return objective

    def solver(self) -> SolverOptions:
        """The case's solver settings."""
        s = self.case.solver
        levels = None if s.levels == "auto" else int(s.levels)
        return SolverOptions(s.preconditioner, s.rtol_forward, s.max_iterations, levels)

    @cached_property
    def design_mask(self) -> NDArray[np.bool_]:
        """Design elements of the reduced grid."""
        return self.objective.reduction.elements(self.problem.design)

    @cached_property
    def plain_field(self) -> Array:
        """The structure without a design, reduced grid: the reference or initial material instead."""
        if self.case.objective.reference is None:
            return self.objective.reduction.elements(self.problem.tensor)
        field = self.objective.reduction.elements(self.problem.tensor)
        field[self.design_mask] = self.objective.reduction.elements(self.problem.reference)[self.design_mask]
        return field

    def space(self) -> DesignSpace:
        """The optimisation variables' meaning."""
        background = self.plain_field.copy()
        background[self.design_mask] = 0.0
        lower, upper = self.gamut.box
        matrix = cone_filter(self.design_mask, self.case.filter.radius, self.objective.reduction.axes)
        return DesignSpace(self.design_mask, background, matrix, lower, upper)

    def evaluate(self, field: Array) -> tuple[Value, list[Array]]:
        """Value and displacements of a reduced field at the reporting tolerance."""
        displacements = self.objective.displacements(field, self.case.solver.rtol_evaluate)
        return self.objective.value_of(displacements), displacements

    def evaluate_refined(self, field: Array) -> Value:
        """Value of the same structure on a mesh twice as fine."""
        fine = self.purpose.objective(build_problem(self.case, refine=_REFINE), self.solver())
        for axis in range(3):
            field = np.repeat(field, _REFINE, axis=axis)
        return fine.value(field)


def run_case(
    path: str | Path, out: str | Path, style: Style = "text", *, tensorboard: bool = False
) -> dict[str, Any]:
    """Run a case file into a directory; returns the metrics.

    Parameters
    ----------
    path : path
        Case file.
    out : path
        Run directory.
    style : {"text", "quiet", "json"}
        How progress is shown.
    tensorboard : bool
        Whether the design's history is written for TensorBoard too.

    Raises
    ------
    InputError
        Wrong input; nothing was written.
    NotConverged
        A solve failed.
    """
    check_writable(out, "--out")
    reporter = Reporter(parallel.is_root(), style)
    start = time.monotonic()
    if tensorboard:
        board.check()
    case = load_case(path)
    session = Session(case, reporter, tensorboard=tensorboard)
    # All that can be wrong with the input shows before anything is written.
    problem, gamut, cells = session.problem, session.gamut, session.cells
    session.setup_seconds = time.monotonic() - start
    if case.export.voxels is not None and cells.known.n % case.export.voxels:
        raise InputError(
            f"must divide the cells' {cells.known.n}",
            file=path,
            key="export.voxels",
            value=case.export.voxels,
        )
    directory = RunDirectory(Path(out), case, parallel.ranks(), write=False)
    parallel.on_root(directory.begin)  # what fails there ends all ranks
    reporter.say(
        f"[bold]{escape(case.name)}[/bold]: {' x '.join(map(str, problem.shape))} elements, "
        f"{int(problem.design.sum())} to design, {len(problem.loads)} load case(s), mirror planes: "
        f"{', '.join('xyz'[a] for a in problem.mirror_axes) or 'none'}; "
        f"cells from {cells.name}, gamut of {gamut.attrs.get('cells', '?')}; results in {escape(str(out))}"
    )
    if directory.again:
        reporter.say(f"the case asks for something else now, to be done again: {', '.join(directory.again)}")
    if tensorboard and directory.done("design"):
        parallel.on_root(lambda: board.write_history(directory.path))
    stages: list[tuple[str, Callable[[Session, RunDirectory], None]]] = [
        ("design", _design),
        ("fill", _fill),
        ("evaluate", _evaluate),
        ("export", _export),
    ]
    for name, work in stages:
        if directory.done(name):
            reporter.say(f"{name}: done before")
        else:
            work(session, directory)
    metrics = directory.metrics()
    parallel.on_root(lambda: _report(directory, reporter))
    _summary(metrics, reporter)
    return metrics


# ----------------------------------------------------------------------- stages
def _design(session: Session, directory: RunDirectory) -> None:
    case, reporter = session.case, session.reporter
    reporter.say("reference solution")
    objective = session.objective
    setup = session.setup_seconds
    o = case.optimizer
    settings = Settings(
        algorithm=o.algorithm if o.algorithm != "auto" else "lbfgs" if session.limit is None else "mma",
        uniform_evaluations=o.uniform_iterations,
        stages=o.stages,
        evaluations=o.iterations,
        slack=o.slack,
        margin=case.gamut.margin,
        tolerance=o.tolerance,
    )
    space = session.space()
    budget = settings.uniform_evaluations + settings.stages * settings.evaluations
    plain = objective.value(session.plain_field)
    what = "without cloak" if session.purpose.baseline == "void" else "of the initial material"
    reporter.say(
        f"design: {3 * space.size} variables, {objective.unknowns} unknowns a solve; "
        f"{objective.quantity} {what} {plain.total:.4g}"
    )
    objective.forget()
    keep = directory.path if parallel.is_root() else None
    quantity = objective.quantity
    optimiser = Optimiser(objective, space, session.gamut, settings, keep, None, session.limit)
    state = optimiser.load_state(directory.path)
    if state is None:
        initial = objective.reduction.elements(session.problem.tensor)[session.design_mask]
        state = optimiser.initial_state(initial)
    else:
        reporter.say(f"resuming at stage {state.stage}, evaluation {state.evaluation}")
    made = sum(record["kind"] != "projection" for record in state.records)
    with (
        reporter.task("design", budget, made) as task,
        board.open_board(keep if session.tensorboard else None, state.records) as write,
    ):

        def show(record: Record) -> None:
            step = 0 if record["kind"] == "projection" else 1
            detail = f"stage {record['stage']}, {quantity} {record[quantity]:.4g}"
            if record["violations"]:
                detail += f", {record['violations']} violations"
            task.advance(step, detail, record)
            write(record)

        optimiser.report = show
        state = optimiser.run(state)
    if state.best is None:
        raise NotConverged(
            "no design within the mass limit was found: give [optimizer] more iterations, or a larger "
            "objective.mass_limit"
        )
    phi = session.gamut.phi(state.best)
    field = space.field(state.best)
    whole = objective.reduction.expand_elements(field)
    # All ranks read the file in the next stage: on_root makes them wait for it.
    parallel.on_root(lambda: save_tensors(directory.path / "design.npz", whole))
    solves = objective.iterations
    weight = objective.reduction.element_weight
    reporter.say(f"design: {quantity} {state.best_value:.4g} after {len(state.records)} evaluations")
    mass = {}
    if session.limit is not None:
        mass = {"mass": {"limit": session.limit.limit, "design": session.limit.density(state.best)}}
    directory.finish(
        "design",
        # The records' clock runs on through interruptions.
        {"setup": setup, "macro": float(state.records[-1]["seconds"])},  # type: ignore[arg-type]
        {
            "feasibility": {
                "violations": weight * count_violations(phi, case.gamut.margin),
                "phi_min": float(phi.min()),
            },
            "solver": {
                "preconditioner": case.solver.preconditioner,
                "unknowns": objective.unknowns,
                "mirror_axes": ["xyz"[a] for a in objective.reduction.axes],
                "solves": len(solves),
                "iterations_mean": float(np.mean(solves)) if solves else None,
            },
            "optimizer": {"evaluations": len(state.records), "algorithm": settings.algorithm},
            **mass,
        },
    )


def _fill(session: Session, directory: RunDirectory) -> None:
    start = time.monotonic()
    objective, case = session.objective, session.case
    wanted = objective.reduction.elements(load_tensors(directory.path / "design.npz", session.problem))

    with session.reporter.task("fill", 1, steady=False) as task:

        def show(done: int, total: int, what: str) -> None:
            task.total = total
            task.advance(done - task.done, what)

        filling, polish = fill_lattice(
            objective,
            wanted,
            lambda: session.cells,
            case.fill,
            session.reporter,
            show,
            steered=session.limit is None,
        )

    def work() -> dict[str, Any]:
        assert filling is not None
        return fill_metrics(filling.filled(), polish, case.fill.source, directory.path / "lattice.zarr")

    metrics = parallel.on_root(work) or {}
    if metrics:
        cells, contacts = metrics["cells"], metrics["interfaces"]
        session.reporter.say(
            f"fill: {cells['unique']} different cells, tensor error mean {cells['tensor_error_mean']:.4f}, "
            f"{contacts['unconnected']} of {contacts['count']} interfaces unconnected"
        )
    directory.finish("fill", {"fill": time.monotonic() - start}, metrics)


def _evaluate(session: Session, directory: RunDirectory) -> None:
    start = time.monotonic()
    reporter, objective, problem = session.reporter, session.objective, session.problem
    design = objective.reduction.elements(load_tensors(directory.path / "design.npz", problem))
    lattice = parallel.on_root(lambda: Lattice.load(directory.path / "lattice.zarr"))
    built = parallel.from_root(None if lattice is None else lattice.tensors(), (*problem.shape, 3))
    built = np.where(problem.filled[..., None], built, problem.tensor)
    fields = {"design": design, "lattice": objective.reduction.elements(built)}
    metrics: dict[str, Any] = {}
    if session.purpose.baseline == "uniform":
        fields["uniform"], metrics = _best_uniform(session, lattice)
    else:
        fields = {session.purpose.baseline: session.plain_field, **fields}
    results: dict[str, Value] = {}
    displacements: dict[str, list[Array]] = {}
    if isinstance(objective, DistortionObjective):
        displacements["reference"] = objective.reference
    with reporter.task("evaluate", len(fields) + 1) as task:
        for name, field in fields.items():
            results[name], displacements[name] = session.evaluate(field)
            task.advance(1, f"{name} {results[name].total:.4g}")
        results["design_refined"] = session.evaluate_refined(design)
        task.advance(1, f"refined {results['design_refined'].total:.4g}")
    if parallel.is_root():
        _save_displacements(directory.path / "displacements.npz", session, displacements)
    quantity = objective.quantity
    reporter.say(f"evaluate: {quantity} " + ", ".join(f"{k} {v.total:.4g}" for k, v in results.items()))
    metrics[quantity] = _values(results)
    if "uniform" in results:
        metrics[quantity]["gain"] = results["uniform"].total / results["lattice"].total - 1
    directory.finish("evaluate", {"evaluate": time.monotonic() - start}, metrics)


def _best_uniform(session: Session, lattice: Lattice | None) -> tuple[Array, dict[str, Any]]:
    """The field of the best uniform cell as heavy as the lattice, and the metrics of both masses."""
    objective = session.objective
    assert isinstance(objective, ComplianceObjective)
    own = None if lattice is None else np.array([lattice.densities()[session.problem.design].mean()])
    density = float(parallel.from_root(own, (1,))[0])
    space = session.space()
    best = best_uniform(objective, load_dataset(), density, space.field, session.design_mask)
    cells = load_dataset()
    C = cells.C[best.row]
    session.reporter.say(
        f"evaluate: best uniform cell of the data set at density {density:.4f}: {cells.family[best.row]}, "
        f"E = {float(tensor.young(C)):.3f} E_s, {best.solved} solved"
    )
    uniform = {"volume": float(cells.volume[best.row]), "tensor": C.tolist(), "solved": best.solved}
    field = space.field(np.broadcast_to(C, (space.size, 3)))
    return field, {"mass": {"lattice": density}, "uniform": uniform}


def _export(session: Session, directory: RunDirectory) -> None:
    from multiscale.results import write_results

    start = time.monotonic()

    def work() -> dict[str, Any]:
        return write_results(
            session.case, session.problem, session.gamut, session.cells.known, directory, session.reporter
        )

    metrics = parallel.on_root(work) or {}
    directory.finish("export", {"export": time.monotonic() - start}, {"export": metrics})


# ------------------------------------------------------------------- evaluation
def evaluate_case(
    path: str | Path, tensors: str | Path, out: str | Path, *, all_elements: bool = False
) -> dict[str, Any]:
    """Distortion of any tensor field on a case's grid, whoever made it; writes ``metrics.json``.

    Parameters
    ----------
    path : path
        The case file.
    tensors : path
        npz with arrays ``C11``, ``C12``, ``C44`` of the grid's shape in units of E_s.
    out : path
        Directory for ``metrics.json``.
    all_elements : bool
        Take the fixed regions' tensors from the file too (a lattice as built), not from the case.

    Raises
    ------
    InputError
        Wrong input; nothing was written.
    """
    check_writable(out, "--out")
    reporter = Reporter(parallel.is_root())
    start = time.monotonic()
    session = Session(load_case(path), reporter)
    problem = session.problem
    given = load_tensors(Path(tensors), problem, all_elements)
    gamut = session.gamut
    out = Path(out)
    if (out / "run.json").exists():
        raise InputError(
            "holds a run, whose metrics would be lost: give another", key="--out", value=str(out)
        )
    objective = session.objective
    setup = time.monotonic() - start
    mask = problem.solid if all_elements else problem.design
    reduced = objective.reduction.elements(given)
    if not np.allclose(
        objective.reduction.expand_elements(reduced)[mask], given[mask], rtol=1e-9, atol=1e-12
    ):
        raise InputError(
            "the field is not mirror symmetric as the case is: [grid] mirror = [] solves the whole model",
            file=tensors,
        )
    keep = objective.reduction.elements(mask)
    field = session.plain_field.copy()
    field[keep] = reduced[keep]
    fields = {"design": field}
    if session.purpose.baseline != "uniform":
        fields = {session.purpose.baseline: session.plain_field, **fields}
    results = {name: session.evaluate(f)[0] for name, f in fields.items()}
    results["design_refined"] = session.evaluate_refined(field)
    phi = gamut.phi(given[problem.design])
    metrics = {
        objective.quantity: _values(results),
        "feasibility": {
            "violations": count_violations(phi, session.case.gamut.margin),
            "phi_min": float(phi.min()),
        },
        "solver": {"unknowns": objective.unknowns, "iterations_mean": float(np.mean(objective.iterations))},
        "time": {"setup": round(setup, 3), "total": round(time.monotonic() - start, 3)},
        "memory": {"peak_bytes": provenance.peak_bytes()},
        "case_sha256": session.case.digest(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "ranks": parallel.ranks(),
        "fixed_regions_from": "file" if all_elements else "case",
    }
    parallel.on_root(lambda: write_json(out / "metrics.json", metrics))
    reporter.say(f"{objective.quantity} " + ", ".join(f"{k} {v.total:.4g}" for k, v in results.items()))
    return metrics


def _report(directory: RunDirectory, reporter: Reporter) -> None:
    from multiscale.report import write_report

    page, _ = write_report(directory.path)
    reporter.say(f"report: {page}")


# ------------------------------------------------------------------------ files
def _save_displacements(path: Path, session: Session, fields: dict[str, list[Array]]) -> None:
    """Whole-grid displacements (nx+1, ny+1, nz+1, 3) in element edges, float32, as LOAD.FIELD."""
    reduction = session.objective.reduction
    arrays = {
        f"{load.name}.{name}": reduction.expand_displacement(u, load).astype(np.float32)
        for name, values in fields.items()
        for load, u in zip(reduction.loads, values, strict=True)
    }
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _values(results: dict[str, Value]) -> dict[str, Any]:
    loads = next(iter(results.values())).per_load
    return {
        **{name: value.total for name, value in results.items()},
        "per_load": {load: {name: value.per_load[load] for name, value in results.items()} for load in loads},
    }


def _summary(metrics: dict[str, Any], reporter: Reporter) -> None:
    quantity = next(p.quantity for p in PURPOSES.values() if p.quantity in metrics)
    d, t = metrics[quantity], metrics["time"]
    if reporter.style == "json":
        reporter.event("result", {"metrics": metrics})
        return
    name = next(p.baseline for p in PURPOSES.values() if p.quantity == quantity)
    said = {
        "void": "without cloak",
        "start": "of the initial material",
        "uniform": "of the best uniform cell",
    }
    before = f"{said[name]} {d[name]:.4g}"
    reporter.say(
        f"[bold]{quantity}[/bold] {before}, designed {d['design']:.4g} "
        f"(refined mesh {d['design_refined']:.4g}), with the cells as built {d['lattice']:.4g}; "
        f"{t['total']:.0f} s, {metrics['memory']['peak_bytes'] / 1e9:.1f} GB"
    )
