"""The command ``micro``: thin wrappers around the package's functions.

Exit codes: 0 done; 2 the input is wrong; 3 a solve or a fit did not converge.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from micro.dataset_cli import app as dataset_app
from micro.errors import InputError, NotConverged
from micro.generator_cli import register as register_generator
from micro.inverse_cli import optimize
from micro.library_cli import app as library_app

app = typer.Typer(
    name="micro",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Cells of a metamaterial: their homogenised stiffness and the library of cells.",
)


app.command()(optimize)
app.add_typer(library_app, name="library")
app.add_typer(dataset_app, name="dataset")
register_generator(app)


@app.command()
def homogenize(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="Voxels (.npy, .npz, .vti, .vdb) or a closed surface (.stl, .obj, .ply, .3mf).",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    octant: Annotated[
        bool,
        typer.Option("--octant", help="FILE holds octants (n, n, n) or (m, n, n, n), not whole cells."),
    ] = False,
    general: Annotated[
        bool, typer.Option("--general", help="Six loads on the whole cell even if it is cubic.")
    ] = False,
    nu: Annotated[float, typer.Option(help="Poisson's ratio of the base material.")] = 0.3,
    void: Annotated[float, typer.Option(help="Modulus of bool voids; 0 removes them.")] = 0.0,
    rtol: Annotated[float, typer.Option(help="Relative residual to reach.")] = 1e-5,
    array: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Array to read of several.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="64", help="Voxels along the longest edge of a surface."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Effective stiffness of a periodic voxel cell.

    Bool voxels are solid (E = 1) and void; numbers are Young's moduli. The stiffness matrix is in
    Voigt order 11, 22, 33, 23, 13, 12 with engineering shears, in units of the moduli. A cell with
    cubic symmetry is solved on its octant, which gives the same numbers sooner.
    """
    from micro.readers import read_voxels
    from micro.report import cell_report, octants_report, print_report

    settings: dict[str, Any] = {"nu": nu, "void": void, "rtol": rtol, "device": _device(device)}
    if not -1 < nu < 0.5:
        raise InputError("lies between -1 and 0.5", key="--nu", value=nu)
    if not 1e-12 < rtol < 1:
        raise InputError("lies between 1e-12 and 1", key="--rtol", value=rtol)
    if octant and general:
        raise InputError("excludes --general", key="--octant")
    voxels = read_voxels(file, array=array, resolution=resolution)
    if voxels.ndim == 4 and not octant:
        raise InputError(
            "holds several arrays of voxels, which only --octant takes", file=file, value=voxels.shape
        )
    try:
        if octant:
            report = octants_report(voxels, quiet=as_json, **settings)
        else:
            report = cell_report(voxels, general=general, quiet=as_json, **settings)
    except InputError as error:
        raise InputError(error.reason, file=file, key=error.key, value=error.value) from None
    if as_json:
        sys.stdout.write(json.dumps(report, allow_nan=False) + "\n")
    else:
        print_report(report, str(file))
    status = report["status"]
    failed = sum(s == "not_converged" for s in ([status] if isinstance(status, str) else status))
    if failed:
        cells = "" if isinstance(status, str) else f" for {failed} of {len(status)} octants"
        raise NotConverged(
            f"{file}: the solve did not reach --rtol {rtol:g}{cells}; "
            "try a larger --rtol, or a --void of 1e-6 for cells that hang together by edges only"
        )


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"can't be used: {reason}", key="--device", value=name) from None
    return name


def main() -> None:
    """Entry point of the command ``micro``."""
    try:
        app()
    except (InputError, NotConverged) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
