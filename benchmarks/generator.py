"""Accuracy, cleanliness, diversity, novelty and time of the packaged generator.

    python benchmarks/generator.py --out benchmarks/results/generator.json
    python benchmarks/generator.py --n 64 --targets 1000 --bare 0 --refined 48 --many 0 --data SET --out FILE

Targets are random tensors inside the packaged gamut (phi >= 0), uniform in the box of Eq. 4's ranges.
Errors are Eq. 4 against the delivered cells' own tensors, homogenised at the resolution delivered:

``default``    as used: draws screened and steered by the surrogate; nothing is homogenised
``bare``       the diffusion model alone, one draw, 18 steps (the first ``--bare`` targets)
``asked``      the other things that can be asked for: tensor and volume, a volume, nothing
``refined``    moved onto the target by the homogeniser's slopes, one cell for each of ``--refined`` targets;
               ``within_2_percent`` of up to four
``retrieval``  the nearest cell of the data set; the nearest library cell with its threshold moved
``candidates`` for ``--many`` targets: connected cells within 1 % of a target that are unlike each other
               (Eq. 5 below 0.9), among 16 refined ones and among all of the data set
``beyond``     targets just outside phi >= 0, refined, against the nearest cell of the data set
``carried``    with ``--data FILE``: cells of its test part encoded and decoded at their resolution
``open``       with ``--data FILE``: open cells asked for the tensors of its test part, by volume

``--unet`` also times the founding paper's network shape (a U-Net on 64^3 voxels, 31 million parameters,
18 steps).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micro.cell import octant as cell, tensor
from micro.cell.cellset import CellSet
from micro.cell.chamber import unpack
from micro.data.packaged import load_dataset, load_gamut, load_library
from micro.dataset.dataset import part
from micro.generator.accuracy import measure
from micro.generator.generator import Generator
from micro.generator.samples import Samples
from micro.homogenize.fields import Status
from micro.library import retrieval as library
from micro.runtime.files import write_json
from micro.shape.channels import is_open
from micro.shape.space import distance_at

Floats = NDArray[np.float64]


def diversity(samples: Samples) -> NDArray[np.float64]:
    """Similarities (Eq. 5) of all pairs of cells made for the same target."""
    octants = samples.octants()
    found = []
    for target in np.unique(samples.target):
        rows = np.flatnonzero(samples.target == target)
        for i, a in enumerate(rows):
            found += [float(cell.similarity(octants[a], octants[b])) for b in rows[i + 1 :]]
    return np.array(found)


def random_targets(count: int, seed: int = 0, phi: tuple[float, float] = (0.0, np.inf)) -> Floats:
    """Tensors (count, 3) of the packaged gamut (:meth:`micro.gamut.gamut.Gamut.draw`)."""
    return load_gamut().draw(count, np.random.default_rng(seed), phi)


def similarity_to(octants: NDArray[np.bool_], known: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.intp]]:
    """Largest Eq. 5 similarity of each octant (m, ...) to the known ones, and to which."""
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (octants, known))
    norm = np.sqrt(b.sum(axis=1))
    best, which = np.zeros(len(a)), np.zeros(len(a), dtype=np.intp)
    for start in range(0, len(a), 64):
        both = (a[start : start + 64] @ b.T) / (np.sqrt(a[start : start + 64].sum(axis=1))[:, None] * norm)
        which[start : start + 64] = both.argmax(axis=1)
        best[start : start + 64] = both.max(axis=1)
    return best, which


class UNet(nn.Module):
    """The shape of the founding paper's network: base 32, five levels, attention at 16^3 and 8^3."""

    def __init__(self, base: int = 32, factors: tuple[int, ...] = (1, 2, 4, 8, 8)):
        super().__init__()
        widths = [base * f for f in factors]
        self.inlet = nn.Conv3d(2, base, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        before = base
        for width in widths:
            self.down.append(_stage(before, width))
            before = width
        self.middle = nn.Sequential(*(_stage(before, before) for _ in range(3)))
        for width in reversed(widths):
            self.up.append(_stage(before + width, width))
            before = width
        self.outlet = nn.Conv3d(before, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(m, 2, n, n, n) to (m, 1, n, n, n)."""
        h, kept = self.inlet(x), []
        for i, stage in enumerate(self.down):
            h = stage(h if i == 0 else nn.functional.avg_pool3d(h, 2))
            kept.append(h)
        h = self.middle(h)
        for i, stage in enumerate(self.up):
            h = h if i == 0 else nn.functional.interpolate(h, scale_factor=2)
            h = stage(torch.cat([h, kept.pop()], dim=1))
        return self.outlet(h)


def _stage(a: int, b: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(), nn.Conv3d(b, b, 3, padding=1), nn.SiLU()
    )


TIMED, TIMED_AS = 48, {"bare": {"draws": 1, "steering": 0}, "default": {}, "open": {"open": True}}
"""Cells that are timed, and how they are asked for."""


def time_unet(n: int = 64, repeats: int = 2) -> dict[str, Any]:
    """Seconds of one forward of the U-Net shape at batch 1."""
    network = UNet().eval()
    x = torch.randn(1, 2, n, n, n)
    with torch.no_grad():
        network(x)
        started = time.perf_counter()
        for _ in range(repeats):
            network(x)
    count = sum(p.numel() for p in network.parameters())
    return {"parameters": count, "seconds_per_forward": (time.perf_counter() - started) / repeats}


def time_sample(generator: Generator, resolution: int, batch: int, **settings: Any) -> float:
    """Seconds a cell: the mean over 48 targets, ``batch`` of them in a call."""
    targets = random_targets(TIMED, seed=9)
    generator.sample(targets[:batch], 1, resolution=resolution, **settings)  # compiles what there is
    started = time.perf_counter()
    for first in range(0, TIMED, batch):
        generator.sample(targets[first : first + batch], 1, seed=first, resolution=resolution, **settings)
    return (time.perf_counter() - started) / TIMED


def asked_otherwise(generator: Generator, targets: Floats, n: int) -> dict[str, Any]:
    """Tensor and volume together, a volume alone, nothing at all: four cells for each request."""
    known = part(load_dataset(), "test")
    # Volumes that go with a tensor: those of test cells, whose tensors are asked for.
    rows = np.random.default_rng(1).permutation(len(known))[: len(targets)]
    found: dict[str, Any] = {}
    for name, C, volume in (
        ("both", known.C[rows], known.volume[rows]),
        ("volume", None, known.volume[rows]),
        ("nothing", None, None),
    ):
        seeds = 10**6 + np.arange(len(rows))
        samples = generator.sample(C, 4, volume=volume, seed=seeds, resolution=n)
        octants = samples.octants()
        found[name] = {
            "requests": len(rows),
            "one_piece": float((samples.raw_clean == 1).mean()),
            "connected": float(samples.connected.mean()),
        }
        solid = octants.mean(axis=(1, 2, 3))
        if volume is not None:
            found[name]["volume_error_mean"] = float(np.abs(solid - volume[samples.target]).mean())
        else:
            found[name]["volume_quartiles"] = np.quantile(solid, [0.05, 0.5, 0.95]).round(3).tolist()
        if C is not None:
            own = samples.homogenize()
            good = (own.status == Status.OK) & samples.connected
            error = tensor.tensor_error(own.C, C[samples.target])
            found[name]["error_mean"] = float(error[good].mean())
    return found


def refined_accuracy(generator: Generator, targets: Floats, n: int) -> dict[str, Any]:
    """One refined cell a target, and how many targets are met within 2 % by the best of up to four."""
    best = np.full(len(targets), np.inf)
    first: dict[str, Any] = {}
    for attempt in range(4):
        rows = np.arange(len(targets)) if attempt == 0 else np.flatnonzero(best > 0.02)
        if len(rows) == 0:
            break
        seeds = 10**6 + 10**4 * attempt + rows
        started, busy = time.perf_counter(), time.process_time()
        samples = generator.sample(targets[rows], 1, seed=seeds, resolution=n)
        cells = generator.refine(samples, targets[rows])
        of = rows[cells.params[:, 0].astype(int)]
        error = tensor.tensor_error(cells.C, targets[of])
        if attempt == 0:
            first = {
                "targets": len(targets),
                "delivered": len(cells),
                "error_mean": float(error.mean()),
                "error_median": float(np.median(error)),
                "error_p95": float(np.quantile(error, 0.95)),
                "error_max": float(error.max()),
                "disconnected": int(sum(not cell.connectivity(o).connected for o in cells.octants())),
                "homogenisations_mean": float(cells.params[:, 2].mean()),
                "seconds_per_cell": (time.perf_counter() - started) / len(rows),
                "processor_seconds_per_cell": (time.process_time() - busy) / len(rows),
            }
        np.minimum.at(best, of, error)
    return first | {"within_2_percent": float((best <= 0.02).mean()), "best_mean": float(best.mean())}


def unlike(octants: NDArray[np.bool_], below: float = 0.9) -> int:
    """How many of the cells (m, n, n, n), taken in order, are unlike all taken before."""
    taken: list[NDArray[np.bool_]] = []
    for octant in octants:
        if all(float(cell.similarity(octant, other)) < below for other in taken):
            taken.append(octant)
    return len(taken)


def many_candidates(generator: Generator, targets: Floats, known: CellSet, n: int) -> dict[str, Any]:
    """Cells within 1 % of each target that are unlike each other: generated, and in the data set."""
    made, stored = [], []
    samples = generator.sample(targets, 16, seed=10**6 + np.arange(len(targets)), resolution=n)
    cells = generator.refine(samples, targets, tolerance=0.01, trials=4)
    for i, target in enumerate(targets):
        mine = (cells.params[:, 0].astype(int) == i) & (tensor.tensor_error(cells.C, target) <= 0.01)
        made.append(unlike(cells.octants(np.flatnonzero(mine))))
        near = np.flatnonzero(tensor.tensor_error(known.C, target) <= 0.01)
        stored.append(unlike(known.octants(near)) if len(near) else 0)
    return {
        "targets": len(targets),
        "generated_of_16_mean": float(np.mean(made)),
        "generated_none": int((np.array(made) == 0).sum()),
        "dataset_mean": float(np.mean(stored)),
        "dataset_median": float(np.median(stored)),
        "dataset_at_most_2": int((np.array(stored) <= 2).sum()),
    }


def beyond_the_data(generator: Generator, known: CellSet, n: int, count: int) -> dict[str, Any]:
    """Targets outside the gamut by 0.005 to 0.03: the best of two refined cells, the nearest known one."""
    targets = random_targets(count, seed=5, phi=(-0.03, -0.005))
    samples = generator.sample(targets, 2, seed=10**6 + np.arange(count), resolution=n)
    cells = generator.refine(samples, targets, trials=8)
    best = np.full(count, np.inf)
    np.minimum.at(
        best,
        cells.params[:, 0].astype(int),
        tensor.tensor_error(cells.C, targets[cells.params[:, 0].astype(int)]),
    )
    _, near = library.nearest(known, targets)
    return {
        "targets": count,
        "refined_best_of_2_mean": float(best.mean()),
        "refined_within_1_percent": float((best <= 0.01).mean()),
        "nearest_mean": float(near.mean()),
        "nearest_within_1_percent": float((near <= 0.01).mean()),
        "refined_nearer": float((best < near[:, 0]).mean()),
    }


def carried(generator: Generator, known: CellSet) -> dict[str, Any]:
    """What the shape space keeps of cells, thin ones (volume below 0.15) apart."""
    space = generator.model.space
    samples = generator.samples_of(space.encode(distance_at(known.octants(), space.n)), known.n)
    error = tensor.tensor_error(samples.homogenize().C, known.C)
    thin = known.volume < 0.15
    return {
        name: {
            "cells": int(rows.sum()),
            "error_mean": float(error[rows].mean()),
            "error_median": float(np.median(error[rows])),
            "one_piece": float((samples.raw_clean[rows] == 1).mean()),
        }
        for name, rows in (("others", ~thin), ("thin", thin))
        if rows.any()
    }


def open_asked(generator: Generator, known: CellSet) -> dict[str, Any]:
    """Open cells for tensors of others: how many are open before any is drained, and as delivered."""
    found: dict[str, Any] = {}
    for low, high in ((0.0, 0.7), (0.7, 0.9)):
        rows = (known.volume >= low) & (known.volume < high)
        samples = generator.sample(known.C[rows], 1, seed=10**6, resolution=known.n, open=True)
        own = samples.homogenize()
        good = (own.status == Status.OK) & samples.connected
        raw = generator.samples_of(samples.z, known.n).octants()
        found[f"{low:g} to {high:g}"] = {
            "requests": int(rows.sum()),
            "open_before_draining": float(np.mean([is_open(o) for o in raw])),
            "open": float(np.mean([is_open(o) for o in samples.octants()])),
            "error_mean": float(tensor.tensor_error(own.C, known.C[rows])[good].mean()),
        }
    return found


def accuracy(
    generator: Generator, options: argparse.Namespace, note: Callable[[str, dict[str, Any]], None]
) -> None:
    """Everything but times: what cells the generator makes, beside what the data set has."""
    targets = random_targets(options.targets)
    known = part(load_dataset(), "train")
    n = options.n
    figures, samples, C = measure(generator, targets, options.per_target, resolution=n, seed=10**6)
    note("default", figures)
    if options.bare:
        some = targets[: options.bare]
        note("bare", measure(generator, some, 4, resolution=n, seed=10**6, draws=1, steering=0)[0])
    similar = diversity(samples)
    note(
        "diversity",
        {"similarity_median": float(np.median(similar)), "p95": float(np.quantile(similar, 0.95))},
    )
    wanted = targets[samples.target]
    error = tensor.tensor_error(C, wanted)
    if n == known.n:
        rows = np.flatnonzero(samples.connected)[:400]
        best, which = similarity_to(unpack(samples.packed[rows], samples.n), known.octants())
        nearer = error[rows] < tensor.tensor_error(known.C[which], wanted[rows])
        note(
            "novelty",
            {
                "similarity_median": float(np.median(best)),
                "similarity_above_0.98": float((best > 0.98).mean()),
                "nearer_to_target_than_most_similar": float(nearer.mean()),
            },
        )
        note("asked", asked_otherwise(generator, targets[:50], n))
    _, near = library.nearest(known, targets)
    cells = load_library()
    some = targets[:200]
    index, _ = library.nearest(cells, some)
    moved = library.correct(cells, index[:, 0], some, parameters=1, tolerance=2e-3)
    note(
        "retrieval",
        {
            "nearest_mean": float(near.mean()),
            "nearest_of_library_corrected_mean": float(tensor.tensor_error(moved.C, some).mean()),
        },
    )
    if options.refined:
        note("refined", refined_accuracy(generator, targets[: options.refined], n))
    if options.many:
        note("candidates", many_candidates(generator, targets[: options.many], known, n))
        note("beyond", beyond_the_data(generator, known, n, 2 * options.many))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--per-target", type=int, default=4)
    parser.add_argument("--n", type=int, default=32, help="resolution of the delivered cells")
    parser.add_argument("--bare", type=int, default=200, help="targets for the model alone")
    parser.add_argument("--refined", type=int, default=200, help="targets to refine")
    parser.add_argument("--many", type=int, default=20, help="targets for the applications")
    parser.add_argument("--data", type=Path, help="a data set for 'carried' and 'open'")
    parser.add_argument("--some", type=int, default=200, help="cells of its test part to look at")
    parser.add_argument("--unet", action="store_true", help="time the paper's network shape as well")
    parser.add_argument("--time-only", action="store_true", help="renew only the times in --out")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/generator.json"))
    options = parser.parse_args()
    generator = Generator.load()
    result: dict[str, Any] = (
        {"n": options.n} if not options.time_only else json.loads(options.out.read_text())
    )
    packaged = files("micro") / "data" / "generator.safetensors"
    result["weights_sha256"] = hashlib.sha256(packaged.read_bytes()).hexdigest()
    result["data"] = generator.model.card.get("data", "")
    # Of the times, which are renewed by every run.
    result["hardware"] = {"machine": platform.machine(), "threads": torch.get_num_threads()}

    def note(name: str, figures: dict[str, Any]) -> None:
        result[name] = figures
        print(name, figures, flush=True)
        write_json(options.out, result)

    if options.data is not None and not options.time_only:
        cells = part(CellSet.load(options.data), "test")
        some = cells.subset(np.sort(np.random.default_rng(0).permutation(len(cells))[: options.some]))
        note("carried", carried(generator, some))
        note("open", open_asked(generator, some))
    if not options.time_only:
        accuracy(generator, options, note)
    note(
        "seconds_per_cell",
        {
            f"{name}_n{size}_batch{batch}": time_sample(generator, size, batch, **settings)
            for size in (32, 64)
            for name, settings in TIMED_AS.items()
            for batch in (1, 16)
        },
    )
    if options.unet:
        unet = time_unet()
        ours = result["seconds_per_cell"]
        forward = 18 * unet["seconds_per_forward"]
        ratios = {f"ratio_{key}": forward / ours[key] for key in ours if "n64" in key}
        note("unet", unet | {"seconds_per_cell_18_steps": forward} | ratios)


if __name__ == "__main__":
    main()
