"""From a data set to the weights of a generator: the whole of ``micro train``, resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber
from micro.cell.tensor import tensor_error
from micro.dataset import dataset
from micro.diffusion.weights import Model
from micro.generator.accuracy import measure
from micro.generator.generator import Generator
from micro.homogenize.sensitivity import sensitivities
from micro.runtime.arrays import Bools, Bytes, Floats, Singles
from micro.runtime.errors import InputError
from micro.runtime.executor import executor
from micro.runtime.files import PathLike, write_json
from micro.runtime.npz import read_arrays, write_arrays
from micro.shape import slopes as shape_slopes
from micro.shape.channels import is_open
from micro.shape.space import ShapeSpace, distance_at
from micro.training import ranks
from micro.training.data import Data, Settings, Slopes
from micro.training.figures import save_training
from micro.training.phases import Report, assemble, train_denoiser, train_surrogate

FILE = "generator.safetensors"
"""Name of the file of weights that a training leaves in its folder."""

_CHECKED = 24
"""Validation targets of the figures taken while training."""

_SLOPES, _SLOPE_RTOL = 25, 3e-3
"""Cells of a block of slopes, and the residual tolerance of their solves."""

_TOGETHER = 20
"""Blocks that processes share at once, with all that they need."""

_SLOPE_ERROR = 0.01
"""Error (Eq. 4) at the space's resolution above which a finer cell gives no slope."""


