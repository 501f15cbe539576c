"""The packaged cell library: retrieval by tensor, and correction of a cell toward its target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.chamber import pack
from micro.families.families import family
from micro.library.correction import Search, run
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.executor import executor
from micro.runtime.progress import Progress, unheard

_TOGETHER = 64
"""Cells corrected in one job."""


def nearest(cells: CellSet, targets: ArrayLike, k: int = 1) -> tuple[NDArray[np.intp], Floats]:
    """The k cells nearest to each target by tensor error (Eq. 4).

    Parameters
    ----------
    cells : CellSet
    targets : array_like, shape (q, 3)
    k : int
        Number of neighbours, at most the number of cells.

    Returns
    -------
    index : int array, shape (q, k)
        Rows of ``cells``, nearest first.
    error : array, shape (q, k)
        Their tensor errors.

    Raises
    ------
    InputError
        If the targets are no finite tensors, or there are not so many cells.
    """
    wanted = np.asarray(targets, dtype=np.float64)
    if wanted.ndim != 2 or wanted.shape[1] != 3 or not np.isfinite(wanted).all():
        raise InputError("targets are finite tensors (q, 3)", value=wanted.shape)
    if not 1 <= k <= len(cells):
        raise InputError(f"must lie in 1..{len(cells)}", key="k", value=k)
    # Eq. 4 is a third of the L1 distance once each constant is divided by its range.
    distance, index = cKDTree(cells.C / tensor.PAPER_SPAN).query(wanted / tensor.PAPER_SPAN, k=k, p=1)
    return np.asarray(index).reshape(len(wanted), k), np.asarray(distance).reshape(len(wanted), k) / 3


def correctable(
    cells: CellSet, targets: ArrayLike, k: int = 1, neighbours: int = 48
) -> tuple[NDArray[np.intp], Floats]:
    """Of each target's neighbours those that a change of volume alone brings nearest to it.

    Better starts for :func:`correct` than the nearest cells. Each of the ``neighbours`` nearest is moved
    along its estimated slope by volume, that of scaled moduli m = ((V - V0) / (1 - V0))^3, which joins the
    cell to the solid; on the packaged library the estimate is off by 8 degrees on average, so an eighth of
    the way counts as error.

    Parameters
    ----------
    cells : CellSet
    targets : array_like, shape (q, 3)
    k, neighbours : int
        How many to return, of how many.

    Returns
    -------
    index : int array, shape (q, k)
        Rows of ``cells``, the most promising first.
    error : array, shape (q, k)
        Their estimated tensor errors after correction.

    Raises
    ------
    InputError
        If there are not so many neighbours.
    """
    wanted = np.asarray(targets, dtype=np.float64)
    index, before = nearest(cells, wanted, min(neighbours, len(cells)))
    if not 1 <= k <= index.shape[1]:
        raise InputError(f"must lie in 1..{index.shape[1]}", key="k", value=k)
    solid = tensor.to_moduli(tensor.isotropic(1.0, cells.poisson))
    m = np.clip(tensor.to_moduli(cells.C) / solid, 1e-6, 1.0)
    gap = np.maximum(1 - cells.volume, 0.02)[:, None]
    slope = tensor.from_moduli(3 * m ** (2 / 3) * (1 - m ** (1 / 3)) / gap * solid)
    a, r = slope[index] / tensor.PAPER_SPAN, (wanted[:, None] - cells.C[index]) / tensor.PAPER_SPAN
    # The least sum of absolute values along a line lies where one of them vanishes (or where it starts).
    stops = np.divide(r, a, out=np.zeros_like(r), where=np.abs(a) > 1e-9)
    stops = np.clip(stops, -0.1, 0.1)
    left = np.abs(r[:, :, None] - stops[..., None] * a[:, :, None]).mean(axis=-1)
    moved = np.abs(stops[..., None] * a[:, :, None]).mean(axis=-1)
    after = np.minimum((left + moved / 8).min(axis=-1), before)
    order = np.argsort(after, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(index, order, 1), np.take_along_axis(after, order, 1)


def correct(
    cells: CellSet,
    index: ArrayLike,
    targets: ArrayLike,
    *,
    parameters: int = 6,
    steps: int = 3,
    tolerance: float = 1e-3,
    relative: float = np.inf,
    progress: Progress = unheard,
) -> CellSet:
    """Move cells made by formula toward target tensors (:mod:`micro.library.correction`).

    Parameters
    ----------
    cells : CellSet
        With families of :mod:`micro.families.families`.
    index : int array, shape (q,)
        The cell to start from, for each target; :func:`correctable` finds good ones.
    targets : array_like, shape (q, 3)
    parameters : int
        Coordinates of the search: 1 is the threshold alone (volume), more bend the shape.
    steps : int
        Trials at full resolution for each cell, at most.
    tolerance, relative : float
        Tensor error (Eq. 4) and relative error at which, both, a cell is left alone.
    progress : Progress
        Told how many cells are done.

    Returns
    -------
    CellSet
        q cells with their own homogenised tensors, none farther from its target than the one it came from.

    Raises
    ------
    InputError
        If the arrays do not match or a cell's family is unknown here.
    """
    rows = np.asarray(index, dtype=np.intp).reshape(-1)
    wanted = np.asarray(targets, dtype=np.float64)
    if wanted.shape != (len(rows), 3):
        raise InputError("one target tensor for each cell is needed", key="targets", value=wanted.shape)
    if parameters < 1:
        raise InputError("at least one is needed", key="parameters", value=parameters)
    start = cells.subset(rows)
    bounds = tensor.Bounds(tolerance, relative)
    jobs = [
        (start.subset(np.arange(i, min(i + _TOGETHER, len(rows)))), wanted[i : i + _TOGETHER], parameters)
        for i in range(0, len(rows), _TOGETHER)
    ]
    parts = []
    with executor(1) as processes:
        for part in processes.run(_corrected, [(*job, steps, bounds) for job in jobs]):
            parts.append(part)
            progress(sum(map(len, parts)), len(rows))
    return CellSet.concat(parts, attrs=start.attrs) if parts else start


def _corrected(job: tuple[CellSet, Floats, int, int, tensor.Bounds]) -> CellSet:
    """Some of the cells of :func:`correct`: a job of its own, the same whoever does it."""
    start, wanted, parameters, steps, bounds = job
    searches = [
        Search.begin(
            family(str(start.family[i])), start.params[i], start.C[i], wanted[i], start.n, parameters, bounds
        )
        for i in range(len(start))
    ]
    run(searches, steps, start.poisson)
    packed, C = start.packed.copy(), start.C.copy()
    params, volume = start.params.copy(), start.volume.copy()
    for i, search in enumerate(searches):
        if search.octant is not None:
            packed[i] = pack(search.octant[None])[0]
            volume[i] = search.octant.mean()
            C[i] = search.C
            params[i, : len(search.params)] = search.params
    return replace(start, packed=packed, C=C, volume=volume, params=params)


def match(cells: CellSet, target: ArrayLike, *, neighbours: int = 6, steps: int = 8) -> CellSet:
    """One cell as close to one target as can be: a longer search from several neighbours.

    For a tensor that a whole region shares; until 0.01 % or ``steps`` trials.

    Parameters
    ----------
    cells : CellSet
    target : array_like, shape (3,)
    neighbours : int
        Cells that a search starts from.
    steps : int

    Returns
    -------
    CellSet
        The single best cell, with its own tensor.
    """
    wanted = np.asarray(target, dtype=np.float64).reshape(1, 3)
    index, _ = correctable(cells, wanted, min(neighbours, len(cells)))
    many = np.repeat(wanted, index.shape[1], axis=0)
    tried = correct(cells, index[0], many, parameters=8, steps=steps, tolerance=1e-4)
    return tried.subset([int(np.argmin(tensor.tensor_error(tried.C, wanted)))])
