"""What a cell is asked for, as numbers for a network: a tensor, a volume fraction, openness, any or none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from micro.cell import tensor
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError

KINDS = ("tensor", "volume", "openness")
"""What can be asked for; a network may know only the first of them (:class:`Denoiser`)."""

_SIZES = (6, 1, 1)
"""Numbers that describe each of :data:`KINDS`."""

_OF = [kind for kind, size in enumerate(_SIZES) for _ in range(size)]
"""For each number the kind that it belongs to."""

_SOFTEST = 1e-5
"""Scaled moduli are cut off here before their logarithm."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of m cells.

    Attributes
    ----------
    numbers : Tensor, shape (m, 8)
        Six of the tensor, one of the volume, one of openness (1 open, -1 closed); zero where
        nothing is asked.
    given : Tensor, shape (m, 3)
        1 or 0: whether the tensor, the volume, and openness is asked for.
    """

    numbers: Tensor
    given: Tensor

    @staticmethod
    def of(
        C: ArrayLike | None,
        volume: ArrayLike | None = None,
        open: ArrayLike | None = None,
        count: int | None = None,
    ) -> Conditions:
        """Conditions on tensors (m, 3) in units of E_s, volumes (m,) and openness (m,); any may be None.

        Openness is 1 for a cell that encloses no void in a lattice of its own kind, 0 for one that does. NaN
        rows and entries ask for nothing. With all None, ``count`` says how many.

        Parameters
        ----------
        C : array, shape (m, 3), optional
        volume, open : arrays, shape (m,), optional
        count : int, optional
            How many, with nothing asked for.

        Raises
        ------
        InputError
            If the arrays do not agree in number.
        """
        sizes = [len(np.asarray(x)) for x in (C, volume, open) if x is not None]
        m = sizes[0] if sizes else count
        if m is None or any(s != m for s in sizes):
            raise InputError(
                "tensors (m, 3), volumes (m,) and openness (m,) must agree in number", value=sizes
            )
        tensors = np.full((m, 3), np.nan) if C is None else np.asarray(C, dtype=np.float64).reshape(m, 3)
        scalars = [
            np.full(m, np.nan) if x is None else np.asarray(x, dtype=np.float64).reshape(m)
            for x in (volume, open)
        ]
        numbers = np.column_stack([_tensor_numbers(tensors), *(2 * x - 1 for x in scalars)])
        given = np.isfinite(np.stack([tensors.sum(axis=1), *scalars], axis=1))
        numbers = np.where(given[:, _OF], numbers, 0.0)
        return Conditions(torch.from_numpy(numbers).float(), torch.from_numpy(given).float())

    def dropped(self) -> Conditions:
        """The same number of cells, nothing asked of them."""
        return Conditions(torch.zeros_like(self.numbers), torch.zeros_like(self.given))

    def masked(self, keep: Tensor) -> Conditions:
        """Only what ``keep`` (m, 3) lets through."""
        given = self.given * keep
        return Conditions(self.numbers * per_number(given), given)

    def to(self, device: torch.device) -> Conditions:
        """The same on another device."""
        return Conditions(self.numbers.to(device), self.given.to(device))

    def rows(self, index: Tensor | slice) -> Conditions:
        """Some of the cells."""
        return Conditions(self.numbers[index], self.given[index])

    def first(self, kinds: int) -> Conditions:
        """Those of the first ``kinds`` of :data:`KINDS`: all that an older network knows."""
        return Conditions(self.numbers[:, : numbers_of(kinds)], self.given[:, :kinds])


def numbers_of(kinds: int) -> int:
    """Numbers that describe the first ``kinds`` of :data:`KINDS`."""
    return sum(_SIZES[:kinds])


def per_number(given: Tensor) -> Tensor:
    """Flags (m, k) of the first k kinds, one for each of their numbers."""
    return given[:, _OF[: numbers_of(given.shape[1])]]


def _tensor_numbers(C: Floats) -> Floats:
    """Constants on the scale of Eq. 4 (-1 to 1), and the moduli's logarithms, which tell soft cells apart."""
    low, high = tensor.PAPER_RANGE.T
    scaled = np.maximum(tensor.to_moduli(C) / tensor.to_moduli(tensor.SOLID), _SOFTEST)
    return np.concatenate([2 * (C - low) / (high - low) - 1, (np.log(scaled) + 3) / 2], axis=1)
