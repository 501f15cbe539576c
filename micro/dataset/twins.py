"""Opened twins: cells that enclose void, with channels that drain them and nearly their tensor."""

from __future__ import annotations

import numpy as np

from micro.cell import tensor
from micro.cell.chamber import chamber
from micro.cell.octant import largest_component
from micro.library.labelling import presentable
from micro.runtime.arrays import Bools, Floats
from micro.shape.channels import drain, is_open
from micro.shape.derivative import voxel_rates

_OFFSETS = np.arange(0.0, 2.05, 0.1)
"""Voxels by which the surface of a twin may move outwards to make up for its channels."""


def opened(octant: Bools, level: Floats, gradient: Floats) -> Bools | None:
    """The octant with the finest channels that drain it, and nearly its tensor; None if that fails.

    The channels soften the cell: its surface moves outwards so far that, by the tensor's derivatives, the
    change on the scale of Eq. 4 is least.

    Parameters
    ----------
    octant : bool array, shape (n, n, n)
    level : array, shape (q,)
        Distance to its surface in voxels, positive inside, on the chamber.
    gradient : array, shape (3, n, n, n)
        dC / d(modulus) (:func:`micro.homogenize.sensitivity.sensitivities`).
    """
    n = len(octant)
    grid = chamber(n)
    solid = grid.fold(octant)
    share = np.abs(grid.fold(gradient)) / tensor.PAPER_SPAN[:, None]
    plan = drain(solid, share.sum(axis=0), n)
    if plan is None:
        return None
    rate = grid.fold(voxel_rates(gradient, octant)) * grid.weights
    tried = []
    for offset in _OFFSETS:
        new = ((level + offset > 0) & ~plan.channels) | plan.filled
        change = rate[:, new & ~solid].sum(axis=1) - rate[:, solid & ~new].sum(axis=1)
        tried.append((float(np.linalg.norm(change / tensor.PAPER_SPAN)), float(offset), new))
    for _, _, new in sorted(tried, key=lambda t: t[:2]):
        kept = largest_component(grid.unfold(new))
        if presentable(kept) and is_open(kept):
            return kept
    return None
