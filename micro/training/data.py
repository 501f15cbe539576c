"""What training reads: the settings, the encoded cells, and the homogeniser's slopes at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micro.diffusion.conditions import Conditions
from micro.shape.space import ShapeSpace, half_period


@dataclass(frozen=True)
class Settings:
    """What determines a training run.

    Attributes
    ----------
    dimension : int
        Coordinates of the shape space.
    width, depth, dropout : of the denoiser
    batch : int
    rate : float
        Learning rate; after a warm-up constant, and falling linearly to zero over the last two fifths.
    samples : int
        Cells shown to the denoiser in all.
    surrogate_samples : int
        Cells shown to the surrogate in all.
    slopes : int
        Cells whose derivatives the surrogate learns from too (each costs a homogenisation, once).
    slope_weight : float
        Of the surrogate's slopes, if there are any to learn from, beside its tensors.
    decay : float
        Of the averaged weights, per step.
    seed : int
    """

    dimension: int = 256
    width: int = 512
    depth: int = 5
    dropout: float = 0.0
    batch: int = 256
    rate: float = 1.5e-3
    samples: int = 4_000_000
    surrogate_samples: int = 3_000_000
    surrogate_width: int = 384
    surrogate_depth: int = 4
    slopes: int = 0
    slope_weight: float = 0.02
    decay: float = 0.999
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Data:
    """What is known of m cells and of their half-period shifts, 2 m rows.

    Attributes
    ----------
    z, C, volume : Tensors, shapes (2 m, d), (2 m, 3), (2 m,)
    open : Tensor, shape (2 m,)
        1 for cells that enclose no void in a lattice of their own kind, else 0.
    """

    z: Tensor
    C: Tensor
    volume: Tensor
    open: Tensor

    @staticmethod
    def encode(space: ShapeSpace, distance: NDArray, C: NDArray, volume: NDArray, open: NDArray) -> Data:
        """From signed distances (m, q), tensors (m, 3), volumes (m,) and openness (m,).

        Parameters
        ----------
        space : ShapeSpace
        distance : array, shape (m, q)
        C : array, shape (m, 3)
        volume, open : arrays, shape (m,)
        """
        z = np.concatenate([space.encode(distance), space.encode(distance[:, half_period(space.n)])])
        return Data(
            torch.from_numpy(z),
            torch.from_numpy(np.concatenate([C, C])).float(),
            torch.from_numpy(np.concatenate([volume, volume])).float(),
            # The shifted cell makes up the same lattice.
            torch.from_numpy(np.concatenate([open, open])).float(),
        )

    def conditions(self) -> Conditions:
        """What each cell would be asked for by all that is known of it."""
        C, volume, free = (x.cpu().numpy() for x in (self.C, self.volume, self.open))
        return Conditions.of(C, volume, free).to(self.z.device)

    def to(self, device: torch.device) -> Data:
        """The same on another device."""
        return Data(*(x.to(device) for x in (self.z, self.C, self.volume, self.open)))

    def __len__(self) -> int:
        return len(self.z)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Derivatives (k, 3, d) of the tensor by the coordinates, of some rows (k,) of the data."""

    rows: Tensor
    values: Tensor

    @staticmethod
    def encode(space: ShapeSpace, rows: NDArray, values: NDArray, count: int) -> Slopes:
        """Those (k, 3, d) of cells ``rows`` (k,) of ``count``, and of their half-period shifts.

        Parameters
        ----------
        space : ShapeSpace
        rows : int array, shape (k,)
        values : array, shape (k, 3, d)
        count : int
        """
        turn = torch.from_numpy(space.half_period_map())
        own, at = torch.from_numpy(np.asarray(values, dtype=np.float32)), torch.from_numpy(rows)
        return Slopes(torch.cat([at, at + count]), torch.cat([own, own @ turn.T]).half())

    def to(self, device: torch.device) -> Slopes:
        """The same on another device."""
        return Slopes(self.rows.to(device), self.values.to(device))
