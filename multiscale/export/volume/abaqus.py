"""The macro model for Abaqus: one C3D8 an element, a cubic material a unique cell.

Lengths are in millimetres, stiffness in MPa. CalculiX reads the same file.
"""

from __future__ import annotations

import meshio
import numpy as np

from micro.runtime.files import PathLike, atomic_path
from multiscale.export.volume.macro_model import MacroModel
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice


def write_abaqus(lattice: Lattice, path: PathLike, block: Block | None = None) -> int:
    """Write a block's elements, with an element set and a material for each unique cell; their number.

    Parameters
    ----------
    lattice : Lattice
    path : path
        Ends in ``.inp``; written atomically.
    block : Block, optional
        The whole lattice by default.
    """
    model = MacroModel.of(lattice, block)
    sets = {f"CELL_{cell}": [np.flatnonzero(model.cell == cell)] for cell in model.used}
    mesh = meshio.Mesh(model.points, [("hexahedron", model.elements)], cell_sets=sets)
    with atomic_path(path) as temporary:
        meshio.abaqus.write(temporary, mesh)
        with temporary.open("a", encoding="utf-8") as stream:
            for cell in model.used:
                c11, c12, c44 = model.tensors[cell]
                stream.write(
                    f"*SOLID SECTION, ELSET=CELL_{cell}, MATERIAL=CUBIC_{cell}\n"
                    f"*MATERIAL, NAME=CUBIC_{cell}\n"
                    # D1111, D1122, D2222, D1133, D2233, D3333, D1212, D1313; D2323
                    f"*ELASTIC, TYPE=ORTHOTROPIC\n{c11:.9g}, {c12:.9g}, {c11:.9g}, {c12:.9g}, {c12:.9g}, "
                    f"{c11:.9g}, {c44:.9g}, {c44:.9g}\n{c44:.9g}\n"
                )
    return len(model)
