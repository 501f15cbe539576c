"""A training as it stands on disk: weights, their average, the optimiser, the steps done."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from micro.runtime.errors import InputError
from micro.runtime.files import atomic_path
from micro.training import ranks
from micro.training.data import Settings

N = TypeVar("N", bound=nn.Module)


class Averaged(Generic[N]):
    """A running average of a network's weights."""

    def __init__(self, network: N, decay: float):
        self.network: N = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow ``network``, faster at the beginning."""
        decay = min(self.decay, 1 - (step + 1) ** -0.75)
        for mine, other in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(other, 1 - decay)


class Run(Generic[N]):
    """State of one training phase: network, average, optimiser, step; saved and taken up as one.

    Parameters
    ----------
    network : Module
    settings : Settings
    samples : int
        What the phase learns from, counted with repetition.
    folder : Path
        For the checkpoint.
    name : str
        Of the phase.
    """

    def __init__(self, network: N, settings: Settings, samples: int, folder: Path, name: str):
        self.network, self.settings = network, settings
        self.steps = max(1, samples // settings.batch)
        self.path = folder / f"{name}.pt.safetensors"
        self.step = 0
        self.average = Averaged(network, settings.decay)
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.seconds = 0.0

    def rate(self) -> float:
        """Learning rate of the current step."""
        done = self.step / self.steps
        return self.settings.rate * min(1.0, (self.step + 1) / 200, 2.5 * (1 - done))

    def advance(self, loss: Callable[[torch.Generator], Tensor]) -> Tensor:
        """One step; returns its loss over the whole batch, left on the device.

        The batch is drawn from a generator that depends on seed and step alone: every process draws it whole
        and works at its share (:func:`micro.training.ranks.share`). Dropout is each process's own.
        """
        started = time.perf_counter()
        stream = (self.settings.seed * 1_000_003 + self.step) * 1024
        rng = torch.Generator().manual_seed(stream)
        torch.manual_seed(stream + ranks.rank())
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.network.train()
        with ranks.precision(next(self.network.parameters()).device):
            value = loss(rng)
        self.optimiser.zero_grad()
        value.backward()
        mean = ranks.average(self.network, value.detach())
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.network, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return mean

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
