"""From a data set to the weights of a generator: the whole of ``micro train``, resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.dataset import dataset
from micro.diffusion.weights import Model
from micro.generator.accuracy import measure
from micro.generator.generator import Generator
from micro.homogenize.sensitivity import sensitivities
from micro.runtime.errors import InputError
from micro.runtime.files import atomic_path, write_json
from micro.shape import slopes as shape_slopes
from micro.shape.space import ShapeSpace, signed_distance
from micro.training import ranks
from micro.training.data import Data, Settings, Slopes
from micro.training.figures import save_training
from micro.training.phases import assemble, train_denoiser, train_surrogate

Report = Callable[[dict[str, Any]], None]

_CHECKED = 48
"""Validation targets of the figures taken while training."""

_SLOPES, _SLOPE_RTOL = 25, 3e-3
"""Cells of a block of slopes, and the residual tolerance of their solves."""


def train(
    cells: CellSet,
    folder: str | PathLike[str],
    settings: Settings,
    *,
    report: Report,
    start: Model | None = None,
    device: str | torch.device = "cpu",
    command: str = "",
    check_every: float = 900.0,
) -> Model:
    """Train a generator on a data set with a split.

    Parameters
    ----------
    cells : CellSet
        A data set (:mod:`micro.dataset.dataset`); its validation part steers nothing but the
        figures reported.
    folder : path
        Checkpoints, ``history.jsonl``, ``training.png`` and ``generator.safetensors``; the same call takes
        up what is there.
    settings : Settings
        Sizes of networks that are started from are those of ``start``.
    report : callable
        Called with a dict at every checkpoint.
    start : Model, optional
        Weights and shape space to go on from, as after a round of active learning.
    device : str or torch.device
    command : str
        For the card.
    check_every : float
        Seconds between measurements with the homogeniser.

    Raises
    ------
    InputError
        If the folder belongs to another data set or other settings.
    """
    work = Path(folder)
    work.mkdir(parents=True, exist_ok=True)
    place = ranks.join(torch.device(device))
    if start is not None:
        settings = _sized(settings, start)
    if ranks.rank() == 0:
        _claim(work, cells, settings)
    else:
        ranks.wait()
    parts = {name: dataset.part(cells, name) for name in ("train", "validation")}
    distance = {name: _distances(work / f"distance-{name}.npy", part) for name, part in parts.items()}
    space = (
        start.space if start else _space(work / "space.npz", distance["train"], cells.n, settings.dimension)
    )
    if ranks.rank() == 0:
        ranks.wait()  # the others read what the first process has written
    data = {k: Data.encode(space, distance[k], p.C, p.volume).to(place) for k, p in parts.items()}
    del distance
    history = work / "history.jsonl"

    def log(line: dict[str, Any]) -> None:
        if ranks.rank():
            return
        with open(history, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if line["phase"] == "check":
            save_training(history, work / "training.png")
        report(line)

    slopes = _slopes(work / "slopes", parts["train"], space, settings, log) if settings.slopes else None
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
        "poisson": cells.poisson,
        "data": cells.digest(),
        "cells": len(parts["train"]),
        "command": command,
        "settings": asdict(settings),
    }
    checks = parts["validation"]
    picks = np.random.default_rng(settings.seed).permutation(len(checks))[:_CHECKED]
    last = time.monotonic()
    model: Model | None = None
    previous = start.denoiser if start else None
    for denoiser in train_denoiser(data["train"], data["validation"], settings, work, log, previous):
        model = assemble(space, denoiser, surrogate, card)
        if ranks.rank():
            continue
        if time.monotonic() - last > check_every:
            last = time.monotonic()
            log(_figures(model, checks.C[picks]))
        model.save(work / "generator.safetensors")
    assert model is not None  # the denoiser is yielded at its end, trained now or before
    if ranks.rank():
        return model
    final = _figures(model, checks.C[picks])
    log(final)
    model = Model(model.space, model.denoiser, model.surrogate, card | {"validation": final})
    model.save(work / "generator.safetensors")
    return model


def _figures(model: Model, targets: NDArray[np.float64]) -> dict[str, Any]:
    """The real metric, at the resolution of the data: the bare model, and as it is used."""
    generator = Generator(model)
    bare, _, _ = measure(generator, targets, 2, resolution=model.space.n, seed=10**6, draws=1, steering=0)
    used, _, _ = measure(generator, targets, 2, resolution=model.space.n, seed=10**6)
    return {"phase": "check", "bare": bare, "used": used}


def _sized(settings: Settings, start: Model) -> Settings:
    """Settings with the sizes of the networks that are there."""
    return replace(
        settings,
        dimension=start.space.dimension,
        width=start.denoiser.width,
        depth=start.denoiser.depth,
        surrogate_width=start.surrogate.width,
        surrogate_depth=start.surrogate.depth,
    )


def _claim(work: Path, cells: CellSet, settings: Settings) -> None:
    """Tie the folder to its data and settings."""
    mine = {"data": cells.digest(), "settings": asdict(settings)}
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


def _distances(path: Path, cells: CellSet) -> NDArray[np.float32]:
    """Signed distances of a part, computed once."""
    if path.exists():
        return np.load(path, allow_pickle=False)
    rows = [signed_distance(cells.octants(slice(i, i + 200))) for i in range(0, len(cells), 200)]
    out = np.concatenate(rows)
    with atomic_path(path) as temporary:
        np.save(temporary, out, allow_pickle=False)
    return out


def _slopes(folder: Path, cells: CellSet, space: ShapeSpace, settings: Settings, log: Report) -> Slopes:
    """Derivatives of some cells, computed once.

    They are kept in blocks with their cells' keys: blocks of an earlier run with the same space, put into
    the folder, are taken up, and a data set that has grown asks only for the slopes of what is new.
    """
    folder.mkdir(exist_ok=True)
    keys = np.array([_key(bits) for bits in cells.packed], dtype=np.uint64)
    known = _stored(folder, space)
    absent = np.array([int(key) not in known for key in keys])
    # What is there first, then in the order of the keys, which is random.
    chosen = np.lexsort((keys, absent))[: settings.slopes]
    if ranks.rank() == 0:
        missing = np.array([row for row in chosen if int(keys[row]) not in known], dtype=np.intp)
        blocks = [missing[i : i + _SLOPES] for i in range(0, len(missing), _SLOPES)]
        started = time.monotonic()
        for done, rows in enumerate(blocks, start=1):
            octants = cells.octants(rows)
            gradient = sensitivities(octants, nu=cells.poisson, rtol=_SLOPE_RTOL).gradient
            values = shape_slopes.slopes(space, space.encode(signed_distance(octants)), octants, gradient)
            path = folder / f"{keys[rows[0]]:016x}.npz"
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, keys=keys[rows], values=values.astype(np.float16), space=_digest(space))
            if done % 10 == 0 or done == len(blocks):
                left = (len(blocks) - done) * (time.monotonic() - started) / done
                log({"phase": "slopes", "cells": len(chosen), "seconds_left": round(left)})
    ranks.wait()
    known = _stored(folder, space)
    return Slopes.encode(space, chosen, np.stack([known[int(keys[row])] for row in chosen]), len(cells))


def _key(bits: NDArray[np.uint8]) -> int:
    return int.from_bytes(hashlib.blake2b(bits.tobytes(), digest_size=8).digest(), "big")


def _digest(space: ShapeSpace) -> str:
    return hashlib.sha256(space.mean.tobytes() + space.basis.tobytes()).hexdigest()[:16]


def _stored(folder: Path, space: ShapeSpace) -> dict[int, NDArray[np.float16]]:
    """Slopes (3, d) by the key of their cell, of all blocks in the folder that belong to the space."""
    found: dict[int, NDArray[np.float16]] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as block:
            if str(block["space"]) == _digest(space):
                found.update(zip(block["keys"].tolist(), block["values"], strict=True))
    return found


def _space(path: Path, distance: NDArray[np.float32], n: int, dimension: int) -> ShapeSpace:
    """The shape space of the training part, fitted once."""
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return ShapeSpace(n, stored["mean"], stored["basis"])
    space = ShapeSpace.fit(distance, n, dimension)
    # As it will be stored with the weights: what is learned in it stays right, slopes can be used again.
    space = ShapeSpace(n, space.mean, torch.from_numpy(space.basis).bfloat16().float().numpy())
    with atomic_path(path) as temporary:
        np.savez(temporary, mean=space.mean, basis=space.basis)
    return space
