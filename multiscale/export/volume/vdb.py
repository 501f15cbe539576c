"""OpenVDB of a block's voxels, by OpenVDB's own Python module where there is one.

No wheel of it is published for current Pythons, so it is not a requirement: distributions package it
(Debian: python3-openvdb), and under two names.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path
from micro.runtime.progress import Progress, unheard
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

_NAMES = ("openvdb", "pyopenvdb")


def find_openvdb() -> Any:
    """OpenVDB's Python module; InputError if there is none.

    Raises
    ------
    InputError
        If there is none.
    """
    for name in _NAMES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise InputError(
        "this format needs OpenVDB's Python module (openvdb or pyopenvdb), which is not installed for this "
        "Python; vti and svx hold the same voxels",
        key="format",
        value="vdb",
    )


def write_vdb(
    library: Any,
    lattice: Lattice,
    path: PathLike,
    block: Block,
    *,
    per_cell: int,
    progress: Progress = unheard,
) -> None:
    """Write a block's voxels as the float grid ``density`` (1 solid, background 0), in metres, atomically.

    Voxel (i, j, k) of the grid is the lattice's, counted from the lattice's corner.

    Parameters
    ----------
    library : module
        OpenVDB's, of :func:`find_openvdb`.
    lattice : Lattice
    path : path
    block : Block
    per_cell : int
        Voxels along a cell's edge.
    progress : Progress, optional
    """
    grid = library.FloatGrid()
    grid.name = "density"
    grid.transform = library.createLinearTransform(voxelSize=lattice.cell_size_m / per_cell)
    i, j, k = (low * per_cell for low in block.lower)
    for step, layer in enumerate(lattice.layers(block, per_cell=per_cell)):
        grid.copyFromArray(layer.astype(np.float32), ijk=(i + step * per_cell, j, k))
        progress(step + 1, block.shape[0])
    with atomic_path(path) as temporary:
        library.write(str(temporary), grids=[grid])
