"""Cells at fewer voxels: octants of composite voxels, for a full-scale model of coarse voxels.

Thresholding the coarse voxels' solid fractions would make cells tens of percent stiffer or softer, in pieces,
and without contact to their neighbours, and the full-scale result would be about that. So a voxel that is
partly solid stays one, of a softer material (composite voxels: Kabel, Merkert and Schneider 2015, Comput.
Methods Appl. Mech. Eng. 294): all that is joined stays joined, and no member is drawn thicker or thinner.

How soft is decided cell by cell. The square of the solid fraction is a fair first guess; from there the
voxels' moduli are changed as little as gives the coarse cell the tensor of the fine one: least-norm steps by
its sensitivities, of the logarithms, mostly of the voxels that are neither full nor nearly empty. So what a
full-scale result differs by from the homogenised one is the cells' finite size, and hardly the voxels'.
What is left of a difference is measured: coarse cells have tensors of their own, and a full-scale result is
compared with the prediction from *them*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber
from micro.cell.tensor import frobenius, relative_error, stretched, tensor_error
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.secant import least_norm
from micro.homogenize.sensitivity import sensitivities
from micro.runtime.arrays import Floats
from micro.runtime.errors import NotConverged
from micro.runtime.progress import Progress, unheard
from multiscale.lattice.lattice import Lattice, solid_fractions
from multiscale.verify.materials import VoxelLattice

#: The first guess of a voxel's modulus is this power of its solid fraction.
_POWER = 2.0
#: Moduli are these powers of _STEP, 0.002 to 1.97, so that 256 materials do.
_STEP, _POWERS = 1.03, (-210, 23)
_UNIT = np.log(_STEP)
_LEAST, _MOST = (power * _UNIT for power in _POWERS)
#: How readily a full voxel's modulus is changed; one of half solid is at 1 more.
_FIRM = 0.2
#: Steps at most; relative error at which a cell is done; longest change of a logarithm.
_ROUNDS, _NEAR, _LONGEST = 24, 0.001, 1.0
#: Single moduli moved by a step each after rounding to powers.
_NUDGES = 8
#: Residual tolerance of a coarse cell's solve; the error of C is of the order of its square. From 1e-4 on
#: slopes are summed in single precision, and a modulus might be rounded otherwise with other cells beside it.
_RTOL = 5e-5
#: Coarse voxels solved at once, which bounds the memory.
_AT_ONCE = 2**17


@dataclass(frozen=True, eq=False)
class CoarseLattice:
    """A lattice of fewer voxels per cell.

    Attributes
    ----------
    lattice : VoxelLattice
    error_mean, error_max : float
        Tensor error (Eq. 4) of the coarse cells against the originals, over the solid elements.
    relative_mean, relative_max : float
        The same of the relative error.
    """

    lattice: VoxelLattice
    error_mean: float = 0.0
    error_max: float = 0.0
    relative_mean: float = 0.0
    relative_max: float = 0.0


def coarse_lattice(
    lattice: Lattice, per_cell: int, progress: Progress = unheard, known: Composites | None = None
) -> CoarseLattice:
    """The lattice at ``per_cell`` voxels along a cell's edge, its coarse cells homogenised.

    Parameters
    ----------
    lattice : Lattice
    per_cell : int
    progress : Progress, optional
    known : Composites, optional
        Coarse cells of lattices before.

    Raises
    ------
    InputError
        If ``per_cell`` is not an even divisor of the cells' own resolution.
    NotConverged
        If a coarse cell's homogenisation fails.
    """
    lattice = lattice.compact()
    cells = lattice.cells
    if per_cell == lattice.voxels_per_cell:
        return CoarseLattice(VoxelLattice.of(lattice))
    moduli, C = (known or Composites(lattice.poisson)).of(cells, per_cell, progress)
    error, relative = (
        np.asarray(off(C, cells.C))[lattice.index[lattice.solid]] for off in (tensor_error, relative_error)
    )
    return CoarseLattice(
        VoxelLattice.of(replace(lattice, cells=replace(cells, C=C)), moduli),
        *(float(f(off)) for off in (error, relative) for f in (np.mean, np.max)),
    )


class Composites:
    """Coarse cells, each worked out once.

    Parameters
    ----------
    nu : float
        Poisson's ratio of the base material.
    """

    def __init__(self, nu: float):
        self._nu = nu
        self._known: dict[tuple[int, bytes], tuple[Floats, Floats]] = {}

    def of(self, cells: CellSet, per_cell: int, progress: Progress = unheard) -> tuple[Floats, Floats]:
        """Moduli (m, k, k, k) of the cells' octants at 2k voxels a cell, and their tensors (m, 3).

        Parameters
        ----------
        cells : CellSet
        per_cell : int
        progress : Progress, optional

        Raises
        ------
        NotConverged
            If a coarse cell can't be homogenised.
        """
        keys = [(per_cell, p.tobytes() + c.tobytes()) for p, c in zip(cells.packed, cells.C, strict=True)]
        fresh = [row for row, key in enumerate(keys) if key not in self._known]
        size = max(1, _AT_ONCE // (per_cell // 2) ** 3)
        for start in range(0, len(fresh), size):
            rows = fresh[start : start + size]
            fractions = solid_fractions(cells.octants(rows), per_cell).astype(np.float64)
            moduli, C = fitted(fractions, cells.C[rows], self._nu)
            self._known |= {keys[row]: (m, c) for row, m, c in zip(rows, moduli, C, strict=True)}
            progress(min(start + size, len(fresh)), len(fresh))
        found = [self._known[key] for key in keys]
        return np.stack([moduli for moduli, _ in found]), np.stack([C for _, C in found])


def fitted(fractions: Floats, targets: Floats, nu: float) -> tuple[Floats, Floats]:
    """Moduli of coarse octants' voxels by which their tensors come to the targets, and those tensors.

    Each octant goes its own way, whatever others are beside it.

    Parameters
    ----------
    fractions : array, shape (m, k, k, k)
        Solid fractions, invariant under permutation of the axes. Where they are 0 there is void.
    targets : array, shape (m, 3)
    nu : float

    Returns
    -------
    moduli : array, shape (m, k, k, k)
        Powers of 1.03, or 0.
    C : array, shape (m, 3)

    Raises
    ------
    NotConverged
        If an octant can't be homogenised.
    """
    domain = chamber(fractions.shape[1])
    share = domain.fold(fractions)
    held = share > 0
    # Orbits of voxels, as each counts once: a change of many voxels is dear.
    ready = np.where(held, np.sqrt(4 * share * (1 - share)) + _FIRM, 0.0) / np.sqrt(domain.weights)
    norm = frobenius(targets)[:, None]

    def solved(rows: NDArray[np.intp], log: Floats) -> tuple[Floats, Floats]:
        """Tensors by their target's norm, and their slopes by the logarithms; stretched."""
        moduli = _unfolded(np.where(held[rows], np.exp(log), 0.0), fractions.shape[1])
        found = sensitivities(moduli, nu=nu, rtol=_RTOL)
        C = np.where((found.status == Status.OK)[:, None], found.C, np.nan)
        slope = domain.fold(found.gradient * moduli[:, None]) * domain.weights
        across = np.swapaxes(stretched(np.swapaxes(slope, 1, 2)), 1, 2)
        return stretched(C) / norm[rows], across / norm[rows][..., None]

    wanted = stretched(targets) / norm
    log = np.clip(_POWER * np.log(np.where(held, share, 1.0)), _LEAST, 0.0)
    best, error = log.copy(), np.full(len(log), np.inf)
    C, slope = np.full((len(log), 3), np.nan), np.zeros((len(log), 3, log.shape[1]))
    trust = np.full(len(log), _LONGEST)
    rows = np.arange(len(log))
    for _ in range(_ROUNDS):
        value, rise = solved(rows, log[rows])
        off = np.linalg.norm(value - wanted[rows], axis=1)
        better = off < error[rows]
        good = rows[better]
        best[good], error[good], C[good], slope[good] = log[good], off[better], value[better], rise[better]
        trust[rows] = np.where(better, np.minimum(1.5 * trust[rows], _LONGEST), 0.4 * trust[rows])
        rows = rows[np.isfinite(error[rows]) & (error[rows] > _NEAR)]  # a failed one is not tried again
        if not len(rows):
            break
        step = _step(best[rows], slope[rows], wanted[rows] - C[rows], ready[rows])
        step *= np.minimum(1.0, trust[rows] / np.maximum(np.abs(step).max(axis=1), 1e-12))[:, None]
        log[rows] = np.clip(best[rows] + step, _LEAST, _MOST)
    power = _rounded(best, slope, np.nan_to_num(wanted - C), held)
    moduli = _unfolded(np.where(held, _STEP ** power.astype(float), 0.0), fractions.shape[1])
    found = homogenize_octants(moduli, nu=nu, rtol=_RTOL)
    lost = np.count_nonzero(found.status != Status.OK)
    if lost:
        raise NotConverged(
            f"{lost} cells could not be homogenised at {2 * fractions.shape[1]} voxels an edge: "
            "take more --voxels-per-cell"
        )
    return moduli, found.C


