"""Groups of elements that share one cell, because their wanted tensors are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micro.cell.tensor import PAPER_SPAN, Bounds, stretched
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


def group_tensors(tensors: Floats, bounds: Bounds) -> Groups:
    """Group tensors (N, 3) so that each lies within ``bounds`` of its group's mean.

    The tensor error (Eq. 4) is a scaled L1 distance, so boxes of edge ``bounds.tolerance`` in units of the
    paper's ranges keep every member within it of every other, hence of their mean. The grid of boxes
    starts at the smallest tensor. Boxes of soft tensors, in which a member is farther from the mean than
    ``bounds.relative`` allows, are halved across their members' widest extent until none is. So the result
    does not depend on the elements' order.
    """
    if not (bounds.tolerance > 0 and bounds.relative > 0):
        raise ValueError("tolerances must be positive")
    tolerance = bounds.tolerance
    scaled = tensors / PAPER_SPAN
    # Rounding keeps equal tensors, computed in different orders, in one box.
    box = np.floor(np.round((scaled - scaled.min(axis=0)) / tolerance, 9)).astype(np.int64)
    _, label, size = np.unique(box, axis=0, return_inverse=True, return_counts=True)
    label = label.reshape(-1)
    while True:
        target = np.stack([np.bincount(label, tensors[:, c]) for c in range(3)], axis=-1) / size[:, None]
        far = bounds.error(tensors, target[label]) > tolerance * (1 + 1e-6)
        if not far.any():
            return Groups(label, target, size)
        label, size = _halved(tensors, label, np.unique(label[far]))


def _halved(
    tensors: Floats, label: NDArray[np.int64], groups: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels (N,) and sizes after some groups are parted in the middle of their widest extent."""
    at = stretched(tensors)
    count = int(label.max()) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, label, at)
    np.maximum.at(high, label, at)
    axis = (high - low).argmax(axis=1)
    middle = (low + high)[np.arange(count), axis] / 2
    parted = np.isin(label, groups) & (at[np.arange(len(at)), axis[label]] > middle[label])
    _, new, size = np.unique(2 * label + parted, return_inverse=True, return_counts=True)
    return new.reshape(-1), size
