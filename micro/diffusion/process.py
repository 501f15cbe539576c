"""The diffusion process: noise levels, the deterministic sampler and its inverse, guidance.

x = x0 + sigma * noise, which is the founding paper's Eq. 1 in other units (gamma = 1 / (1 + sigma^2)). Going
from one noise level to the next along dx/dsigma = (x - x0(x)) / sigma by Euler steps is DDIM (Song et al.
2021; Karras et al. 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from micro.diffusion.conditions import Conditions
from micro.diffusion.network import Denoiser
from micro.runtime.errors import InputError
from micro.runtime.threads import one_thread, run

BLOCK = 16
"""Cells sampled at once: a fixed number, so that a cell does not depend on its neighbours in a batch."""

_TOGETHER = 64
"""The same where all cells are drawn together anyway: two thirds of the time a cell."""

Pull = Callable[[Tensor, Tensor, float], Tensor]
"""Estimates (b, d) of the given rows (b,), at a noise level, to those to go on with."""

LARGEST, SMALLEST = 40.0, 0.01
"""Noise levels at which sampling starts and ends, in units of the data's spread."""

_RHO = 7.0
"""Spacing of the levels (Karras et al. 2022, Eq. 5)."""


def levels(steps: int) -> Tensor:
    """Noise levels of a sampler with so many steps, largest first, 0 at the end; shape (steps + 1,).

    Raises
    ------
    InputError
        If there is no step.
    """
    if steps < 1:
        raise InputError("at least one step is needed", key="steps", value=steps)
    at = torch.linspace(0, 1, steps, dtype=torch.float64)
    root = LARGEST ** (1 / _RHO) + at * (SMALLEST ** (1 / _RHO) - LARGEST ** (1 / _RHO))
    return torch.cat([root**_RHO, torch.zeros(1, dtype=torch.float64)]).float()


class Estimator:
    """Estimates of x0 with classifier-free guidance (Ho and Salimans 2022) and self-conditioning.

    What conditions and noise levels do to the network's layers is the same for all cells of a block that are
    asked for the same: it is computed once for each of the ``conditions`` that differ, for all noise levels
    ``sigmas`` together.
    The unconditional network is called only if its share does not vanish: not at guidance 1.

    Parameters
    ----------
    network : Denoiser
    conditions : Conditions
    sigmas : Tensor
        Noise levels.
    guidance : float
        Above 1 the conditions count more.
    """

    def __init__(self, network: Denoiser, conditions: Conditions, sigmas: Tensor, guidance: float = 1.0):
        self.network, self.sigmas, self.guidance = network, sigmas, guidance
        self._asked = _Modulations(network, conditions, sigmas)
        self._free = None if guidance == 1.0 else _Modulations(network, conditions.dropped(), sigmas)

    def __call__(self, x: Tensor, number: int, previous: Tensor | None) -> Tensor:
        """x0 (m, d) for x (m, d) of the noise level of that number; ``previous`` is the estimate before."""
        level = self.sigmas[number].to(x).expand(len(x))
        before = torch.zeros_like(x) if previous is None else previous
        estimate = self.network.denoise(x, before, level, self._asked(number))
        if self._free is not None:
            free = self.network.denoise(x, before, level, self._free(number))
            estimate = free + self.guidance * (estimate - free)
        return estimate


