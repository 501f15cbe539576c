"""A lattice of a sequence of cells: a graded bar."""

from __future__ import annotations

import numpy as np

from micro.cell.cellset import CellSet
from micro.runtime.errors import InputError
from multiscale.lattice.lattice import Lattice


def graded_bar(
    cells: CellSet,
    *,
    across: int = 2,
    repeat: int = 1,
    cell_size_m: float = 0.01,
    young_pa: float = 1e9,
    poisson: float = 0.3,
) -> Lattice:
    """The cells in a row along x, each ``repeat`` times, ``across`` by ``across`` of them side by side.

    Parameters
    ----------
    cells : CellSet
        In their order along the bar.
    across, repeat : int
    cell_size_m : float
        Edge of a cell in metres.
    young_pa, poisson : float
        Base material.

    Raises
    ------
    InputError
        If a count is not positive or there are no cells.
    """
    for key, value in (("across", across), ("repeat", repeat), ("cells", len(cells))):
        if value < 1:
            raise InputError("at least 1", key=key, value=value)
    row = np.repeat(np.arange(len(cells), dtype=np.int32), repeat)
    index = np.broadcast_to(row[:, None, None], (len(row), across, across))
    return Lattice(cells, index, cell_size_m, young_pa, poisson, {"name": "graded bar"})
