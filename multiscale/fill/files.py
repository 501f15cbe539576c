"""Files that a case names as a source of cells: what they hold, and whether cells can be had from it."""

from __future__ import annotations

import json
from pathlib import Path

from micro.cell.cellset import CellSet, require_poisson
from micro.cell.octant import is_symmetric, octant_from_cell
from micro.cell.readers import read_voxels
from micro.cell.tensor import POISSON
from micro.runtime.arrays import Bools
from micro.runtime.errors import InputError

VOXELS = (".npy", ".npz", ".vti", ".vdb", ".stl", ".obj", ".ply", ".3mf")
"""Endings of files whose voxels, or closed surface, are one cell (or several octants)."""

WEIGHTS = ".safetensors"
WEIGHTS_FORMAT = "cubic-cell-generator"


def cells_of(path: Path, poisson: float) -> CellSet:
    """The cells of a file: a cell set, or the voxels of a cell, homogenised.

    Raises
    ------
    InputError
        If it is neither, its cell lacks the symmetry of an octant, or it is of another base material.
    """
    if path.suffix.lower() not in VOXELS:
        cells = CellSet.load(path)
        cells.require_poisson(poisson, path)
        return cells
    from micro.homogenize.octants import homogenize_octants

    octants = read_octants(path)
    result = homogenize_octants(octants, nu=poisson)
    if (result.status != 0).any():
        raise InputError("a cell of it carries no load in some direction", file=path)
    attrs = {"source": path.name}
    return CellSet.from_octants(octants, result.C, family="voxels", poisson=poisson, attrs=attrs)


def read_octants(path: Path) -> Bools:
    """Octants (m, n, n, n) of a file of voxels: a whole cell, or octants one after another.

    Raises
    ------
    InputError
        If a cell is not its own mirror image in its mid-planes, or changes under permutation of its axes.
    """
    voxels = read_voxels(path).values
    if voxels.dtype != bool:
        raise InputError("a cell of a lattice is solid or void, not a field of moduli", file=path)
    try:
        octants = octant_from_cell(voxels)[None] if voxels.ndim == 3 else voxels
        if not is_symmetric(octants):
            raise InputError("an octant is not invariant under permutation of its axes")
    except InputError as error:
        raise InputError(
            f"can't be a cell of a lattice: {error.reason}", file=path, value=voxels.shape
        ) from None
    return octants


def check_source(path: Path, poisson: float) -> None:
    """Read as much of a source's file as shows that a run can use it.

    Raises
    ------
    InputError
        If it can't.
    """
    if path.suffix.lower() in VOXELS:
        read_octants(path)
    elif path.suffix == WEIGHTS:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as stored:
                header = stored.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise InputError(f"can't be read as a generator's weights: {error}", file=path) from None
        kind = header.get("format", "no format")
        if kind != WEIGHTS_FORMAT:
            raise InputError("holds no generator's weights", file=path, key="format", value=kind)
        card = json.loads(header.get("card", "{}"))
        require_poisson("generated cells", float(card.get("poisson", POISSON)), poisson, path)
        require_poisson("the packaged cells that fill in for generated ones", POISSON, poisson)
    else:
        CellSet.load(path).require_poisson(poisson, path)
