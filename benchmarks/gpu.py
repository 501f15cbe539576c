"""The work of cells on a GPU: ``python benchmarks/gpu.py --out result.json``.

A few minutes on any CUDA device. What is measured, and compared with the processor's compiled path:

- octants homogenised at n = 32 and 64, in batches as they come;
- a general periodic cell of 128^3 voxels, six load cases;
- cells sampled by the packaged generator, and refined;
- steps of the denoiser's training.

Tensors have to agree with the processor's to 1e-5 of C11 of the solid. The cells of a seed are the
processor's unless a level set comes within rounding of its threshold, which flips a voxel: how many cells
differ, and by how many voxel orbits at most, is said. Operations of an iteration and waits of the host are
counted by torch's profiler. Without CUDA one line is said and the exit code is 2; ``--device cpu`` goes
through the same torch code on the processor, with small counts, to show that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

COUNTS = {
    "cuda": {"octants": {32: 2048, 64: 256}, "general": 128, "targets": 512, "refined": 64, "steps": 400},
    "cpu": {"octants": {32: 8, 64: 1}, "general": 32, "targets": 8, "refined": 2, "steps": 20},
}
"""How much of each; 400 training steps, 2,048 octants and so on fill a large GPU for seconds each."""

COMPARED = {32: 16, 64: 2}
"""Octants whose tensors the processor finds too."""

AGREEMENT = 1e-5


def octants(n: int, count: int) -> NDArray[np.bool_]:
    """Cells of the packaged library, voxels repeated to n."""
    from micro.data.packaged import load_library

    cells = load_library()
    rows = np.linspace(0, len(cells) - 1, count).astype(int)
    some = cells.octants(rows)
    times = n // cells.n
    return some.repeat(times, 1).repeat(times, 2).repeat(times, 3)


class Clock:
    """Seconds of a piece of work, the device's queue emptied at both ends, and its peak memory."""

    def __init__(self, device: str):
        import torch

        self.torch, self.cuda = torch, device.startswith("cuda")

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        """What the work returns, and what it took."""
        if self.cuda:
            self.torch.cuda.reset_peak_memory_stats()
            self.torch.cuda.synchronize()
        start, busy = time.perf_counter(), time.process_time()
        found = work()
        if self.cuda:
            self.torch.cuda.synchronize()
        took = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - busy}
        if self.cuda:
            took["device_gb"] = self.torch.cuda.max_memory_allocated() / 1e9
        return found, took


def measure_octants(device: str, clock: Clock, counts: dict[int, int]) -> list[dict[str, Any]]:
    """Octants by the torch path on the device."""
    from micro.homogenize.octants import homogenize_octants

    rows = []
    for n, count in counts.items():
        cells = octants(n, count)
        with torch_path():
            homogenize_octants(cells[:1], device=device)  # what is compiled and loaded once
            found, took = clock(lambda cells=cells: homogenize_octants(cells, device=device))
        some = slice(0, min(count, COMPARED[n]))
        own = homogenize_octants(cells[some])
        off = float(np.abs(found.C[some] - own.C).max() / SOLID)
        rows.append(
            {
                "what": f"octants, n = {n}",
                "count": count,
                "per_second": count / took["seconds"],
                "iterations_mean": float(found.iterations.mean()),
                "off": off,
                "agrees": off <= AGREEMENT,
                **took,
            }
        )
    return rows


def measure_general(device: str, clock: Clock, n: int) -> dict[str, Any]:
    """A periodic cell without symmetry, six load cases."""
    from micro.homogenize.periodic import homogenize_cell

    rng = np.random.default_rng(0)
    at = np.arange(n) * 2 * np.pi / n
    x, y, z = np.meshgrid(at, at, at, indexing="ij")
    waves = rng.normal(size=(3, 3))
    field = sum(
        a * np.cos(x + p) + b * np.cos(y - p) + c * np.sin(z + 2 * p) for p, (a, b, c) in enumerate(waves)
    )
    solid = field > np.quantile(field, 0.6)
    with torch_path():
        found, took = clock(lambda: homogenize_cell(solid, device=device))
    own = homogenize_cell(solid)
    off = float(np.abs(found.C - own.C).max() / SOLID)
    row = {"what": f"a general cell, {n}^3", "count": 1, "per_second": 1 / took["seconds"], "off": off}
    return row | {"agrees": off <= AGREEMENT, **took}