def _step(log: Floats, slope: Floats, missing: Floats, ready: Floats) -> Floats:
    """The shortest step by what is missing; moduli at a bound stay where they would leave it."""
    free = ready.copy()
    for _ in range(3):
        step = least_norm(slope * free[:, None], missing, 1e-4) * free
        out = ((log >= _MOST) & (step > 0)) | ((log <= _LEAST) & (step < 0))
        if not out.any():
            break
        free[out] = 0.0
    return np.where(free > 0, step, 0.0)


def _rounded(log: Floats, slope: Floats, missing: Floats, held: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Powers of ``_STEP``: the nearest ones, then those moved by one that take back most of the error."""
    power = np.round(log / _UNIT).astype(np.int64)
    missing = missing - ((power * _UNIT - log)[:, None] * slope).sum(axis=2)
    moves = np.concatenate([slope, -slope], axis=2) * _UNIT
    every, count = np.arange(len(log)), log.shape[1]
    for _ in range(_NUDGES):
        after = np.linalg.norm(missing[..., None] - moves, axis=1)
        allowed = np.concatenate([held & (power < _POWERS[1]), held & (power > _POWERS[0])], axis=1)
        after[~allowed] = np.inf
        chosen = after.argmin(axis=1)
        gains = after[every, chosen] < np.linalg.norm(missing, axis=1)
        rows, moved = every[gains], chosen[gains]
        power[rows, moved % count] += np.where(moved < count, 1, -1)
        missing[rows] -= moves[rows, :, moved]
    return power


def _unfolded(values: Floats, k: int) -> Floats:
    """Octants (m, k, k, k) of a chamber's values (m, q)."""
    domain = chamber(k)
    return np.stack([domain.unfold(row) for row in values])
