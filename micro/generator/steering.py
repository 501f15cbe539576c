"""Draws moved by the surrogate's slopes until it predicts the wanted tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from micro.cell import tensor
from micro.diffusion.residual import Corrected
from micro.diffusion.surrogate import Surrogate, by_rows
from micro.homogenize.secant import cut, least_norm
from micro.runtime.arrays import Bools, Floats, Singles
from micro.shape.space import in_blocks

Redistance = Callable[[Singles], tuple[Singles, Bools]]
"""Coordinates (m, d) to those of the signed distance of their solid, and whether it is in one piece."""
Beside = Callable[[Singles], tuple[Floats, Floats, Floats]]
"""Of coordinates (m, d): slopes (m, k, d) of what steps mind besides the tensor, changes (m, k) that are
missing, and what the cells' values cost (m,) beside the tensor error."""
Predictor = Surrogate | Corrected
"""Maps coordinates (m, d) to tensors (m, 3)."""

_STEERED = 2.0
"""Longest step that trusts the surrogate."""


def predict(surrogate: Predictor, z: Singles) -> Floats:
    """The surrogate's tensors (m, 3)."""
    return by_rows(surrogate, surrogate, z)


def slopes(surrogate: Predictor, z: Singles) -> Floats:
    """Derivatives (m, 3, d) of C11, C12, C44 on the scale of Eq. 4."""
    device = next(surrogate.parameters()).device

    def block(rows: Singles) -> Floats:
        at = torch.from_numpy(rows).to(device).requires_grad_(True)
        scaled = surrogate(at) / torch.from_numpy(tensor.PAPER_SPAN.copy()).to(at)
        grads = [torch.autograd.grad(scaled[:, i].sum(), at, retain_graph=i < 2)[0] for i in range(3)]
        return torch.stack(grads, dim=1).double().cpu().numpy()

    return in_blocks(block, z)


def steer(
    surrogate: Predictor,
    z: Singles,
    targets: Floats,
    redistance: Redistance,
    rounds: int = 4,
    free: Floats | None = None,
    beside: Beside | None = None,
) -> tuple[Singles, Floats]:
    """Cells moved toward target tensors (m, 3) as the surrogate sees them: nothing is homogenised.

    After each step a cell is redistanced: its level set becomes the signed distance of its own solid again.
    Off that manifold the surrogate, which has seen nothing but signed distances, can't be trusted (measured
    on one model: its error for raw samples is 4 %, for redistanced ones 1.3 %). Steps take directions as
    readily as ``free`` (d, d) has it, and mind what is ``beside`` the tensor: a volume. Returns the
    coordinates and the surrogate's tensors.

    Parameters
    ----------
    surrogate : Surrogate or Corrected
    z : array, shape (m, d)
    targets : array, shape (m, 3)
    redistance : callable
        What a step is followed by.
    rounds : int
        Steps at most.
    free : array, shape (d, d), optional
    beside : optional
        What steps mind besides the tensor.
    """

    def seen(z: Singles) -> tuple[Floats, Floats, Floats, Floats]:
        """The surrogate's tensors, the whole error, and slopes and changes of what is beside."""
        C = predict(surrogate, z)
        error = np.asarray(tensor.tensor_error(C, targets))
        if beside is None:
            return C, error, np.empty((len(z), 0, z.shape[1])), np.empty((len(z), 0))
        rows, missing, cost = beside(z)
        return C, error + cost, rows, missing

    now = seen(z)
    longest = np.full(len(z), _STEERED)
    for _ in range(rounds):
        C, error, rows, lacking = now
        slope = np.concatenate([slopes(surrogate, z), rows], axis=1)
        missing = np.concatenate([(targets - C) / tensor.PAPER_SPAN, lacking], axis=1)
        step = cut(least_norm(slope, missing, free=free), longest)
        tried, whole = redistance((z + step).astype(np.float32))
        there = seen(tried)
        better = whole & (there[1] < error)
        z = np.where(better[:, None], tried, z)
        now = _chosen(better, there, now)
        longest = np.where(better, longest, 0.4 * np.minimum(longest, np.linalg.norm(step, axis=1)))
    return z, now[0]


def _chosen(
    first: Bools, a: tuple[Floats, Floats, Floats, Floats], b: tuple[Floats, Floats, Floats, Floats]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Of two states of m cells those of the one where ``first`` (m,), else of the other."""
    pick = [np.where(first.reshape(-1, *[1] * (x.ndim - 1)), x, y) for x, y in zip(a, b, strict=True)]
    return pick[0], pick[1], pick[2], pick[3]
