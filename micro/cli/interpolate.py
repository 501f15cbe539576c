"""``micro interpolate``: from one cell to another in steps that fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from micro.cli.options import GeneratorOption, OverwriteOption, print_json
from micro.runtime.errors import InputError
from micro.runtime.files import check_free, write_json


def interpolate(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A cell: C11,C12,C44, dataset:ROW, library:ROW, SET.zarr:ROW, or a file of voxels.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    steps: Annotated[int, typer.Option(help="Cells, both ends included.")] = 9,
    along: Annotated[
        str, typer.Option(help="**tensor**: each cell is moved onto the path; **noise**: the noise alone.")
    ] = "tensor",
    maximise: Annotated[
        str | None, typer.Option(help="**bulk**: along volumes, each cell as stiff as can be.")
    ] = None,
    n: Annotated[int, typer.Option(help="Voxels along the edge of generated ends' octants.")] = 32,
    tolerance: Annotated[
        float, typer.Option(help="Tensor error (Eq. 4) at which a cell is left alone.")
    ] = 2e-3,
    trials: Annotated[int, typer.Option(min=1, help="Homogenisations of a cell at most.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of generated ends.")] = 0,
    generator: GeneratorOption = "default",
    overwrite: OverwriteOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Cells that lead from one to another: graded in stiffness, alike from step to step.

    * Between two cells of the packaged data set:
      `micro interpolate dataset:100 dataset:2000 --out sequence`
    * A family along the bulk modulus' bound:
      `micro interpolate dataset:100 dataset:2000 --maximise bulk --out family`
    * Between two tensors: `micro interpolate 0.05,0.02,0.02 0.4,0.15,0.12 --out sequence`

    The folder gets `cells.zarr.zip` (the sequence in order), `sequence.json` (tensors, errors to the path,
    similarity of neighbours and overlap of their faces, beside what volume and area alone allow) and
    `sequence.png`. `multiscale bar sequence/cells.zarr.zip --out bar.zarr` makes a graded lattice of it, that
    `multiscale export` takes. Nine cells of n = 32 take five to ten seconds of one processor core.
    """
    from micro.cell.cellset import CellSet
    from micro.explore.given import given_cell
    from micro.explore.sequence import interpolate as run
    from micro.explore.sequence_figure import save_figure
    from micro.generator.generator import Generator

    check_free(out, ("cells.zarr.zip", "sequence.json", "sequence.png"), overwrite=overwrite, key="--out")
    loaded = Generator.load(generator)
    first, last = given_cell(a, loaded, n, seed), given_cell(b, loaded, n, seed)
    if first.n != last.n:
        raise InputError("both cells need the same number of voxels", key="B", value=(first.n, last.n))
    last.require_poisson(first.poisson)
    ends = CellSet.from_octants(
        [first.octants()[0], last.octants()[0]],
        [first.C[0], last.C[0]],
        family="given",
        poisson=first.poisson,
    )
    found = run(loaded, ends, steps, along=along, maximise=maximise, tolerance=tolerance, trials=trials)
    report = found.report()
    out.mkdir(parents=True, exist_ok=True)
    found.cells.save(out / "cells.zarr.zip")
    write_json(out / "sequence.json", {"ends": [a, b], "along": along, **report})
    save_figure(out / "sequence.png", found)
    if as_json:
        print_json(report)
        return
    table = Table("figure", "value", title=f"{escape(str(out))}: {steps} cells")
    for key, value in report.items():
        if isinstance(value, list):
            continue
        table.add_row(
            key, "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        )
    Console().print(table)
