"""A regressor from a cell's coordinates to its tensor: screens candidates and points the way to a target."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from micro.cell import tensor
from micro.runtime.arrays import Floats, Singles
from micro.shape.space import in_blocks

_SPAN = torch.from_numpy(tensor.PAPER_SPAN.copy()).float()
_SOLID = torch.from_numpy(tensor.to_moduli(tensor.SOLID)).float()
_SOFTEST = 1e-5


class _Layer(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * self.contract(self.dropout(functional.silu(self.expand(self.norm(x)))))


class Surrogate(nn.Module):
    """C11, C12, C44 in units of E_s of coordinates (m, d); positive definite by construction.

    The network gives the logarithms of the scaled moduli K/K_s, mu'/G_s and G/G_s.

    Parameters
    ----------
    dimension : int
        Coordinates of a cell.
    width, depth : int
        Of the layers, and their number.
    dropout : float
    """

    def __init__(self, dimension: int, width: int, depth: int, dropout: float = 0.0):
        super().__init__()
        self.dimension, self.width, self.depth = dimension, width, depth
        self.inlet = nn.Linear(dimension, width)
        self.layers = nn.ModuleList(_Layer(width, dropout) for _ in range(depth))
        self.outlet = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def start_from(self, other: Surrogate) -> None:
        """Take the weights of one of the same layers, of as many coordinates or fewer; deaf to new ones."""
        state = dict(other.state_dict())
        more = self.dimension - other.dimension
        state["inlet.weight"] = functional.pad(state["inlet.weight"], (0, more))
        self.load_state_dict(state)

    def features(self, z: Tensor) -> Tensor:
        """The last hidden layer, (m, width)."""
        x = self.inlet(z)
        for layer in self.layers:
            x = layer(x)
        return x

    def of_features(self, x: Tensor) -> Tensor:
        """Logarithms (m, 3) of the scaled moduli, of the last hidden layer (m, width)."""
        return 3 * self.outlet(x) - 3

    def logarithms(self, z: Tensor) -> Tensor:
        """Logarithms of the scaled moduli, (m, 3)."""
        return self.of_features(self.features(z))

    def tensors(self, x: Tensor) -> Tensor:
        """Tensors (m, 3) of the last hidden layer (m, width)."""
        return _tensors(self.of_features(x))

    def forward(self, z: Tensor) -> Tensor:
        """Tensors (m, 3)."""
        return _tensors(self.logarithms(z))

    def loss(self, z: Tensor, C: Tensor) -> Tensor:
        """Mean of Eq. 4 and a tenth of the logarithms' absolute error, the relative one, for soft cells."""
        low = self.logarithms(z)
        moduli = torch.stack([(C[:, 0] + 2 * C[:, 1]) / 3, (C[:, 0] - C[:, 1]) / 2, C[:, 2]], dim=-1)
        wanted = (moduli / _SOLID.to(z)).clamp_min(_SOFTEST).log()
        return error(_tensors(low), C).mean() + 0.1 * functional.l1_loss(low, wanted)

    def slope_loss(self, z: Tensor, slopes: Tensor, mix: Tensor) -> Tensor:
        """Square error of the derivative of a mix (m, 3) of the scaled constants, relative to its size.

        ``slopes`` (m, 3, d) are the homogeniser's (:mod:`micro.shape.slopes`). A cell has three constants
        but three times d slopes: they say far more of the map near the cell than its tensor does
        (Czarnecki et al. 2017, "Sobolev training for neural networks").
        """
        at = z.detach().requires_grad_(True)
        scaled = self(at) / _SPAN.to(at)
        (found,) = torch.autograd.grad((scaled * mix).sum(), at, create_graph=True)
        wanted = torch.einsum("mc,mcd->md", mix, slopes)
        return ((found - wanted) ** 2).sum() / (wanted**2).sum().clamp_min(1e-12)


def by_rows(surrogate: nn.Module, function: Callable[[Tensor], Tensor], z: Singles) -> Floats:
    """A function of coordinates (m, d) without its derivatives, a fixed number of rows at once.

    Parameters
    ----------
    surrogate : Module
        Says on which device.
    function : callable
    z : array, shape (m, d)
    """
    device = next(surrogate.parameters()).device

    def block(rows: Singles) -> Floats:
        with torch.no_grad():
            return function(torch.from_numpy(rows).to(device)).double().cpu().numpy()

    return in_blocks(block, z)


def _tensors(logarithms: Tensor) -> Tensor:
    """Tensors (m, 3) of scaled moduli's logarithms."""
    bulk, tetragonal, shear = (logarithms.clamp(-14, 0.2).exp() * _SOLID.to(logarithms)).unbind(-1)
    return torch.stack([bulk + 4 * tetragonal / 3, bulk - 2 * tetragonal / 3, shear], dim=-1)


def error(C: Tensor, wanted: Tensor) -> Tensor:
    """The founding paper's Eq. 4 in torch, as :func:`micro.cell.tensor.tensor_error`; (m, 3) to (m,)."""
    return ((C - wanted) / _SPAN.to(C)).abs().mean(dim=-1)
