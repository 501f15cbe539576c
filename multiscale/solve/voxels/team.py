"""Threads that share the loops over one field of voxels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Floats, Ints
from multiscale.solve.voxels import kernels

Field = NDArray[Any]
Sparse = tuple[Ints, Floats]
"""Flat indices into a nodal field (X, Y, 3, Z), and values."""


class Team:
    """Threads that share out the planes of a field; results do not depend on their number.

    A field may be one slab of a larger one (:mod:`multiscale.solve.voxels.slabs`); what ranks have to tell
    each other is said by methods that do nothing here.

    Parameters
    ----------
    threads : int

    Attributes
    ----------
    rank, size : int
        This process among those that hold slabs.
    first : int
        The field's first plane in the whole one, on the finest grid.
    shared_levels : int
        Grids, from the finest one, that are held in slabs.
    beside : int
        Ranks on this machine.
    alone : Team
        For fields that every rank holds whole.
    """

    rank, size, first, shared_levels, beside = 0, 1, 0, 0, 1

    def __init__(self, threads: int = 1):
        self.alone = self
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
        own = self.owned(len(a))
        return self.total(float(sum(self.run(lambda i, j: kernels.dot(a, b, i, j), own))))

    def combine(self, x: Field, factor: float, y: Field, scale: float = 1.0) -> None:
        """y = scale y + factor x in place.

        Parameters
        ----------
        x, y : fields
        factor, scale : float
        """
        f, s = x.dtype.type(factor), y.dtype.type(scale)
        self.run(lambda i, j: kernels.combine(x, f, y, s, i, j), len(y))

    # ---------------------------------------------------------------- between ranks
    def ends(self, planes: int) -> tuple[int, ...]:
        """Planes of a field that a neighbour holds too."""
        return ()

    def owned(self, planes: int) -> int:
        """How many planes count in sums over the whole field: the last one may be a neighbour's."""
        return planes

    def swap(self, low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """What the neighbours below and above have for the same planes; None where there is none."""
        return None, None

    def add_shared(self, field: NDArray[Any]) -> None:
        """Add up what both holders of a plane have there."""

    def total(self, value: float) -> float:
        """A number, summed over the ranks."""
        return value

    def largest(self, value: float) -> float:
        """The largest over the ranks."""
        return value

    def smallest(self, value: float) -> float:
        """The smallest over the ranks."""
        return -self.largest(-value)

    def gathered(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows of all ranks, one after the other."""
        return rows

    def summed(self, field: Field) -> None:
        """A whole field, summed over the ranks in place."""

    def joined(self, index: NDArray[Any], table: Floats) -> tuple[NDArray[Any], Floats]:
        """Element matrices of the whole grid from those of the slabs: rows of ``table``, 0 the void."""
        return index, table

    def layers(self, voxels: int) -> slice:
        """Which layers of all ``voxels`` along x are held here."""
        return slice(0, voxels)

    def span(self, level: int) -> slice:
        """Which node planes of the whole field of a grid are held here; grids count from the finest."""
        return slice(None)

    def pieces(self, labels: NDArray[Any]) -> tuple[Ints, int]:
        """Which piece of the whole solid each label of this slab's is, and how many pieces there are.

        Parameters
        ----------
        labels : int (nx, ny, nz)
            Pieces of the voxels held here, from 1; 0 is void.

        Returns
        -------
        number : (labels + 1,)
            Of each label; the void's is 0.
        count : int
            Of the numbers, the void's among them.
        """
        count = int(labels.max(initial=0)) + 1
        return np.arange(count), count

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
