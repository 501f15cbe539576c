"""Into how many pieces coarser voxels break what is exported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from micro.cell.cellset import CellSet
from multiscale.lattice.block import Block
from multiscale.lattice.components import component_volumes
from multiscale.lattice.lattice import VOID, Lattice, coarsen

#: Share of a region's solid that may come loose by coarser voxels in a file that is to be printed.
MOST_LOOSE = 0.05


@dataclass(frozen=True)
class Pieces:
    """Pieces of a region's solid.

    Attributes
    ----------
    count : int
    loose : float
        Share of the solid outside the largest piece.
    """

    count: int
    loose: float


def pieces(lattice: Lattice, block: Block, per_cell: int) -> Pieces:
    """Pieces of a block at ``per_cell`` voxels along a cell's edge; the block's own cut edges count too."""
    used, local = np.unique(lattice.index[block.slices], return_inverse=True)
    solid = used[used != VOID]
    octants = coarsen(lattice.cells.octants(solid), per_cell)
    cells = CellSet.from_octants(octants, lattice.cells.C[solid], poisson=lattice.poisson)
    index = (np.reshape(local, block.shape) - int(used[0] == VOID)).astype(np.int32)
    index[(index != VOID) & (np.append(cells.volume, 0.0)[index] == 0)] = VOID  # a cell gone altogether
    if not (index != VOID).any():
        return Pieces(0, 0.0)
    volumes = component_volumes(index, cells)
    return Pieces(len(volumes), float(1 - volumes[0] / volumes.sum()))
