"""Cone filter on the design elements (:mod:`micro.voxels.cone`).

Without it an optimum exploits the mesh: its distortion grows when the mesh is refined. Neighbours across a
mirror plane are the images of elements of the reduced grid, so the filter of the reduced grid equals that of
the whole.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from micro.runtime.arrays import Bools, Ints
from micro.voxels.cone import cone_matrix


def cone_filter(design: Bools, radius: float, mirror_axes: tuple[int, ...] = ()) -> sparse.csr_array:
    """Filter matrix (N, N) over the N design elements of a reduced grid.

    Parameters
    ----------
    design : bool array (mx, my, mz)
        Design elements; the matrix's rows follow ``np.flatnonzero(design)``.
    radius : float
        In element edges; up to 1 the filter is the identity.
    mirror_axes : tuple of int
        Axes whose low face is a mirror plane.
    """
    number = np.full(design.shape, -1, dtype=np.int64)
    number[design] = np.arange(np.count_nonzero(design))
    position = np.argwhere(design)

    def neighbour(offset: Ints) -> Ints:
        there = position + offset
        for axis in mirror_axes:
            # Index -1 is the image of 0, -2 of 1, ...
            below = there[:, axis] < 0
            there[below, axis] = -1 - there[below, axis]
        inside = np.all((there >= 0) & (there < design.shape), axis=1)
        found = np.full(len(position), -1, dtype=np.int64)
        found[inside] = number[tuple(there[inside].T)]
        return found

    return cone_matrix(neighbour, len(position), max(radius, 1.0))
