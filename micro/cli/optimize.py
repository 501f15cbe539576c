"""``micro optimize``: topology optimisation of one cell."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from micro.cell import tensor
from micro.cli.options import IsotropicOption, PoissonOption, print_json, three_numbers
from micro.runtime.errors import NotConverged
from micro.runtime.files import write_json


def optimize(
    objective: Annotated[
        str,
        typer.Option(
            help="**bulk**, **shear** or **young** (as stiff as possible), **poisson** (as low as possible) "
            "or **match** (a given tensor)."
        ),
    ],
    volume: Annotated[float, typer.Option(help="Solid fraction, at most; for match: of the start.")],
    out: Annotated[Path, typer.Option(help="Folder to write; the same command resumes.")],
    n: Annotated[int, typer.Option(help="Voxels along the edge of the cell's octant.")] = 32,
    target: Annotated[
        str | None, typer.Option(metavar="C11,C12,C44", help="Tensor to match, in units of E_s.")
    ] = None,
    isotropic: IsotropicOption = False,
    stiffness: Annotated[float, typer.Option(help="Least Young's modulus, for poisson.")] = 0.005,
    start: Annotated[
        str,
        typer.Option(
            help="Initial field: cos, cos-product, sin, sin-product, waves, noise, walls, plates, schwarz-p, "
            "i-wp, neovius, f-rd, o,c-to, a .npy file (octant or whole cell), or auto: known to lead far."
        ),
    ] = "auto",
    wave: Annotated[int, typer.Option(help="Wave number k of cos and sin (2 pi k x).")] = 1,
    invert: Annotated[bool, typer.Option("--invert", help="Exchange solid and void in the start.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starts noise and waves.")] = 0,
    radius: Annotated[
        float | None, typer.Option(help="Filter radius in voxels: larger, thicker.", show_default="0.07 n")
    ] = None,
    method: Annotated[str, typer.Option(help="oc, mma, or auto.")] = "auto",
    effort: Annotated[float, typer.Option(help="Factor on the number of evaluations.")] = 1.0,
    nu: PoissonOption = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Find the cell that is best at something: inverse homogenisation.

    A cubic cell's density field is optimised by its sensitivities, first soft and coarse, then sharper and
    finer, until it is solid and void; the answer is that binary cell, connected, with **its own**
    homogenised tensor. Where it ends depends on where it starts: try several starts.

    * The stiffest cell under pressure, near the Hashin-Shtrikman bound:
      `micro optimize --objective bulk --volume 0.3 --out stiff`
    * One that widens when pulled, equally in all directions:
      `micro optimize --objective poisson --isotropic --volume 0.3 --out auxetic`
    * Equally stiff in shear in all directions:
      `micro optimize --objective shear --isotropic --volume 0.6 --out isotropic`
    * A given tensor:
      `micro optimize --objective match --target 0.12,0.02,0.03 --volume 0.3 --out match`

    The folder gets `cell.zarr` (a cell set), `cell.png`, `metrics.json`, and `state.npz` after each stage,
    from which the same command goes on after an interruption.
    """
    from micro.inverse import Goal, Settings

    wanted = None if target is None else three_numbers(target, "--target", "three numbers C11,C12,C44")
    settings = Settings(
        Goal(objective, volume, wanted, isotropic, stiffness, nu),
        n=n,
        start=_start(start),
        wave=wave,
        sign=-1 if invert else 1,
        seed=seed,
        radius=radius,
        method=method,
        effort=effort,
    )
    metrics = _run(settings, out, quiet=as_json)
    if as_json:
        print_json(metrics)
    else:
        _print(metrics, out)
    if not metrics["met"]:
        raise NotConverged(f"{out}: the cell misses {_missed(settings.goal, metrics)}; try another --start")


