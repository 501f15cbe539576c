"""Draws moved by the surrogate's slopes until it predicts the wanted tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from micro.cell import tensor
from micro.diffusion.residual import Corrected
from micro.diffusion.surrogate import Surrogate, by_rows
from micro.homogenize.secant import cut, least_norm
from micro.runtime.arrays import Bools, Floats, Ints, Singles
from micro.shape.space import in_blocks

Redistance = Callable[[Singles], tuple[Singles, Bools]]
"""Coordinates (m, d) to those of the signed distance of their solid, and whether it is in one piece."""
Beside = Callable[[Singles, Ints], tuple[Floats, Floats, Floats]]
"""Of coordinates (m, d) of cells ``rows`` (m,): slopes (m, k, d) of what steps mind besides the tensor,
changes (m, k) that are missing, and what the cells' values cost (m,) beside the tensor error."""
Predictor = Surrogate | Corrected
"""Maps coordinates (m, d) to tensors (m, 3)."""

_STEERED = 2.0
"""Longest step that trusts the surrogate."""

_SHORTEST = 0.01
"""Length of steps at which a cell is given up."""

NEAR = tensor.Bounds(1e-3, 0.01)
"""Errors, as the surrogate sees them, at which a cell is left alone."""


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

    def seen(z: Singles, rows: Ints) -> _Seen:
        C = predict(surrogate, z)
        error: Floats = np.asarray(NEAR.error(C, targets[rows]))
        missing = (targets[rows] - C) / tensor.PAPER_SPAN
        if beside is None:
            return _Seen(C, error, np.empty((len(z), 0, z.shape[1])), missing)
        slope, lacking, cost = beside(z, rows)
        return _Seen(C, error + cost, slope, np.concatenate([missing, lacking], axis=1))

    z = z.copy()
    now = seen(z, np.arange(len(z)))
    longest = np.full(len(z), _STEERED)
    for _ in range(rounds):
        rows = np.flatnonzero((now.error > NEAR.tolerance) & (longest > _SHORTEST))
        if len(rows) == 0:
            break
        slope = np.concatenate([slopes(surrogate, z[rows]), now.slope[rows]], axis=1)
        step = cut(least_norm(slope, now.missing[rows], free=free), longest[rows])
        tried, whole = redistance((z[rows] + step).astype(np.float32))
        there = seen(tried, rows)
        better = whole & (there.error < now.error[rows])
        length = np.linalg.norm(step, axis=1)
        longest[rows] = np.where(better, longest[rows], 0.4 * np.minimum(longest[rows], length))
        z[rows[better]] = tried[better]
        now.replace(rows[better], there, better)
    return z, now.C


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of cells: the surrogate's tensors (m, 3), the whole error (m,), slopes (m, k, d) of what
    is beside the tensor, and what is missing of tensor and that (m, 3 + k).
    """

    C: Floats
    error: Floats
    slope: Floats
    missing: Floats

    def replace(self, rows: Ints, by: _Seen, some: Bools) -> None:
        """Put some of others in the place of ``rows``."""
        self.C[rows], self.error[rows] = by.C[some], by.error[some]
        self.slope[rows], self.missing[rows] = by.slope[some], by.missing[some]
