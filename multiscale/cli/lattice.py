"""Commands on a lattice: written for other programs, judged for printing, solved at full scale."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from micro.runtime.errors import InputError
from micro.runtime.files import check_writable
from multiscale.cli.shell import console, first_rank, reporter

if TYPE_CHECKING:
    from multiscale.printability.exported import Exported
    from multiscale.printability.printability import Printability

Run = Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.")]
RunOrLattice = Annotated[
    Path, typer.Argument(metavar="DIR", help="Run directory, or a lattice (Zarr) itself.")
]


def export(
    run_dir: RunOrLattice,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File (for slices: directory) to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="by FILE's ending",
            help="stl, ply, obj, 3mf, glb, slices, sl1, svx, vti, vtu, inp, msh or vdb.",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="I0:I1,J0:J1,K0:K1", show_default="the whole lattice", help="Elements to export."
        ),
    ] = None,
    per_cell: Annotated[
        int | None,
        typer.Option(
            "--voxels-per-cell",
            metavar="N",
            show_default="the cells' own; glb: at most 16",
            help="Voxels along a cell's edge.",
        ),
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option(metavar="VOXELS", show_default="0; 3mf: 0.6", help="Blur before a surface is taken."),
    ] = None,
    decimate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            show_default="0; 3mf: 0.9, glb: 0.75",
            help="Share of a surface's triangles to remove.",
        ),
    ] = None,
    pixel: Annotated[
        str | None,
        typer.Option(
            metavar="MM[,MM]",
            help="For slices, sl1: the printer's pixels in mm, along x and y if they differ (0.0423,0.0846).",
        ),
    ] = None,
    layer: Annotated[
        float | None, typer.Option(metavar="MM", help="For slices, sl1: the printer's layer height in mm.")
    ] = None,
    fill_cavities: Annotated[
        bool, typer.Option("--fill-cavities", help="Change the geometry: enclosed cavities become solid.")
    ] = False,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain",
            help="Change the geometry: two channels to each enclosed cavity; the smallest are filled.",
        ),
    ] = False,
    channel: Annotated[
        float | None,
        typer.Option(metavar="MM", show_default="1/32 of a cell's edge", help="Width of --drain's channels."),
    ] = None,
) -> None:
    """Write a run's lattice, or a region of it, for other programs.

    stl, ply, obj: the watertight surface of a region. 3mf: the whole lattice for a slicer, one mesh
    per unique cell. glb: the same for viewers. slices, sl1, svx: the voxels as pictures; slices and sl1
    with --pixel and --layer: a printer's own grid. vti, vdb: the voxels of a region. vtu, inp, msh: one
    element per cell with its tensor. The size is printed before the work starts; docs/export.md says more.
    For example

        multiscale export runs/cloak --region 20:24,26:32,20:23 --out part.stl

        multiscale export runs/cloak --out cloak.3mf

        multiscale export runs/cloak --out slices --pixel 0.05 --layer 0.1
    """
    from multiscale.export.command import export as write

    if first_rank():
        check_writable(out.parent, "--out")
        if fill_cavities and drain:
            raise InputError("say either, not both", key="--fill-cavities, --drain")
        name = format or out.suffix.removeprefix(".").lower() or "slices"
        write(
            run_dir,
            name,
            out,
            region,
            per_cell=per_cell,
            smooth=smooth,
            decimate=decimate,
            pixel_mm=None if pixel is None else _pixel(pixel),
            layer_mm=layer,
            cavities="drain" if drain else "fill" if fill_cavities else None,
            channel_mm=channel,
            reporter=reporter(),
        )


def bar(
    cells: Annotated[
        Path, typer.Argument(metavar="CELLS", help="Cells in order, as `micro interpolate` writes them.")
    ],
    out: Annotated[Path, typer.Option(help="Lattice to write (a .zarr).")],
    across: Annotated[int, typer.Option(help="Cells side by side, in both directions.")] = 2,
    repeat: Annotated[int, typer.Option(help="How often each cell comes one after another.")] = 1,
    cell_size: Annotated[float, typer.Option(metavar="MM", help="Edge of a cell.")] = 10.0,
    young: Annotated[float, typer.Option(metavar="MPA", help="Of the base material.")] = 1000.0,
) -> None:
    """A graded bar of a sequence of cells, as a lattice that `export` and `printability` take. For example

    micro interpolate dataset:100 dataset:2000 --out sequence

    multiscale bar sequence/cells.zarr.zip --out bar.zarr

    multiscale export bar.zarr --out bar.stl
    """
    from micro.cell.cellset import CellSet
    from multiscale.lattice.sequence import graded_bar

    if first_rank():
        check_writable(out.parent, "--out")
        sequence = CellSet.load(cells)
        lattice = graded_bar(
            sequence,
            across=across,
            repeat=repeat,
            cell_size_m=cell_size / 1000,
            young_pa=young * 1e6,
            poisson=sequence.poisson,
        )
        lattice.save(out)
        contacts, pieces = lattice.contacts(), lattice.components()
        console().print(
            f"{' x '.join(map(str, lattice.shape))} cells in {pieces} piece{'s' * (pieces != 1)}, "
            f"{contacts.unconnected} of {contacts.count} contacts without solid"
        )


def printability(
    run_dir: RunOrLattice,
    direction: Annotated[
        tuple[float, float, float],
        typer.Option(metavar="X Y Z", help="Build direction, for overhangs and layers."),
    ] = (0.0, 0.0, 1.0),
    density: Annotated[
        float | None,
        typer.Option(metavar="KG_M3", show_default="the case's", help="Of the base material, for the mass."),
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(
            metavar="MM",
            help="The printer's smallest wall and gap: how much is thinner, and the cell size that suits.",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="I0:I1,J0:J1,K0:K1",
            show_default="the whole lattice, if it is small",
            help="Elements to measure layer by layer, as they are cut: what --exported holds.",
        ),
    ] = None,
    exported: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure this file of `export` (stl, ply, obj, 3mf, slices) beside its voxels.",
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Can it be printed? Walls and gaps, cavities, islands, bridges, overhangs, mass; lengths in mm.

    What it finds is added to the run's metrics.json as well; docs/export.md says what is exact. What ships
    is measured with --exported. For example

        multiscale printability runs/cloak --least 0.4

        multiscale printability runs/cloak --exported part.stl
    """
    from multiscale.printability import exported as files, printability as whole
    from multiscale.printability.printer import check_least

    if not first_rank():
        return
    if least is not None:
        check_least(least)
    if exported is not None and density is not None:
        raise InputError("is for the mass of the whole lattice, not of a file", key="--density")
    found: Printability | Exported
    with reporter("quiet" if json_output else "text").task("printability", 1) as task:
        if exported is None:
            found = whole.assess_run(
                run_dir,
                direction=direction,
                density_kg_m3=density,
                least_mm=least,
                region=region,
                progress=task.reach,
            )
            lines = whole.described(found)
        else:
            found = files.assess_exported(run_dir, exported, region, direction=direction, progress=task.reach)
            lines = files.described(found, least)
    if json_output:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        for line in lines:
            console().print(line, soft_wrap=True, markup=False)


