"""Groups of elements that share one cell, because their wanted tensors are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micro.cell.tensor import PAPER_SPAN, tensor_error
from micro.runtime.arrays import Floats


@dataclass(frozen=True, eq=False)
class Groups:
    """Elements by group.

    Attributes
    ----------
    label : int array (N,)
        Group of each element.
    target : array (m, 3)
        The tensor wanted of each group's cell: the mean of its members'.
    size : int array (m,)
        Number of members.
    """

    label: NDArray[np.int64]
    target: Floats
    size: NDArray[np.int64]


def group_tensors(tensors: Floats, tolerance: float) -> Groups:
    """Group tensors (N, 3) so that each lies within ``tolerance`` of its group's mean.

    The tensor error (Eq. 4) is a scaled L1 distance, so boxes of edge ``tolerance`` in units of the
    paper's ranges keep every member within it of every other, hence of their mean. The grid of boxes
    starts at the smallest tensor, which makes the result independent of the elements' order.
    """
    if tolerance <= 0:
        raise ValueError("tolerance must be positive")
    scaled = tensors / PAPER_SPAN
    # Rounding keeps equal tensors, computed in different orders, in one box.
    box = np.floor(np.round((scaled - scaled.min(axis=0)) / tolerance, 9)).astype(np.int64)
    _, label, size = np.unique(box, axis=0, return_inverse=True, return_counts=True)
    label = label.reshape(-1)
    target = np.stack([np.bincount(label, tensors[:, c]) for c in range(3)], axis=-1) / size[:, None]
    assert float(tensor_error(tensors, target[label]).max(initial=0.0)) <= tolerance * (1 + 1e-6)
    return Groups(label, target, size)
