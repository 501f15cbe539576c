"""Tensor fields on disk: npz with the arrays C11, C12, C44 of the grid's shape, in units of E_s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.cell.tensor import BORN, is_definite, to_moduli
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.npz import read_arrays, write_arrays
from multiscale.case.tables import isotropic_tensor, stiffer_than_solid
from multiscale.problem.problem import Problem

NAMES = ("C11", "C12", "C44")
"""The arrays of a tensor field."""


def save_tensors(path: Path, tensors: Floats) -> None:
    """Write a tensor field (nx, ny, nz, 3) as the arrays C11, C12, C44."""
    write_arrays(path, {name: tensors[..., i] for i, name in enumerate(NAMES)})


def load_tensors(path: Path, problem: Problem) -> Floats:
    """Read a tensor field for a problem: (nx, ny, nz, 3), voids set to zero.

    Raises
    ------
    InputError
        If the file is not such a field or a tensor that counts is not positive definite.
    """
    tensors = stacked(path, named(read_arrays(path), NAMES, path), problem)
    return checked_tensors(path, tensors, problem, problem.solid)


def named(held: Mapping[str, NDArray], names: Sequence[str], path: Path) -> dict[str, NDArray]:
    """Arrays of a file by these names.

    Raises
    ------
    InputError
        If one is missing.
    """
    for name in names:
        if name not in held:
            raise InputError(
                f"the array is missing; needed: {', '.join(names)}", file=path, key=name, value=list(held)
            )
    return {name: held[name] for name in names}


def stacked(path: Path, arrays: Mapping[str, NDArray], problem: Problem) -> Floats:
    """Arrays of a file, one number an element, as one of shape (nx, ny, nz, arrays).

    Raises
    ------
    InputError
        If one has another shape than the grid, or holds no real numbers.
    """
    for name, array in arrays.items():
        if array.shape != problem.shape:
            raise InputError(
                f"must have the grid's shape {problem.shape}", file=path, key=name, value=array.shape
            )
        if array.dtype.kind not in "fiu":
            raise InputError("must be real numbers", file=path, key=name, value=str(array.dtype))
    return np.stack([array.astype(np.float64) for array in arrays.values()], axis=-1)


def checked_tensors(path: Path, tensors: Floats, problem: Problem, counted: Bools) -> Floats:
    """A field (nx, ny, nz, 3) read from ``path``, sound where it counts and zero elsewhere.

    Parameters
    ----------
    path : Path
        For the error.
    tensors : array (nx, ny, nz, 3)
        Units of E_s.
    problem : Problem
    counted : bool array (nx, ny, nz)
        Elements that count.

    Raises
    ------
    InputError
        If a tensor that counts is not positive definite, or stiffer than the solid that its cell is made of.
    """
    bad = np.argwhere(counted & ~is_definite(tensors))
    if len(bad):
        i, j, k = (int(v) for v in bad[0])
        raise InputError(
            f"{len(bad)} tensors are not positive definite ({', '.join(BORN)}), "
            f"the first at element [{i}, {j}, {k}]",
            file=path,
            key="C11, C12, C44",
            value=tensors[i, j, k].tolist(),
        )
    _refuse_stiffer(path, tensors[counted & problem.filled], problem)
    tensors[~counted] = 0.0
    return tensors


def _refuse_stiffer(path: Path, tensors: Floats, problem: Problem) -> None:
    """Refuse tensors (m, 3) beyond the base material's: most likely they are in another unit."""
    if not len(tensors):
        return
    moduli = to_moduli(tensors) / to_moduli(np.array(isotropic_tensor(1.0, problem.poisson)))
    worst = int(moduli.max(axis=1).argmax())
    young = problem.young_pa / 1e6
    trouble = stiffer_than_solid(
        (tensors[worst, 0], tensors[worst, 1], tensors[worst, 2]), young, problem.poisson
    )
    if trouble:
        count = int((moduli.max(axis=1) > 1.001).sum())
        raise InputError(
            f"{count} tensors are stiffer than the solid, one {trouble}", file=path, key="C11, C12, C44"
        )
