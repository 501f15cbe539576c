"""Training: first the surrogate, then the denoiser; checkpoints, an averaged copy, resumed by the same call.

Both learn from the signed distances of a data set in a shape space, each cell and its half-period shift.
The loss of the denoiser is that of Karras et al. (2022, Table 1): the estimate's square error, weighted so
that the network's own output has unit error at every noise level.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micro.diffusion import ranks
from micro.diffusion.conditions import Conditions
from micro.diffusion.network import Denoiser
from micro.diffusion.surrogate import Surrogate
from micro.diffusion.weights import Model
from micro.errors import InputError
from micro.files import atomic_path
from micro.shape_space import ShapeSpace, half_period

Report = Callable[[dict[str, Any]], None]

_MEAN, _SPREAD = -0.8, 1.4
"""Normal distribution of the logarithm of the noise level in training."""


@dataclass(frozen=True)
class Settings:
    """What determines a training run.

    Attributes
    ----------
    dimension : int
        Coordinates of the shape space.
    width, depth, dropout : of the denoiser
    batch : int
    rate : float
        Learning rate; after a warm-up constant, and falling linearly to zero over the last two fifths.
    samples : int
        Cells shown to the denoiser in all.
    surrogate_samples : int
        Cells shown to the surrogate in all.
    slopes : int
        Cells whose derivatives the surrogate learns from too (each costs a homogenisation, once).
    slope_weight : float
        Of the surrogate's slopes, if there are any to learn from, beside its tensors.
    decay : float
        Of the averaged weights, per step.
    seed : int
    """

    dimension: int = 256
    width: int = 512
    depth: int = 5
    dropout: float = 0.0
    batch: int = 256
    rate: float = 1.5e-3
    samples: int = 4_000_000
    surrogate_samples: int = 3_000_000
    surrogate_width: int = 384
    surrogate_depth: int = 4
    slopes: int = 0
    slope_weight: float = 0.02
    decay: float = 0.999
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Data:
    """Coordinates (2 m, d), tensors (2 m, 3) and volumes (2 m,) of cells and of their half-period shifts."""

    z: Tensor
    C: Tensor
    volume: Tensor

    @staticmethod
    def encode(space: ShapeSpace, distance: NDArray, C: NDArray, volume: NDArray) -> Data:
        """From signed distances (m, q), tensors (m, 3) and volumes (m,)."""
        z = np.concatenate([space.encode(distance), space.encode(distance[:, half_period(space.n)])])
        return Data(
            torch.from_numpy(z),
            torch.from_numpy(np.concatenate([C, C])).float(),
            torch.from_numpy(np.concatenate([volume, volume])).float(),
        )

    def to(self, device: torch.device) -> Data:
        """The same on another device."""
        return Data(self.z.to(device), self.C.to(device), self.volume.to(device))

    def __len__(self) -> int:
        return len(self.z)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Derivatives (k, 3, d) of the tensor by the coordinates, of some rows (k,) of the data."""

    rows: Tensor
    values: Tensor

    @staticmethod
    def encode(space: ShapeSpace, rows: NDArray, values: NDArray, count: int) -> Slopes:
        """Those (k, 3, d) of cells ``rows`` (k,) of ``count``, and of their half-period shifts."""
        turn = torch.from_numpy(space.half_period_map())
        own, at = torch.from_numpy(np.asarray(values, dtype=np.float32)), torch.from_numpy(rows)
        return Slopes(torch.cat([at, at + count]), torch.cat([own, own @ turn.T]).half())

    def to(self, device: torch.device) -> Slopes:
        """The same on another device."""
        return Slopes(self.rows.to(device), self.values.to(device))