def train(
    cells: CellSet | Sequence[CellSet],
    folder: PathLike,
    settings: Settings,
    *,
    report: Report,
    start: Model | None = None,
    device: str | torch.device = "cpu",
    command: str = "",
    check_every: float = 900.0,
) -> Model:
    """Train a generator on a data set with a split, or on several together.

    Parameters
    ----------
    cells : CellSet or several
        Data sets (:mod:`micro.dataset.dataset`) of any resolutions; their validation parts steer nothing but
        the figures reported, which are those of the finest. The shape space stands on the grid of the
        coarsest, or on that of ``start``.
    folder : path
        Checkpoints, ``history.jsonl``, ``training.png`` and ``generator.safetensors``; the same call takes
        up what is there.
    settings : Settings
        Sizes of networks that are started from are those of ``start``, but for a larger dimension, by which
        its shape space is extended to carry the finest cells.
    report : callable
        Called with a dict at every checkpoint.
    start : Model, optional
        Weights and shape space to go on from, as after a round of active learning.
    device : str or torch.device
    command : str
        For the card.
    check_every : float
        Seconds between measurements with the homogeniser, if these take no more than a tenth of the time.

    Raises
    ------
    InputError
        If no set has a cell to train or to check with, the folder belongs to another data set or other
        settings, or the sets' base materials differ.
    """
    sets = [cells] if isinstance(cells, CellSet) else list(cells)
    for other in sets[1:]:
        other.require_poisson(sets[0].poisson)
    parts = dataset.parts_of(sets, ("train", "validation"))
    work = Path(folder)
    work.mkdir(parents=True, exist_ok=True)
    place = ranks.join(torch.device(device))
    if start is not None:
        settings = _sized(settings, start)
    if ranks.rank() == 0:
        claim(work, sets, settings)
    else:
        ranks.wait()
    n = start.space.n if start else min(c.n for c in sets)
    known = {name: _known(work, name, part, n) for name, part in parts.items()}
    space = _space(work / "space.npz", known["train"][0], parts["train"], n, settings.dimension, start)
    if ranks.rank() == 0:
        ranks.wait()  # the others read what the first process has written
    data = {name: Data.encode(space, *columns).to(place) for name, columns in known.items()}
    distance = known["train"][0]
    del known
    history = work / "history.jsonl"

    def log(line: dict[str, Any]) -> None:
        if ranks.rank():
            return
        with open(history, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if line["phase"] == "check":
            save_training(history, work / "training.png")
        report(line)

    slopes = None
    if settings.slopes:
        slopes = _slopes(work / "slopes", parts["train"], distance, space, settings, log)
    del distance
    surrogate = train_surrogate(
        data["train"],
        data["validation"],
        settings,
        work,
        log,
        start.surrogate if start else None,
        slopes.to(place) if slopes else None,
    )
    card: dict[str, Any] = {
        "poisson": sets[0].poisson,
        "data": "+".join(c.digest() for c in sets),
        "cells": sum(map(len, parts["train"])),
        "command": command,
        "settings": asdict(settings),
    }
    checks = max(parts["validation"], key=lambda part: part.n)
    picks = np.random.default_rng(settings.seed).permutation(len(checks))[:_CHECKED]
    last, pause = time.monotonic(), check_every
    model: Model | None = None
    previous = start.denoiser if start else None
    for denoiser in train_denoiser(data["train"], data["validation"], settings, work, log, previous):
        model = assemble(space, denoiser, surrogate, card)
        if ranks.rank():
            continue
        if time.monotonic() - last > pause:
            began = time.monotonic()
            log(_figures(model, checks.C[picks], checks.n))
            last = time.monotonic()
            pause = max(check_every, 9 * (last - began))
        model.save(work / FILE)
    assert model is not None  # the denoiser is yielded at its end, trained now or before
    if ranks.rank():
        return model
    final = _figures(model, checks.C[picks], checks.n)
    log(final)
    model = replace(model, card=card | {"validation": final})
    model.save(work / FILE)
    return model


def _figures(model: Model, targets: Floats, n: int) -> dict[str, Any]:
    """The real metric, at the resolution of the data: the bare model, as it is used, and open cells."""
    generator = Generator(model)
    found: dict[str, Any] = {"phase": "check"}
    for name, settings in (
        ("bare", {"draws": 1, "steering": 0}),
        ("used", {}),
        ("open", {"draws": 1, "steering": 0, "open": True}),
    ):
        found[name], samples, _ = measure(generator, targets, 2, resolution=n, seed=10**6, **settings)
        # Before any cell is drained: what the network itself has learned of openness.
        raw = generator.samples_of(samples.z, n).octants()
        found[name]["open"] = float(np.mean([is_open(octant) for octant in raw]))
    return found


def _sized(settings: Settings, start: Model) -> Settings:
    """Settings with the sizes of the networks that are there."""
    return replace(
        settings,
        dimension=max(settings.dimension, start.space.dimension),
        width=start.denoiser.width,
        depth=start.denoiser.depth,
        surrogate_width=start.surrogate.width,
        surrogate_depth=start.surrogate.depth,
    )


def claim(work: Path, sets: Sequence[CellSet], settings: Settings, **more: str) -> None:
    """Tie the folder to its data and settings, and to what else it is for.

    Raises
    ------
    InputError
        If it is tied to others.
    """
    mine = {"data": "+".join(c.digest() for c in sets), "settings": asdict(settings), **more}
    path = work / "run.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        for key in mine:
            if there.get(key) != mine[key]:
                raise InputError(
                    f"belongs to a run with other {key}; give another folder", file=work, key=key
                )
    else:
        write_json(path, mine)


def _known(work: Path, name: str, parts: list[CellSet], n: int) -> tuple[Singles, Floats, Floats, Bools]:
    """Signed distances at n (computed once), tensors, volumes and openness of a part of all sets."""
    distance = [distances(work / f"distance-{name}-{k}.npz", part, n) for k, part in enumerate(parts)]
    return (
        np.concatenate(distance),
        np.concatenate([part.C for part in parts]),
        np.concatenate([part.volume for part in parts]),
        np.concatenate([_open(part) for part in parts]),
    )


def _open(cells: CellSet) -> Bools:
    """Which cells are open: as labelled, else found out."""
    if "open" in cells.attrs:
        return dataset.openness(cells)
    return np.array([is_open(cells.octants(row)) for row in range(len(cells))], dtype=bool)


def distances(path: Path, cells: CellSet, n: int) -> Singles:
    """Signed distances (m, q) of a part on the grid of n, computed once and kept in the file."""
    if path.exists():
        return read_arrays(path, ("distance",))["distance"]
    rows = [distance_at(cells.octants(slice(i, i + 200)), n) for i in range(0, len(cells), 200)]
    out = np.concatenate(rows)
    write_arrays(path, {"distance": out}, pack=False)
    return out


def _slopes(
    folder: Path, parts: list[CellSet], distance: Singles, space: ShapeSpace, settings: Settings, log: Report
) -> Slopes:
    """Derivatives of some cells, whose signed distances (m, q) are given, computed once.

    They are kept in blocks with their cells' keys: blocks of an earlier run with the same space, put into
    the folder, are taken up, and a data set that has grown asks only for the slopes of what is new.
    """
    folder.mkdir(exist_ok=True)
    keys = np.array([_key(bits) for part in parts for bits in part.packed], dtype=np.uint64)
    known = _stored(folder, space)
    absent = np.array([int(key) not in known for key in keys])
    # What is there first, then in the order of the keys, which is random.
    chosen = np.lexsort((keys, absent))[: settings.slopes]
    if ranks.rank() == 0:
        first = np.cumsum([0, *map(len, parts)])
        new = chosen[absent[chosen]]
        # A cell may be there twice, in two sets; a block is named by its first one.
        new = new[np.sort(np.unique(keys[new], return_index=True)[1])]
        of = np.searchsorted(first, new, side="right") - 1
        blocks = [
            (number, rows[i : i + _SLOPES])
            for number in range(len(parts))
            for rows in [new[of == number]]
            for i in range(0, len(rows), _SLOPES)
        ]
        started, done = time.monotonic(), 0
        with executor() as processes:
            for i in range(0, len(blocks), _TOGETHER):
                some = blocks[i : i + _TOGETHER]
                jobs = [(parts[k].subset(rows - first[k]), distance[rows], space) for k, rows in some]
                for (_, rows), values in zip(some, processes.run(_slopes_of, jobs), strict=True):
                    block: dict[str, NDArray[Any]] = {
                        "keys": keys[rows],
                        "values": values.astype(np.float16),
                        "space": np.array(_digest(space)),
                    }
                    write_arrays(folder / f"{keys[rows[0]]:016x}.npz", block, pack=False)
                done += len(some)
                left = (len(blocks) - done) * (time.monotonic() - started) / done
                log({"phase": "slopes", "cells": len(chosen), "seconds_left": round(left)})
    ranks.wait()
    known = _stored(folder, space)
    values = np.stack([known[int(keys[row])] for row in chosen])
    finite = np.isfinite(values).all(axis=(1, 2))
    return Slopes.encode(space, chosen[finite], values[finite], len(keys))


def _slopes_of(job: tuple[CellSet, Singles, ShapeSpace]) -> Floats:
    """Slopes (m, 3, d) of cells, of finer ones by the space's own grid; NaN of those it can't carry.

    At 32 voxels a solve takes an eleventh of the time at 64, and slopes differ by 11 % in the median; by up
    to 90 % for walls that are lost between, whose tensor tells.
    """
    cells, distance, space = job
    finer = cells.n > space.n
    if finer:
        octants = np.stack([chamber(space.n).unfold(row) for row in distance]) > 0
    else:
        octants = cells.octants()
    found = sensitivities(octants, nu=cells.poisson, rtol=_SLOPE_RTOL)
    values = shape_slopes.slopes(space, space.encode(distance), octants, found.gradient)
    if finer:
        values[tensor_error(found.C, cells.C) > _SLOPE_ERROR] = np.nan
    return values


def _key(bits: Bytes) -> int:
    return int.from_bytes(hashlib.blake2b(bits.tobytes(), digest_size=8).digest(), "big")


def _digest(space: ShapeSpace) -> str:
    return hashlib.sha256(space.mean.tobytes() + space.basis.tobytes()).hexdigest()[:16]


def _stored(folder: Path, space: ShapeSpace) -> dict[int, NDArray[np.float16]]:
    """Slopes (3, d) by the key of their cell, of all blocks in the folder that belong to the space."""
    found: dict[int, NDArray[np.float16]] = {}
    for path in sorted(folder.glob("*.npz")):
        block = read_arrays(path, ("space", "keys", "values"))
        if str(block["space"]) == _digest(space):
            found.update(zip(block["keys"].tolist(), block["values"], strict=True))
    return found


def _space(
    path: Path, distance: Singles, parts: list[CellSet], n: int, dimension: int, start: Model | None
) -> ShapeSpace:
    """The shape space of the training part, or that of ``start``, extended for the finest set."""
    if start is not None and start.space.dimension == dimension:
        return start.space
    if path.exists():
        stored = read_arrays(path, ("mean", "basis"))
        return ShapeSpace(n, stored["mean"], stored["basis"])
    if start is None:
        space = ShapeSpace.fit(distance, n, dimension)
    else:
        sizes = [part.n for part in parts]
        fine = np.repeat(sizes, [len(part) for part in parts]) == max(sizes)
        space = start.space.extended(distance[fine], dimension)
    # As it will be stored with the weights: what is learned in it stays right, slopes can be used again.
    space = ShapeSpace(n, space.mean, torch.from_numpy(space.basis).bfloat16().float().numpy())
    write_arrays(path, {"mean": space.mean, "basis": space.basis}, pack=False)
    return space
