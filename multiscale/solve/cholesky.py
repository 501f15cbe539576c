"""Sparse Cholesky factors of voxels' stiffness, by the multifrontal method.

Nodes are eliminated in the order of a nested dissection (planes of grid points part a region in halves, and
come after them; George 1973), which suits thick solid, or of minimum degree, which suits thin struts. What an
elimination leaves to the rest is a dense matrix, a *front*; fronts
are summed up the tree of eliminations (Duff and Reid 1983, "The multifrontal solution of indefinite sparse
symmetric linear equations"; Liu 1992, "The multifrontal method for sparse matrix solution"), and nearly all
of the work is products of dense matrices. SciPy's SuperLU takes ten times as long for the same factor, holds
Python's lock meanwhile, and does not tell beforehand how large it will be.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.errors import NotConverged
from multiscale.solve import cholesky_kernels as kernels
from multiscale.solve.cholesky_kernels import Factor
from multiscale.solve.petsc import PETSc

#: PETSc is not meant for threads.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, eq=False)
class Elimination:
    """In which order the nodes of some voxels are eliminated, and which numbers their factor has.

    Attributes
    ----------
    position : int (n,)
        When each node is eliminated.
    starts : int (s + 1,)
        The first one, by position, of each front; n at the end.
    row_start, below : int arrays
        ``below[row_start[s]:row_start[s + 1]]`` are the positions of the nodes that front s leaves changed.
    """

    position: Ints
    starts: Ints
    row_start: Ints
    below: Ints

    @classmethod
    def of(cls, points: Ints, corners: Ints) -> Elimination:
        """In the order that fills less: nested dissection's, or that of minimum degree.

        Parameters
        ----------
        points : int (n, 3)
            The nodes on their grid.
        corners : int (e, 8)
            Nodes of each voxel; -1: none of these.
        """
        n = len(points)
        row, column = np.repeat(corners, 8, axis=1).reshape(-1), np.tile(corners, (1, 8)).reshape(-1)
        inside = (row >= 0) & (column >= 0)
        ones = np.ones(np.count_nonzero(inside), dtype=bool)
        graph = sparse.coo_array((ones, (row[inside], column[inside])), shape=(n, n)).tocsr()
        near = graph.indptr.astype(np.int64), graph.indices.astype(np.int64)
        found = []
        for order in (kernels.dissected(points), _minimum_degree(*near)):
            order, parent, rows = kernels.elimination_tree(*near, order)
            starts = kernels.fronts(parent, rows)
            position = np.empty(n, dtype=np.int64)
            position[order] = np.arange(n)
            found.append(cls(position, starts, *kernels.structure(*near, order, position, starts, rows)))
        return min(found, key=lambda elimination: elimination.nbytes)

    @property
    def nbytes(self) -> int:
        """Memory that the factor's numbers take."""
        own, rest = 3 * np.diff(self.starts), 3 * np.diff(self.row_start)
        return int(4 * (own * (own - 1) // 2 + own * rest).sum())

    def unknowns(self, corners: Ints, held: Bools) -> NDArray[np.int32]:
        """Each voxel's degrees of freedom in the factor's order, (e, 24); -1 where there is none.

        Parameters
        ----------
        corners : int (e, 8)
            As :meth:`of`.
        held : bool (n, 3)
        """
        position = np.append(self.position, -1)[corners]
        free = np.append(~held, [[False] * 3], axis=0)[corners]
        return np.where(free, 3 * position[..., None] + np.arange(3), -1).reshape(-1, 24).astype(np.int32)

    def factor(self, unknowns: NDArray[np.int32], moduli: Floats, stiffness: Any, held: Bools) -> Factor:
        """Factor of the voxels' stiffness.

        Parameters
        ----------
        unknowns : int32 (e, 24)
            As the method of that name gives them.
        moduli : (e,)
            What each voxel's stiffness is multiplied by.
        stiffness : (24, 24)
        held : bool (n, 3)
            Degrees of freedom without an equation: their rows are those of the identity.

        Raises
        ------
        NotConverged
            If the stiffness is not positive definite: solid is loose.
        """
        absent = np.empty_like(held)
        absent[self.position] = held
        # An element comes in with the front where the first of its unknowns is eliminated.
        first = np.where(unknowns >= 0, unknowns, 3 * len(held)).min(axis=1, initial=3 * len(held))
        order = np.argsort(first, kind="stable")
        arrivals = np.searchsorted(first[order], 3 * self.starts)
        try:
            made = kernels.factorised(
                self.starts, self.row_start, self.below, unknowns[order], arrivals,
                np.asarray(moduli, dtype=np.float64)[order], np.asarray(stiffness, dtype=np.float64),
                absent.reshape(-1),
            )  # fmt: skip
        except np.linalg.LinAlgError:
            raise NotConverged(
                "a region around weakly held voxels has no Cholesky factor: its solid is loose"
            ) from None
        return Factor._make(made)


def _minimum_degree(indptr: Ints, indices: Ints) -> Ints:
    """PETSc's order for a graph in rows: the node of fewest neighbours next (George and Liu 1981)."""
    with _ONE_AT_A_TIME:
        rows = indptr.astype(PETSc.IntType), indices.astype(PETSc.IntType)
        graph = PETSc.Mat().createAIJ(
            (len(indptr) - 1,) * 2, csr=(*rows, np.ones(len(indices))), comm=PETSc.COMM_SELF
        )
        order, columns = graph.getOrdering("qmd")
        found = order.getIndices().astype(np.int64)
        for made in (order, columns, graph):
            made.destroy()
    return found
