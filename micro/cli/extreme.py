"""``micro extreme``: the best of many optimisations, from generated starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from micro.cli.options import GeneratorOption, IsotropicOption, ProcessesOption, print_json
from micro.runtime.errors import NotConverged
from micro.runtime.executor import among
from micro.runtime.progress import stage_bar


def extreme(
    objective: Annotated[
        str, typer.Option(help="**bulk**, **shear**, **young** (high) or **poisson** (low).")
    ],
    volume: Annotated[float, typer.Option(help="Solid fraction, at most.")],
    out: Annotated[Path, typer.Option(help="Folder to write; the same command resumes.")],
    starts: Annotated[int, typer.Option(help="Generated starts.")] = 20,
    compare: Annotated[
        bool, typer.Option("--compare", help="As many random starts beside the generated ones.")
    ] = False,
    vary: Annotated[
        int, typer.Option(min=0, help="Further starts, drawn from the turned noise of the best ends.")
    ] = 0,
    isotropic: IsotropicOption = False,
    stiffness: Annotated[float, typer.Option(help="Least Young's modulus, for poisson.")] = 0.005,
    n: Annotated[int, typer.Option(help="Voxels along the edge of the cells' octants.")] = 16,
    conditions: Annotated[int, typer.Option(help="Cells of the data set near the extreme to ask for.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated and the random starts.")] = 0,
    effort: Annotated[float, typer.Option(help="Factor on the number of evaluations.")] = 1.0,
    workers: ProcessesOption = None,
    generator: GeneratorOption = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as one JSON object.")] = False,
) -> None:
    """Look for extreme cells: topology optimisation from many starts near the extreme.

    The data set's cells nearest to the goal give tensors and volumes to the generator; each cell it draws is
    the start of an optimisation of its own.

    * Poisson's ratio as low as it gets, against random starts:
      `micro extreme --objective poisson --volume 0.2 --stiffness 0.008 --starts 100 --compare --out auxetic`
    * The stiffest isotropic cell:
      `micro extreme --objective young --volume 0.4 --isotropic --starts 20 --out stiff`

    The folder gets `cells.zarr.zip` (the connected ends, the best first), `extreme.json` (the table) and
    `extreme.png` (starts and ends against volume, and the best cells); `runs/` holds a file a start, from
    which the same command goes on after an interruption. An optimisation of n = 16 takes two to four seconds
    of one processor core, one of n = 32 five times that.
    """
    from micro.explore.extreme import Plan, explore, summary
    from micro.explore.extreme_figure import save_figure
    from micro.generator.generator import Generator
    from micro.inverse import Goal

    goal = Goal(objective, volume, isotropic=isotropic, stiffness=stiffness)
    plan = Plan(goal, n, starts, compare, vary, conditions, seed, effort)
    count = among(workers)
    with stage_bar() as progress:
        runs = explore(plan, out, generator=Generator.load(generator), workers=count, progress=progress)
    save_figure(out / "extreme.png", plan, runs)
    found = summary(plan, runs)
    if as_json:
        print_json(found)
        return
    _print(found, out)


def _print(found: dict[str, Any], out: Path) -> None:
    goal = found["plan"]["goal"]
    title = f"{escape(str(out))}: {goal['name']} at volume {goal['volume']:g}"
    if found["bound"] is not None:
        title += f", bound {found['bound']:.4f}"
    columns = ("count", "connected", "met", "median", "best", "its E", "its Zener")
    table = Table(Column("starts", no_wrap=True), *columns, title=title)
    for kind, row in found["kinds"].items():
        numbers = [row[key] for key in ("median", "best", "best_young", "best_zener")]
        texts = ["-" if v is None else f"{v:.4f}" for v in numbers]
        table.add_row(kind, str(row["starts"]), f"{row['connected']:.0%}", f"{row['met']:.0%}", *texts)
    Console().print(table)
    if not any(row["met"] for row in found["kinds"].values()):
        raise NotConverged("no end fulfils the goal; more --starts or a larger --volume may help")
