"""Training: first the surrogate, then the denoiser; checkpoints, an averaged copy, resumed by the same call.

Both learn from the signed distances of a data set in a shape space, each cell and its half-period shift.
The loss of the denoiser is that of Karras et al. (2022, Table 1): the estimate's square error, weighted so
that the network's own output has unit error at every noise level.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from micro.diffusion.conditions import Conditions
from micro.diffusion.network import Denoiser
from micro.diffusion.surrogate import Surrogate
from micro.diffusion.weights import Model
from micro.shape.space import ShapeSpace
from micro.training import ranks
from micro.training.checkpoint import Run
from micro.training.data import Data, Settings, Slopes

Report = Callable[[dict[str, Any]], None]
N = TypeVar("N", bound=nn.Module)

_MEAN, _SPREAD = -0.8, 1.4
"""Normal distribution of the logarithm of the noise level in training."""

_PAUSES = {"surrogate": 120.0, "denoiser": 240.0}
"""Seconds between checkpoints."""


def denoising_loss(
    network: Denoiser, z: Tensor, conditions: Conditions, rng: torch.Generator, share: slice = slice(None)
) -> Tensor:
    """Loss of one batch, half of it self-conditioned; conditions are dropped here and there.

    With a ``share`` of its rows the loss of these alone, as they are in the whole batch.

    Parameters
    ----------
    network : Denoiser
    z : Tensor, shape (b, d)
    conditions : Conditions
    rng : torch.Generator
    share : slice
    """
    m = len(z)
    draw = torch.rand(m, 2, generator=rng)
    # 10 % ask for neither tensor nor volume, 10 % for a volume, 40 % for a tensor, 40 % for both; half of
    # each for openness too.
    keep = torch.ones(m, 3)
    keep[draw[:, 0] < 0.2, 0] = 0
    keep[draw[:, 0] < 0.1, 1] = 0
    keep[(draw[:, 0] >= 0.2) & (draw[:, 0] < 0.6), 1] = 0
    keep[draw[:, 1] < 0.5, 2] = 0
    sigma = (torch.randn(m, generator=rng) * _SPREAD + _MEAN).exp()[share].to(z)
    noise = torch.randn(z.shape, generator=rng)[share].to(z)
    z, conditions = z[share], conditions.masked(keep.to(z)).rows(share)
    x = z + sigma[:, None] * noise
    estimate = torch.zeros_like(z)
    half = slice(0, len(range(m // 2)[share]))
    with torch.no_grad():
        estimate[half] = network(x[half], estimate[half], sigma[half], conditions.rows(half))
    clean = network(x, estimate, sigma, conditions)
    weight = (1 + sigma**2) / sigma**2
    return (weight[:, None] * (clean - z) ** 2).mean()


def train_surrogate(
    data: Data,
    check: Data,
    settings: Settings,
    folder: Path,
    report: Report,
    start: Surrogate | None = None,
    slopes: Slopes | None = None,
) -> Surrogate:
    """The surrogate, trained to the end or taken up where it was; with ``slopes`` on them too.

    Parameters
    ----------
    data, check : Data
        Training and validation cells.
    settings : Settings
    folder : Path
        For checkpoints.
    report : callable
        Called with a dict at every checkpoint.
    start : Surrogate, optional
        Weights to go on from.
    slopes : Slopes, optional
    """
    torch.manual_seed(settings.seed)
    network = Surrogate(settings.dimension, settings.surrogate_width, settings.surrogate_depth, 0.05)
    _begin(network, start, data)
    run = Run(network, settings, settings.surrogate_samples, folder, "surrogate")
    run.load()

    def loss(rng: torch.Generator) -> Tensor:
        batch = settings.batch
        rows = torch.randint(len(data), (batch,), generator=rng)[ranks.share(batch)].to(data.z.device)
        value = network.loss(data.z[rows], data.C[rows]) * ranks.weight(batch)
        if slopes is None:
            return value
        batch = max(batch // 4, ranks.world())
        some = torch.randint(len(slopes.rows), (batch,), generator=rng)[ranks.share(batch)]
        mix = nn.functional.normalize(torch.randn(batch, 3, generator=rng))[ranks.share(batch)].to(data.z)
        some = some.to(data.z.device)
        at = data.z[slopes.rows[some]]
        return value + settings.slope_weight * network.slope_loss(at, slopes.values[some].to(at), mix)

    for value in drive(run, loss, _PAUSES["surrogate"]):
        with torch.no_grad():
            off = float(run.average.network.loss(check.z, check.C))
        report(progress_line("surrogate", run, value, off))
    return run.average.network


def train_denoiser(
    data: Data, check: Data, settings: Settings, folder: Path, report: Report, start: Denoiser | None = None
) -> Iterator[Denoiser]:
    """Yields the averaged denoiser at every checkpoint, the last time when it is done.

    Parameters
    ----------
    data, check : Data
        Training and validation cells.
    settings : Settings
    folder : Path
        For checkpoints.
    report : callable
        Called with a dict at every checkpoint.
    start : Denoiser, optional
        Weights to go on from.
    """
    torch.manual_seed(settings.seed + 1)
    network = Denoiser(settings.dimension, settings.width, settings.depth, settings.dropout)
    _begin(network, start, data)
    run = Run(network, settings, settings.samples, folder, "denoiser")
    run.load()
    if run.step == run.steps:
        yield run.average.network
    conditions, asked = data.conditions(), check.conditions()

    def loss(rng: torch.Generator) -> Tensor:
        batch = settings.batch
        rows = torch.randint(len(data), (batch,), generator=rng).to(data.z.device)
        share = ranks.share(batch)
        loss = denoising_loss(network, data.z[rows], conditions.rows(rows), rng, share)
        return loss * ranks.weight(batch)

    for value in drive(run, loss, _PAUSES["denoiser"]):
        average = run.average.network
        with torch.no_grad():
            # The same noise each time, so that the curve is smooth.
            rng = torch.Generator().manual_seed(0)
            off = float(np.mean([float(denoising_loss(average, check.z, asked, rng)) for _ in range(4)]))
        report(progress_line("denoiser", run, value, off))
        yield average


def _begin(network: Any, start: nn.Module | None, data: Data) -> None:
    """Weights to start from, if there are any, on the device of the data."""
    if start is not None:
        network.start_from(start)
    network.to(data.z.device)


def drive(run: Run[Any], loss: Callable[[torch.Generator], Tensor], pause: float) -> Iterator[float]:
    """Advance to the end; about every ``pause`` seconds save and yield the mean loss since the last time."""
    values: list[Tensor] = []
    last = time.perf_counter()
    while run.step < run.steps:
        values.append(run.advance(loss))
        if run.step == run.steps or time.perf_counter() - last > pause:
            run.save()
            yield float(torch.stack(values).mean())
            values, last = [], time.perf_counter()


def progress_line(phase: str, run: Run[Any], value: float, off: float) -> dict[str, Any]:
    """What is reported at a checkpoint.

    Parameters
    ----------
    phase : str
    run : Run
    value, off : float
        Losses of training since the last checkpoint, and of validation.
    """
    left = (run.steps - run.step) * run.seconds / max(1, run.step)
    return {
        "phase": phase,
        "step": run.step,
        "steps": run.steps,
        "samples": run.step * run.settings.batch,
        "loss": round(value, 5),
        "validation": round(off, 5),
        "seconds": round(run.seconds, 1),
        "seconds_left": round(left, 1),
    }


def assemble(space: ShapeSpace, denoiser: Denoiser, surrogate: Surrogate, card: dict[str, Any]) -> Model:
    """A model that samples as it will after being saved: its weights are rounded to bfloat16 here already.

    Parameters
    ----------
    space : ShapeSpace
    denoiser : Denoiser
    surrogate : Surrogate
    card : dict
    """
    basis = torch.from_numpy(space.basis).bfloat16().float().numpy()
    return Model(ShapeSpace(space.n, space.mean, basis), rounded(denoiser), rounded(surrogate), card)


def rounded(network: N) -> N:
    """A network as it will be after being saved and loaded."""
    found = copy.deepcopy(network).eval().requires_grad_(False)
    for value in found.parameters():
        value.copy_(value.bfloat16().float())
    return found
