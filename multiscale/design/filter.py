"""Cone filter on the design elements.

``m_e = sum_j w_ej x_j / sum_j w_ej`` with ``w_ej = max(0, R - |r_e - r_j|)`` over
the design elements j within the radius R (Bruns and Tortorelli 2001; Bourdin
2001). Without it an optimum exploits the mesh: its distortion grows when the
mesh is refined. Neighbours across a mirror plane are the images of elements of
the reduced grid, so the filter of the reduced grid equals that of the whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def cone_filter(
    design: NDArray[np.bool_], radius: float, mirror_axes: tuple[int, ...] = ()
) -> sparse.csr_array:
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
    radius = max(radius, 1.0)
    reach = int(np.ceil(radius)) - 1
    rows, columns, weights = [], [], []
    for offset in np.ndindex(*(3 * (2 * reach + 1,))):
        shift = np.array(offset) - reach
        weight = radius - float(np.linalg.norm(shift))
        if weight <= 0.0:
            continue
        neighbour = position + shift
        for axis in mirror_axes:
            # Index -1 is the image of 0, -2 of 1, ...
            below = neighbour[:, axis] < 0
            neighbour[below, axis] = -1 - neighbour[below, axis]
        inside = np.all((neighbour >= 0) & (neighbour < design.shape), axis=1)
        hit = np.full(len(position), -1, dtype=np.int64)
        hit[inside] = number[tuple(neighbour[inside].T)]
        found = hit >= 0
        rows.append(np.flatnonzero(found))
        columns.append(hit[found])
        weights.append(np.full(int(found.sum()), weight))
    n = len(position)
    matrix = sparse.coo_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(n, n)
    ).tocsr()
    return sparse.csr_array(sparse.diags_array(1.0 / matrix.sum(axis=1)) @ matrix)
