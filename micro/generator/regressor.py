"""Regressors: a scalar of a cell's tensor and volume, as a function of the decoded shape to guide by.

The surrogate gives the whole tensor and the volume is a smooth function of the level set, so every scalar of
the two (:mod:`micro.generator.scalars`) has a value and a gradient at once. Where more is wanted a small
network is trained for one scalar (``micro train --regress "K / K_HS"``): it adds to that value what the
surrogate misses, from the coordinates and the surrogate's last hidden layer, as the mean of a few heads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from micro.cell.tensor import POISSON
from micro.diffusion.surrogate import Surrogate
from micro.diffusion.weights import digest, read_tensors
from micro.generator.guidance import Shape
from micro.generator.scalars import Scalar
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path

FORMAT, VERSION = "cubic-cell-regressor", "1"

SUFFIX = ".safetensors"
"""How the name of a trained regressor's file ends."""

HEADS, WIDTH = 4, 128
"""Heads whose mean is taken, and the width of their layers."""

_SPREAD = 0.1
"""Size of a correction at which the network's own output is one."""


class _Head(nn.Module):
    def __init__(self, size: int, width: int, dropout: float):
        super().__init__()
        self.inlet = nn.Linear(size, width)
        self.hidden = nn.Linear(width, width)
        self.outlet = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(functional.silu(self.inlet(x)))
        h = h + self.dropout(functional.silu(self.hidden(h)))
        return self.outlet(h)[:, 0]


class Correction(nn.Module):
    """What a surrogate's scalar is off by, (b,), of coordinates (b, d); zero before it is trained.

    Parameters
    ----------
    dimension : int
        Coordinates of a cell.
    hidden : int
        Width of the surrogate's last layer.
    heads : int
        Corrections, each trained by itself.
    width : int
        Of the layers.
    dropout : float
    """

    def __init__(
        self, dimension: int, hidden: int, heads: int = HEADS, width: int = WIDTH, dropout: float = 0.0
    ):
        super().__init__()
        self.sizes = {"dimension": dimension, "hidden": hidden, "heads": heads, "width": width}
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        size = dimension + hidden + 3 + 2
        self.heads = nn.ModuleList(_Head(size, width, dropout) for _ in range(heads))

    def forward(self, z: Tensor, surrogate: Surrogate, value: Tensor, volume: Tensor) -> Tensor:
        """Corrections of the heads, (heads, b), for scalars ``value`` (b,) of cells of volumes (b,).

        Parameters
        ----------
        z : Tensor, shape (b, d)
        surrogate : Surrogate
        value, volume : Tensors, shape (b,)
        """
        return self.of_inputs(self.inputs(z, surrogate, value, volume))

    def inputs(self, z: Tensor, surrogate: Surrogate, value: Tensor, volume: Tensor) -> Tensor:
        """All that the heads are told, (b, k); no weights of theirs are in it.

        Parameters
        ----------
        z : Tensor, shape (b, d)
        surrogate : Surrogate
        value, volume : Tensors, shape (b,)
        """
        hidden = surrogate.features(z)
        logarithms = surrogate.of_features(hidden)
        return torch.cat([z, self.norm(hidden), logarithms / 3 + 1, value[:, None], volume[:, None]], dim=1)

    def of_inputs(self, x: Tensor) -> Tensor:
        """Corrections of the heads, (heads, b), of inputs (b, k)."""
        return _SPREAD * torch.stack([head(x) for head in self.heads])


class Regressor:
    """A scalar of tensor and volume of decoded shapes: a function for :class:`micro.generator.guidance.Wish`.

    Parameters
    ----------
    scalar : Scalar
    surrogate : Surrogate
    correction : Correction, optional
        Trained for this scalar and this surrogate.
    card : dict, optional
        How it was made, and its figures.
    """

    def __init__(
        self,
        scalar: Scalar,
        surrogate: Surrogate,
        correction: Correction | None = None,
        card: dict[str, Any] | None = None,
    ):
        self.scalar, self.surrogate, self.correction, self.card = scalar, surrogate, correction, card or {}

    def __call__(self, shape: Shape) -> Tensor:
        """Values (b,)."""
        value = self.scalar(shape.tensor, shape.volume)
        if self.correction is None:
            return value
        return value + self.correction(shape.z, self.surrogate, value, shape.volume).mean(dim=0)

    def save(self, path: PathLike) -> None:
        """Write the correction atomically, as bfloat16, with the surrogate that it belongs to."""
        if self.correction is None:
            raise ValueError("nothing is trained")
        tensors = {
            k: v.detach().cpu().bfloat16().contiguous() for k, v in self.correction.state_dict().items()
        }
        header = {
            "format": FORMAT,
            "version": VERSION,
            "scalar": self.scalar.text,
            "poisson": repr(self.scalar.poisson),
            "sizes": json.dumps(self.correction.sizes),
            "surrogate": digest(dict(self.surrogate.state_dict())),
            "digest": digest(tensors),
            "card": json.dumps(self.card),
        }
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=header)

    @staticmethod
    def load(path: PathLike, surrogate: Surrogate) -> Regressor:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If there is no such file, it is damaged, or belongs to another surrogate.
        """
        header, tensors = _read(Path(path))
        if header.get("surrogate") != digest(dict(surrogate.state_dict())):
            raise InputError("was trained for another generator's weights", file=path)
        correction = Correction(**json.loads(header["sizes"]))
        correction.load_state_dict({k: v.float() for k, v in tensors.items()})
        device = next(surrogate.parameters()).device
        correction.eval().requires_grad_(False).to(device)
        scalar = Scalar(header["scalar"], float(header["poisson"]))
        return Regressor(scalar, surrogate, correction, json.loads(header["card"]))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise InputError("there is no such regressor", file=path)
    header, tensors = read_tensors(path)
    for key, wanted in (("format", FORMAT), ("version", VERSION), ("digest", digest(tensors))):
        if header.get(key) != wanted:
            raise InputError("no regressor of this version, or damaged", file=path, key=key)
    return header, tensors


def regressor(text: str, surrogate: Surrogate, poisson: float = POISSON) -> Regressor:
    """The regressor that ``text`` names: a file that ``micro train --regress`` wrote, or an expression.

    Of an expression it is the scalar of the surrogate's tensor as it is, ``poisson`` being Poisson's ratio of
    the base material.

    Raises
    ------
    InputError
        If the text is no expression, or the file is damaged or belongs to another surrogate.
    """
    if text.endswith(SUFFIX):
        return Regressor.load(text, surrogate)
    return Regressor(Scalar(text, poisson), surrogate)
