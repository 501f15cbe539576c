"""The command ``multiscale``: thin wrappers around the package's functions.

Everything heavy is imported inside the command that needs it, so that
``--help`` and ``check`` start at once and work without PETSc.

Exit codes: 0 done; 2 the input is wrong, nothing was written, or a file can't
be read or written; 3 a solve or a fit did not converge; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from micro.runtime.errors import InputError, NotConverged, file_error
from micro.runtime.files import check_writable
from micro.runtime.version import version_option
from multiscale.solve.errors import RankFailed

if TYPE_CHECKING:
    from rich.console import Console

    from micro.runtime.progress import Reporter, Style

app = typer.Typer(
    name="multiscale",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Design mechanical metamaterials: from a case file to a lattice you can print.

First steps:

    multiscale doctor                           # is everything installed?
    multiscale check cases/cloak_small.toml     # validate, draw, solve nothing
    multiscale run cases/cloak_small.toml --out runs/small

An interrupted run goes on where it stopped when the same command is given again.""",
)


@app.callback()
def _common(version: Annotated[bool, version_option("multiscale")] = False) -> None:
    pass


CaseFile = Annotated[
    Path,
    typer.Argument(metavar="CASE", show_default=False, help="Case file (TOML); see docs/case-format.md."),
]


@app.command()
def check(
    case: CaseFile,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", show_default="check-NAME", help="Directory for the drawing, problem.png."
        ),
    ] = None,
) -> None:
    """Validate a case, draw the problem and print its sizes, without solving.

    A mistake in the case is answered by one line that names file, key, reason and value; the exit
    code is then 2 and nothing is written.
    """
    with reporting("multiscale check"):
        from multiscale.cli.check import check_case

        if first_rank():
            check_case(case, out, _console())


@app.command()
def schema(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", show_default="standard output", help="File to write."),
    ] = None,
) -> None:
    """Print the JSON schema of case files, for editors and for reference.

    Every key with its description, unit, default and allowed values.
    """
    with reporting("multiscale schema"):
        from multiscale.case.case import schema_text

        if not first_rank():
            return
        if out is None:
            sys.stdout.write(schema_text())
            return
        from micro.runtime.files import atomic_path

        try:
            with atomic_path(out) as temporary:
                temporary.write_text(schema_text(), encoding="utf-8")
        except OSError as error:
            raise InputError(f"can't be written: {error.strerror}", file=out) from None


@app.command()
def run(
    case: CaseFile,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", show_default=False, help="Run directory; made if missing.")
    ],
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing unless something goes wrong.")] = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Progress for programs: one JSON object a line.")
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Also write the design's history for TensorBoard, DIR/tensorboard (needs that package).",
        ),
    ] = False,
    voxels_per_cell: Annotated[
        int | None,
        typer.Option(
            "--voxels-per-cell",
            metavar="N",
            show_default=False,
            help="Solve the lattice at full scale, N voxels along a cell's edge: [full_scale] of the case.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            metavar="N",
            show_default=False,
            help="Correct the design by that up to N times: [full_scale] of the case.",
        ),
    ] = None,
) -> None:
    """Design, fill, evaluate, export and report a case; everything goes into one directory.

    The stages are kept in the directory: after an interruption the same command goes on where it
    stopped. Under MPI (mpiexec -n 2 multiscale run ...) the solves are shared between ranks.
    """
    with reporting("multiscale run", resumes=True):
        if quiet and json_lines:
            raise InputError("say either, not both", key="--quiet, --json-lines")
        from multiscale.run.run import run_case

        style: Style = "quiet" if quiet else "json" if json_lines else "text"
        given = {"voxels_per_cell": voxels_per_cell, "rounds": rounds}
        asked = {key: value for key, value in given.items() if value is not None}
        run_case(case, out, _reporter(style), tensorboard=tensorboard, full_scale=asked)


