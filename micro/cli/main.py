"""The command ``micro``: thin wrappers around the package's functions.

Exit codes: 0 done; 2 the input is wrong, or a file can't be read or written; 3 a solve or a fit did not
converge, or a cell carries no load; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from micro.cli.dataset import app as dataset_app
from micro.cli.extreme import extreme
from micro.cli.generate import register as register_generator
from micro.cli.interpolate import interpolate
from micro.cli.library import app as library_app
from micro.cli.optimize import optimize
from micro.cli.options import DeviceOption, PoissonOption, print_json, three_numbers
from micro.runtime.errors import InputError, NotConverged, file_error, let_streams_replace
from micro.runtime.executor import among, on_ranks
from micro.runtime.version import version_option


class _Commands(TyperGroup):
    """The commands; an interrupted one says so and ends with 130, as shells have it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.stderr.write("micro: interrupted\n")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="micro",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Cells of a metamaterial: their stiffness, and how to come by them.

`homogenize` measures a cell. `optimize` finds the cell that is best at something, `extreme` the best from
many starts, `generate` draws cells for given tensors from a diffusion model, `interpolate` leads from one
cell to another, `library nearest` looks among cells made by formula. `dataset`,
`train` and `active` build the data set and the generator that learns from it; both are packaged, so nothing
has to be built first.

    micro homogenize cell.stl                   # voxels or a closed surface
    micro generate --c11 0.30 --c12 0.11 --c44 0.09 --out cells
    micro optimize --objective bulk --volume 0.3 --out stiff""",
)


@app.callback()
def _common(version: Annotated[bool, version_option("micro")] = False) -> None:
    pass


app.command()(optimize)
app.command()(extreme)
app.command()(interpolate)
app.add_typer(library_app, name="library")
app.add_typer(dataset_app, name="dataset")
register_generator(app)


@app.command()
def homogenize(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Voxels (.npy, .npz, .vti, .vdb) or a closed surface (.stl, .obj, .ply, .3mf).",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    octant: Annotated[
        bool, typer.Option("--octant", help="FILE holds octants (n, n, n) or (m, n, n, n), not whole cells.")
    ] = False,
    general: Annotated[
        bool, typer.Option("--general", help="Six loads on the whole cell even if it is cubic.")
    ] = False,
    nu: PoissonOption = 0.3,
    void: Annotated[float, typer.Option(help="Modulus of bool voids; 0 removes them.")] = 0.0,
    rtol: Annotated[float, typer.Option(help="Relative residual to reach.")] = 1e-5,
    array: Annotated[str | None, typer.Option(metavar="NAME", help="Array to read of several.")] = None,
    resolution: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="64", help="Voxels along the longest edge of a surface."),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X0:X1,Y0:Y1,Z0:Z1",
            show_default="its bounding box",
            help="Cell of a surface, in the file's units.",
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            metavar="DX,DY,DZ", show_default="the file's, or cubes", help="A voxel's edges, if no cube."
        ),
    ] = None,
    solid: Annotated[int | None, typer.Option(metavar="VALUE", help="The value that is solid.")] = None,
    moduli: Annotated[bool, typer.Option("--moduli", help="Whole numbers are Young's moduli.")] = False,
    device: DeviceOption = "cpu",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that share octants.", show_default="one, with threads"),
    ] = None,
) -> None:
    """Effective stiffness of a periodic voxel cell.

    Bool voxels are solid (E = 1) and void, and so are whole numbers of two values (0 and 1, 0 and 255, two
    labels): the larger is solid. Other numbers are Young's moduli. The stiffness matrix is in
    Voigt order 11, 22, 33, 23, 13, 12 with engineering shears, in units of the moduli. A cell with
    cubic symmetry is solved on its octant, which gives the same numbers sooner.
    """
    from micro.cell.readers import read_voxels
    from micro.cli.report import cell_report, octants_report, print_report

    settings: dict[str, Any] = {"nu": nu, "void": void, "rtol": rtol, "device": _device(device)}
    if not -1 < nu < 0.5:
        raise InputError("lies between -1 and 0.5", key="--nu", value=nu)
    if not 1e-12 < rtol < 1:
        raise InputError("lies between 1e-12 and 1", key="--rtol", value=rtol)
    if octant and general:
        raise InputError("excludes --general", key="--octant")
    cell = None if box is None else _box(box)
    read = read_voxels(file, array=array, resolution=resolution, box=cell, solid=solid, moduli=moduli)
    voxels = read.values
    edges = (
        read.edges if spacing is None else three_numbers(spacing, "--spacing", "three numbers with commas")
    )
    if octant and len(set(edges)) > 1:
        raise InputError("excludes voxels that are not cubes", file=file, key="--octant", value=edges)
    if voxels.ndim == 4 and not octant:
        raise InputError(
            "holds several arrays of voxels, which only --octant takes", file=file, value=voxels.shape
        )
    try:
        if octant:
            report = octants_report(voxels, workers=among(workers, 1), quiet=as_json, **settings)
        else:
            report = cell_report(voxels, edges=edges, general=general, quiet=as_json, **settings)
    except InputError as error:
        raise InputError(error.reason, file=file, key=error.key, value=error.value) from None
    report["taken_for"] = read.taken
    if as_json:
        print_json(report)
    else:
        print_report(report, str(file))
    status = report["status"]
    statuses = [status] if isinstance(status, str) else status
    failed = sum(s == "not_converged" for s in statuses)
    if failed:
        cells = "" if isinstance(status, str) else f" for {failed} of {len(status)} octants"
        raise NotConverged(
            f"{file}: the solve did not reach --rtol {rtol:g}{cells}; "
            "try a larger --rtol, or a --void of 1e-6 for cells that hang together by edges only"
        )
    idle = sum(s == "no_load_path" for s in statuses)
    if idle:
        cells = "" if isinstance(status, str) else f" in {idle} of {len(status)} octants"
        raise NotConverged(
            f"{file}: no solid path joins opposite faces{cells}, so the stiffness is exactly zero; "
            "give bool voxels whose True is solid, or a --void above 0"
        )


def _box(text: str) -> Any:
    try:
        low, high = zip(*(map(float, part.split(":")) for part in text.split(",")), strict=True)
    except ValueError:
        low = high = ()
    if len(low) != 3 or not all(a < b for a, b in zip(low, high, strict=True)):
        raise InputError("three ranges LOW:HIGH with commas are needed", key="--box", value=text)
    return low, high


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"can't be used: {reason}", key="--device", value=name) from None
    return name


def main() -> NoReturn:
    """Entry point of the command ``micro``; ``mpiexec -n N micro ...`` shares its jobs between N ranks."""
    let_streams_replace()
    try:
        code = on_ranks(_command)
    except InputError as error:
        code = _failed(error)
    sys.exit(code)


def _command() -> int:
    try:
        app()
    except (InputError, NotConverged) as error:
        return _failed(error)
    except OSError as error:  # not a closed pipe: that one ends inside app() with 1, quietly
        return _failed(file_error(error))
    except SystemExit as ended:  # how typer ends
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _failed(error: InputError | NotConverged) -> int:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return error.exit_code


if __name__ == "__main__":
    main()
