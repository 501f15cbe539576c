"""Homogenised candidates, and the files they wait in: what makes a library build resumable.

A shard is a file of candidates with their tensors. Worker processes make them, a goal of
:mod:`micro.library.reach` being one shard; those that are there already are read instead.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection
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
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.npz import read_arrays, write_arrays
from micro.runtime.progress import Report

SMALLEST_MODULUS = 5e-4
"""Cells softer than this (units of E_s) in any of K, mu', G carry no load worth a name."""

COARSE_RTOL = 1e-2
"""Residual tolerance of the coarse labels; errors are quadratic in it: at most 0.4 %, 0.03 % on average."""

FINE_RTOL = 3e-4
"""Residual tolerance of the library's own labels; the relative error of a constant is below 1e-5."""

FINE = 32
"""Resolution at which every candidate must be presentable: a member of 1/32 of the cell is two voxels."""

PARAMS = max(len(f.parameters) for f in FAMILIES.values())


@dataclass(frozen=True)
class Labels:
    """Homogenised candidates: names (m,), params (m, p), C (m, 3), volume (m,), good (m,) bool."""

    names: NDArray[np.str_]
    params: Floats
    C: Floats
    volume: Floats
    good: NDArray[np.bool_]

    @staticmethod
    def concat(parts: Sequence[Labels]) -> Labels:
        """One after another."""
        return Labels(*(np.concatenate([getattr(p, f) for p in parts]) for f in Labels.__dataclass_fields__))

    def take(self, rows: Any) -> Labels:
        """The rows given by integers or a mask."""
        return Labels(*(getattr(self, f)[rows] for f in Labels.__dataclass_fields__))


def presentable(octant: NDArray[np.bool_]) -> bool:
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


def is_stiff(C: ArrayLike) -> NDArray[np.bool_]:
    """Whether cells of tensors (..., 3) carry a load worth a name (:data:`SMALLEST_MODULUS`); shape (...)."""
    return np.asarray((tensor.to_moduli(C) >= SMALLEST_MODULUS).all(axis=-1))


def padded(params: Floats) -> Floats:
    """Parameters of any family as (PARAMS,), NaN beyond their own number."""
    return np.concatenate([params, np.full(PARAMS - len(params), np.nan)])


def label(names: Sequence[str], params: Floats, n: int, rtol: float, nu: float = POISSON) -> Labels:
    """Evaluate candidates at resolution n and homogenise the good ones.

    A good cell is presentable at n or :data:`FINE`, whichever is finer, and connected at n.
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


Job = tuple[Path, list[str], Floats, int, float, float]
"""File, families, parameters, resolution, tolerance, Poisson's ratio of the base material."""

Goal = tuple[Path, str, Floats, Floats, int, float]
"""File, family and parameters of the start, scaled moduli of the goal, resolution, Poisson's ratio."""


class Shards:
    """Labelling spread over processes, one file a shard."""

    size = 50

    def __init__(self, workers: int, report: Report | None, nu: float = POISSON):
        self.workers = workers
        self.nu = nu
        self.report = report

    def __enter__(self) -> Shards:
        # Spawned, because a forked process would inherit torch's threads in an unknown state.
        context = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown(cancel_futures=True)

    def label(
        self,
        stage: str,
        folder: Path,
        names: Sequence[str],
        params: Floats,
        n: int,
        rtol: float,
        *,
        before: int = 0,
        total: int | None = None,
    ) -> Labels:
        """Label candidates, reading the shards that are there and writing those that are not."""
        total = len(names) if total is None else total
        spans = [slice(i, i + self.size) for i in range(0, len(names), self.size)]
        paths = [folder / f"{span.start:06d}.npz" for span in spans]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        jobs = [
            (paths[i], [str(f) for f in names[spans[i]]], params[spans[i]], n, rtol, self.nu) for i in missing
        ]
        started = time.time()
        done = len(names) - sum(len(job[1]) for job in jobs)
        for number, count in enumerate(self.run(_label_shard, jobs), start=1):
            done += count
            if self.report:
                speed = (time.time() - started) / (sum(len(job[1]) for job in jobs[:number]))
                self.report(stage, before + done, total, speed * (total - before - done))
        return Labels.concat([load_labels(path) for path in paths])

    def reach(self, jobs: list[Goal]) -> Labels:
        """Cells on the way to each goal, one file a goal."""
        missing = [job for job in jobs if not job[0].exists()]
        started = time.time()
        for number, _ in enumerate(self.run(_reach_shard, missing), start=1):
            if self.report:
                left = (time.time() - started) / number * (len(missing) - number)
                self.report("reach", len(jobs) - len(missing) + number, len(jobs), left)
        return Labels.concat([load_labels(job[0]) for job in jobs])

    def run(self, work: Callable[[Any], int], jobs: Sequence[Any]) -> Iterator[int]:
        """Do the jobs, in this process if one worker was asked for; yields what each returns, in order."""
        return map(work, jobs) if self.workers <= 1 else self.executor.map(work, jobs)


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    # A killed parent cannot tell its workers: each one watches for its end.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _reach_shard(job: Goal) -> int:
    path, name, params, goal, n, nu = job
    tried: list[Labels] = []

    def evaluate(candidates: list[Floats]) -> tuple[Floats, NDArray[np.bool_]]:
        rows = np.stack([padded(c) for c in candidates])
        tried.append(label([name] * len(rows), rows, n, COARSE_RTOL, nu))
        return scaled_moduli(tried[-1].C), tried[-1].good

    reach(name, params, goal, FINE, evaluate)
    labels = Labels.concat(tried)
    _save(path, labels)
    return len(labels.C)


def _label_shard(job: Job) -> int:
    path, names, params, n, rtol, nu = job
    labels = label(names, params, n, rtol, nu)
    _save(path, labels)
    return len(names)


def _save(path: Path, labels: Labels) -> None:
    write_arrays(path, vars(labels), pack=False)


def load_labels(path: Path) -> Labels:
    """Read a shard; InputError if it is damaged."""
    try:
        stored = read_arrays(path, Labels.__dataclass_fields__)
    except InputError as error:
        raise InputError(f"a damaged shard; delete it and run again: {error.reason}", file=path) from error
    return Labels(*(stored[f] for f in Labels.__dataclass_fields__))
