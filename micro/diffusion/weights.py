"""A trained generator on disk: one safetensors file, bfloat16, its header checked on loading."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from micro.cell.tensor import POISSON
from micro.diffusion.network import Denoiser
from micro.diffusion.surrogate import Surrogate
from micro.diffusion.uncertainty import Uncertainty
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path
from micro.shape.space import ShapeSpace

FORMAT = "cubic-cell-generator"
VERSION = "1"


@dataclass(frozen=True, eq=False)
class Model:
    """All that sampling needs.

    Attributes
    ----------
    space : ShapeSpace
    denoiser : Denoiser
    surrogate : Surrogate
    card : dict
        Provenance and metrics: data digest, ``poisson`` of its base material (0.3 if it does not say),
        command, samples seen, validation figures.
    uncertainty : Uncertainty, optional
        How far the surrogate is likely to be off.
    """

    space: ShapeSpace
    denoiser: Denoiser
    surrogate: Surrogate
    card: dict[str, Any] = field(default_factory=dict)
    uncertainty: Uncertainty | None = None

    @property
    def poisson(self) -> float:
        """Poisson's ratio of the base material of the cells it was trained on."""
        return float(self.card.get("poisson", POISSON))

    def save(self, path: PathLike) -> None:
        """Write atomically; weights and basis as bfloat16 (three significant digits are kept)."""
        tensors = {
            "space.mean": torch.from_numpy(self.space.mean).float(),
            "space.basis": torch.from_numpy(self.space.basis).bfloat16(),
            **{name: value.bfloat16() for name, value in self.state().items()},
        }
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        header = {
            "format": FORMAT,
            "version": VERSION,
            "n": str(self.space.n),
            "digest": digest(tensors),
            "sizes": json.dumps(self._sizes()),
            "card": json.dumps(self.card),
        }
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=header)

    @staticmethod
    def load(path: PathLike) -> Model:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If there is no such file, it is no generator of a known version, or damaged.
        """
        if not Path(path).is_file():
            raise InputError("there is no such file of weights", file=path)
        header, tensors = read_tensors(path)
        for key, wanted in (("format", FORMAT), ("version", VERSION)):
            if header.get(key) != wanted:
                raise InputError(f"is to be {wanted}", file=path, key=key, value=header.get(key))
        if header.get("digest") != digest(tensors):
            raise InputError("the content does not match its checksum: the file is damaged", file=path)
        sizes = json.loads(header["sizes"])
        space = ShapeSpace(
            int(header["n"]), tensors["space.mean"].numpy(), tensors["space.basis"].float().numpy()
        )
        # Weights from before openness could be asked for do not say of how many kinds they know: two.
        denoiser = Denoiser(**{"kinds": 2} | sizes["denoiser"])
        surrogate = Surrogate(**sizes["surrogate"])
        uncertainty = Uncertainty(**sizes["uncertainty"]) if "uncertainty" in sizes else None
        model = Model(space, denoiser, surrogate, json.loads(header["card"]), uncertainty)
        for name, network in model._networks().items():
            _restore(network, tensors, name)
        return model

    def to(self, device: str | torch.device) -> Model:
        """The same with its networks on another device; this one stays where it is."""
        there = torch.device(device)

        def moved(network: nn.Module) -> Any:
            here = next(network.parameters()).device
            return network if here == there else copy.deepcopy(network).to(there)

        return replace(self, **{name: moved(network) for name, network in self._networks().items()})

    def state(self) -> dict[str, Tensor]:
        """All weights by name: that of the network, a point, and its own name for them."""
        return {
            f"{name}.{k}": v
            for name, network in self._networks().items()
            for k, v in network.state_dict().items()
        }

    def _networks(self) -> dict[str, nn.Module]:
        """Those there are, by name."""
        there: dict[str, nn.Module] = {"denoiser": self.denoiser, "surrogate": self.surrogate}
        return there if self.uncertainty is None else there | {"uncertainty": self.uncertainty}

    def _sizes(self) -> dict[str, dict[str, int]]:
        sizes = {
            name: {"dimension": net.dimension, "width": net.width, "depth": net.depth}
            for name, net in (("denoiser", self.denoiser), ("surrogate", self.surrogate))
        }
        sizes["denoiser"]["kinds"] = self.denoiser.kinds
        return sizes if self.uncertainty is None else sizes | {"uncertainty": self.uncertainty.sizes}


def _restore(network: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    prefix = f"{name}."
    state = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
    network.load_state_dict(state)
    network.eval().requires_grad_(False)


def read_tensors(path: PathLike) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and named tensors of a safetensors file.

    Raises
    ------
    InputError
        If it can't be read as one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"not a readable safetensors file: {error}", file=path) from error


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        raw = tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy()
        sha.update(np.ascontiguousarray(raw).tobytes())
    return sha.hexdigest()