def measure_generator(device: str, clock: Clock, targets: int, refined: int) -> list[dict[str, Any]]:
    """Sampling, and refining with the homogeniser; the same cells as on the processor, or how many not."""
    from micro.data.packaged import load_library
    from micro.generator.generator import Generator

    C = load_library().C
    C = C[np.linspace(0, len(C) - 1, targets).astype(int)]
    generator, own = Generator.load(device=device), Generator.load()
    generator.sample(C[:1], 1)
    samples, took = clock(lambda: generator.sample(C, 4, seed=1))
    few = min(targets, 16)
    other = own.sample(C[:few], 4, seed=1)
    mine = samples.rows(np.arange(4 * few))
    same = (mine.packed == other.packed).all(axis=1)
    flipped = np.unpackbits(mine.packed ^ other.packed, axis=1).sum(axis=1)
    rows = [
        {
            "what": "cells sampled, n = 32",
            "count": len(samples),
            "per_second": len(samples) / took["seconds"],
            "same_cells": f"{int(same.sum())} of {len(same)}",
            "orbits_differing_at_most": int(flipped.max()),
            "off": float(np.abs(mine.z - other.z).max()),
            **took,
        }
    ]
    some = samples.rows(np.arange(refined))
    cells, took = clock(lambda: generator.refine(some, C, trials=4))
    rows.append(
        {"what": "cells refined, n = 32", "count": refined, "per_second": refined / took["seconds"], **took}
        | {"delivered": len(cells), "note": "slopes and trials are homogenised by the processor"}
    )
    return rows


def measure_training(device: str, clock: Clock, steps: int, folder: Path) -> dict[str, Any]:
    """Steps of the denoiser at the packaged generator's size."""
    import torch

    from micro.data.packaged import load_library
    from micro.diffusion.network import Denoiser
    from micro.generator.generator import Generator
    from micro.shape.distance import signed_distance
    from micro.training.checkpoint import Run
    from micro.training.data import Data, Settings
    from micro.training.phases import denoising_loss

    cells = load_library().subset(np.arange(256))
    model = Generator.load().model
    coarse = cells.octants()
    step = cells.n // model.space.n
    coarse = coarse[:, ::step, ::step, ::step]
    data = Data.encode(model.space, signed_distance(coarse), cells.C, cells.volume, np.ones(len(cells)))
    data = data.to(torch.device(device))
    settings = Settings(
        dimension=model.space.dimension, width=model.denoiser.width, depth=model.denoiser.depth
    )
    network = Denoiser(settings.dimension, settings.width, settings.depth).to(device)
    run = Run(network, settings, settings.batch * (steps + 3), folder, "denoiser")
    asked = data.conditions()

    def loss(rng: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(data), (settings.batch,), generator=rng).to(device)
        return denoising_loss(network, data.z[rows], asked.rows(rows), rng)

    for _ in range(3):
        run.advance(loss)
    values, took = clock(lambda: [run.advance(loss) for _ in range(steps)])
    shown = steps * settings.batch
    row = {"what": "training, batch 256", "count": shown, "per_second": shown / took["seconds"]}
    return row | {"loss": float(torch.stack(values).mean()), **took}