@app.command()
def evaluate(
    case: CaseFile,
    tensors: Annotated[
        Path,
        typer.Option(
            "--tensors",
            metavar="FIELD.npz",
            show_default=False,
            help="Arrays C11, C12, C44 of the grid's shape, indexed [x, y, z], in units of E_s.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", show_default=False, help="Directory for metrics.json.")
    ],
    all_elements: Annotated[
        bool,
        typer.Option("--all-elements", help="Read the fixed regions' tensors too: a lattice as built."),
    ] = False,
) -> None:
    """Measure any design of a case, whoever made it, by the case's objective.

    Its distortions, compliances or mismatches go into DIR/metrics.json; a distortion stands beside that
    without a cloak, a mismatch beside the initial material's. The design regions' tensors come from the
    file, the fixed regions' materials from the case.
    """
    with reporting("multiscale evaluate"):
        from multiscale.run.evaluate import evaluate_case

        evaluate_case(case, tensors, out, _reporter(), all_elements=all_elements)


@app.command()
def export(
    run_dir: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="Run directory, or a lattice (Zarr) itself."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", show_default=False, help="File (for slices: directory) to write."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            show_default="by FILE's ending",
            help="stl, ply, obj, 3mf, glb, slices, svx, vti, vtu, inp or vdb.",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            metavar="I0:I1,J0:J1,K0:K1",
            show_default="the whole lattice",
            help="Elements to export.",
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
        typer.Option(
            "--smooth",
            metavar="VOXELS",
            show_default="0; 3mf: 0.6",
            help="Blur before a surface is taken.",
        ),
    ] = None,
    decimate: Annotated[
        float | None,
        typer.Option(
            "--decimate",
            metavar="SHARE",
            show_default="0; 3mf: 0.9, glb: 0.75",
            help="Share of a surface's triangles to remove.",
        ),
    ] = None,
    pixel: Annotated[
        str | None,
        typer.Option(
            "--pixel",
            metavar="MM[,MM]",
            show_default=False,
            help="For slices: the printer's pixels in mm, along x and y if they differ (0.0423,0.0846).",
        ),
    ] = None,
    layer: Annotated[
        float | None,
        typer.Option(
            "--layer", metavar="MM", show_default=False, help="For slices: the printer's layer height in mm."
        ),
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
        typer.Option(
            "--channel",
            metavar="MM",
            show_default="1/32 of a cell's edge",
            help="Width of --drain's channels.",
        ),
    ] = None,
) -> None:
    """Write a run's lattice, or a region of it, for other programs.

    stl, ply, obj: the watertight surface of a region. 3mf: the whole lattice for a slicer, one mesh
    per unique cell. glb: the same for viewers. slices, svx: the voxels as pictures; slices with --pixel
    and --layer: a printer's own grid. vti, vdb: the voxels of a region. vtu, inp: one element per cell
    with its tensor. The size is printed before the work starts; docs/export.md says more. For example

        multiscale export runs/cloak --region 20:24,26:32,20:23 --out part.stl

        multiscale export runs/cloak --out cloak.3mf

        multiscale export runs/cloak --out slices --pixel 0.05 --layer 0.1
    """
    with reporting("multiscale export"):
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
                reporter=_reporter(),
            )


