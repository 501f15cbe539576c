"""Running a case: design, fill, evaluate, export; each stage kept, the same command goes on.

Every rank runs the same code on the same whole arrays; rank 0 alone fills, writes and talks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape

from micro.runtime.files import check_writable
from micro.runtime.progress import Reporter
from multiscale.case.case import changed_case, load_case
from multiscale.case.purpose import Purpose
from multiscale.case.voxels import check_full_scale
from multiscale.design import board
from multiscale.problem.size import require_memory
from multiscale.run.rounds import full_scale_stage
from multiscale.run.session import Session
from multiscale.run.stages import design_stage, evaluate_stage, export_stage, fill_stage
from multiscale.rundir.directory import RunDirectory
from multiscale.solve import ranks as parallel


def run_case(
    path: str | Path,
    out: str | Path,
    reporter: Reporter | None = None,
    *,
    tensorboard: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a case file into a directory; returns the metrics (on rank 0, nothing on others).

    Parameters
    ----------
    path : path
        Case file.
    out : path
        Run directory.
    reporter : Reporter, optional
        Shows progress (on rank 0: ``Reporter(is_root())``); silent by default.
    tensorboard : bool
        Whether the design's history is written for TensorBoard too.
    changes : mapping, optional
        Values of some of the case's keys, instead of what it says there: ``{"fill.source": "dataset"}``;
        None takes a key away.

    Raises
    ------
    InputError
        Wrong input; nothing was written.
    NotConverged
        A solve failed.
    """
    check_writable(out, "--out")
    reporter = reporter or Reporter(False)
    if tensorboard:
        board.check()
    case = changed_case(load_case(path), changes or {})
    session = Session(case, reporter, tensorboard=tensorboard)
    # All that can be wrong with the input shows before anything is written.
    problem, gamut, cells = session.problem, session.gamut, session.cells
    require_memory(problem, case.file)
    edge, n = case.full_scale.voxels_per_cell, cells.known.n
    for key, asked, own in (
        ("export.voxels", case.export.voxels, n),
        ("full_scale.voxels_per_cell", edge, 2 * n),
    ):
        if asked is not None and own % asked:
            raise case.error(key, f"must divide the cells' {own}", asked)
    if edge is not None:
        check_full_scale(case)
    directory = RunDirectory(out, parallel.ranks())
    parallel.on_root(lambda: directory.begin(case))  # what fails there ends all ranks
    reporter.say(
        f"[bold]{escape(case.name)}[/bold]: {' x '.join(map(str, problem.shape))} elements, "
        f"{int(problem.design.sum())} to design, {len(problem.loads)} load case(s), mirror planes: "
        f"{', '.join('xyz'[a] for a in problem.mirror_axes) or 'none'}; "
        f"cells from {cells.name}, gamut of {gamut.attrs.get('cells', '?')}; results in {escape(str(out))}"
    )
    try:
        metrics = _go_through(session, directory)
    finally:  # a script may go on, and come here again
        directory.release()
    if metrics:
        _summary(session.purpose, metrics, reporter)
    return metrics


def _go_through(session: Session, directory: RunDirectory) -> dict[str, Any]:
    """Every stage that is not done, and the report; returns the metrics on rank 0."""
    reporter = session.reporter
    if session.tensorboard and parallel.agreed(directory.done("design")):
        parallel.on_root(lambda: board.write_history(directory.path))
    stages: list[tuple[str, Callable[[Session, RunDirectory], None]]] = [
        ("design", design_stage),
        ("fill", fill_stage),
        *([("full_scale", full_scale_stage)] if session.case.full_scale.voxels_per_cell else []),
        ("evaluate", evaluate_stage),
        ("export", export_stage),
    ]
    for name, work in stages:
        _say_notes(directory, reporter)
        if parallel.agreed(directory.done(name)):
            reporter.say(f"{name}: done before")
        else:
            parallel.on_root(partial(directory.start, name))
            _say_notes(directory, reporter)
            work(session, directory)
    parallel.on_root(lambda: _report(directory, reporter))
    return parallel.on_root(lambda: directory.metrics) or {}


def _say_notes(directory: RunDirectory, reporter: Reporter) -> None:
    """What the run directory has to say of how it goes on, once."""
    while directory.notes:
        reporter.say(escape(directory.notes.pop(0)))


def _report(directory: RunDirectory, reporter: Reporter) -> None:
    from multiscale.report.page import write_report

    page, _ = write_report(directory.path)
    reporter.say(f"report: {page}")


def _summary(purpose: Purpose, metrics: dict[str, Any], reporter: Reporter) -> None:
    quantity, baseline = purpose.quantity, purpose.baseline
    d, t = metrics[quantity], metrics["time"]
    if reporter.style == "json":
        reporter.event("result", {"metrics": metrics})
        return
    full = metrics.get("full_scale")
    if full is not None:
        per_cell, value = full["voxels_per_cell"], full[quantity]
        reporter.say(
            f"[bold]{quantity} {value:.4g} as built[/bold], voxel by voxel ({per_cell} a cell's edge)"
        )
    before = f"{baseline.said} {d[baseline.name]:.4g}"
    reporter.say(
        f"[bold]{quantity}[/bold] {before}, designed {d['design']:.4g} "
        f"(refined mesh {d['design_refined']:.4g}), with the cells as built {d['lattice']:.4g}; "
        f"{t['total']:.0f} s, {metrics['memory']['peak_bytes'] / 1e9:.1f} GB"
    )
