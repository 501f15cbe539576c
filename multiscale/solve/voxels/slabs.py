"""Voxels shared out over MPI ranks: slabs of layers along x, each with the node planes on both of its sides.

Ranks stand in a row. A plane of nodes between two slabs stands on both ranks, with the same values: what an
operator adds to it from either side is exchanged and summed (:meth:`SlabTeam.add_shared`), and the lower of
its two ranks leaves it out of sums over all nodes. Slabs are whole cells, so the grids of down to one element
(or an odd number of them) a cell are shared out in the same way; coarser ones are small and the same on all
ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from micro.runtime.arrays import Floats, Ints
from micro.runtime.errors import InputError
from multiscale.solve.petsc import PETSc
from multiscale.solve.voxels.team import Field, Team


def make_team(threads: int, cells: int, per_cell: int) -> Team:
    """The threads of one process, or of all ranks together.

    Parameters
    ----------
    threads : int
        Of each rank.
    cells : int
        Along x.
    per_cell : int
        Voxels along a cell's edge.

    Raises
    ------
    InputError
        If there are more ranks than cells along x, or several ranks and no mpi4py.
    """
    comm = PETSc.COMM_WORLD
    if comm.getSize() == 1:
        return Team(threads)
    if comm.getSize() > cells:
        raise InputError(f"there are {cells} cells along x: start at most as many ranks", key="mpiexec")
    try:
        ranks = comm.tompi4py()
    except ImportError as error:
        raise InputError("voxels on several ranks need mpi4py: pip install mpi4py", key="mpiexec") from error
    return SlabTeam(ranks, threads, cells, per_cell)


def ranks_beside() -> int:
    """Ranks on this machine, this one among them."""
    if PETSc.COMM_WORLD.getSize() == 1:
        return 1
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED).Get_size())


class SlabTeam(Team):
    """The ranks of a communicator, each with threads for the slab that it holds.

    Parameters
    ----------
    comm : mpi4py communicator
    threads, cells, per_cell : int
        As for :func:`make_team`.
    """

    def __init__(self, comm: Any, threads: int, cells: int, per_cell: int):
        super().__init__(threads)
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        ends = [cells * r // self.size * per_cell for r in range(self.size + 1)]
        self._ends = ends
        self.first, self.last = ends[self.rank], ends[self.rank + 1]
        self.shared_levels = (per_cell & -per_cell).bit_length() - 1
        self.alone = Team(threads)
        self.beside = ranks_beside()
        self._neighbours = [r if 0 <= r < self.size else None for r in (self.rank - 1, self.rank + 1)]

    # ---------------------------------------------------------------- planes in common
    def ends(self, planes: int) -> tuple[int, ...]:
        """As :class:`Team`."""
        return tuple(p for p, r in zip((0, planes - 1), self._neighbours, strict=True) if r is not None)

    def owned(self, planes: int) -> int:
        """As :class:`Team`."""
        return planes - (self._neighbours[1] is not None)

    def swap(self, low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """As :class:`Team`."""
        requests: list[Any] = []
        got: list[NDArray[Any] | None] = []
        for other, mine in zip(self._neighbours, (low, high), strict=True):
            if other is None:
                got.append(None)
                continue
            mine = np.ascontiguousarray(mine)
            theirs = np.empty_like(mine)
            got.append(theirs)
            requests += [self.comm.Isend(mine, other), self.comm.Irecv(theirs, other)]
        for request in requests:
            request.Wait()
        return got[0], got[1]

    def add_shared(self, field: NDArray[Any]) -> None:
        """As :class:`Team`."""
        below, above = self.swap(field[0], field[-1])
        if below is not None:
            field[0] += below
        if above is not None:
            field[-1] += above

    # ---------------------------------------------------------------- numbers and whole arrays
    def total(self, value: float) -> float:
        """As :class:`Team`."""
        return float(self.comm.allreduce(value))

    def largest(self, value: float) -> float:
        """As :class:`Team`."""
        return float(np.max(self.comm.allgather(value)))

    def gathered(self, rows: NDArray[Any]) -> NDArray[Any]:
        """As :class:`Team`."""
        return np.concatenate(self.comm.allgather(rows))

    def summed(self, field: Field) -> None:
        """As :class:`Team`."""
        whole = np.empty_like(field)
        self.comm.Allreduce(field, whole)
        field[:] = whole

    def joined(self, index: NDArray[Any], table: Floats) -> tuple[NDArray[Any], Floats]:
        """As :class:`Team`."""
        counts = self.comm.allgather((len(index), len(table)))
        before = sum(m for _, m in counts[: self.rank])
        layers = sum(n for n, _ in counts)
        whole = np.zeros((layers, *index.shape[1:]), index.dtype)
        at = sum(n for n, _ in counts[: self.rank])
        whole[at : at + len(index)] = np.where(index > 0, index + before, 0)
        tables = np.zeros((sum(m for _, m in counts), *table.shape[1:]))
        tables[before : before + len(table)] = table
        self.summed(whole)
        self.summed(tables)
        return whole, tables

    # ---------------------------------------------------------------- this rank's part
    def layers(self, voxels: int) -> slice:
        """As :class:`Team`."""
        return slice(self.first, self.last)

    def span(self, level: int) -> slice:
        """As :class:`Team`."""
        return slice(self.first >> level, (self.last >> level) + 1)

    def pieces(self, labels: NDArray[Any]) -> tuple[Ints, int]:
        """As :class:`Team`."""
        own = int(labels.max(initial=0))
        first, last = (labels[i].astype(np.int64) for i in (0, -1))  # labels have the width that fits a slab
        below, _ = self.swap(first, last)
        counts = self.comm.allgather(own)
        before = sum(counts[: self.rank])
        pairs = np.zeros((2, 0), dtype=np.int64)
        if below is not None:
            both = (below > 0) & (first > 0)
            lower = before - counts[self.rank - 1] + below[both]
            pairs = np.unique([lower, before + first[both]], axis=1)
        lower, upper = np.concatenate(self.comm.allgather(pairs), axis=1)
        nodes = sum(counts) + 1
        graph = coo_array((np.ones(len(lower), np.int8), (lower, upper)), shape=(nodes, nodes))
        count, piece = connected_components(graph.tocsr(), directed=False)  # the void is the first
        return np.append(0, piece[before + 1 : before + 1 + own]), int(count)

    def close(self) -> None:
        """As :class:`Team`."""
        self.alone.close()
        super().close()
