"""The denoiser: residual layers with conditioned normalisation on the coordinates of a shape space."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro.diffusion.conditions import KINDS, Conditions, numbers_of, per_number

_WAVES = 12
"""Sines (and cosines) by which a number is embedded."""

_EMBEDDING = 256


class _Layer(nn.Module):
    """x + gate * W2 silu(W1 (norm(x) * (1 + scale) + shift)), the three set by the conditions."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.modulate = nn.Linear(_EMBEDDING, 3 * width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, gate = modulation.chunk(3, dim=-1)
        h = self.norm(x) * (1 + scale) + shift
        h = self.contract(self.dropout(functional.silu(self.expand(h))))
        return x + (0.3 + gate) * h


class Denoiser(nn.Module):
    """Estimates clean coordinates x0 from noisy ones, after Karras et al. (2022, Table 1, sigma_data = 1).

    The second input is the previous estimate of x0 (self-conditioning, Chen et al. 2023), zero at first.
    ``kinds`` says of how many of :data:`micro.diffusion.conditions.KINDS` it knows; it is deaf to the others.

    Parameters
    ----------
    dimension : int
        Coordinates of a cell.
    width, depth : int
        Of the layers, and their number.
    dropout : float
    kinds : int
        Of how many :data:`micro.diffusion.conditions.KINDS` it knows.
    """

    def __init__(self, dimension: int, width: int, depth: int, dropout: float = 0.0, kinds: int = len(KINDS)):
        super().__init__()
        self.dimension, self.width, self.depth, self.kinds = dimension, width, depth, kinds
        self.inlet = nn.Linear(2 * dimension, width)
        waves = torch.linspace(math.log(0.25), math.log(8.0), _WAVES).exp()
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * waves, persistent=False)
        numbers = numbers_of(kinds)
        size = 2 * _WAVES * (numbers + 1) + numbers + kinds
        self.embed = nn.Sequential(
            nn.Linear(size, _EMBEDDING), nn.SiLU(), nn.Linear(_EMBEDDING, _EMBEDDING), nn.SiLU()
        )
        self.layers = nn.ModuleList(_Layer(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outlet = nn.Linear(width, dimension)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def forward(self, x: Tensor, estimate: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Estimate of x0.

        Parameters
        ----------
        x, estimate : Tensor, shape (m, d)
        sigma : Tensor, shape (m,)
            Standard deviation of the noise in x.
        conditions : Conditions of m cells
        """
        return self.denoise(x, estimate, sigma, self.modulations(sigma, conditions))

    def modulations(self, sigma: Tensor, conditions: Conditions) -> Tensor:
        """All that noise level and conditions do to the layers, (m, depth, 3 width).

        It does not depend on x: a sampler can have it once for all cells that are asked for the same.
        """
        e = self.embed(self._embedding(sigma, conditions))
        layers = cast(Iterable[_Layer], self.layers)
        return torch.stack([layer.modulate(e) for layer in layers], dim=1)

    def denoise(self, x: Tensor, estimate: Tensor, sigma: Tensor, modulations: Tensor) -> Tensor:
        """As :meth:`forward`, by given :meth:`modulations` (m, depth, 3 width).

        Parameters
        ----------
        x, estimate : Tensors, shape (m, d)
        sigma : Tensor, shape (m,)
        modulations : Tensor, shape (m, depth, 3 width)
        """
        keep = 1 / (1 + sigma**2)[:, None]
        h = self.inlet(torch.cat([x * keep.sqrt(), estimate], dim=1))
        for layer, modulation in zip(self.layers, modulations.unbind(1), strict=True):
            h = layer(h, modulation)
        return keep * x + sigma[:, None] * keep.sqrt() * self.outlet(self.norm(h))

    def start_from(self, other: Denoiser) -> None:
        """Take the weights of a network of the same layers, of fewer kinds of conditions or coordinates.

        To kinds that it does not know it is deaf at first: the weights of their numbers begin at zero. Of new
        coordinates, which leave the others as they are, its estimate begins as that of white noise.
        """
        state = dict(other.state_dict())
        if other.kinds != self.kinds:
            state["embed.0.weight"] = self._with_new_columns(state["embed.0.weight"], other.kinds)
        more = self.dimension - other.dimension
        if more:
            halves = state["inlet.weight"].chunk(2, dim=1)
            state["inlet.weight"] = torch.cat([functional.pad(half, (0, more)) for half in halves], dim=1)
            state["outlet.weight"] = functional.pad(state["outlet.weight"], (0, 0, 0, more))
            state["outlet.bias"] = functional.pad(state["outlet.bias"], (0, more))
        self.load_state_dict(state)

    def _with_new_columns(self, weight: Tensor, kinds: int) -> Tensor:
        """The first layer's weight with zeros where the embedding of ``kinds`` has no numbers."""
        ours, theirs = numbers_of(self.kinds), numbers_of(kinds)
        sizes = [2 * _WAVES, theirs, 2 * _WAVES * theirs, kinds]
        more = [0, ours - theirs, 2 * _WAVES * (ours - theirs), self.kinds - kinds]
        parts = weight.split(sizes, dim=1)
        return torch.cat([functional.pad(p, (0, k)) for p, k in zip(parts, more, strict=True)], dim=1)

    def _embedding(self, sigma: Tensor, conditions: Conditions) -> Tensor:
        known = conditions.first(self.kinds)
        waves = self._waves(known.numbers) * per_number(known.given)[:, :, None]
        noise = self._waves(sigma.log()[:, None] / 4)
        return torch.cat([noise.flatten(1), known.numbers, waves.flatten(1), known.given], dim=1)

    def _waves(self, numbers: Tensor) -> Tensor:
        phase = numbers[..., None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1)
