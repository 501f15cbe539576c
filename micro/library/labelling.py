"""Homogenised candidates, and the files they wait in: what makes a library build resumable.

A shard is a file of candidates with their tensors: those labelled together, or those on the way to one goal
of :mod:`micro.library.reach`. Each is a job of :mod:`micro.runtime.jobs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from micro.cell import octant as cell, tensor
from micro.cell.tensor import POISSON, scaled_moduli
from micro.families.families import FAMILIES, family
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.library.reach import reach
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.npz import read_arrays, write_arrays

SMALLEST_MODULUS = 5e-4
"""Cells softer than this (units of E_s) in any of K, mu', G carry no load worth a name."""

COARSE_RTOL = 1e-2
"""Residual tolerance of the coarse labels; errors are quadratic in it: at most 0.4 %, 0.03 % on average."""

FINE_RTOL = 3e-4
"""Residual tolerance of the library's own labels; the relative error of a constant is below 1e-5."""

FINE = 32
"""Resolution at which every candidate must be presentable: a member of 1/32 of the cell is two voxels."""

SHARD = 50
"""Candidates of a file."""

PARAMS = max(len(f.parameters) for f in FAMILIES.values())


@dataclass(frozen=True)
class Labels:
    """Homogenised candidates: names (m,), params (m, p), C (m, 3), volume (m,), good (m,) bool."""

    names: NDArray[np.str_]
    params: Floats
    C: Floats
    volume: Floats
    good: Bools

    @staticmethod
    def concat(parts: Sequence[Labels]) -> Labels:
        """One after another."""
        return Labels(*(np.concatenate([getattr(p, f) for p in parts]) for f in Labels.__dataclass_fields__))

    def take(self, rows: Any) -> Labels:
        """The rows given by integers or a mask."""
        return Labels(*(getattr(self, f)[rows] for f in Labels.__dataclass_fields__))


def presentable(octant: Bools) -> bool:
    """Whether an octant is connected and without dust.

    No dust: at most 5 % of the mirrored cell's solid is thinner than two voxels (is lost by opening
    with a 2x2x2 block), so the cell has features that a finer grid would show again.
    """
    if not cell.connectivity(octant).connected:
        return False
    # Mirror planes double what touches them: one voxel of the mirror image on each side is enough.
    padded = np.pad(octant, 1, mode="symmetric")
    block = np.ones((2, 2, 2), bool)
    opened = ndimage.binary_dilation(ndimage.binary_erosion(padded, block, origin=-1), block, origin=-1)
    return bool(opened[1:-1, 1:-1, 1:-1].sum() >= 0.95 * octant.sum())


def is_stiff(C: ArrayLike) -> Bools:
    """Whether cells of tensors (..., 3) carry a load worth a name (:data:`SMALLEST_MODULUS`); shape (...)."""
    return np.asarray((tensor.to_moduli(C) >= SMALLEST_MODULUS).all(axis=-1))


def padded(params: Floats) -> Floats:
    """Parameters of any family as (PARAMS,), NaN beyond their own number."""
    return np.concatenate([params, np.full(PARAMS - len(params), np.nan)])


def label(names: Sequence[str], params: Floats, n: int, rtol: float, nu: float = POISSON) -> Labels:
    """Evaluate candidates at resolution n and homogenise the good ones.

    A good cell is presentable at n or :data:`FINE`, whichever is finer, and connected at n.

    Parameters
    ----------
    names : sequence of str, length m
    params : array, shape (m, p)
    n : int
    rtol : float
        Of the homogenisation.
    nu : float
        Poisson's ratio of the base material.
    """
    octants = np.stack([family(name).octant(row, n) for name, row in zip(names, params, strict=True)])
    good = np.array([cell.connectivity(octant).connected for octant in octants])
    for i in np.flatnonzero(good).tolist():
        good[i] = presentable(octants[i] if n >= FINE else family(names[i]).octant(params[i], FINE))
    C = np.zeros((len(names), 3))
    if good.any():
        result = homogenize_octants(octants[good], nu=nu, rtol=rtol)
        C[good] = result.C
        good[good] = result.status == Status.OK
    good &= is_stiff(C)
    volume = octants.mean(axis=(1, 2, 3))
    return Labels(np.array(names, dtype=np.str_), np.asarray(params), C, volume, good)


@dataclass(frozen=True)
class LabelJob:
    """Candidates to be labelled together.

    Attributes
    ----------
    path : Path
        File of their labels, a shard.
    names, params : list (m,), array (m, p)
        Families and parameters.
    n : int
        Resolution.
    rtol, nu : float
        Residual tolerance, Poisson's ratio of the base material.
    """

    path: Path
    names: list[str]
    params: Floats
    n: int
    rtol: float
    nu: float

    def make(self) -> None:
        """Label them and write the shard."""
        write_arrays(self.path, vars(label(self.names, self.params, self.n, self.rtol, self.nu)), pack=False)


@dataclass(frozen=True)
class ReachJob:
    """A search for a tensor by all shape parameters (:mod:`micro.library.reach`).

    Attributes
    ----------
    path : Path
        File of the cells on its way, a shard.
    name, params : str, array (p,)
        The start.
    goal : array (3,)
        Scaled moduli.
    n : int
        Resolution.
    nu : float
        Poisson's ratio of the base material.
    """

    path: Path
    name: str
    params: Floats
    goal: Floats
    n: int
    nu: float

    def make(self) -> None:
        """Search and write the shard."""
        tried: list[Labels] = []

        def evaluate(candidates: list[Floats]) -> tuple[Floats, Bools]:
            rows = np.stack([padded(c) for c in candidates])
            tried.append(label([self.name] * len(rows), rows, self.n, COARSE_RTOL, self.nu))
            return scaled_moduli(tried[-1].C), tried[-1].good

        reach(self.name, self.params, self.goal, FINE, evaluate)
        write_arrays(self.path, vars(Labels.concat(tried)), pack=False)


def label_jobs(
    folder: Path, names: Sequence[str], params: Floats, *, n: int, rtol: float, nu: float
) -> list[LabelJob]:
    """Candidates in shards of :data:`SHARD`.

    Parameters
    ----------
    folder : Path
        For the shards.
    names : sequence of str, length m
    params : array, shape (m, p)
    n : int
    rtol, nu : float
        Residual tolerance, Poisson's ratio of the base material.
    """
    spans = [slice(i, i + SHARD) for i in range(0, len(names), SHARD)]
    return [
        LabelJob(folder / f"{s.start:06d}.npz", [str(f) for f in names[s]], params[s], n, rtol, nu)
        for s in spans
    ]


def labels_of(jobs: Sequence[LabelJob | ReachJob]) -> Labels:
    """What finished jobs have found, in their order."""
    return Labels.concat([load_labels(job.path) for job in jobs])


def load_labels(path: Path) -> Labels:
    """Read a shard.

    Raises
    ------
    InputError
        If it is damaged.
    """
    try:
        stored = read_arrays(path, Labels.__dataclass_fields__)
    except InputError as error:
        raise InputError(f"a damaged shard; delete it and run again: {error.reason}", file=path) from error
    return Labels(*(stored[f] for f in Labels.__dataclass_fields__))
