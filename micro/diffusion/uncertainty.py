"""How far a surrogate is likely to be off, told from its own last hidden layer.

What decides a cell's tensor can be finer than what a surrogate sees: in thick solid with slits a bridge of a
voxel closes some of them. Which it is the surrogate can't tell, but that a cell is of such a kind it can: of
cells that one had not learned from, the eighth that it was surest of had a fifteenth of the error of the
eighth that it was least sure of. Where one is as good as another, the surer one is the better choice.

Learned like the variance in Nix and Weigend (1994), with errors taken as exponentially distributed, so that
what is learned is their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from micro.diffusion.surrogate import Surrogate, by_rows
from micro.runtime.arrays import Floats, Singles

_USUAL = -5.0
"""Logarithm of the error at which the network's own output is zero."""

LEAST = 1e-4
"""Added to errors: what is below makes no difference."""


class Uncertainty(nn.Module):
    """The mean error (m,) that a surrogate's last hidden layer (m, width) lets expect.

    The error is that of :data:`micro.generator.steering.NEAR`: the tensor error (Eq. 4), or a tenth of the
    relative one if that is larger.

    Parameters
    ----------
    width : int
        Of the surrogate's last hidden layer.
    hidden : int
        Width of the layers.
    dropout : float
    """

    def __init__(self, width: int, hidden: int = 128, dropout: float = 0.0):
        super().__init__()
        self.sizes = {"width": width, "hidden": hidden}
        self.layers = nn.Sequential(
            nn.LayerNorm(width, elementwise_affine=False),
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Mean errors (m,)."""
        return self._logarithms(features).exp()

    def loss(self, features: Tensor, error: Tensor) -> Tensor:
        """Mean negative log-likelihood of errors (m,)."""
        logarithm = self._logarithms(features)
        return (logarithm + (error + LEAST) * (-logarithm).exp()).mean()

    def _logarithms(self, features: Tensor) -> Tensor:
        return self.layers(features)[:, 0] + _USUAL


def predict_with_error(
    surrogate: Surrogate, uncertainty: Uncertainty | None, z: Singles
) -> tuple[Floats, Floats]:
    """Tensors (m, 3) of coordinates (m, d), and their expected errors (m,): 0 where nothing tells.

    Parameters
    ----------
    surrogate : Surrogate
    uncertainty : Uncertainty, optional
        Of this surrogate.
    z : array, shape (m, d)
    """

    def rows(z: Tensor) -> Tensor:
        features = surrogate.features(z)
        C = surrogate.tensors(features)
        error = torch.zeros(len(C)).to(C) if uncertainty is None else uncertainty(features)
        return torch.cat([C, error[:, None]], dim=1)

    found = by_rows(surrogate, rows, z)
    return found[:, :3], found[:, 3]
