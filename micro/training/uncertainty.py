"""Teaching a generator how far its surrogate is likely to be off: what ``micro train --uncertainty`` does.

The surrogate stays as it is. A network (:mod:`micro.diffusion.uncertainty`) learns from its errors on cells
that it has not learned from; the generator's own for random tensors are those that it will choose among.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from micro.cell.cellset import CellSet
from micro.diffusion.residual import features
from micro.diffusion.uncertainty import LEAST, Uncertainty
from micro.diffusion.weights import Model, digest
from micro.generator.steering import NEAR, predict
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike
from micro.training.checkpoint import Run
from micro.training.data import Data, Settings
from micro.training.phases import Report, drive, progress_line, rounded
from micro.training.pipeline import FILE, claim, distances

SAMPLES, _RATE, _DROPOUT = 500_000, 1e-3, 0.3
"""Cells shown in all, learning rate, and share of the layers' numbers left out: with 5,500 cells three times
as many samples fit those better and others worse."""

_LEAST_CELLS = 50

_CHECKED = 7
"""One cell in so many is not learned from, but checked with."""


def train_uncertainty(
    cells: CellSet | Sequence[CellSet],
    folder: PathLike,
    model: Model,
    *,
    report: Report,
    seed: int = 0,
    samples: int = SAMPLES,
) -> Model:
    """Weights that know how far their surrogate is off; writes ``generator.safetensors``.

    Parameters
    ----------
    cells : CellSet or several
        Cells that the surrogate has not learned from, whichever part of a data set they are of.
    folder : path
        Checkpoints and the result; the same call goes on from what is there.
    model : Model
        The generator.
    report : callable
        Called with a dict at every checkpoint.
    seed : int
    samples : int
        Cells shown in all.

    Returns
    -------
    Model
        Its card has ``uncertainty``: of the cells checked with, the mean negative log-likelihood with the
        network (``loss``) and with the mean error alone (``loss_constant``), and the rank correlation of
        expected and true errors.

    Raises
    ------
    InputError
        If the base materials differ, there are too few cells, the surrogate has learned from them, or the
        folder belongs to another run.
    """
    sets = [cells] if isinstance(cells, CellSet) else list(cells)
    learned_from = model.card.get("data", "").split("+")
    for one in sets:
        one.require_poisson(model.poisson)
        if one.digest() in learned_from:
            raise InputError("the surrogate has learned from this set", key="data", value=one.digest()[:12])
    if sum(map(len, sets)) < _LEAST_CELLS:
        count = sum(map(len, sets))
        raise InputError(f"at least {_LEAST_CELLS} cells are needed", key="data", value=count)
    work = Path(folder)
    work.mkdir(parents=True, exist_ok=True)
    settings = Settings(model.space.dimension, samples=samples, rate=_RATE, seed=seed)
    claim(work, sets, settings, surrogate=digest(dict(model.surrogate.state_dict())))
    torch.manual_seed(seed)
    run = Run(Uncertainty(model.surrogate.width, dropout=_DROPOUT), settings, samples, work, "uncertainty")
    run.load()
    inputs, error = _errors(work, sets, model)
    checked = torch.arange(len(error)) % (len(error) // 2) % _CHECKED == 0
    learned = torch.nonzero(~checked)[:, 0]

    def loss(rng: torch.Generator) -> Tensor:
        some = learned[torch.randint(len(learned), (settings.batch,), generator=rng)]
        return run.network.loss(inputs[some], error[some])

    def off(network: Uncertainty) -> float:
        with torch.no_grad():
            return float(network.loss(inputs[checked], error[checked]))

    for value in drive(run, loss, 60.0):
        report(progress_line("uncertainty", run, value, off(run.average.network)))
    uncertainty = rounded(run.average.network)
    with torch.no_grad():
        expected = uncertainty(inputs[checked]).numpy()
    mean = float(error[learned].mean()) + LEAST
    card = {
        "data": "+".join(c.digest() for c in sets),
        "cells": sum(map(len, sets)),
        "samples": run.step * settings.batch,
        "seed": seed,
        "loss": off(uncertainty),
        "loss_constant": float(np.log(mean)) + (float(error[checked].mean()) + LEAST) / mean,
        "rank_correlation": float(spearmanr(expected, error[checked].numpy())[0]),
    }
    found = replace(model, uncertainty=uncertainty, card=model.card | {"uncertainty": card})
    found.save(work / FILE)
    report({"phase": "uncertainty", **card})
    return found


def _errors(work: Path, sets: list[CellSet], model: Model) -> tuple[Tensor, Tensor]:
    """The surrogate's last hidden layer (2 m, w) and its errors (2 m,) for the cells and their shifts."""
    distance = [distances(work / f"distance-{k}.npz", one, model.space.n) for k, one in enumerate(sets)]
    C = np.concatenate([one.C for one in sets])
    unknown = np.full(len(C), np.nan)
    z = Data.encode(model.space, np.concatenate(distance), C, unknown, unknown).z.numpy()
    error = NEAR.error(predict(model.surrogate, z), np.concatenate([C, C]))
    return torch.from_numpy(features(model.surrogate, z)).float(), torch.from_numpy(error).float()
