"""The compiled part of :mod:`micro.shape.distance`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Singles
from micro.voxels.compilation import entry


@entry
def squared_distances(goal: Bools, number: NDArray[np.int32], out: Singles) -> None:
    """Squared distances in voxels of the chamber's voxels to the nearest voxel of ``goal``.

    One axis after the other (Felzenszwalb and Huttenlocher 2012, section 4), by exhaustion, but only for
    what the chamber needs: the last axis' loops are innermost, which the compiler turns into vectors. Whole
    numbers in single precision: all are far below 2^24. At least 4 n^2 where there is no goal at all.

    Parameters
    ----------
    goal : bool array, shape (m, n, n, n)
        Symmetric under permutation of the axes.
    number : int array, shape (n, n, n)
        Which of the chamber's voxels (x, y, z) with x <= y <= z is.
    out : array, shape (m, q)
        Filled.
    """
    n = goal.shape[1]
    far = np.float32(2 * n)
    one = np.float32(1)
    along = np.empty((n, n, n), np.float32)
    plane = np.empty((n, n), np.float32)
    line = np.empty(n, np.float32)
    offset = np.empty((n, n), np.float32)
    for i in range(n):
        for k in range(n):
            offset[i, k] = (i - k) * (i - k)
    for c in range(len(goal)):
        for x in range(n):
            for y in range(n):
                for z in range(n):
                    before = far if x == 0 else along[x - 1, y, z] + one
                    along[x, y, z] = np.float32(0) if goal[c, x, y, z] else min(before, far)
        for x in range(n - 2, -1, -1):
            for y in range(n):
                for z in range(n):
                    along[x, y, z] = min(along[x, y, z], along[x + 1, y, z] + one)
        for x in range(n):
            for y in range(n):
                for z in range(n):
                    plane[y, z] = along[x, y, z] * along[x, y, z]
            for y in range(x, n):
                for z in range(n):
                    line[z] = plane[0, z] + offset[y, 0]
                for t in range(1, n):
                    row, more = plane[t], offset[y, t]
                    for z in range(n):
                        line[z] = min(line[z], row[z] + more)
                first = number[x, y, y]
                best = out[c, first : first + n - y]
                own = offset[0, y:]
                for k in range(n - y):
                    best[k] = line[0] + own[k]
                for t in range(1, n):
                    own = offset[t, y:]
                    for k in range(n - y):
                        best[k] = min(best[k], line[t] + own[k])
