"""A cell as a user names it: a file of voxels, a row of a set of cells, or a tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.cell.octant import connectivity, is_symmetric, octant_from_cell
from micro.cell.readers import read_voxels
from micro.data.packaged import load_dataset, load_library
from micro.generator.generator import Generator
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.runtime.errors import InputError

_DRAWN = 4
"""Cells drawn for a tensor, of which the nearest is taken."""


def given_cell(text: str, generator: Generator, n: int, seed: int = 0) -> CellSet:
    """The cell that ``text`` names, homogenised, in a set of one.

    Parameters
    ----------
    text : str
        ``C11,C12,C44`` (a cell is generated and refined), ``dataset:ROW``, ``library:ROW``, ``SET.zarr:ROW``
        (or ``.zarr.zip``), or a file of voxels: an octant or a whole cell.
    generator : Generator
        For tensors.
    n : int
        Resolution of a generated cell.
    seed : int
        Of a generated cell.

    Raises
    ------
    InputError
        If there is no such cell, or it is not cubic and connected.
    """
    name, _, row = text.rpartition(":")
    if row.isdigit() and name:
        cells = _set(name)
        if int(row) >= len(cells):
            raise InputError(f"has rows 0 to {len(cells) - 1}", file=name, value=int(row))
        return cells.subset([int(row)])
    if text.count(",") == 2:
        return _generated(text, generator, n, seed)
    octant = read_octant(Path(text))
    if octant.dtype != bool or not connectivity(octant).connected:
        raise InputError("is no connected cell of solid and void", file=text)
    result = homogenize_octants(octant, nu=generator.model.poisson)
    if result.status[0] != Status.OK:
        raise InputError("carries no load", file=text)
    return CellSet.from_octants(octant[None], result.C, family="given", poisson=generator.model.poisson)


def read_octant(path: Path) -> NDArray:
    """The octant (n, n, n) of a file of voxels that holds one, or a whole cubic cell.

    Raises
    ------
    InputError
        If it holds neither.
    """
    voxels = read_voxels(path).values
    if voxels.ndim != 3 or len(set(voxels.shape)) != 1 or not is_symmetric(voxels):
        raise InputError("is no octant or cubic cell, symmetric under permutation of its axes", file=path)
    try:
        return octant_from_cell(voxels)
    except InputError:
        return voxels  # it is an octant already


def _set(name: str) -> CellSet:
    packaged = {"dataset": load_dataset, "library": load_library}
    return packaged[name]() if name in packaged else CellSet.load(name)


def _generated(text: str, generator: Generator, n: int, seed: int) -> CellSet:
    try:
        target = np.array([[float(part) for part in text.split(",")]])
    except ValueError:
        raise InputError("three numbers C11,C12,C44 are needed", key="cell", value=text) from None
    samples = generator.sample(target, n=_DRAWN, seed=seed, resolution=n)
    cells = generator.refine(samples.rows(np.flatnonzero(samples.connected)), target)
    if not len(cells):
        raise InputError("no connected cell was found for this tensor", key="cell", value=text)
    error = np.abs(cells.C - target).sum(axis=1)
    best = cells.subset([int(error.argmin())])
    return replace(best, params=np.zeros((1, 0)), attrs={})
