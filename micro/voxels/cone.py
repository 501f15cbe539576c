"""The cone filter: a weighted mean over the neighbours within a radius.

``m_e = sum_j w_ej x_j / sum_j w_ej`` with ``w_ej = max(0, R - |r_e - r_j|)`` (Bruns and Tortorelli 2001;
Bourdin 2001), on any part of a regular grid.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from micro.runtime.arrays import Ints


def cone_matrix(
    neighbour: Callable[[Ints], NDArray[np.integer]], count: int, radius: float
) -> sparse.csr_array:
    """Matrix of the filter over ``count`` elements.

    Parameters
    ----------
    neighbour : callable
        Gives for an offset (3,) the number of each element's neighbour there, (count,); -1 if it has none.
    count : int
    radius : float
        In edges of an element, above 0.

    Returns
    -------
    sparse array, shape (count, count)
        Every row's sum is one.
    """
    rows, columns, weights = [], [], []
    reach = int(np.ceil(radius)) - 1
    for offset in product(range(-reach, reach + 1), repeat=3):
        weight = radius - float(np.linalg.norm(offset))
        if weight <= 0.0:
            continue
        there = neighbour(np.array(offset))
        found = np.flatnonzero(there >= 0)
        rows.append(found)
        columns.append(there[found])
        weights.append(np.full(len(found), weight))
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    matrix = sparse.coo_array(entries, shape=(count, count)).tocsr()
    return sparse.csr_array(sparse.diags_array(1.0 / matrix.sum(axis=1)) @ matrix)
