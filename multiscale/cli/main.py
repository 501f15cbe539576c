"""The command ``multiscale``: thin wrappers around the package's functions.

Everything heavy is imported inside the command that needs it, so that
``--help`` and ``check`` start at once and work without PETSc.

Exit codes: 0 done; 2 the input is wrong, nothing was written, or a file can't
be read or written; 3 a solve or a fit did not converge; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from micro.runtime.errors import InputError, let_streams_replace
from micro.runtime.version import version_option
from multiscale.cli import lattice
from multiscale.cli.shell import Commands, console, first_rank, reporter

if TYPE_CHECKING:
    from micro.runtime.progress import Style

app = typer.Typer(
    name="multiscale",
    cls=Commands,
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
            metavar="DIR", show_default="check-NAME", help="Directory for the drawing, problem.png."
        ),
    ] = None,
) -> None:
    """Validate a case, draw the problem and print its sizes, without solving.

    A mistake in the case is answered by one line that names file, key, reason and value; the exit
    code is then 2 and nothing is written.
    """
    from multiscale.cli.check import check_case

    if first_rank():
        check_case(case, out, console())


@app.command()
def schema(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default="standard output", help="File to write.")
    ] = None,
) -> None:
    """Print the JSON schema of case files, for editors and for reference.

    Every key with its description, unit, default and allowed values.
    """
    from multiscale.case.case import schema_text

    if not first_rank():
        return
    if out is None:
        sys.stdout.write(schema_text())
        return
    from micro.runtime.files import write_text

    write_text(out, schema_text())


@app.command()
def run(
    case: CaseFile,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run directory; made if missing.")],
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
            metavar="N",
            help="Solve the lattice at full scale, N voxels along a cell's edge: [full_scale] of the case.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Correct the design by that up to N times: [full_scale] of the case."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="TABLE.KEY=VALUE",
            show_default=False,
            help="A key of the case, instead of what it says there: fill.source=dataset. Again for others.",
        ),
    ] = None,
) -> None:
    """Design, fill, evaluate, export and report a case; everything goes into one directory.

    The stages are kept in the directory: after an interruption the same command goes on where it
    stopped; with other keys of [fill], [full_scale] or [export] (--set) from the first stage that depends
    on them. Under MPI (mpiexec -n 2 multiscale run ...) the solves are shared between ranks.
    """
    if quiet and json_lines:
        raise InputError("say either, not both", key="--quiet, --json-lines")
    from multiscale.case.case import change_of
    from multiscale.run.run import run_case

    style: Style = "quiet" if quiet else "json" if json_lines else "text"
    given = {"full_scale.voxels_per_cell": voxels_per_cell, "full_scale.rounds": rounds}
    changes = {key: value for key, value in given.items() if value is not None}
    for key, value in map(change_of, set_ or ()):
        if key in changes:
            raise InputError("is given twice", key=key, value=value)
        changes[key] = value
    run_case(case, out, reporter(style), tensorboard=tensorboard, changes=changes)


@app.command()
def evaluate(
    case: CaseFile,
    tensors: Annotated[
        Path,
        typer.Option(
            metavar="FIELD.npz",
            help="Arrays C11, C12, C44 of the grid's shape, indexed [x, y, z], in units of E_s.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for metrics.json.")],
    all_elements: Annotated[
        bool, typer.Option("--all-elements", help="Read the fixed regions' tensors too: a lattice as built.")
    ] = False,
    mesh: Annotated[
        int,
        typer.Option(metavar="N", help="Judge it on N elements along an edge of a cell too: 2, or 4 beside."),
    ] = 2,
) -> None:
    """Measure any design of a case, whoever made it, by the case's objective.

    Its distortions, compliances or mismatches go into DIR/metrics.json; a distortion stands beside that
    without a cloak, a mismatch beside the initial material's. The design regions' tensors come from the
    file, the fixed regions' materials from the case.
    """
    from multiscale.run.evaluate import evaluate_case

    evaluate_case(case, tensors, out, reporter(), all_elements=all_elements, mesh=mesh)


for _command in (lattice.export, lattice.bar, lattice.printability, lattice.verify, lattice.unseen):
    app.command()(_command)


@app.command()
def report(run_dir: lattice.Run) -> None:
    """Write a run's report.html, one file to open or send, and report.md, with its figures linked.

    `multiscale run` ends with it; after `printability` or `verify` this brings it up to date.
    """
    from multiscale.report.page import write_report

    if first_rank():
        for file in write_report(run_dir):
            console().print(str(file), soft_wrap=True, markup=False)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR DIR ...", help="Run directories.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write FILE.html or FILE.md too.")] = None,
) -> None:
    """Put runs side by side: their numbers, and the settings in which their cases differ."""
    from multiscale.report.compare import compare_runs

    if first_rank():
        compare_runs(runs, out, console())


@app.command()
def new(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The case's name; the file is NAME.toml.")
    ] = None,
    template: Annotated[
        str, typer.Option(metavar="TEMPLATE", help="What to start from; --list shows them.")
    ] = "cloak",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default="NAME.toml", help="File to write.")
    ] = None,
    list_templates: Annotated[bool, typer.Option("--list", help="List the templates and stop.")] = False,
) -> None:
    """Write a commented case file to start from; an existing file is left alone."""
    from multiscale.case.templates import describe, new_case

    if not first_rank():
        return
    if list_templates:
        for key, text in describe().items():
            console().print(f"{key:10} {text}", soft_wrap=True, markup=False)
        return
    if name is None:
        raise InputError("the case's name is missing; --list shows what to start from", key="NAME")
    console().print(
        f"{new_case(name, template, out)}: now `multiscale check` it", soft_wrap=True, markup=False
    )


@app.command()
def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what is installed, what is missing, and the command that mends it."""
    from multiscale.cli.doctor import doctor as examine

    code = examine(json_output)
    if code:
        raise typer.Exit(code)


def main() -> None:
    """Entry point of the command ``multiscale``."""
    let_streams_replace()
    app()


if __name__ == "__main__":
    main()
