"""What a cell is asked for: a tensor, a volume fraction, both or neither, as numbers for a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from micro.cell import tensor
from micro.runtime.errors import InputError

NUMBERS = 7
"""Numbers that describe a condition: six of the tensor, one of the volume."""

_OF = [0] * (NUMBERS - 1) + [1]
"""For each number whether it belongs to the tensor (0) or to the volume (1)."""

_SOFTEST = 1e-5
"""Scaled moduli are cut off here before their logarithm."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of m cells.

    Attributes
    ----------
    numbers : Tensor, shape (m, NUMBERS)
        Zero where nothing is asked.
    given : Tensor, shape (m, 2)
        1 or 0: whether the tensor, and whether the volume is asked for.
    """

    numbers: Tensor
    given: Tensor

    @staticmethod
    def of(C: ArrayLike | None, volume: ArrayLike | None, count: int | None = None) -> Conditions:
        """Conditions on tensors (m, 3) in units of E_s and volume fractions (m,), either may be None.

        NaN rows and entries ask for nothing. With both None, ``count`` says how many.
        """
        sizes = [len(np.asarray(x)) for x in (C, volume) if x is not None]
        m = sizes[0] if sizes else count
        if m is None or any(s != m for s in sizes):
            raise InputError("tensors (m, 3) and volumes (m,) must agree in number", value=sizes)
        tensors = np.full((m, 3), np.nan) if C is None else np.asarray(C, dtype=np.float64).reshape(m, 3)
        volumes = np.full(m, np.nan) if volume is None else np.asarray(volume, dtype=np.float64).reshape(m)
        numbers = np.concatenate([_tensor_numbers(tensors), (2 * volumes - 1)[:, None]], axis=1)
        given = np.isfinite(np.stack([tensors.sum(axis=1), volumes], axis=1))
        numbers = np.where(given[:, _OF], numbers, 0.0)
        return Conditions(torch.from_numpy(numbers).float(), torch.from_numpy(given).float())

    def dropped(self) -> Conditions:
        """The same number of cells, nothing asked of them."""
        return Conditions(torch.zeros_like(self.numbers), torch.zeros_like(self.given))

    def masked(self, keep: Tensor) -> Conditions:
        """Only what ``keep`` (m, 2) lets through."""
        given = self.given * keep
        return Conditions(self.numbers * per_number(given), given)

    def to(self, device: torch.device) -> Conditions:
        """The same on another device."""
        return Conditions(self.numbers.to(device), self.given.to(device))

    def rows(self, index: Tensor | slice) -> Conditions:
        """Some of the cells."""
        return Conditions(self.numbers[index], self.given[index])


def per_number(given: Tensor) -> Tensor:
    """Flags (m, 2) of tensor and volume, one for each number: (m, NUMBERS)."""
    return given[:, _OF]


def _tensor_numbers(C: NDArray[np.float64]) -> NDArray[np.float64]:
    """Constants on the scale of Eq. 4 (-1 to 1), and the moduli's logarithms, which tell soft cells apart."""
    low, high = tensor.PAPER_RANGE.T
    scaled = np.maximum(tensor.to_moduli(C) / tensor.to_moduli(tensor.SOLID), _SOFTEST)
    return np.concatenate([2 * (C - low) / (high - low) - 1, (np.log(scaled) + 3) / 2], axis=1)