def _run(settings: Any, out: Path, *, quiet: bool) -> dict[str, Any]:
    from micro.cell.picture import save_picture
    from micro.inverse import begin, finish, step
    from micro.inverse.folder import description, open_folder, save_state

    began, state = time.perf_counter(), open_folder(out, settings)
    state = begin(settings) if state is None else state
    stages = settings.stages()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"))
    console = Console(stderr=True, quiet=quiet)
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        total = sum(s.evaluations * s.n**3 for s in stages)
        before = sum(s.evaluations * s.n**3 for s in stages[: state.done])
        task = bar.add_task(settings.goal.name, total=total, completed=before, now="")
        while state.done < len(stages):
            stage, first = stages[state.done], len(state.history)

            def report(at: Any, stage: Any = stage, first: int = first, before: int = before) -> None:
                _, beta, value, volume = at.history[-1]
                now = f"n = {stage.n}, sharpness {beta:g}: {value:.4f} at volume {volume:.3f}"
                spent = min(len(at.history) - first, stage.evaluations) * stage.n**3
                bar.update(task, completed=before + spent, now=now)

            state = step(state, settings, watch=report)
            before += stage.evaluations * stage.n**3
            save_state(out / "state.npz", state)
        bar.update(task, completed=total, now="solid and void")
        result = finish(state, settings)
    command = shlex.join(["micro", *sys.argv[1:]])
    K, G = tensor.hashin_shtrikman(result.volume, settings.nu)
    E = 9 * K * G / (3 * K + G)
    metrics = {
        "objective": settings.goal.name,
        "value": result.value,
        "met": result.met,
        "n": len(result.octant),
        "volume": result.volume,
        "C": result.C.tolist(),
        "bulk": float(tensor.bulk(result.C)),
        "bulk_over_bound": float(tensor.bulk(result.C) / K),
        "shear": float(result.C[2]),
        "shear_over_isotropic_bound": float(result.C[2] / G),
        "young": float(tensor.young(result.C)),
        "young_over_isotropic_bound": float(tensor.young(result.C) / E),
        "poisson": float(tensor.poisson(result.C)),
        "zener": float(tensor.zener(result.C)),
        "solves": result.solves,
        "seconds": round(time.perf_counter() - began, 1),
        "command": command,
    }
    result.cells({"command": command, "settings": description(settings)}).save(out / "cell.zarr")
    save_picture(out / "cell.png", result.octant)
    write_json(out / "metrics.json", metrics)
    return metrics


def _missed(goal: Any, metrics: dict[str, Any]) -> str:
    """What a cell that does not fulfil its goal has, against what was asked."""
    asked = [f"volume {metrics['volume']:.4f} (at most {goal.volume:g})"]
    if goal.isotropic:
        asked.append(f"Zener ratio {metrics['zener']:.3f} (0.95 to 1.05)")
    if goal.name == "poisson":
        asked.append(f"Young's modulus {metrics['young']:.5f} (at least {goal.stiffness:g})")
    return "one of: " + ", ".join(asked)


def _start(text: str) -> Any:
    if not text.endswith(".npy"):
        return text
    from micro.explore.given import read_octant

    return read_octant(Path(text))


def _print(metrics: dict[str, Any], out: Path) -> None:
    table = Table(
        "property", "value", title=f"{escape(str(out))}: {metrics['objective']}, binary and connected"
    )
    for key in ("volume", "C", "bulk", "shear", "young", "poisson", "zener"):
        value = metrics[key]
        text = ", ".join(f"{v:.5f}" for v in value) if isinstance(value, list) else f"{value:.4f}"
        table.add_row(key, text)
    table.add_row("bulk / Hashin-Shtrikman", f"{100 * metrics['bulk_over_bound']:.1f} %")
    table.add_row(
        "shear / Hashin-Shtrikman (isotropic)", f"{100 * metrics['shear_over_isotropic_bound']:.1f} %"
    )
    share = metrics["young_over_isotropic_bound"]
    table.add_row("Young / Hashin-Shtrikman (isotropic)", f"{100 * share:.1f} %")
    table.add_row("homogenisations, time", f"{metrics['solves']}, {metrics['seconds']:.0f} s")
    Console().print(table)
