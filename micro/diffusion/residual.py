"""What a surrogate misses near cells that were homogenised: a Gaussian process on its last hidden layer.

A surrogate errs alike for cells that look alike to it. So the homogenised tensors of a few cells say much
about all that are like them: of the 1,045 cells drawn together for the flagship's ring a third lie within
half the fill's tolerances of what the surrogate predicts, and two thirds once a tenth of them has been
homogenised (79 % with three tenths). Deep kernel learning (Wilson et al. 2016) with a kernel that is not
trained: a Matern 3/2 of fixed length, whose choice between a third and three quarters of the median distance
hardly matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micro.cell import tensor
from micro.diffusion.surrogate import Surrogate, by_rows
from micro.runtime.arrays import Floats, Ints, Singles

_LENGTH = 0.5
"""Of the kernel, in median distances between the cells' features."""

_NOISE = 0.05
"""Variance of what the features don't explain, in that of the process."""

_MOST = 2048
"""Cells remembered at most, spread over those there are: their kernel matrix takes a third of a second."""


@dataclass(frozen=True)
class Residual:
    """A Gaussian process of the surrogate's error on the scale of Eq. 4.

    Attributes
    ----------
    features : array, shape (k, w)
        The surrogate's last hidden layer for the cells that are known.
    weights : array, shape (k, 3)
    length : float
        Of the kernel.
    """

    features: Floats
    weights: Floats
    length: float

    @staticmethod
    def of(surrogate: Surrogate, z: Singles, C: Floats) -> Residual:
        """The process that knows the tensors C (k, 3) of cells z (k, d)."""
        if len(z) > _MOST:
            rows = np.linspace(0, len(z) - 1, _MOST).astype(np.int64)
            z, C = z[rows], C[rows]
        known = features(surrogate, z)
        device = next(surrogate.parameters()).device
        with torch.no_grad():
            last = torch.from_numpy(known).float().to(device)
            predicted = surrogate.tensors(last).double().cpu().numpy()
        length = _length(known)
        kernel = _kernel(torch.from_numpy(known), torch.from_numpy(known), length).numpy()
        missed = (C - predicted) / tensor.PAPER_SPAN
        return Residual(known, np.linalg.solve(kernel + _NOISE * np.eye(len(z)), missed), length)


class Corrected(nn.Module):
    """A surrogate with its residual: tensors (m, 3) of coordinates (m, d), differentiable.

    Parameters
    ----------
    surrogate : Surrogate
    residual : Residual
    """

    def __init__(self, surrogate: Surrogate, residual: Residual):
        super().__init__()
        self.surrogate, self._length = surrogate, residual.length
        at = next(surrogate.parameters()).device
        self._features = torch.from_numpy(residual.features).to(at)
        self._weights = torch.from_numpy(residual.weights * tensor.PAPER_SPAN).to(at)

    def forward(self, z: Tensor) -> Tensor:
        """Tensors (m, 3); those of very soft cells need not be positive definite."""
        at = self.surrogate.features(z)
        more = _kernel(at.double(), self._features, self._length) @ self._weights
        return self.surrogate.tensors(at) + more.to(z)


def features(surrogate: Surrogate, z: Singles) -> Floats:
    """The last hidden layer (m, w) of a surrogate for coordinates (m, d)."""
    return by_rows(surrogate, surrogate.features, z)


def most_telling(surrogate: Surrogate, z: Singles, count: int) -> Ints:
    """Rows of z (m, d) that say most about all others: ``count`` of them, the first the most.

    Each is the one of which the process knows least when it knows those before (a Cholesky factorisation with
    pivots).

    Parameters
    ----------
    surrogate : Surrogate
    z : array, shape (m, d)
    count : int
        At most m.
    """
    at = torch.from_numpy(features(surrogate, z))
    length = _length(at.numpy())
    unknown = np.ones(len(z))
    factor = np.zeros((count, len(z)))
    rows = np.empty(count, dtype=np.int64)
    for k in range(count):
        i = rows[k] = int(np.argmax(unknown))
        column = _kernel(at[i : i + 1], at, length).numpy()[0] - factor[:k, i] @ factor[:k]
        factor[k] = column / np.sqrt(unknown[i])
        unknown = np.maximum(unknown - factor[k] ** 2, 0.0)
        unknown[rows[: k + 1]] = -1.0
    return rows


def _length(points: NDArray[np.float64]) -> float:
    """Of the kernel for points (k, w)."""
    some = torch.from_numpy(points[:: max(1, len(points) // 256)])
    apart = torch.pdist(some)
    return _LENGTH * float(apart.median()) if len(apart) else 1.0


def _kernel(a: Tensor, b: Tensor, length: float) -> Tensor:
    """Matern's kernel of smoothness 3/2 between points (m, w) and (k, w), (m, k)."""
    square = (a**2).sum(dim=1)[:, None] + (b**2).sum(dim=1) - 2 * a @ b.T
    # The root has no slope at zero.
    scaled = (3 * square.clamp_min(0.0) / length**2 + 1e-12).sqrt()
    return (1 + scaled) * (-scaled).exp()
