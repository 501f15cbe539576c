"""The diffusion process: noise levels, the deterministic sampler and its inverse, guidance.

x = x0 + sigma * noise, which is the founding paper's Eq. 1 in other units (gamma = 1 / (1 + sigma^2)). Going
from one noise level to the next along dx/dsigma = (x - x0(x)) / sigma by Euler steps is DDIM (Song et al.
2021; Karras et al. 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from micro.diffusion.conditions import Conditions
from micro.diffusion.network import Denoiser
from micro.errors import InputError
from micro.shape_space import BLOCK

Pull = Callable[[Tensor, Tensor], Tensor]

LARGEST, SMALLEST = 40.0, 0.01
"""Noise levels at which sampling starts and ends, in units of the data's spread."""

_RHO = 7.0
"""Spacing of the levels (Karras et al. 2022, Eq. 5)."""


def levels(steps: int) -> Tensor:
    """Noise levels of a sampler with so many steps, largest first, 0 at the end; shape (steps + 1,)."""
    if steps < 1:
        raise InputError("at least one step is needed", key="steps", value=steps)
    at = torch.linspace(0, 1, steps, dtype=torch.float64)
    root = LARGEST ** (1 / _RHO) + at * (SMALLEST ** (1 / _RHO) - LARGEST ** (1 / _RHO))
    return torch.cat([root**_RHO, torch.zeros(1, dtype=torch.float64)]).float()


class Estimator:
    """Estimates of x0 with classifier-free guidance (Ho and Salimans 2022) and self-conditioning.

    The unconditional network is called only if its share does not vanish: not at guidance 1.
    """

    def __init__(self, network: Denoiser, conditions: Conditions, guidance: float = 1.0):
        self.network, self.conditions, self.guidance = network, conditions, guidance
        self.previous: Tensor | None = None

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """x0 (m, d) for x (m, d) of noise level ``sigma``."""
        level = torch.full((len(x),), float(sigma), device=x.device)
        before = torch.zeros_like(x) if self.previous is None else self.previous
        estimate = self.network(x, before, level, self.conditions)
        if self.guidance != 1.0:
            free = self.network(x, before, level, self.conditions.dropped())
            estimate = free + self.guidance * (estimate - free)
        self.previous = estimate
        return estimate


@torch.no_grad()
def sample(
    network: Denoiser,
    noise: Tensor,
    conditions: Conditions,
    *,
    steps: int,
    guidance: float = 1.0,
    pull: Pull | None = None,
) -> Tensor:
    """Coordinates (m, d) from unit noise (m, d); each row depends on itself alone.

    ``pull`` maps every estimate of x0 (b, d) of the given rows (b,) to the one to go on with.
    """
    sigmas = levels(steps)
    out = torch.empty_like(noise)
    for start in range(0, len(noise), BLOCK):
        rows = _block(start, len(noise), noise.device)
        estimator = Estimator(network, conditions.rows(rows), guidance)
        x = noise[rows] * sigmas[0]
        for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
            clean = estimator(x, sigma)
            if pull is not None:
                clean = estimator.previous = pull(clean, rows)
            x = clean + (x - clean) * (following / sigma)
        count = min(BLOCK, len(noise) - start)
        out[start : start + count] = x[:count]
    return out


@torch.no_grad()
def invert(network: Denoiser, x: Tensor, conditions: Conditions, *, steps: int) -> Tensor:
    """The unit noise (m, d) from which :func:`sample` makes about x (m, d): its steps backwards."""
    sigmas = levels(steps).flip(0)[1:]
    out = torch.empty_like(x)
    for start in range(0, len(x), BLOCK):
        rows = _block(start, len(x), x.device)
        estimator = Estimator(network, conditions.rows(rows))
        y = estimator.previous = x[rows]
        for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
            # Euler's step taken backwards, its end found by a few fixed-point iterations.
            ahead = y
            for _ in range(4):
                clean = estimator(ahead, following)
                ahead = clean + (y - clean) * (following / sigma)
            y = ahead
        count = min(BLOCK, len(x) - start)
        out[start : start + count] = y[:count] / sigmas[-1]
    return out


def _block(start: int, total: int, device: torch.device) -> Tensor:
    """Indices of BLOCK rows from ``start``; beyond the end the first one is repeated."""
    rows = torch.arange(start, start + BLOCK, device=device)
    return torch.where(rows < total, rows, torch.full_like(rows, start))
