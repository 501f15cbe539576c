"""Threads that share the loops over one field of voxels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from multiscale.solve import voxel_kernels as kernels

Field = NDArray[Any]


class Team:
    """Threads that share out the planes of a field; results do not depend on their number.

    Parameters
    ----------
    threads : int
    """

    def __init__(self, threads: int = 1):
        self.threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None

    def run(self, work: Callable[[int, int], Any], planes: int) -> list[Any]:
        """``work(first, last)`` on consecutive ranges that make up ``planes``; returns their results."""
        # The ranges, and with them the order of sums, are the same for any number of threads.
        parts = min(8, planes)
        ends = [planes * p // parts for p in range(parts + 1)]
        ranges = list(pairwise(ends))
        if self._pool is None:
            return [work(first, last) for first, last in ranges]
        return [f.result() for f in [self._pool.submit(work, first, last) for first, last in ranges]]

    def dot(self, a: Field, b: Field) -> float:
        """Inner product of two fields."""
        return float(sum(self.run(lambda i, j: kernels.dot(a, b, i, j), len(a))))

    def combine(self, x: Field, factor: float, y: Field, scale: float = 1.0) -> None:
        """y = scale y + factor x in place."""
        f, s = x.dtype.type(factor), y.dtype.type(scale)
        self.run(lambda i, j: kernels.combine(x, f, y, s, i, j), len(y))

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