def verify(
    run_dir: Run,
    per_cell: Annotated[
        int,
        typer.Option(
            "--voxels-per-cell", metavar="N", help="Voxels along a cell's edge: an even divisor of its own."
        ),
    ] = 8,
    max_memory: Annotated[
        float | None, typer.Option(metavar="GB", show_default="0.9 of what is free", help="Refuse above.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default="OMP_NUM_THREADS, or the cores")
    ] = None,
    # full_scale.RTOL, which is not imported here: it takes PETSc.
    rtol: Annotated[float, typer.Option(min=1e-10, max=0.1, help="Relative residual of the solves.")] = 1e-3,
) -> None:
    """Solve a run's lattice at full scale, voxel by voxel, and compare with what homogenisation says.

    A cloak is solved beside the same without a cloak and the reference lattice without a hole, a stiff part
    beside the best uniform cell, under the case's own loads; distortions, compliances or mismatches go into
    metrics.json under "verify", by resolution. Memory is announced first. Where so few voxels make cells
    that are relatively off by more than 3 % on average, the result is marked as not of this lattice.
    """
    from multiscale.verify.full_scale import verify as work

    work(
        run_dir,
        voxels_per_cell=per_cell,
        max_memory=None if max_memory is None else max_memory * 1e9,
        threads=threads,
        rtol=rtol,
        reporter=reporter(),
    )


def unseen(run_dir: Run) -> None:
    """Measure a cloak under loads it was not designed for: nine tensions and shears of the block.

    Each face of low coordinates is held in turn and the opposite one pulled along x, y and z; the distortions
    without a cloak, as designed and as built go into metrics.json under "unseen", with those under uniform
    stresses and their first moments on the free block, and under the worst combinations of these.
    """
    from multiscale.verify.unseen_loads import unseen as work

    if first_rank():
        work(run_dir, reporter())


def _pixel(text: str) -> tuple[float, float]:
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise InputError("is one length in mm, or two with a comma", key="--pixel", value=text)
    return sides[0], sides[-1]
