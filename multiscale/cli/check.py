"""``multiscale check``: what a case asks for, before anything is solved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from micro.cell import tensor
from micro.cli.options import times
from micro.runtime import memory
from micro.runtime.errors import InputError
from multiscale.case.case import Case, load_case
from multiscale.case.settings import FILL_SOURCES, GAMUT_SOURCES
from multiscale.case.voxels import check_full_scale
from multiscale.design.feasibility import case_gamut
from multiscale.fill.files import check_source
from multiscale.problem.given_field import read_field
from multiscale.problem.problem import Problem, Role, build_problem, parity
from multiscale.problem.size import predict, sizes

PARITY_WORDS = {1: "even", -1: "odd", None: "-"}


def check_case(path: str | Path, out: str | Path | None, console: Console) -> Path:
    """Validate a case, draw it and print its sizes; nothing is written when the case is wrong.

    Parameters
    ----------
    path : path of the case file
    out : directory for the drawing ``problem.png``; ``check-NAME`` in the working directory if None

    Returns
    -------
    Path of the drawing

    Raises
    ------
    InputError
        The case is wrong, or ``out`` can't be written to.
    """
    from multiscale.figures.problem_sheet import draw_problem

    case = load_case(path)
    problem = build_problem(case)
    check_files(case, problem)
    directory = Path(out) if out is not None else Path(f"check-{case.name}")
    picture = directory / "problem.png"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        trouble = draw_problem(problem, picture)
    except OSError as error:
        raise InputError(f"can't write there: {error.strerror}", file=directory, key="--out") from None
    console.print(summary(case, problem))
    if trouble:
        console.print(f"The drawing has sections only, {trouble}", style="yellow", markup=False)
    console.print(f"The case is valid. Drawing: {picture}", soft_wrap=True, markup=False)
    return picture


def check_files(case: Case, problem: Problem) -> None:
    """What a run would find wrong in files or in its last stages, found now.

    Raises
    ------
    InputError
        Naming the file and what it is not, or what can't be solved at full scale.
    """
    if case.full_scale.voxels_per_cell is not None:
        check_full_scale(case)
    if case.gamut.source not in GAMUT_SOURCES:
        case_gamut(case)
    if case.design.source is not None:
        read_field(case.path(case.design.source), problem, case.design)
    if case.fill.source not in FILL_SOURCES:
        check_source(case.path(case.fill.source), case.base_material.poisson)


def summary(case: Case, problem: Problem) -> Group:
    """The tables that ``check`` prints."""
    edge = problem.cell_size_m * 1e3
    head = f"[bold]{escape(case.name)}[/bold]  {escape(case.case.description)}"
    tables = (_grid_table(problem, edge), _region_table(problem), _load_table(problem))
    costs = _cost_table(case, problem)
    return Group(head, "", *(part for table in (*tables, costs) for part in (table, "")))


def _grid_table(problem: Problem, edge: float) -> Table:
    count = sizes(problem)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "grid",
        f"{times(problem.shape)} elements of {edge:g} mm "
        f"({times(f'{n * edge:g}' for n in problem.shape)} mm)",
    )
    planes = ", ".join(f"{'xyz'[a]} = {problem.shape[a] // 2}" for a in problem.mirror_axes)
    table.add_row("mirror planes", planes or "none")
    table.add_row("solved grid", f"{times(problem.solved_shape)} elements")
    shrunk = (
        "" if count["unknowns"] == count["unknowns_full"] else f" (full grid: {count['unknowns_full']:,})"
    )
    table.add_row("unknowns", f"{count['unknowns']:,}{shrunk}")
    if problem.observed_names:
        observed = escape(", ".join(problem.observed_names))
        table.add_row("observed", f"{count['observed_nodes']:,} nodes of {observed}")
    table.add_row("memory", f"about {count['memory_bytes'] / 1e9:.1f} GB to solve{_too_much(count)}")
    return table


def _too_much(count: dict[str, int]) -> str:
    free = memory.SHARE * memory.available()
    if count["memory_bytes"] <= free:
        return ""
    return f", [bold red]more than the {free / 1e9:.1f} GB free here: `run` would refuse[/]"


def _region_table(problem: Problem) -> Table:
    table = _table("Regions", ("name", "role"), ("elements", "share", "C11, C12, C44 / E_s", "E/E_s", "nu"))
    for index, name in enumerate(problem.region_names):
        where = problem.region == index
        role = Role(int(problem.role[where][0]))
        numbers = ["", "", ""]
        if role != Role.VOID:
            c = problem.tensor[where][0]
            numbers = [" ".join(f"{value:.4f}" for value in c)]
            numbers += [f"{float(f(c)):.3f}" for f in (tensor.young, tensor.poisson)]
        numbers = [f"{int(where.sum()):,}", f"{where.mean():.1%}", *numbers]
        table.add_row(escape(name), role.name.lower(), *numbers)
    return table


def _load_table(problem: Problem) -> Table:
    table = _table("Loads", ("name",), ("weight", "held nodes", "force (N)", "move (mm)", "parity x/y/z"))
    newton = problem.young_pa * problem.cell_size_m**2
    for load in problem.loads:
        force = load.force.sum(axis=(0, 1, 2)) * newton
        # What is left of forces that cancel is rounding, not a force.
        force[np.abs(force) < 1e-9 * np.abs(load.force).sum() * newton] = 0.0
        moved = np.linalg.norm(load.value, axis=-1).max() * problem.cell_size_m * 1e3
        held = load.fixed.any(-1) & ~(load.value != 0).any(-1)
        table.add_row(
            escape(load.name),
            f"{load.weight:g}",
            "balanced" if load.free else f"{int(held.sum()):,}",
            " ".join(f"{value:.5g}" for value in force + 0.0),
            f"{moved:.4g}",
            " / ".join(PARITY_WORDS[parity(load, axis)] for axis in range(3)),
        )
    return table


def _cost_table(case: Case, problem: Problem) -> Table:
    table = _table("Cost, predicted for one rank", ("stage", "of"), ("time", "memory (GB)"))
    for stage, cost in predict(case, problem).items():
        name = "objective and gradient" if stage == "evaluation" else stage.replace("_", " ")
        table.add_row(name, cost.what, _duration(cost.seconds), f"{cost.bytes / 1e9:.1f}")
    return table


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in left:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
