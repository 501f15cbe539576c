"""``micro generate``, ``micro train`` and ``micro active``: the generator on the command line."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from micro.cli.options import DeviceOption, GeneratorOption, OverwriteOption, require_positive
from micro.runtime.errors import InputError
from micro.runtime.executor import among
from micro.runtime.files import check_free
from micro.runtime.progress import stage_bar

_VOLUME_MET = 0.02
"""Difference of volume fractions up to which a wish counts as met."""


def register(app: typer.Typer) -> None:
    """Add the commands to ``micro``."""
    app.command()(generate)
    app.command()(train)
    app.command()(active)


def generate(
    out: Annotated[Path, typer.Option(help="Directory for the cells, the report and the picture.")],
    targets: Annotated[
        Path | None,
        typer.Option(help="CSV with the columns C11, C12, C44 (units of E_s), and volume if wanted."),
    ] = None,
    c11: Annotated[float | None, typer.Option(help="C11 of a single target.")] = None,
    c12: Annotated[float | None, typer.Option(help="C12 of a single target.")] = None,
    c44: Annotated[float | None, typer.Option(help="C44 of a single target.")] = None,
    volume: Annotated[float | None, typer.Option(help="Solid fraction of a single target.")] = None,
    per_target: Annotated[int, typer.Option(help="Cells for each target.")] = 4,
    n: Annotated[int, typer.Option(help="Voxels along an octant's edge; the cell has twice as many.")] = 32,
    refine: Annotated[
        bool, typer.Option("--refine", help="Move each cell onto its target with the homogeniser.")
    ] = False,
    tolerance: Annotated[float, typer.Option(help="Tensor error (Eq. 4) at which refinement stops.")] = 2e-3,
    relative: Annotated[
        float, typer.Option(help="Relative error ||C - C*|| / ||C*|| at which it stops, both kept.")
    ] = 0.02,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the sampler.", show_default="8; 18 if each is guided, or with --bare"),
    ] = None,
    draws: Annotated[int, typer.Option(help="Candidates drawn for each cell; 1 with --bare.")] = 16,
    guidance: Annotated[float, typer.Option(help="Above 1 the targets count more, at twice the time.")] = 1.0,
    open: Annotated[
        bool, typer.Option("--open", help="Cells that enclose no void, which would keep powder or resin.")
    ] = False,
    raises: Annotated[
        list[str] | None, typer.Option("--raise", help="Scalar that is to be high, such as 'K / K_HS'.")
    ] = None,
    lowers: Annotated[
        list[str] | None, typer.Option("--lower", help="Scalar that is to be low, such as 'nu'.")
    ] = None,
    face: Annotated[
        str | None,
        typer.Option(help="Cell whose outer face all continue: SET.zarr.zip:ROW, dataset:ROW, or a file."),
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="The diffusion model alone: one draw, no screening, no steering.")
    ] = False,
    overwrite: OverwriteOption = False,
    seed: Annotated[int, typer.Option(min=0, help="A cell depends on its target and its seed alone.")] = 0,
    generator: GeneratorOption = "default",
    device: DeviceOption = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes.", show_default="one; threads share its work")
    ] = None,
) -> None:
    """Cells for target tensors, each with its own homogenised tensor.

    Writes `cells.zarr.zip`, `generate.json` (errors, cleanliness, times) and `cells.png` in the directory
    `--out`. Without a tensor but with `--volume` cells are drawn by volume alone. `--raise` and `--lower`
    guide the sampler by expressions of C11, C12, C44, K, mu, G, E, nu, A, V and the bounds K_HS and G_HS, or
    by a file of `micro train --regress`.
    """
    from micro.explore.given import given_cell
    from micro.generator.blocks import Request
    from micro.generator.generate import check_targets, generate as run, read_targets
    from micro.generator.generator import Generator, sampler_steps
    from micro.generator.regressor import SUFFIX
    from micro.generator.scalars import Scalar

    single, given = (c11, c12, c44), np.array([np.nan if volume is None else volume])
    if targets is not None and (any(v is not None for v in single) or volume is not None):
        raise InputError("excludes --c11, --c12, --c44 and --volume", key="--targets")
    if targets is not None:
        wanted, volumes = read_targets(targets)
    elif all(v is not None for v in single):
        wanted = np.array([single], dtype=np.float64)
        check_targets(wanted)
        volumes = given
    elif any(v is not None for v in single):
        raise InputError("--c11, --c12 and --c44 are given together", key="--c11", value=single)
    else:
        wanted, volumes = np.full((1, 3), np.nan), given
    require_positive({"--per-target": per_target})
    if refine and not np.isfinite(wanted).all():
        raise InputError("needs target tensors", key="--refine")
    if steps is None:
        steps = sampler_steps(1 if bare else draws, 1, bool(face or raises or lowers))
    settings: dict[str, Any] = {"steps": steps, "guidance": guidance, "seed": seed, "open": open}
    settings |= {"draws": 1, "steering": 0} if bare else {"draws": draws}
    check_free(out, ("cells.zarr.zip", "generate.json", "cells.png"), overwrite=overwrite, key="--out")
    outer = None if face is None else given_cell(face, Generator.load(generator, device), n).faces()[0]
    wishes = [("raise", text) for text in raises or []] + [("lower", text) for text in lowers or []]
    for text in [text for _, text in wishes if not text.endswith(SUFFIX)]:
        Scalar(text)  # what is no expression is refused before anything is loaded
    asked = Request(
        generator, device, per_target, n, refine, tolerance, relative, settings, outer, tuple(wishes)
    )
    with stage_bar("cells") as progress:
        report = run(asked, wanted, volumes, out, workers=among(workers, 1), progress=progress)
    table = Table("figure", "value", title=escape(str(out)))
    for key in (
        "error_mean",
        "error_best_mean",
        "error_p95",
        "relative_error_mean",
        "relative_error_best_mean",
        "relative_error_p95",
        "volume_error_mean",
        "enclosing_void",
        "disconnected",
        "seconds_per_cell",
    ):
        value = report[key]
        table.add_row(key, "-" if value is None else f"{value:.4f}")
    Console().print(table)
    if report["outside_gamut"]:
        print(
            f"{report['outside_gamut']} of {len(wanted)} targets lie outside the gamut (phi < 0): "
            "no cell is known to have such a tensor",
            file=sys.stderr,
        )
    for number, line in enumerate(report["cells"], start=1):
        _note_volume(number, line)


def _note_volume(number: int, line: dict[str, Any]) -> None:
    """Say where the volume asked for with a tensor was not met, and why if it is known."""
    if line["volume_least"] is None or not line["volume"]:
        return
    asked, found = line["volume_asked"], min(line["volume"], key=lambda v: abs(v - line["volume_asked"]))
    if abs(found - asked) <= _VOLUME_MET:
        return
    why = f"the tensor's lightest known cells have {line['volume_least']:.3f}"
    if asked >= line["volume_least"]:
        why = "cells of this tensor are not found at every volume"
    print(
        f"target {number}: volume {asked:.3f} asked for beside the tensor, the nearest delivered has "
        f"{found:.3f}: {why}",
        file=sys.stderr,
    )


def train(
    out: Annotated[Path, typer.Option(help="Directory of checkpoints and weights; kept to resume.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="A data set (default: the packaged one); may be given again.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Weights to go on from, not from nothing; `default`: the packaged ones."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Cells shown to the denoiser in all.")] = 3_500_000,
    surrogate_samples: Annotated[int, typer.Option(help="Cells shown to the surrogate.")] = 2_000_000,
    slopes: Annotated[int, typer.Option(help="Cells whose derivatives the surrogate learns from too.")] = 0,
    width: Annotated[int, typer.Option(help="Of the denoiser's layers.")] = 512,
    depth: Annotated[int, typer.Option(help="Number of the denoiser's layers.")] = 5,
    dimension: Annotated[
        int | None,
        typer.Option(
            help="Coordinates of the shape space; more than --start has extend it.",
            show_default="256, or those of --start",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Cells in a batch.")] = 256,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1.5e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    regress: Annotated[
        str | None,
        typer.Option(help="Train a regressor of this scalar instead, such as 'K / K_HS', for --start."),
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Teach --start how far its surrogate is off, by --data that are new to it (with --seed).",
        ),
    ] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Train a generator; the same command goes on where a killed one stopped.

    On several devices start it with `torchrun --nproc-per-node=N -m micro train ...`. The weights are
    written to `OUT/generator.safetensors` at every checkpoint, the figures to `OUT/history.jsonl`.

    With `--regress` it trains `OUT/regressor.safetensors`: a scalar of tensor and volume to guide by.
    With `--uncertainty` the weights of `--start` learn which candidates their surrogate is sure of, and are
    written to `OUT/generator.safetensors`.
    """
    from micro.cell.cellset import CellSet
    from micro.data.packaged import load_dataset
    from micro.generator.generator import Generator
    from micro.training.data import Settings
    from micro.training.pipeline import FILE as WEIGHTS, train as run

    require_positive({"--samples": samples, "--width": width, "--depth": depth, "--batch": batch})
    if uncertainty and not (data and regress is None):
        raise InputError("needs --data that was not learned from, and no --regress", key="--uncertainty")
    before = None if start is None else Generator.load(start).model
    if dimension is None:
        dimension = Settings.dimension if before is None else before.space.dimension
    settings = Settings(
        dimension=dimension,
        width=width,
        depth=depth,
        batch=batch,
        rate=rate,
        samples=samples,
        surrogate_samples=surrogate_samples,
        slopes=slopes,
        seed=seed,
    )
    cells = [CellSet.load(path) for path in data] if data else [load_dataset()]
    if regress is not None:
        from micro.training.regression import FILE, train_regressor

        model = before or Generator.load().model
        found = train_regressor(cells, out, regress, model, settings, report=_report)
        print(f"{out / FILE}: R2 {found.card['r2']:.4f} on the test part")
        return
    if uncertainty:
        from micro.training.uncertainty import train_uncertainty

        train_uncertainty(cells, out, before or Generator.load().model, seed=seed, report=_report)
        print(out / WEIGHTS)
        return
    command = shlex.join(["micro", *sys.argv[1:]])
    run(cells, out, settings, start=before, device=device, report=_report, command=command)
    print(out / WEIGHTS)