class Averaged:
    """A running average of a network's weights."""

    def __init__(self, network: nn.Module, decay: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow ``network``, faster at the beginning."""
        decay = min(self.decay, 1 - (step + 1) ** -0.75)
        for mine, other in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(other, 1 - decay)


def denoising_loss(network: Denoiser, z: Tensor, conditions: Conditions, rng: torch.Generator) -> Tensor:
    """Loss of one batch, half of it self-conditioned; conditions are dropped here and there."""
    m = len(z)
    draw = torch.rand(m, generator=rng)
    # 10 % ask for nothing, 10 % for a volume alone, 40 % for a tensor alone, 40 % for both.
    keep = torch.ones(m, 2)
    keep[draw < 0.2, 0] = 0
    keep[draw < 0.1, 1] = 0
    keep[(draw >= 0.2) & (draw < 0.6), 1] = 0
    conditions = conditions.masked(keep.to(z))
    sigma = (torch.randn(m, generator=rng) * _SPREAD + _MEAN).exp().to(z)
    x = z + sigma[:, None] * torch.randn(z.shape, generator=rng).to(z)
    estimate = torch.zeros_like(z)
    half = slice(0, m // 2)
    with torch.no_grad():
        estimate[half] = network(x[half], estimate[half], sigma[half], conditions.rows(half))
    clean = network(x, estimate, sigma, conditions)
    weight = (1 + sigma**2) / sigma**2
    return (weight[:, None] * (clean - z) ** 2).mean()


class Run:
    """State of one training phase: network, average, optimiser, step; saved and taken up as one."""

    def __init__(self, network: nn.Module, settings: Settings, samples: int, folder: Path, name: str):
        self.network, self.settings = network, settings
        self.steps = max(1, samples // (settings.batch * ranks.world()))
        self.path = folder / f"{name}.pt.safetensors"
        self.step = 0
        self.average = Averaged(network, settings.decay)
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.seconds = 0.0
        self.load()

    def rate(self) -> float:
        """Learning rate of the current step."""
        done = self.step / self.steps
        return self.settings.rate * min(1.0, (self.step + 1) / 200, 2.5 * (1 - done))

    def advance(self, loss: Callable[[torch.Generator], Tensor]) -> float:
        """One step. The batch is drawn from a generator that depends on seed, step and process alone."""
        started = time.perf_counter()
        stream = (self.settings.seed * 1_000_003 + self.step) * 1024 + ranks.rank()
        rng = torch.Generator().manual_seed(stream)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.network.train()
        with ranks.precision(next(self.network.parameters()).device):
            value = loss(rng)
        self.optimiser.zero_grad()
        value.backward()
        ranks.average_gradients(self.network)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.network, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return float(value.detach())

    def save(self) -> None:
        """Write the checkpoint, atomically, from the first process."""
        if ranks.rank():
            return
        from safetensors.torch import save_file

        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.network.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        header = {"step": str(self.step), "seconds": str(self.seconds), "key": _key(self.settings)}
        with atomic_path(self.path) as temporary:
            save_file(tensors, temporary, metadata=header)

    def load(self) -> None:
        """Take up a checkpoint if there is one.

        Raises
        ------
        InputError
            If it belongs to other settings.
        """
        from safetensors import safe_open

        if not self.path.exists():
            return
        with safe_open(self.path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["key"] != _key(self.settings):
            raise InputError("belongs to other settings; give another folder", file=self.path)
        self.network.load_state_dict(_under(tensors, "network."))
        self.average.network.load_state_dict(_under(tensors, "average."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(tensors, "optimiser.").items():
            number, key = name.split(".", 1)
            state.setdefault(int(number), {})[key] = value
        self.optimiser.load_state_dict(
            {"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]}
        )
        self.step, self.seconds = int(header["step"]), float(header["seconds"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _key(settings: Settings) -> str:
    return hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:16]


def train_surrogate(
    data: Data,
    check: Data,
    settings: Settings,
    folder: Path,
    report: Report,
    start: Surrogate | None = None,
    slopes: Slopes | None = None,
) -> Surrogate:
    """The surrogate, trained to the end or taken up where it was; with ``slopes`` on them too."""
    torch.manual_seed(settings.seed)
    network = Surrogate(settings.dimension, settings.surrogate_width, settings.surrogate_depth, 0.05)
    _begin(network, start, data)
    run = Run(network, settings, settings.surrogate_samples, folder, "surrogate")

    def loss(rng: torch.Generator) -> Tensor:
        rows = torch.randint(len(data), (settings.batch,), generator=rng).to(data.z.device)
        value = network.loss(data.z[rows], data.C[rows])
        if slopes is None:
            return value
        some = torch.randint(len(slopes.rows), (settings.batch // 4,), generator=rng)
        mix = nn.functional.normalize(torch.randn(len(some), 3, generator=rng)).to(data.z)
        some = some.to(data.z.device)
        at = data.z[slopes.rows[some]]
        return value + settings.slope_weight * network.slope_loss(at, slopes.values[some].to(at), mix)

    for value in _drive(run, loss, 120.0):
        network_now = run.average.network
        assert isinstance(network_now, Surrogate)
        with torch.no_grad():
            off = float(network_now.loss(check.z, check.C))
        report(_line("surrogate", run, value, off))
    assert isinstance(run.average.network, Surrogate)
    return run.average.network


def train_denoiser(
    data: Data,
    check: Data,
    settings: Settings,
    folder: Path,
    report: Report,
    start: Denoiser | None = None,
) -> Iterator[Denoiser]:
    """Yields the averaged denoiser at every checkpoint, the last time when it is done."""
    torch.manual_seed(settings.seed + 1)
    network = Denoiser(settings.dimension, settings.width, settings.depth, settings.dropout)
    _begin(network, start, data)
    run = Run(network, settings, settings.samples, folder, "denoiser")
    if run.step == run.steps:
        assert isinstance(run.average.network, Denoiser)
        yield run.average.network
    conditions, asked = (
        Conditions.of(d.C.cpu().numpy(), d.volume.cpu().numpy()).to(d.z.device) for d in (data, check)
    )

    def loss(rng: torch.Generator) -> Tensor:
        rows = torch.randint(len(data), (settings.batch,), generator=rng).to(data.z.device)
        return denoising_loss(network, data.z[rows], conditions.rows(rows), rng)

    for value in _drive(run, loss, 240.0):
        average = run.average.network
        assert isinstance(average, Denoiser)
        with torch.no_grad():
            # The same noise each time, so that the curve is smooth.
            rng = torch.Generator().manual_seed(0)
            off = float(np.mean([float(denoising_loss(average, check.z, asked, rng)) for _ in range(4)]))
        report(_line("denoiser", run, value, off))
        yield average


def _begin(network: nn.Module, start: nn.Module | None, data: Data) -> None:
    """Weights to start from, if there are any, on the device of the data."""
    if start is not None:
        network.load_state_dict(start.state_dict())
    network.to(data.z.device)


def _drive(run: Run, loss: Callable[[torch.Generator], Tensor], pause: float) -> Iterator[float]:
    """Advance to the end; about every ``pause`` seconds save and yield the mean loss since the last time."""
    values: list[float] = []
    last = time.perf_counter()
    while run.step < run.steps:
        values.append(run.advance(loss))
        if run.step == run.steps or time.perf_counter() - last > pause:
            run.save()
            yield float(np.mean(values))
            values, last = [], time.perf_counter()


def _line(phase: str, run: Run, value: float, off: float) -> dict[str, Any]:
    left = (run.steps - run.step) * run.seconds / max(1, run.step)
    return {
        "phase": phase,
        "step": run.step,
        "steps": run.steps,
        "samples": run.step * run.settings.batch * ranks.world(),
        "loss": round(value, 5),
        "validation": round(off, 5),
        "seconds": round(run.seconds, 1),
        "seconds_left": round(left, 1),
    }


def assemble(space: ShapeSpace, denoiser: Denoiser, surrogate: Surrogate, card: dict[str, Any]) -> Model:
    """A model that samples as it will after being saved: its weights are rounded to bfloat16 here already."""
    networks: list[Any] = []
    for network in (denoiser, surrogate):
        rounded = copy.deepcopy(network).eval().requires_grad_(False)
        for value in rounded.parameters():
            value.copy_(value.bfloat16().float())
        networks.append(rounded)
    basis = torch.from_numpy(space.basis).bfloat16().float().numpy()
    return Model(ShapeSpace(space.n, space.mean, basis), networks[0], networks[1], card)
