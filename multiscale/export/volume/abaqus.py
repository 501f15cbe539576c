"""The macro model for another solver: one C3D8 an element, a cubic material a unique cell (Abaqus).

Lengths are in millimetres, stiffness in MPa. CalculiX reads the same file.
"""

from __future__ import annotations

import os

import meshio
import numpy as np

from micro.runtime.files import atomic_path
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

# Corners of C3D8: counterclockwise below, then above.
_CORNERS = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))


def write_abaqus(lattice: Lattice, path: str | os.PathLike[str], block: Block | None = None) -> int:
    """Write a block's elements, with an element set and a material for each unique cell; their number.

    Parameters
    ----------
    lattice : Lattice
    path : path
        Ends in ``.inp``; written atomically.
    block : Block, optional
        The whole lattice by default.
    """
    block = Block.whole(lattice.shape) if block is None else block
    block.check_inside(lattice.shape)
    index = lattice.index[block.slices]
    elements = np.argwhere(index >= 0)
    shape = [n + 1 for n in block.shape]
    corners = [np.ravel_multi_index(tuple((elements + corner).T), tuple(shape)) for corner in _CORNERS]
    used, cells = np.unique(np.stack(corners, axis=-1), return_inverse=True)
    edge = 1e3 * lattice.cell_size_m
    places = np.stack(np.unravel_index(used, tuple(shape)), axis=-1) + np.array(block.lower)
    own = index[tuple(elements.T)]
    sets = {f"CELL_{cell}": [np.flatnonzero(own == cell)] for cell in np.unique(own)}
    mesh = meshio.Mesh(places * edge, [("hexahedron", cells.reshape(-1, 8))], cell_sets=sets)
    mpa = lattice.cells.C * lattice.young_pa / 1e6
    with atomic_path(path) as temporary:
        meshio.abaqus.write(temporary, mesh)
        with temporary.open("a", encoding="utf-8") as stream:
            for cell in np.unique(own):
                c11, c12, c44 = mpa[cell]
                stream.write(
                    f"*SOLID SECTION, ELSET=CELL_{cell}, MATERIAL=CUBIC_{cell}\n"
                    f"*MATERIAL, NAME=CUBIC_{cell}\n"
                    # D1111, D1122, D2222, D1133, D2233, D3333, D1212, D1313; D2323
                    f"*ELASTIC, TYPE=ORTHOTROPIC\n{c11:.9g}, {c12:.9g}, {c11:.9g}, {c12:.9g}, {c12:.9g}, "
                    f"{c11:.9g}, {c44:.9g}, {c44:.9g}\n{c44:.9g}\n"
                )
    return len(elements)