def _report(line: dict[str, Any]) -> None:
    print(_brief(line), file=sys.stderr, flush=True)


def _brief(line: dict[str, Any]) -> str:
    if "seconds_left" not in line:  # figures
        return f"{line['phase']}: " + json.dumps({k: v for k, v in line.items() if k != "phase"})
    left = line["seconds_left"] / 60
    if line["phase"] == "slopes":
        return f"slopes of {line['cells']} cells, {left:.0f} min left"
    return (
        f"{line['phase']}: step {line['step']}/{line['steps']}, loss {line['loss']:.4f}, "
        f"validation {line['validation']:.4f}, {left:.0f} min left"
    )


def active(
    number: Annotated[int, typer.Option("--round", help="Number of the round, from 1; also its seed.")],
    count: Annotated[int, typer.Option(help="Targets to generate for.")] = 1500,
    data: Annotated[
        Path | None, typer.Option(help="The data known so far (default: the packaged set).")
    ] = None,
    generator: GeneratorOption = "default",
    trials: Annotated[
        int, typer.Option(help="Homogenisations of a cell: with more than 1 it is moved on to its target.")
    ] = 1,
    aim: Annotated[
        str,
        typer.Option(
            help="Targets: in the data's **holes**, near **known** tensors, all over the **gamut**."
        ),
    ] = "holes",
    open: Annotated[bool, typer.Option("--open", help="Cells that enclose no void in a lattice.")] = False,
    work: Annotated[
        Path | None, typer.Option(help="Work directory of the data set.", show_default="the cache")
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Generate cells where they are missing, homogenise them, and keep them to learn from.

    Those for holes of the data become a source of the data set: `micro dataset build` takes them in. The
    others teach the surrogate where its own errors lead: `micro train --data SET --data ROUND`.
    """
    from micro.cell.cellset import CellSet
    from micro.data.packaged import load_dataset
    from micro.dataset.build import dataset_directory
    from micro.generator.generator import Generator
    from micro.training.active import FOLDERS, active_round

    require_positive({"--round": number, "--count": count, "--trials": trials})
    if aim not in FOLDERS:
        raise InputError(f"is one of {', '.join(FOLDERS)}", key="--aim", value=aim)
    path = (dataset_directory() if work is None else work) / FOLDERS[aim] / f"round{number:03d}.zarr.zip"
    if path.exists():
        print(f"{path} is there already")
        return
    known = load_dataset() if data is None else CellSet.load(data)
    with stage_bar("cells") as progress:
        cells = active_round(
            Generator.load(generator, device),
            known,
            count,
            seed=number,
            trials=trials,
            aim=aim,
            open=open,
            progress=progress,
        )
    cells.save(path)
    print(f"{len(cells)} cells in {path}")
