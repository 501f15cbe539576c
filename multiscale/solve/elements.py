"""The elements of a structured grid (DMDA) that a rank works on, and where their corners are.

The DMDA's axes run (z, y, x), so that PETSc's natural order is the C order of arrays indexed [x, y, z].
Arrays are whole and equal on every rank; each takes its part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Floats
from micro.voxels.corners import CORNERS
from multiscale.solve.petsc import PETSc

#: Matrices are made in chunks of this many elements, which bounds their memory (4.6 kB each).
_CHUNK = 8192


class Elements:
    """The elements whose lowest corner a rank owns.

    Parameters
    ----------
    grid : PETSc.DMDA
        Three degrees of freedom a node, boxes one wide around a rank's part.
    shape : (mx, my, mz)
        Elements an axis; the grid may have more.

    Attributes
    ----------
    own, corners : three slices
        The elements, and the nodes at their corners, in whole arrays.
    nodes : three slices
        The nodes that the rank owns, of the whole grid.
    local_corners : three slices
        The corners in an array of the rank's local vectors, of shape ``local_shape``.
    """

    def __init__(self, grid: Any, shape: tuple[int, ...]):
        self.grid, self.shape = grid, shape
        ranges, ghosts = (list(reversed(r)) for r in (grid.getRanges(), grid.getGhostRanges()))
        self.nodes = tuple(slice(low, high) for low, high in ranges)
        self.own = tuple(
            slice(min(low, m), min(high, m)) for (low, high), m in zip(ranges, shape, strict=True)
        )
        self.corners = tuple(slice(part.start, part.stop + 1) for part in self.own)
        self.local_shape = tuple(high - low for low, high in ghosts)
        self.local_corners = tuple(
            slice(part.start - low, part.stop + 1 - low)
            for part, (low, _) in zip(self.own, ghosts, strict=True)
        )

    @property
    def count(self) -> tuple[int, ...]:
        """Own elements an axis."""
        return tuple(part.stop - part.start for part in self.own)

    def values(self, field: NDArray[Any]) -> NDArray[Any]:
        """Nodal vectors (own elements, 24) of a whole node field (mx+1, my+1, mz+1, 3)."""
        return corner_values(field[self.corners]).reshape(-1, 24)

    def at_own_nodes(self, field: NDArray[Any]) -> Floats:
        """A whole node field (mx+1, my+1, mz+1, 3) at the nodes that the rank owns; zero where it ends."""
        out = np.zeros((*(part.stop - part.start for part in self.nodes), 3))
        part = field[self.nodes]
        out[tuple(slice(0, n) for n in part.shape[:3])] = part
        return out

    def blocks(self) -> NDArray[Any]:
        """Ghosted local node numbers (own elements, 8) of the corners."""
        starts = [corners.start for corners in self.local_corners]
        axes = [start + np.arange(count) for start, count in zip(starts, self.count, strict=True)]
        base = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 1, 3) + CORNERS
        return np.ascontiguousarray(np.ravel_multi_index(tuple(base.T), self.local_shape).T, PETSc.IntType)

    def assemble(
        self, matrix: Any, chosen: NDArray[np.intp], matrices: Callable[[NDArray[np.intp]], Floats]
    ) -> None:
        """Make a matrix of the grid the sum of those of some own elements.

        Parameters
        ----------
        matrix : PETSc.Mat
        chosen : int array (n,)
            Positions among the own elements.
        matrices : callable
            Gives the matrices (m, 24, 24) of m of them.
        """
        blocks = self.blocks()
        matrix.zeroEntries()
        for start in range(0, len(chosen), _CHUNK):
            e = chosen[start : start + _CHUNK]
            matrix.setValuesBlockedLocalRCV(
                blocks[e], blocks[e], matrices(e), addv=PETSc.InsertMode.ADD_VALUES
            )
        matrix.assemble()
        fix_diagonal(matrix)
        matrix.setOption(PETSc.Mat.Option.SPD, True)


def corner_values(field: NDArray[Any]) -> NDArray[Any]:
    """Of a node field (nx+1, ny+1, nz+1, 3) what each element has at its corners, (nx, ny, nz, 24)."""
    nx, ny, nz = (n - 1 for n in field.shape[:3])
    return np.concatenate([field[x : nx + x, y : ny + y, z : nz + z] for x, y, z in CORNERS], axis=3)


def fix_diagonal(matrix: Any) -> None:
    """Give empty rows (constrained, or reached by no active node) a diagonal of the matrix's scale."""
    diagonal = matrix.getDiagonal()
    scale = diagonal.max()[1]
    values = diagonal.getArray()
    # Galerkin products leave rounding-size entries where all contributions are masked.
    values[values <= 1e-14 * scale] = scale
    matrix.setDiagonal(diagonal)
