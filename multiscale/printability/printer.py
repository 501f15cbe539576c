"""Does a lattice suit a printer? Its walls and gaps against the thinnest that the printer makes.

A wall of a fraction of a voxel is none: a length counts as the voxels that it begins. The rule is that of
:class:`multiscale.printability.printability.Features`, all but 1 % of every cell's solid and void. Larger
cells of the same shapes have thicker walls in proportion, so the answer holds the cell size that suits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from micro.cell.octant import cell_from_octant
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from multiscale.lattice.lattice import Lattice

LOST = 0.01
"""Share of a phase that may be thinner than its smallest feature: the tips of rounded shapes."""


@dataclass(frozen=True)
class Printable:
    """A lattice against a printer's smallest wall and gap.

    Attributes
    ----------
    least_mm : float
        The printer's smallest wall and gap.
    solid_thinner, void_thinner : float
        Share of the lattice's solid, and of the void in its cells, that is thinner.
    passes : bool
        Whether at most 1 % of any cell's solid and of its void is thinner.
    cell_size_mm : float
        Smallest size of the same cells that passes.
    """

    least_mm: float
    solid_thinner: float
    void_thinner: float
    passes: bool
    cell_size_mm: float


def printable(lattice: Lattice, least_mm: float, known: Floats | None = None) -> Printable:
    """Compare a lattice's walls and gaps with the thinnest that a printer makes.

    Parameters
    ----------
    lattice : Lattice
    least_mm : float
    known : array, shape (2, cells in use, k + 1), optional
        :func:`thinner` of their solid and void for 0 to k voxels, where it is known already.

    Raises
    ------
    InputError
        If ``least_mm`` is not positive.
    """
    check_least(least_mm)
    used, count = np.unique(lattice.index[lattice.solid], return_counts=True)
    size = lattice.voxels_per_cell
    edge = 1e3 * lattice.cell_size_m
    needed = math.ceil(least_mm / (edge / size) * (1 - 1e-9))
    octants = lattice.cells.octants(used)
    volume = lattice.cells.volume[used]

    def lost(k: int) -> Floats:
        if known is not None and k < known.shape[2]:
            return known[:, :, k]
        return np.array([[thinner(octant, k) for octant in phase] for phase in (octants, ~octants)])

    weight = count * np.array([volume, 1 - volume])
    share = (weight * lost(needed)).sum(axis=1) / np.maximum(weight.sum(axis=1), np.finfo(float).tiny)
    fits = next((k for k in range(1, size) if lost(k + 1).max() > LOST), size)
    passes = bool(lost(needed).max() <= LOST)
    return Printable(least_mm, float(share[0]), float(share[1]), passes, least_mm / fits * size)


def check_least(least_mm: float) -> None:
    """Raise InputError unless it is a positive length.

    Raises
    ------
    InputError
        Otherwise.
    """
    if not (math.isfinite(least_mm) and least_mm > 0):
        raise InputError("must be a positive length in mm", key="least", value=least_mm)


def thinner(octant: Bools, k: int) -> float:
    """Share of a cell's true voxels that no cube of k true voxels an edge covers; 0 if there are none.

    The cell, of octant (n, n, n), stands among its own kind; a cube as wide as the cell is as good as any
    wider one, for either needs everything to be true. Opening by a cube, an axis after another.
    """
    total = 8 * int(octant.sum())
    if not total or k < 2:
        return 0.0
    cell = cell_from_octant(octant)
    kept = opened(cell, (min(k, len(cell)),) * 3, outside=None)
    return 1 - int(np.count_nonzero(kept)) / total


def opened(array: Bools, size: tuple[int, ...], *, outside: bool | None) -> Bools:
    """True voxels (nx, ny, nz) that a box of ``size`` true voxels covers, an axis after another.

    ``outside`` is what surrounds the array; None for its own images again and again.
    """
    if outside:  # boxes may begin before the array and end behind it
        margin = [(k - 1, k - 1) for k in size]
        inner = tuple(slice(k - 1, k - 1 + n) for k, n in zip(size, array.shape, strict=True))
        return opened(np.pad(array, margin, constant_values=True), size, outside=False)[inner]
    mode = "wrap" if outside is None else "constant"
    out = array.astype(np.uint8)
    for axis, k in enumerate(size):  # true where a box begins
        out = minimum_filter1d(out, k, axis=axis, mode=mode, origin=-(k // 2))
    for axis, k in enumerate(size):
        out = maximum_filter1d(out, k, axis=axis, mode=mode, origin=(k - 1) // 2)
    return np.asarray(out > 0)
