"""``micro library``: build a cell library, look into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from micro.cell import tensor
from micro.cli.options import PoissonOption, ProcessesOption, WorkOption
from micro.runtime.executor import among
from micro.runtime.files import cache_path
from micro.runtime.progress import stage_bar

if TYPE_CHECKING:
    from micro.cell.cellset import CellSet

app = typer.Typer(help="Cells by formula: build a library of them, show it, find cells by tensor.")

LibraryOption = Annotated[
    Path | None, typer.Option("--library", help="A cell set (default: the packaged library).")
]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="File to write (a Zarr group; .zip for one file).")],
    n: Annotated[int, typer.Option(help="Voxels along an octant's edge.")] = 32,
    count: Annotated[int, typer.Option(help="Number of cells.")] = 3600,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 1,
    coarse: Annotated[int, typer.Option(help="Resolution at which candidates are compared.")] = 16,
    pool: Annotated[int, typer.Option(help="Number of random candidates.")] = 5000,
    round_size: Annotated[int, typer.Option(help="Candidates of one round.")] = 500,
    reach: Annotated[int, typer.Option(help="Goals searched for by all shape parameters.")] = 40,
    focus: Annotated[float, typer.Option(help="How much denser cells stand where designs need them.")] = 2.0,
    nu: PoissonOption = 0.3,
    gamut: Annotated[Path | None, typer.Option(help="Also write the library's gamut to this file.")] = None,
    workers: ProcessesOption = None,
    work: WorkOption = None,
) -> None:
    """Draw, homogenise and choose cells; the same command resumes where a killed one stopped."""
    from micro.gamut.gamut import Gamut
    from micro.library.build import Recipe, build as build_library, recipe_arguments

    recipe = Recipe(n, count, seed, coarse, pool, round_size, reach, focus, nu)
    recipe.check()
    workers = among(workers)
    folder = cache_directory() if work is None else work
    with stage_bar() as progress:
        command = " ".join(["micro library build", *recipe_arguments(recipe)])
        cells = build_library(recipe, folder, workers=workers, progress=progress, command=command)
    cells.save(out)
    print(f"{out}: {len(cells)} cells of n = {cells.n}, {_size(out) / 1e6:.2f} MB")
    if gamut is not None:
        Gamut.fit(cells.C, source=cells.digest(), poisson=cells.poisson).save(gamut)
        print(f"{gamut}: phi of these cells, {_size(gamut) / 1e6:.2f} MB")


@app.command()
def show(library: LibraryOption = None) -> None:
    """Families, ranges and provenance of a library."""
    cells = _cells(library)
    families = Table("family", "cells", "volume", "K / K_s", "mu' / G_s", "G / G_s")
    moduli = tensor.to_moduli(cells.C) / tensor.to_moduli(tensor.SOLID)
    for name in [*np.unique(cells.family).tolist(), "all"]:
        rows = np.full(len(cells), True) if name == "all" else cells.family == name
        spans = [_span(cells.volume[rows]), *(_span(moduli[rows, i]) for i in range(3))]
        families.add_row(name, str(int(rows.sum())), *spans)
    console = Console()
    console.print(
        f"{len(cells)} cells of n = {cells.n}, base material nu = {cells.poisson:g}, "
        f"digest {cells.digest()[:16]}"
    )
    for key, value in cells.attrs.items():
        console.print(f"{key}: {value}", markup=False)
    console.print(families)


@app.command()
def nearest(
    c11: Annotated[float, typer.Argument(help="C11 in units of the base material's Young's modulus.")],
    c12: Annotated[float, typer.Argument(help="C12")],
    c44: Annotated[float, typer.Argument(help="C44")],
    k: Annotated[int, typer.Option("-k", help="How many.")] = 5,
    library: LibraryOption = None,
    match: Annotated[
        bool, typer.Option("--match", help="Also correct the nearest cells to the target.")
    ] = False,
) -> None:
    """The cells nearest to a tensor, by the tensor error (Eq. 4)."""
    from micro.library import retrieval as lib

    cells = _cells(library)
    target = np.array([c11, c12, c44])
    index, error = lib.nearest(cells, target[None], min(k, len(cells)))
    table = Table("cell", "family", "volume", "C11", "C12", "C44", "error %")
    for i, e in zip(index[0].tolist(), error[0].tolist(), strict=True):
        table.add_row(str(i), str(cells.family[i]), *_numbers(cells.volume[i], cells.C[i]), f"{100 * e:.3f}")
    if match:
        found = lib.match(cells, target, neighbours=k)
        e = float(tensor.tensor_error(found.C[0], target))
        numbers = _numbers(found.volume[0], found.C[0])
        table.add_row("corrected", str(found.family[0]), *numbers, f"{100 * e:.3f}")
    Console().print(table)


def cache_directory() -> Path:
    """Where unfinished libraries wait: ``$XDG_CACHE_HOME/multiscale/library``, by default in ~/.cache."""
    return cache_path("library")


def _cells(path: Path | None) -> CellSet:
    from micro.cell.cellset import CellSet
    from micro.data.packaged import load_library

    return load_library() if path is None else CellSet.load(path)


def _span(values: Any) -> str:
    return f"{np.min(values):.3f}..{np.max(values):.3f}"


def _numbers(volume: float, C: Any) -> list[str]:
    return [f"{volume:.3f}", *(f"{value:.4f}" for value in C)]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
