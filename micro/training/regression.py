"""Training a regressor of one scalar of tensor and volume: what ``micro train --regress EXPR`` does.

The surrogate stays as it is; a :class:`micro.generator.regressor.Correction` learns what its scalar misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from micro.cell.cellset import CellSet
from micro.dataset import dataset
from micro.diffusion.weights import Model
from micro.generator.guidance import Decoder, Shape
from micro.generator.regressor import Correction, Regressor
from micro.generator.scalars import Scalar
from micro.runtime.files import PathLike
from micro.training.checkpoint import Run
from micro.training.data import Data, Settings
from micro.training.phases import Report, drive, progress_line
from micro.training.pipeline import claim, distances

FILE = "regressor.safetensors"
"""Name of the file that a training leaves in its folder."""

_DROPOUT = 0.1

_ROWS = 512
"""Cells whose inputs are computed at once."""

_SMALL = 1e-3
"""Spread of a scalar below which there is nothing to learn."""


def train_regressor(
    cells: CellSet | Sequence[CellSet],
    folder: PathLike,
    text: str,
    model: Model,
    settings: Settings,
    *,
    report: Report,
) -> Regressor:
    """Train a regressor, or take one up where it was; writes ``regressor.safetensors``.

    Parameters
    ----------
    cells : CellSet or several
        Data sets with a split.
    folder : path
        Checkpoints and the result; the same call goes on from what is there.
    text : str
        The scalar (:mod:`micro.generator.scalars`).
    model : Model
        The generator that it is for.
    settings : Settings
        Of them samples, batch, rate, decay and seed.
    report : callable
        Called with a dict at every checkpoint.

    Returns
    -------
    Regressor
        Its card has ``r2`` on the test part, and ``r2_plain``, that of the surrogate's scalar as it is.

    Raises
    ------
    InputError
        If the text is no expression, a part has no cells, or the folder belongs to another run.
    """
    scalar = Scalar(text, model.poisson)
    sets = [cells] if isinstance(cells, CellSet) else list(cells)
    for one in sets:
        one.require_poisson(model.poisson)
    parts = dataset.parts_of(sets, dataset.PARTS)
    work = Path(folder)
    work.mkdir(parents=True, exist_ok=True)
    settings = replace(settings, dimension=model.space.dimension)
    claim(work, sets, settings, scalar=scalar.text)
    torch.manual_seed(settings.seed)
    network = Correction(model.space.dimension, model.surrogate.width, dropout=_DROPOUT)
    rows = {
        name: _Rows.of(network, model, scalar, _data(work, name, part, model)) for name, part in parts.items()
    }
    run = Run(network, settings, settings.samples, work, "regressor")
    run.load()
    known = rows["train"]

    def loss(rng: torch.Generator) -> Tensor:
        some = torch.randint(len(known.missing), (settings.batch,), generator=rng)
        off = network.of_inputs(known.inputs[some]) - known.missing[some]
        return (off**2).mean() / known.wanted.var()

    def r2(name: str) -> float:
        with torch.no_grad():
            return rows[name].r2(run.average.network.of_inputs(rows[name].inputs).mean(dim=0))

    for value in drive(run, loss, 60.0):
        report(progress_line("regressor", run, value, 1 - r2("validation")))
    averaged = run.average.network
    card = {
        "data": "+".join(c.digest() for c in sets),
        "cells": sum(map(len, parts["train"])),
        "samples": run.step * settings.batch,
        "r2": r2("test"),
        "r2_validation": r2("validation"),
        "r2_plain": rows["test"].r2(torch.zeros_like(rows["test"].missing)),
    }
    averaged.eval().requires_grad_(False)
    found = Regressor(scalar, model.surrogate, averaged, card)
    found.save(work / FILE)
    report({"phase": "regressor", **card})
    return found


def _data(work: Path, name: str, parts: list[CellSet], model: Model) -> Data:
    """A part of all sets; whether cells are open does not matter here."""
    distance = [distances(work / f"distance-{name}-{k}.npz", p, model.space.n) for k, p in enumerate(parts)]
    C, volume = (np.concatenate(column) for column in zip(*((p.C, p.volume) for p in parts), strict=True))
    return Data.encode(model.space, np.concatenate(distance), C, volume, np.full(len(C), np.nan))


class _Rows:
    """Inputs (m, k) of the correction, true scalars (m,) and what the plain ones miss (m,)."""

    def __init__(self, inputs: Tensor, wanted: Tensor, missing: Tensor):
        self.inputs, self.wanted, self.missing = inputs, wanted, missing

    @staticmethod
    def of(network: Correction, model: Model, scalar: Scalar, data: Data) -> _Rows:
        decoder = Decoder(model.space, model.surrogate)
        parts = []
        with torch.no_grad():
            for z in data.z.split(_ROWS):
                shape = Shape(decoder, z, torch.zeros(len(z), dtype=torch.int64))
                value = scalar(shape.tensor, shape.volume)
                parts.append((network.inputs(z, model.surrogate, value, shape.volume), value))
        wanted = scalar(data.C.double(), data.volume.double()).float()
        plain = torch.cat([value for _, value in parts])
        return _Rows(torch.cat([x for x, _ in parts]), wanted, wanted - plain)

    def r2(self, correction: Tensor) -> float:
        """Coefficient of determination of the plain scalars corrected so."""
        variance = float(np.var(self.wanted.numpy()))
        return 1 - float(((correction - self.missing) ** 2).mean()) / max(variance, _SMALL**2)