@app.command()
def bar(
    cells: Annotated[
        Path,
        typer.Argument(
            metavar="CELLS",
            show_default=False,
            help="Cells in order, as `micro interpolate` writes them.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", show_default=False, help="Lattice to write (a .zarr).")],
    across: Annotated[int, typer.Option("--across", help="Cells side by side, in both directions.")] = 2,
    repeat: Annotated[int, typer.Option("--repeat", help="How often each cell comes one after another.")] = 1,
    cell_size: Annotated[float, typer.Option("--cell-size", metavar="MM", help="Edge of a cell.")] = 10.0,
    young: Annotated[float, typer.Option("--young", metavar="MPA", help="Of the base material.")] = 1000.0,
) -> None:
    """A graded bar of a sequence of cells, as a lattice that `export` and `printability` take.

    micro interpolate dataset:100 dataset:2000 --out sequence
    multiscale bar sequence/cells.zarr.zip --out bar.zarr
    multiscale export bar.zarr --out bar.stl
    """
    with reporting("multiscale bar"):
        from micro.cell.cellset import CellSet
        from multiscale.lattice.sequence import graded_bar

        if first_rank():
            check_writable(out.parent, "--out")
            lattice = graded_bar(
                CellSet.load(cells),
                across=across,
                repeat=repeat,
                cell_size_m=cell_size / 1000,
                young_pa=young * 1e6,
            )
            lattice.save(out)
            contacts, pieces = lattice.contacts(), lattice.components()
            _console().print(
                f"{' x '.join(map(str, lattice.shape))} cells in {pieces} piece{'s' * (pieces != 1)}, "
                f"{contacts.unconnected} of {contacts.count} contacts without solid"
            )


