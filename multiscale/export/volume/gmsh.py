"""The macro model for Gmsh (MSH 4.1, binary): a volume and a physical group for each unique cell.

The format has no materials: each element carries its tensor as the element data ``C11``, ``C12`` and ``C44``
(MPa), which programs that read Gmsh files take as fields, and Gmsh draws. Lengths are in millimetres.
"""

from __future__ import annotations

import meshio
import numpy as np

from micro.runtime.files import PathLike, atomic_path
from multiscale.export.volume.macro_model import MacroModel
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice


def write_gmsh(lattice: Lattice, path: PathLike, block: Block | None = None) -> int:
    """Write a block's elements, in the physical group ``CELL_n`` of their unique cell; their number.

    Parameters
    ----------
    lattice : Lattice
    path : path
        Ends in ``.msh``; written atomically.
    block : Block, optional
        The whole lattice by default.
    """
    model = MacroModel.of(lattice, block)
    order = np.argsort(model.cell, kind="stable")
    cells, starts = np.unique(model.cell[order], return_index=True)
    parts = np.split(order, starts[1:])
    # meshio lists the volumes that own nodes. Every node is the lowest corner of at most one element, so
    # each volume owns those of its elements; the others are the first volume's.
    volume = np.full(len(model.points), cells[0] + 1)
    volume[model.elements[:, 0]] = model.cell + 1
    tags = [np.full(len(rows), cell + 1, dtype=np.int32) for cell, rows in zip(cells, parts, strict=True)]
    mesh = meshio.Mesh(
        model.points,
        [("hexahedron", model.elements[rows]) for rows in parts],
        point_data={"gmsh:dim_tags": np.stack([np.full_like(volume, 3), volume], axis=-1)},
        cell_data={
            "gmsh:physical": tags,
            "gmsh:geometrical": tags,
            **{
                name: [model.tensors[model.cell[rows], i] for rows in parts]
                for i, name in enumerate(("C11", "C12", "C44"))
            },
        },
        field_data={f"CELL_{cell}": np.array([cell + 1, 3]) for cell in cells},
    )
    with atomic_path(path) as temporary:
        meshio.gmsh.write(temporary, mesh, "4.1", binary=True)
    return len(model)