def measure_iteration(device: str) -> dict[str, Any]:
    """Operations that an iteration asks the device for, and how often the host waits for it in a solve."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from micro.homogenize.fields import solve_octants
    from micro.voxels import torch_multigrid, torch_system

    torch_multigrid.FUSED.add(device.split(":")[0])  # as every device but the processor has it
    cells = octants(32, 4).astype(float)
    found = {}
    looks = 0
    seen = torch_system._seen

    def counted(*tensors: torch.Tensor) -> list[NDArray]:
        nonlocal looks
        looks += 1
        return seen(*tensors)

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.startswith("cuda") else [])
    for rtol in (1e-2, 1e-6):
        looks = 0
        torch_system._seen = counted
        try:
            with profile(activities=activities) as taken:
                solved = solve_octants(cells, 0.3, rtol, torch.device(device), path="torch")
        finally:
            torch_system._seen = seen
        names = [event.key for event in taken.key_averages() for _ in range(event.count)]
        works = sum(name.startswith("aten::") and name.split("::")[1] in KERNELS for name in names)
        waits = sum(name in ("aten::_local_scalar_dense", "aten::nonzero") for name in names)
        found[rtol] = (int(solved.iterations.max()), works, waits, looks)
    (few, less, _, _), (many, more, waits, looked) = found.values()
    return {
        "operations_an_iteration": round((more - less) / max(1, many - few)),
        "iterations": many,
        "looks_of_the_host": looked,
        "other_waits": waits,
    }


KERNELS = {
    *("mul", "mul_", "add", "add_", "addcmul_", "sum", "mm", "bmm", "copy_", "where", "zero_", "fill_"),
    *("sub", "div", "neg", "lerp", "cat", "sqrt", "isfinite", "bitwise_and", "bitwise_not", "index_select"),
    *("index", "constant_pad_nd", "gt", "le", "index_put_", "all", "minimum"),
}
"""Operations that start work on a device; ``stack``, ``clone`` and others are made of these."""

SOLID = 1.3462


@contextmanager
def torch_path() -> Iterator[None]:
    """Homogenise by the torch path whatever the device, as a GPU does."""
    from unittest.mock import patch

    from micro.homogenize import fields, periodic
    from micro.voxels import torch_system

    def system(rho: Any, nu: float, grid: Any, free: Any, path: Any, edges: Any = fields.CUBE) -> Any:
        return torch_system.TorchSystem(rho, nu, grid, free, edges)

    with patch.object(fields, "make_system", system), patch.object(periodic, "make_system", system):
        yield


def hardware(device: str) -> dict[str, Any]:
    """What it ran on."""
    import torch

    known = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "device": device,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        known |= {
            "gpu": properties.name,
            "memory_gb": properties.total_memory / 1e9,
            "cuda": torch.version.cuda,
        }
    return known


def main() -> int:
    """Measure and write; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu to see that it runs")
    parser.add_argument("--out", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    import torch

    device = arguments.device
    kind = device.split(":")[0]
    if kind not in COUNTS:
        print(f"error: --device: is cuda or cpu (got {device})", file=sys.stderr)
        return 2
    if kind == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device: torch sees none (--device cpu runs the same code)", file=sys.stderr)
        return 2
    import tempfile

    counts: dict[str, Any] = COUNTS[kind]
    clock = Clock(device)
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    rows += measure_octants(device, clock, counts["octants"])
    rows.append(measure_general(device, clock, counts["general"]))
    rows += measure_generator(device, clock, counts["targets"], counts["refined"])
    with tempfile.TemporaryDirectory() as folder:
        rows.append(measure_training(device, clock, counts["steps"], Path(folder)))
    iteration = measure_iteration(device)
    print(f"{'what':28} {'count':>8} {'s':>8} {'a second':>10} {'off':>9}  same as the processor's")
    for row in rows:
        off = f"{row['off']:.1e}" if "off" in row else "-"
        same = row.get("same_cells", {True: "yes", False: "NO", None: "-"}[row.get("agrees")])
        numbers = f"{row['count']:8} {row['seconds']:8.2f} {row['per_second']:10.4g} {off:>9}"
        print(f"{row['what']:28} {numbers}  {same}")
    print(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in iteration.items()))
    report = {"hardware": hardware(device), "measurements": rows, "iteration": iteration}
    report["seconds"] = time.perf_counter() - began
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.get("agrees", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