@app.command()
def printability(
    run_dir: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="Run directory, or a lattice (Zarr) itself."),
    ],
    direction: Annotated[
        tuple[float, float, float],
        typer.Option("--direction", metavar="X Y Z", help="Build direction, for the overhangs."),
    ] = (0.0, 0.0, 1.0),
    density: Annotated[
        float | None,
        typer.Option(
            "--density",
            metavar="KG_M3",
            show_default="the case's",
            help="Of the base material, for the mass.",
        ),
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(
            "--least",
            metavar="MM",
            show_default=False,
            help="The printer's smallest wall and gap: how much is thinner, and the cell size that suits.",
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Can it be printed? Smallest features, enclosed cavities, overhangs, mass.

    What it finds is added to the run's metrics.json as well; docs/export.md says what is exact.
    """
    with reporting("multiscale printability"):
        from multiscale.printability.printability import assess_run, described

        if not first_rank():
            return
        with _reporter("quiet" if json_output else "text").task("printability", 1) as task:
            found = assess_run(
                run_dir,
                direction=direction,
                density_kg_m3=density,
                least_mm=least,
                progress=task.reach,
            )
        if json_output:
            typer.echo(json.dumps(asdict(found), indent=2))
        else:
            for line in described(found):
                _console().print(line, soft_wrap=True, markup=False)


@app.command()
def verify(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="Run directory.")],
    per_cell: Annotated[
        int,
        typer.Option(
            "--voxels-per-cell", metavar="N", help="Voxels along a cell's edge: an even divisor of its own."
        ),
    ] = 8,
    max_memory: Annotated[
        float | None,
        typer.Option("--max-memory", metavar="GB", show_default="0.9 of what is free", help="Refuse above."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, show_default="OMP_NUM_THREADS, or the cores"),
    ] = None,
    rtol: Annotated[
        float, typer.Option("--rtol", min=1e-10, max=0.1, help="Relative residual of the solves.")
    ] = 1e-4,
) -> None:
    """Solve a run's lattice at full scale, voxel by voxel, and compare with what homogenisation says.

    A cloak is solved beside the same without a cloak and the reference lattice without a hole, a stiff part
    beside the best uniform cell, under the case's own loads; distortions, compliances or mismatches go into
    metrics.json under "verify", by resolution. Memory is announced first. Where so few voxels make cells
    that are off by more than 10 %, the result is marked as not of this lattice.
    """
    with reporting("multiscale verify"):
        from multiscale.verify.full_scale import verify as work

        work(
            run_dir,
            voxels_per_cell=per_cell,
            max_memory=None if max_memory is None else max_memory * 1e9,
            threads=threads,
            rtol=rtol,
            reporter=_reporter(),
        )


@app.command()
def unseen(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="Run directory.")],
) -> None:
    """Measure a cloak under loads it was not designed for: nine tensions and shears of the block.

    Each face of low coordinates is held in turn and the opposite one pulled along x, y and z; the distortions
    without a cloak, as designed and as built go into metrics.json under "unseen".
    """
    with reporting("multiscale unseen"):
        from multiscale.verify.unseen_loads import unseen as work

        if first_rank():
            work(run_dir, _reporter())


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="Run directory.")],
) -> None:
    """Write a run's report.html, one file to open or send, and report.md, with its figures linked.

    `multiscale run` ends with it; after `printability` or `verify` this brings it up to date.
    """
    with reporting("multiscale report"):
        from multiscale.report.page import write_report

        if first_rank():
            for file in write_report(run_dir):
                _console().print(str(file), soft_wrap=True, markup=False)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="DIR DIR ...", show_default=False, help="Run directories.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", show_default=False, help="Write FILE.html or FILE.md too."),
    ] = None,
) -> None:
    """Put runs side by side: their numbers, and the settings in which their cases differ."""
    with reporting("multiscale compare"):
        from multiscale.report.compare import compare_runs

        if first_rank():
            compare_runs(runs, out, _console())


@app.command()
def new(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", show_default=False, help="The case's name; the file is NAME.toml."),
    ] = None,
    template: Annotated[
        str, typer.Option("--template", metavar="TEMPLATE", help="What to start from; --list shows them.")
    ] = "cloak",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", show_default="NAME.toml", help="File to write."),
    ] = None,
    list_templates: Annotated[bool, typer.Option("--list", help="List the templates and stop.")] = False,
) -> None:
    """Write a commented case file to start from; an existing file is left alone."""
    with reporting("multiscale new"):
        from multiscale.case.templates import describe, new_case

        if not first_rank():
            return
        if list_templates:
            for key, text in describe().items():
                _console().print(f"{key:10} {text}", soft_wrap=True, markup=False)
            return
        if name is None:
            raise InputError("the case's name is missing; --list shows what to start from", key="NAME")
        _console().print(
            f"{new_case(name, template, out)}: now `multiscale check` it", soft_wrap=True, markup=False
        )


@app.command()
def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what is installed, what is missing, and the command that mends it."""
    with reporting("multiscale doctor"):
        from multiscale.cli.doctor import doctor as examine

        code = examine(json_output)
        if code:
            raise typer.Exit(code)


def main() -> None:
    """Entry point of the command ``multiscale``."""
    app()


@contextmanager
def reporting(command: str, *, resumes: bool = False) -> Iterator[None]:
    """Turn the errors a user can mend into one line on stderr and an exit code.

    Under MPI every rank meets the same error; the first one speaks.
    """
    try:
        yield
    except InputError as error:
        _say(f"error: {error}")
        raise typer.Exit(error.exit_code) from None
    except RankFailed as error:  # the first rank says why
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:  # the reader of our output has gone: no mistake of anybody's
        raise
    except OSError as error:
        _say(f"error: {file_error(error)}")
        raise typer.Exit(InputError.exit_code) from None
    except NotConverged as error:
        _say(f"error: {' '.join(str(error).split())}")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        hint = "; the same command goes on where it stopped" if resumes else ""
        _say(f"{command}: interrupted{hint}")
        raise typer.Exit(130) from None


def first_rank() -> bool:
    """Whether this process does the talking; known from the launcher, without importing MPI."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"):
        if name in os.environ:
            return os.environ[name] == "0"
    return True


def _pixel(text: str) -> tuple[float, float]:
    try:
        sides = [float(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise InputError("is one length in mm, or two with a comma", key="--pixel", value=text)
    return sides[0], sides[-1]


def _say(text: str) -> None:
    if first_rank():
        sys.stderr.write(text + "\n")


def _reporter(style: Style = "text") -> Reporter:
    """What shows a command's progress; on ranks other than the first it says nothing."""
    from micro.runtime.progress import Reporter

    return Reporter(first_rank(), style)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


if __name__ == "__main__":
    main()
