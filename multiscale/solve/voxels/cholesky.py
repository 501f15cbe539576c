"""Sparse Cholesky factors of voxels' stiffness, by the multifrontal method.

Nodes are eliminated in the order of a nested dissection (George 1973: planes of grid points part a region in
halves, and come after them), which suits thick solid, or of minimum degree (George and Liu 1981), which
suits thin struts. What an elimination leaves to the rest is a dense matrix, a *front*. Fronts are summed up
the tree of eliminations (Duff and Reid 1983; Liu 1992), and nearly all of the work is products of dense
matrices, in float64; the factor is kept in float32. Degrees of freedom that are held have rows of the
identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.errors import NotConverged
from multiscale.solve.petsc import PETSc
from multiscale.solve.voxels import cholesky_kernels as kernels
from multiscale.solve.voxels.cholesky_kernels import Factor

Graph = tuple[Ints, Ints]
"""Which nodes share a voxel: neighbours of each, row by row (CSR)."""


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
    def by(cls, order: Ints, graph: Graph) -> Elimination:
        """One node after the other.

        Parameters
        ----------
        order : int (n,)
        graph : Graph
        """
        order, parent, rows = kernels.elimination_tree(*graph, order)
        starts = kernels.fronts(parent, rows)
        position = np.empty(len(order), dtype=np.int64)
        position[order] = np.arange(len(order))
        return cls(position, starts, *kernels.structure(*graph, order, position, starts, rows))

    @classmethod
    def best(cls, graph: Graph, *orders: Ints) -> Elimination:
        """In the order that fills least."""
        return min((cls.by(order, graph) for order in orders), key=lambda found: found.nbytes)

    @property
    def nbytes(self) -> int:
        """Memory that the factor's numbers take."""
        own, rest = 3 * np.diff(self.starts), 3 * np.diff(self.row_start)
        return int(4 * (own * (own - 1) // 2 + own * rest).sum())

    @property
    def working_bytes(self) -> int:
        """Memory that is taken besides while the factor is made: the largest front, and those that wait."""
        return kernels.working_bytes(self.starts, self.row_start, self.below)

    def places(self, corners: Ints, held: Bools) -> NDArray[np.int32]:
        """Where the factor has each voxel's degrees of freedom, int32 (e, 24); -1: held, or of no node.

        Parameters
        ----------
        corners : int (e, 8)
            Nodes of each voxel; -1: none of these.
        held : bool (n, 3)
            Degrees of freedom without an equation.
        """
        free = np.append(~held, [[False] * 3], axis=0)[corners]
        position = np.append(self.position, -1)[corners]
        return np.where(free, 3 * position[..., None] + np.arange(3), -1).reshape(-1, 24).astype(np.int32)

    def factor(self, places: NDArray[np.int32], held: Bools, moduli: Floats, stiffness: Any) -> Factor:
        """Factor of the voxels' stiffness.

        Parameters
        ----------
        places : int32 (e, 24)
            Of :meth:`places`.
        held : bool (n, 3)
            Degrees of freedom without an equation.
        moduli : (e,)
            What each voxel's stiffness is multiplied by.
        stiffness : (24, 24)

        Raises
        ------
        NotConverged
            If the stiffness is not positive definite: solid is loose.
        """
        absent = np.empty_like(held)
        absent[self.position] = held
        # An element comes in with the front where the first of its unknowns is eliminated.
        first = np.where(places >= 0, places, 3 * len(held)).min(axis=1, initial=3 * len(held))
        order = np.argsort(first, kind="stable")
        arrivals = np.searchsorted(first[order], 3 * self.starts)
        *made, sound = kernels.factorised(
            self.starts, self.row_start, self.below, places[order], arrivals,
            np.asarray(moduli, dtype=np.float64)[order], np.asarray(stiffness, dtype=np.float64),
            absent.reshape(-1),
        )  # fmt: skip
        if not sound:
            raise NotConverged(
                "a region around weakly held voxels has no Cholesky factor: its solid is loose"
            )
        return Factor._make(made)


def graph_of(corners: Ints, n: int) -> Graph:
    """Which of n nodes share a voxel; ``corners`` (e, 8) are nodes of each, -1 none of these."""
    row, column = np.repeat(corners, 8, axis=1).reshape(-1), np.tile(corners, (1, 8)).reshape(-1)
    inside = (row >= 0) & (column >= 0)
    ones = np.ones(np.count_nonzero(inside), dtype=bool)
    graph = sparse.coo_array((ones, (row[inside], column[inside])), shape=(n, n)).tocsr()
    return graph.indptr.astype(np.int64), graph.indices.astype(np.int64)


def minimum_degree(graph: Graph) -> Ints:
    """The node of fewest neighbours next; by PETSc, which is not for threads."""
    indptr, indices = (part.astype(PETSc.IntType) for part in graph)
    size = len(indptr) - 1
    pattern = PETSc.Mat().createAIJ(
        (size, size), csr=(indptr, indices, np.ones(len(indices))), comm=PETSc.COMM_SELF
    )
    order, columns = pattern.getOrdering("qmd")
    found = order.getIndices().astype(np.int64)
    for made in (order, columns, pattern):
        made.destroy()
    return found
