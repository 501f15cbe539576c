"""The corners of a grid's elements: their order, and the nodes where elements meet."""

from __future__ import annotations

from itertools import product

import numpy as np

from micro.runtime.arrays import Bools

#: Offsets of the eight corners in local node order.
CORNERS = tuple((dx, dy, dz) for dx, dy, dz in product((0, 1), repeat=3))


def nodes_of(elements: Bools) -> Bools:
    """All nodes of the given elements: bool (nx, ny, nz) -> bool (nx+1, ny+1, nz+1)."""
    nx, ny, nz = elements.shape
    mask = np.zeros((nx + 1, ny + 1, nz + 1), dtype=bool)
    for dx, dy, dz in CORNERS:
        mask[dx : dx + nx, dy : dy + ny, dz : dz + nz] |= elements
    return mask
