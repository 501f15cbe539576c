"""A design goes on against a better model: the steps that corrections by a finer mesh and by voxels share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from micro.cell.cellset import CellSet
from micro.runtime.arrays import Floats
from micro.runtime.memory import require
from micro.runtime.npz import write_arrays
from multiscale.design.stage import find_design
from multiscale.design.state import State
from multiscale.fill.stage import fill_lattice, fill_metrics
from multiscale.objective.objective import Objective
from multiscale.problem.size import macro_bytes, unknowns
from multiscale.problem.tensor_field import load_tensors, save_tensors
from multiscale.run.session import Session
from multiscale.rundir.directory import RunDirectory
from multiscale.solve import ranks as parallel

#: Share of J that a dozen evaluations of a corrected search have to gain, or it ends: of twenty searches of
#: 40 and 60 evaluations most do after 20 to 30, which gives up 0.1 to 0.5 % of J (1.5 % at most).
_LEAST_GAIN = 0.01
#: Distance from the gamut's edge from which soft cells are met (the implant: off by 9 % at 0, by 2 % there).
_KEPT_OFF = 0.02

#: Bytes an element of the whole grid that a further load takes: its supports, moves and forces (51), and its
#: displacements and the reference's. Six loads on 160^3, an eighth of it solved, took 5.4 GB in all.
BYTES_PER_LOAD = 99.0


def redesign(
    session: Session, objective: Objective, x: Floats, folder: Path, evaluations: int, name: str
) -> State:
    """Go on with a design, its objective corrected; kept in ``folder``, from where the same call goes on.

    Parameters
    ----------
    session : Session
    objective : Objective
        Corrected.
    x : array, shape (N, 3)
        Variables to start from.
    folder : Path
        For its evaluations and history.
    evaluations : int
        At most.
    name : str
        What is shown.
    """
    settings = replace(
        session.optimizer_settings,
        uniform_evaluations=0,
        stages=1,
        evaluations=evaluations,
        least_gain=_LEAST_GAIN,
    )
    state, _ = find_design(
        objective,
        session.space(),
        session.gamut,
        settings,
        State(x, stage=1),
        folder,
        session.reporter,
        name,
        limit=session.limit,
    )
    return state


def keep_design(session: Session, directory: RunDirectory, state: State, design: str) -> None:
    """Save a finished state's design, and beside it the variables that it ended with.

    Parameters
    ----------
    session : Session
    directory : RunDirectory
    state : State
        With a best design.
    design : str
        Name of its file in the run directory.
    """
    assert state.best is not None
    whole = session.objective.reduction.expand_elements(session.space().field(state.best))
    file = directory.path / design

    def save() -> None:
        save_tensors(file, whole)
        if session.case.full_scale.rounds:
            write_arrays(file.with_name("variables.npz"), {"x": state.x})

    # All ranks read the file in the next stage: on_root makes them wait for it.
    parallel.on_root(save)


def fill_design(
    session: Session,
    design: Path,
    lattice: Path,
    objective: Objective | None = None,
    earlier: CellSet | None = None,
    draft: bool = False,
) -> tuple[dict[str, Any], float]:
    """Fill a saved design; saves the lattice. ``earlier`` are cells to take again where they serve.

    Parameters
    ----------
    session : Session
    design : Path
        Its npz.
    lattice : Path
        To write.
    objective : Objective, optional
        Corrected; the session's own by default.
    earlier : CellSet, optional
    draft : bool
        Whether a round is to replace the lattice (:func:`multiscale.fill.stage.fill_lattice`).

    Returns
    -------
    metrics : dict
        Of the stage ``fill``, on rank 0.
    value : float
        The objective (the session's own, or the given corrected one) of the lattice's own tensors.
    """
    objective = objective or session.objective
    wanted = objective.reduction.elements(load_tensors(design, session.problem))
    with session.reporter.task("fill", 1, steady=False) as task:
        filling, polish = fill_lattice(
            objective,
            wanted,
            lambda: session.cells,
            session.case.fill,
            session.reporter,
            task.reach,
            steered=session.limit is None,
            rtol=session.case.solver.rtol_evaluate,
            earlier=earlier,
            draft=draft,
        )

    def work() -> dict[str, Any]:
        assert filling is not None
        return fill_metrics(filling.filled(), polish, session.case.fill.source, lattice)

    metrics = parallel.on_root(work) or {}
    if metrics:
        cells, contacts = metrics["cells"], metrics["interfaces"]
        session.reporter.say(
            f"fill: {cells['unique']} different cells, tensor error mean {cells['tensor_error_mean']:.4f} "
            f"(relative {cells['relative_error_mean']:.4f}), "
            f"{contacts['unconnected']} of {contacts['count']} interfaces unconnected"
        )
        off, asked = cells["relative_error_design_mean"], session.case.fill.relative_tolerance
        if off > asked and not draft:
            said = f"fill: the design's cells are off by {off:.1%} on average, relatively ({asked:.1%} asked)"
            if session.case.gamut.margin < _KEPT_OFF:
                said += f"; \\[gamut] margin = {_KEPT_OFF} would keep it off the edge of what cells can have"
            session.reporter.say(said)
    return metrics, polish.values[-1]


def finer_mesh(
    session: Session, refine: int, key: str
) -> tuple[Callable[[Floats], list[Floats]], list[Floats] | None]:
    """A better model: a mesh of ``refine`` elements an edge of a cell, displacements at the cells' corners.

    Parameters
    ----------
    session : Session
    refine : int
    key : str
        What asked for it.

    Returns
    -------
    solve : callable
        From a tensor field of the cells to displacements, one field a load, in cell edges.
    reference : list of arrays or None
        Those of the reference.

    Raises
    ------
    InputError
        If it needs more memory than there is.
    """
    require_mesh(session, refine, key)
    fine = session.finer(refine)

    def corners(fields: list[Floats]) -> list[Floats]:
        return [u[::refine, ::refine, ::refine] / refine for u in fields]

    reference = None if fine.reference is None else corners(fine.reference)
    return lambda field: corners(fine.displacements(field)), reference


def require_mesh(session: Session, refine: int, key: str, *, operators: int | None = None) -> None:
    """Say how much memory a finer mesh takes.

    Parameters
    ----------
    session : Session
    refine : int
        Elements along an edge of a cell.
    key : str
        What asked for it.
    operators : int, optional
        Held at once; all that the loads have by default.

    Raises
    ------
    InputError
        If that is more than there is.
    """
    count = len(session.objective.groups) if operators is None else operators
    shape = tuple(refine * edge for edge in session.objective.reduction.shape)
    further = len(session.problem.loads) - 1
    need = macro_bytes(count * unknowns(shape))
    need += further * BYTES_PER_LOAD * float(np.prod(session.problem.shape)) * refine**3
    what = f"a mesh of {refine} elements an edge of a cell"
    session.reporter.say(f"{what}: about {need / 1e9:.1f} GB of memory")
    require(need, what, "take fewer", key=key)


def design_model(session: Session, design: Path) -> Objective:
    """The objective that a first design is filled by: corrected by the mesh that it was found on.

    Parameters
    ----------
    session : Session
    design : Path
        Its npz.
    """
    refine, objective = session.case.optimizer.mesh, session.objective
    if refine == 1 or not session.purpose.corrected:
        return objective
    solve, reference = finer_mesh(session, refine, "optimizer.mesh")
    field = objective.reduction.elements(load_tensors(design, session.problem))
    rtol = session.case.solver.rtol_evaluate
    return objective.corrected(objective.correction(field, solve(field), reference, rtol))


def correct_by_mesh(
    session: Session, directory: RunDirectory, state: State
) -> tuple[State, dict[str, Any], float]:
    """Correct a design by a finer mesh of the same tensors, several times; the best on that mesh is kept.

    Returns
    -------
    state : State
    metrics : dict
        ``fine_mesh``: elements an edge, the values of every round on the finer mesh, evaluations.
    seconds : float

    Raises
    ------
    InputError
        If the finer mesh needs more memory than there is.
    """
    start = time.monotonic()
    o, objective, reporter = session.case.optimizer, session.objective, session.reporter
    refine, quantity = o.fine_mesh, session.objective.quantity
    solve, reference = finer_mesh(session, refine, "optimizer.fine_mesh")
    space = session.space()

    def solved(state: State) -> tuple[Floats, list[Floats], float]:
        assert state.best is not None
        field = space.field(state.best)
        found = solve(field)
        return field, found, objective.value_elsewhere(found, [], reference).total

    field, found, value = solved(state)
    best, values, evaluations = state, [value], 0
    reporter.say(f"finer mesh: {quantity} {value:.4g} at the cells' corners")
    for number in range(1, o.fine_mesh_rounds + 1):
        shift = objective.correction(field, found, reference, session.case.solver.rtol_evaluate)
        state = redesign(
            session,
            objective.corrected(shift),
            best.x,
            directory.path / "rounds" / f"mesh{number}",
            o.iterations,
            f"design corrected by the finer mesh, round {number}",
        )
        evaluations += len(state.records)
        if state.best is None:
            break
        field, found, value = solved(state)
        reporter.say(f"finer mesh, round {number}: {quantity} {value:.4g} (predicted {state.best_value:.4g})")
        values.append(value)
        if value >= min(values[:-1]):
            break
        best = state
    metrics = {"fine_mesh": {"elements": refine, "values": values, "evaluations": evaluations}}
    return best, metrics, time.monotonic() - start