class _Modulations:
    """:meth:`Denoiser.modulations` of m conditions at several noise levels."""

    def __init__(self, network: Denoiser, conditions: Conditions, sigmas: Tensor):
        both = torch.cat([conditions.numbers, conditions.given], dim=1)
        different, self._of = torch.unique(both, dim=0, return_inverse=True)
        width = conditions.numbers.shape[1]
        rows = different.repeat_interleave(len(sigmas), dim=0)
        level = sigmas.to(rows).repeat(len(different))
        parts = []
        for start in range(0, len(rows), BLOCK):
            some = _block(start, len(rows), rows.device)
            asked = Conditions(rows[some, :width], rows[some, width:])
            parts.append(network.modulations(level[some], asked))
        table = torch.cat(parts)[: len(rows)]
        self._table = table.unflatten(0, (len(different), len(sigmas)))

    def __call__(self, number: int) -> Tensor:
        """Those of all m conditions at one noise level."""
        return self._table[self._of, number]


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

    Blocks of rows are sampled at once on as many threads as torch has, each on one: a product that is divided
    among threads is rounded otherwise.

    ``pull`` maps every estimate of x0 (b, d) of the given rows (b,), and the noise level it was made at, to
    the one to go on with.

    Parameters
    ----------
    network : Denoiser
    noise : Tensor, shape (m, d)
    conditions : Conditions
        Of m cells.
    steps : int
    guidance : float
    pull : callable, optional
    """
    sigmas = levels(steps)

    @torch.no_grad()
    def block(start: int) -> Tensor:
        rows = _block(start, len(noise), noise.device)
        estimator = Estimator(network, conditions.rows(rows), sigmas[:-1], guidance)
        x, clean = noise[rows] * sigmas[0], None
        for number in range(steps):
            clean = estimator(x, number, clean)
            if pull is not None:
                clean = pull(clean, rows, float(sigmas[number]))
            x = _less_noise(x, clean, sigmas, number)
        return x[: min(BLOCK, len(noise) - start)]

    with one_thread(noise.device) as threads:
        parts = run([partial(block, start) for start in range(0, len(noise), BLOCK)], threads)
    return torch.cat(parts) if parts else torch.empty_like(noise)


def sample_together(
    network: Denoiser,
    noise: Tensor,
    conditions: Conditions,
    *,
    steps: int,
    pull: Callable[[Tensor, float], Tensor],
) -> Tensor:
    """As :func:`sample`, but all rows go from noise level to noise level together.

    Parameters
    ----------
    network : Denoiser
    noise : Tensor, shape (m, d)
    conditions : Conditions
        Of m cells.
    steps : int
    pull : callable
        Maps all estimates of x0 (m, d), and the noise level they were made at, to those to go on with.
    """
    sigmas = levels(steps)
    starts = range(0, len(noise), _TOGETHER)
    blocks = [_block(start, len(noise), noise.device, _TOGETHER) for start in starts]
    estimators = [Estimator(network, conditions.rows(rows), sigmas[:-1]) for rows in blocks]
    x, clean = noise * sigmas[0], None

    @torch.no_grad()
    def estimate(block: int, number: int) -> Tensor:
        rows = blocks[block]
        found = estimators[block](x[rows], number, None if clean is None else clean[rows])
        return found[: min(_TOGETHER, len(noise) - starts[block])]

    with one_thread(noise.device) as threads:
        for number in range(steps):
            parts = run([partial(estimate, block, number) for block in range(len(blocks))], threads)
            clean = pull(torch.cat(parts), float(sigmas[number]))
            x = _less_noise(x, clean, sigmas, number)
    return x


def _less_noise(x: Tensor, clean: Tensor, sigmas: Tensor, number: int) -> Tensor:
    """From one noise level to the next by Euler's step."""
    return clean + (x - clean) * (sigmas[number + 1] / sigmas[number]).item()


@torch.no_grad()
def invert(network: Denoiser, x: Tensor, conditions: Conditions, *, steps: int) -> Tensor:
    """The unit noise (m, d) from which :func:`sample` makes about x (m, d): its steps backwards.

    Parameters
    ----------
    network : Denoiser
    x : Tensor, shape (m, d)
    conditions : Conditions
        Of m cells.
    steps : int
    """
    with one_thread(x.device):
        return _inverted(network, x, conditions, steps)


def _inverted(network: Denoiser, x: Tensor, conditions: Conditions, steps: int) -> Tensor:
    sigmas = levels(steps).flip(0)[1:]
    out = torch.empty_like(x)
    for start in range(0, len(x), BLOCK):
        rows = _block(start, len(x), x.device)
        estimator = Estimator(network, conditions.rows(rows), sigmas)
        y = clean = x[rows]
        for number in range(1, steps):
            # Euler's step taken backwards, its end found by a few fixed-point iterations.
            ahead = y
            for _ in range(4):
                clean = estimator(ahead, number, clean)
                ahead = clean + (y - clean) * (sigmas[number] / sigmas[number - 1]).item()
            y = ahead
        count = min(BLOCK, len(x) - start)
        out[start : start + count] = y[:count] / sigmas[-1]
    return out


def _block(start: int, total: int, device: torch.device, size: int = BLOCK) -> Tensor:
    """Indices of ``size`` rows from ``start``; beyond the end the first one is repeated."""
    rows = torch.arange(start, start + size, device=device)
    return torch.where(rows < total, rows, torch.full_like(rows, start))
