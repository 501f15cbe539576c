"""The lattice as other solvers take it: one hexahedron an element, a cubic material a unique cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from micro.runtime.arrays import Bools, Floats, Ints
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

# Corners of a hexahedron, counterclockwise below, then above: the order of Abaqus, Gmsh and VTK.
_CORNERS = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))


def hexahedra(there: Bools) -> tuple[Ints, Ints]:
    """Nodes (p, 3) of the elements (nx, ny, nz) that are there, in C order, and their corners (e, 8)."""
    shape = tuple(n + 1 for n in there.shape)
    corners = np.argwhere(there)[:, None] + np.array(_CORNERS)
    used, rows = np.unique(
        np.ravel_multi_index(tuple(np.moveaxis(corners, -1, 0)), shape), return_inverse=True
    )
    return np.stack(np.unravel_index(used, shape), axis=-1), rows.reshape(-1, 8)


@dataclass(frozen=True)
class MacroModel:
    """A block's elements, in millimetres and MPa.

    Attributes
    ----------
    points : array (p, 3)
        The elements' corners, mm.
    elements : int array (e, 8)
        Rows of ``points``, of each element the lowest corner first.
    cell : int array (e,)
        The unique cell of each element.
    tensors : array (n, 3)
        C11, C12, C44 of every unique cell of the lattice, MPa.
    """

    points: Floats
    elements: Ints
    cell: Ints
    tensors: Floats

    @classmethod
    def of(cls, lattice: Lattice, block: Block | None = None) -> MacroModel:
        """The solid elements of a block, which stay in their place; of the whole lattice by default."""
        block = Block.of(block, lattice.shape)
        index = lattice.index[block.slices]
        nodes, elements = hexahedra(index >= 0)
        return cls(
            points=(nodes + np.array(block.lower)) * (1e3 * lattice.cell_size_m),
            elements=elements,
            cell=index[index >= 0].astype(np.int64),
            tensors=lattice.cells.C * lattice.young_pa / 1e6,
        )

    def __len__(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def used(self) -> Ints:
        """The unique cells that stand somewhere, ascending."""
        return np.unique(self.cell)
