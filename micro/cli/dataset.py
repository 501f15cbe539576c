"""``micro dataset``: build the data set of cells, describe it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from micro.cell import tensor
from micro.cli.options import DatasetOption, PoissonOption, ProcessesOption, WorkOption
from micro.runtime.errors import InputError
from micro.runtime.executor import among
from micro.runtime.progress import stage_bar

if TYPE_CHECKING:
    from micro.cell.cellset import CellSet
    from micro.runtime.arrays import Floats

app = typer.Typer(help="The data set that generators learn from: build it, describe it.")


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="File to write (a Zarr group; .zip for one file).")],
    n: Annotated[int, typer.Option(help="Voxels along an octant's edge.")] = 32,
    pool: Annotated[int, typer.Option(help="Candidates by formula.")] = 16000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 2,
    nu: PoissonOption = tensor.POISSON,
    round_size: Annotated[int, typer.Option(help="Candidates of one round.")] = 1000,
    extremes: Annotated[
        int, typer.Option(help="Cells pushed over the edge by inverse homogenisation; 0: no extremes.")
    ] = 42,
    workers: ProcessesOption = None,
    work: WorkOption = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Only assemble what is finished; make nothing new.")
    ] = False,
) -> None:
    """Make and homogenise cells, clean, thin and split them; the same command resumes a killed one."""
    from micro.dataset.build import assemble, build as build_dataset, dataset_directory, pool_arguments
    from micro.library.build import Recipe

    workers = among(workers)
    recipe = Recipe(n=n, count=pool, seed=seed, coarse=n, pool=pool, round_size=round_size, reach=0, nu=nu)
    recipe.check()
    folder = dataset_directory() if work is None else work
    if extremes < 0:
        raise InputError("must not be negative", key="--extremes", value=extremes)
    command = " ".join(["micro dataset build", *pool_arguments(recipe), f"--extremes={extremes}"])
    if finished:
        cells = assemble(folder, recipe, command=command)
    else:
        with stage_bar() as progress:
            cells = build_dataset(
                folder, recipe, extremes, workers=workers, progress=progress, command=command
            )
    cells.save(out)
    print(f"{out}: {len(cells)} cells of n = {cells.n}")


@app.command()
def refine(
    out: Annotated[
        Path, typer.Option(help="File to write: the data set, or with --part all that is finished, to go on.")
    ],
    n: Annotated[int, typer.Option(help="Voxels along an octant's edge.")] = 64,
    file: Annotated[
        Path | None, typer.Option("--data", help="The first edition (default: the packaged data set).")
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(help="Blocks of about 58 cells to have in all (default: every one).")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Blocks finished elsewhere, a file written with --part.")
    ] = None,
    part: Annotated[
        bool, typer.Option("--part", help="Write what is finished as it is, to go on from.")
    ] = False,
    workers: ProcessesOption = None,
    work: WorkOption = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Only gather what is finished; make nothing new.")
    ] = False,
) -> None:
    """Make a data set again at a finer resolution, each closed cell with an opened twin, and thin cells.

    The same command resumes a killed one; what is finished at any time covers the whole.
    """
    from micro.cell.cellset import CellSet
    from micro.dataset.finer import assembled, build as build_finer
    from micro.dataset.widening import without_edge

    if blocks is not None and blocks < 1:
        raise InputError("at least one block is needed", key="--blocks", value=blocks)
    # Cells that were added later have no blocks yet: the blocks are those of the set before.
    first = without_edge(_cells(file))
    if n <= first.n:
        raise InputError(f"must be finer than the data's {first.n}", key="--n", value=n)
    with stage_bar() as progress:
        cells = build_finer(
            first,
            n,
            folder=work,
            blocks=blocks,
            start=None if start is None else CellSet.load(start),
            workers=among(workers),
            make_new=not finished,
            progress=progress,
        )
    if not part:
        command = f"micro dataset refine --n={n} --blocks={cells.attrs['blocks']}"
        cells = assembled(cells, {"command": command, "first": first.digest()})
    cells.save(out)
    print(f"{out}: {len(cells)} cells of n = {cells.n}")


@app.command()
def widen(
    out: Annotated[Path, typer.Option(help="File to write (a Zarr group; .zip for one file).")],
    file: DatasetOption = None,
    marches: Annotated[
        int, typer.Option(help="Topology optimisations beyond the edge, in each round.")
    ] = 450,
    rounds: Annotated[int, typer.Option(help="Rounds, each from the last one's edge.")] = 1,
    also: Annotated[
        list[Path] | None, typer.Option(help="Cells found elsewhere, as by micro extreme; may be repeated.")
    ] = None,
    toward: Annotated[
        Path | None,
        typer.Option(help="Tensors where to look farther (.npz of C11, C12, C44), as a run's design.npz."),
    ] = None,
    workers: ProcessesOption = None,
    work: WorkOption = None,
) -> None:
    """Add cells beyond the edge of a data set, and up to the solid; the same command resumes a killed one.

    The set's own cells stay as they are; cells that an earlier call added are made anew. A gamut of one's own
    design's needs: widen toward its tensors, `micro dataset gamut` of the result, and that file as the case's
    `[gamut] source`.
    """
    from micro.cell.cellset import CellSet
    from micro.dataset.widening import widen as widen_dataset

    first, files = _cells(file), also or []
    command = ["micro dataset widen", *([] if file is None else [f"--data={file}"])]
    command += [f"--marches={marches}", f"--rounds={rounds}", *(f"--also={path}" for path in files)]
    command += [] if toward is None else [f"--toward={toward}"]
    with stage_bar() as progress:
        cells = widen_dataset(
            first,
            count=marches,
            rounds=rounds,
            also=[CellSet.load(path) for path in files],
            toward=None if toward is None else _tensors(toward),
            folder=work,
            workers=among(workers),
            progress=progress,
            command=" ".join(command),
        )
    cells.save(out)
    print(f"{out}: {len(cells)} cells of n = {cells.n}")


@app.command()
def gamut(
    out: Annotated[Path, typer.Option(help="File to write (safetensors).")], file: DatasetOption = None
) -> None:
    """Learn phi(C), which tensors can be built, from a data set; calibrated on its validation cells."""
    from micro.dataset.learn import learn_gamut

    learned = learn_gamut(_cells(file))
    learned.save(out)
    shares = ", ".join(f"{100 * v:.2f} % of {k}" for k, v in learned.attrs["feasible"].items())
    print(f"{out}: phi >= 0 for {shares} cells; radius {learned.radius:.4f}")


@app.command()
def least_volume(
    out: Annotated[Path, typer.Option(help="File to write (safetensors).")], file: DatasetOption = None
) -> None:
    """Learn v(C), how light a cell of a tensor can be, from a data set: what mass limits are made of."""
    from micro.dataset.learn import learn_least_volume

    learned = learn_least_volume(_cells(file))
    learned.save(out)
    shares = ", ".join(f"{100 * v:.1f} % of {k}" for k, v in learned.attrs["below"].items())
    print(f"{out}: lighter than v are {shares} cells")


@app.command()
def info(
    file: Annotated[Path | None, typer.Argument(help="A data set (default: the packaged one).")] = None,
) -> None:
    """Parts, sources, families and ranges of a data set."""
    from micro.dataset.dataset import masks, openness, sources

    cells = _cells(file)
    console = Console()
    console.print(f"{len(cells)} cells of n = {cells.n}, digest {cells.digest()[:16]}")
    for key in ("title", "command", "gathered"):
        console.print(f"{key}: {cells.attrs.get(key)}", markup=False)
    parts = masks(cells)
    console.print(", ".join(f"{int(rows.sum())} {name}" for name, rows in parts.items()))
    if "open" in cells.attrs:
        console.print(f"{int(openness(cells).sum())} enclose no void in a lattice of their own kind")
    for title, column in (("source", sources(cells)), ("family", cells.family)):
        table = Table(title, "cells", "volume", "K / K_s", "mu' / G_s", "G / G_s")
        for name in np.unique(column).tolist():
            rows = column == name
            table.add_row(name, str(int(rows.sum())), *_spans(cells, rows))
        console.print(table)


@app.command()
def card(
    page: Annotated[Path, typer.Option(help="Page to write (Markdown).")] = Path("docs/dataset.md"),
    images: Annotated[Path, typer.Option(help="Folder of its pictures.")] = Path("docs/images"),
    file: DatasetOption = None,
    shapes: Annotated[int, typer.Option(help="Cells of the resolution study.")] = 24,
    resolutions: Annotated[str, typer.Option(help="Its resolutions, ascending.")] = "16,32,64",
) -> None:
    """Write the data card with its pictures; the resolution study takes minutes."""
    from micro.data.packaged import packaged_file
    from micro.dataset.card import write_card

    try:
        ascending = tuple(int(n) for n in resolutions.split(","))
    except ValueError:
        raise InputError("whole numbers, as in 16,32,64", key="--resolutions", value=resolutions) from None
    cells = _cells(file)
    with packaged_file() if file is None else nullcontext(file) as path:
        write_card(cells, path, page, images, shapes=shapes, resolutions=ascending)
    print(f"{page}: the card of {len(cells)} cells")


def _cells(file: Path | None) -> CellSet:
    from micro.cell.cellset import CellSet
    from micro.data.packaged import load_dataset

    return load_dataset() if file is None else CellSet.load(file)


def _tensors(file: Path) -> Floats:
    """The distinct tensors (m, 3) of a field; empty elements, which have none, are left out."""
    from micro.runtime.npz import read_arrays

    names = ("C11", "C12", "C44")
    arrays = read_arrays(file, names)
    if len({arrays[name].size for name in names}) > 1:
        raise InputError("C11, C12 and C44 must be of one shape", file=file, key="--toward")
    C = np.unique(np.stack([arrays[name].ravel() for name in names], axis=1).round(4), axis=0)
    C = C[tensor.is_definite(C)]
    if len(C) == 0:
        raise InputError("holds no positive definite tensor", file=file, key="--toward")
    return np.asarray(C, dtype=np.float64)


def _spans(cells: CellSet, rows: Any) -> list[str]:
    m = tensor.scaled_moduli(cells.C[rows])
    return [f"{v.min():.3f}..{v.max():.3f}" for v in (cells.volume[rows], *m.T)]
