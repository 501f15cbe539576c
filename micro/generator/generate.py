"""Cells for a list of targets, with a report: what ``micro generate`` does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from micro.cell import tensor
from micro.cell.contact_sheet import save_sheet
from micro.cell.octant import encloses
from micro.data.packaged import load_gamut, load_least_volume
from micro.generator.accuracy import cleanliness, tensor_figures, volume_figures
from micro.generator.blocks import Made, Request, blocks, cells_of, make
from micro.generator.generator import Generator
from micro.generator.samples import Samples, joined
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.executor import executor
from micro.runtime.files import PathLike, write_json
from micro.runtime.progress import Progress, unheard

COLUMNS = ("C11", "C12", "C44")
_COLUMN = {name.lower(): name for name in (*COLUMNS, "volume")}


def _holds_data(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def read_targets(path: PathLike) -> tuple[Floats, Floats]:
    """Target tensors (q, 3) and volumes (q,), NaN where the file has none.

    A CSV file with the columns C11, C12, C44 (units of E_s) and, if wanted, volume, in any case; separated by
    commas, semicolons or tabs, with decimal points or (in quotes, if commas separate) decimal commas; lines
    that begin with # are comments.

    Raises
    ------
    InputError
        Naming the file, the column, the line and what is allowed.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [(n, line) for n, line in enumerate(file, start=1) if _holds_data(line)]
        head = lines[0][1] if lines else ""
        reader = csv.reader([line for _, line in lines], delimiter=max(",;\t", key=head.count))
        names = [_COLUMN.get(name.strip().lower(), name.strip()) for name in next(reader, [])]
        rows = list(zip((n for n, _ in lines[1:]), reader, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot be read: {error}", file=path) from error
    for column in COLUMNS:
        if column not in names:
            raise InputError("the columns C11, C12, C44 are needed", file=path, key=column, value=names)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError("the column is there twice", file=path, key=twice[0])
    unknown = set(names) - {*COLUMNS, "volume"}
    if unknown:
        raise InputError("known columns are C11, C12, C44, volume", file=path, key=sorted(unknown)[0])
    if not rows:
        raise InputError("holds no targets", file=path)
    table = np.full((len(rows), 4), np.nan)
    for number, (line, cells) in enumerate(rows):
        row = dict(zip(names, cells, strict=False))
        if len(cells) > len(names):
            reason = f"line {line}: {len(cells)} values for {len(names)} columns (a decimal comma?)"
            raise InputError(reason, file=path)
        for place, column in enumerate((*COLUMNS, "volume")):
            text = row.get(column, "")
            if column == "volume" and not text.strip():
                continue
            try:
                table[number, place] = float(text.replace(",", ".", 1))
            except ValueError:
                raise InputError(
                    f"line {line}: a number is needed", file=path, key=column, value=text
                ) from None
    check_targets(table[:, :3], file=path)
    return table[:, :3], table[:, 3]


def check_targets(C: Floats, file: PathLike | None = None) -> None:
    """Refuse tensors (q, 3) that no elastic material has.

    Raises
    ------
    InputError
        Naming the first of them.
    """
    bad = np.flatnonzero(~tensor.is_definite(C))
    if len(bad):
        reason = f"not positive definite: {', '.join(tensor.BORN)} are needed"
        raise InputError(f"target {bad[0] + 1}: {reason}", file=file, key="C", value=C[bad[0]].tolist())


def generate(
    asked: Request,
    targets: Floats,
    volume: Floats,
    out: PathLike,
    *,
    workers: int | None = 1,
    progress: Progress = unheard,
) -> dict[str, Any]:
    """Generate, homogenise (and refine) cells and write them with a report.

    Writes ``cells.zarr.zip`` (a CellSet; parameters: row of the target, sample, homogenisations spent),
    ``generate.json`` and ``cells.png`` in the directory ``out``. Returns the report. The cells are the same
    for any number of ``workers`` or ranks (:mod:`micro.runtime.executor`).

    Parameters
    ----------
    asked : Request
        What is to be done for each target.
    targets : array, shape (q, 3)
        In units of E_s; NaN asks for no tensor.
    volume : array, shape (q,)
        Solid fractions; NaN asks for none.
    out : path
        Directory for what is written.
    workers : int, optional
        Processes (default: all cores).
    progress : Progress
        Told how many cells are done.
    """
    folder = Path(out)
    model = Generator.load(asked.weights).model
    made: list[Made] = []
    with executor(workers) as processes:
        for block in processes.run(make, list(blocks(asked, targets, volume))):
            made.append(block)
            progress(sum(len(m.samples) for m in made), len(targets) * asked.per_target)
    samples = joined([m.samples for m in made], asked.resolution)
    good = np.concatenate([m.good for m in made])
    C = np.concatenate([m.C for m in made])
    cells = cells_of(made)
    delivered = np.full(len(samples), np.nan)
    delivered[good] = cells.volume
    known = np.isfinite(targets).all(axis=1)
    figures = tensor_figures(C, good, samples, targets) | cleanliness(samples)
    figures |= volume_figures(delivered, samples.target, volume)
    report = {
        **figures,
        "enclosing_void": float(encloses(cells.octants()).mean()) if len(cells) else None,
        "refined": asked.refined,
        "n": asked.resolution,
        "settings": {k: np.asarray(v).tolist() for k, v in asked.settings.items()},
        "guides": [f"{word} {text}" for word, text in asked.wishes],
        "seconds_per_cell": sum(m.drawing for m in made) / len(samples),
        "seconds_per_cell_homogenise": sum(m.solving for m in made) / len(samples),
        "outside_gamut": int((load_gamut().phi(targets[known]) < 0).sum()),
        "per_target": asked.per_target,
        "cells": _per_target(C, delivered, samples, targets, volume),
        "generator": model.card.get("data", ""),
    }
    folder.mkdir(parents=True, exist_ok=True)
    cells.save(folder / "cells.zarr.zip")
    if len(cells):
        save_sheet(folder / "cells.png", cells, targets)
    write_json(folder / "generate.json", report)
    return report


def _per_target(
    C: Floats, delivered: Floats, samples: Samples, targets: Floats, volume: Floats
) -> list[dict[str, Any]]:
    """For each target its cells' tensors, volumes and errors; None where none was asked for.

    With a volume beside a tensor goes the least one that is known for it, so that a conflict shows.
    """
    lines = []
    for row, wanted in enumerate(targets):
        mine = np.flatnonzero((samples.target == row) & np.isfinite(delivered))
        asked, given = bool(np.isfinite(wanted).all()), bool(np.isfinite(volume[row]))
        error = tensor.tensor_error(C[mine], wanted) if asked else np.empty(0)
        relative = tensor.relative_error(C[mine], wanted) if asked else np.empty(0)
        lines.append(
            {
                "target": wanted.tolist() if asked else None,
                "C": C[mine].round(6).tolist(),
                "error": np.round(error, 6).tolist(),
                "error_best": float(error.min()) if len(error) else None,
                "relative_error": np.round(relative, 6).tolist(),
                "volume_asked": float(volume[row]) if given else None,
                "volume": delivered[mine].round(6).tolist(),
                "volume_least": float(load_least_volume().volume(wanted)) if asked and given else None,
            }
        )
    return lines
