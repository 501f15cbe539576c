"""The wish that a cell encloses no void in a lattice of its own kind.

Openness is no smooth function of the shape, but what opens a closed cell is a set of voxels: the finest
channels that drain its pockets (:func:`micro.shape.channels.drain`), found anew at every estimate and held
fixed in the gradient. How deep solid still stands in them is a function of the level set that guidance can
lower (:mod:`micro.generator.guidance`); the network makes a cell around the channels, instead of losing what
they are cut out of afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from micro.generator.guidance import Shape, Wish
from micro.shape.channels import closed_pockets, drain

LATE = 1.0
"""Noise below which estimates are sharp enough to have pockets worth draining."""

_MARGIN = 0.5
"""Voxels by which the surface is to lie beyond a channel's voxels."""


def openness() -> Wish:
    """The wish, for ``Generator.sample(..., guides=[openness()])``; best beside ``open=True``.

    Its value is the mean depth, in voxels, of the solid in the channels that are missing, 0 for an open cell.
    """
    return Wish(_missing_channels, goal=0.0)


def _missing_channels(shape: Shape) -> Tensor:
    """Mean depth (b,) of what stands in the way, in voxels."""
    if shape.noise > LATE:
        return torch.zeros(len(shape.z), device=shape.z.device)
    depth = 2 * shape.n * shape.level
    solids = (shape.level > 0).cpu().numpy()
    return torch.stack([_depth(row, solid, shape.n) for row, solid in zip(depth, solids, strict=True)])


def _depth(depth: Tensor, solid: np.ndarray, n: int) -> Tensor:
    if len(closed_pockets(~solid, n)[1]) == 0:
        return 0.0 * depth.sum()
    plan = drain(solid, np.ones(len(solid)), n)
    if plan is None:
        return 0.0 * depth.sum()
    off = torch.zeros_like(depth)
    for voxels, sign in ((plan.channels, 1.0), (plan.filled, -1.0)):
        at = torch.from_numpy(voxels).to(depth.device)
        off = off + at * torch.relu(sign * depth + _MARGIN)
    return off.sum() / max(1, int(plan.channels.sum() + plan.filled.sum()))
