"""Accuracy, cleanliness, diversity, novelty and time of the packaged generator.

    python benchmarks/generator.py --targets 250 --out benchmarks/results/generator.json

Targets are random tensors inside the packaged gamut (phi >= 0), uniform in the box of Eq. 4's ranges.
Errors are Eq. 4 against the delivered cells' own tensors, homogenised at the resolution delivered:

``bare``      the diffusion model alone, one draw, 18 steps
``default``   8 draws screened and steered by the surrogate; nothing is homogenised
``refined``   moved onto the target with the homogeniser (a part of the targets)
``retrieval`` the nearest cell of the data set; the nearest library cell with its threshold moved

``--unet`` also times the founding paper's network shape (a U-Net on 64^3 voxels, 31 million parameters,
18 steps).
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from micro import cell, library, tensor
from micro.dataset import load_dataset, part
from micro.diffusion.accuracy import diversity, measure
from micro.files import write_json
from micro.gamut import load_gamut
from micro.generator import Generator

Floats = NDArray[np.float64]


def random_targets(count: int, seed: int = 0) -> Floats:
    """Tensors (count, 3) with phi >= 0, uniform in the box of the paper's ranges."""
    rng, gamut = np.random.default_rng(seed), load_gamut()
    low, high = tensor.PAPER_RANGE.T
    found: list[Floats] = []
    while sum(map(len, found)) < count:
        drawn = low + rng.random((4096, 3)) * (high - low)
        drawn = drawn[(tensor.to_moduli(drawn) > 1e-3).all(axis=1)]
        found.append(drawn[gamut.phi(drawn) >= 0])
    return np.concatenate(found)[:count]


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
    """Seconds a cell, the best of three."""
    targets = random_targets(batch, seed=9)
    seconds = []
    for seed in range(3):
        started = time.perf_counter()
        generator.sample(targets, 1, seed=seed, resolution=resolution, **settings)
        seconds.append((time.perf_counter() - started) / batch)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--per-target", type=int, default=4)
    parser.add_argument("--n", type=int, default=32, help="resolution of the delivered cells")
    parser.add_argument("--refined", type=int, default=50, help="targets to refine")
    parser.add_argument("--unet", action="store_true", help="time the paper's network shape as well")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/generator.json"))
    options = parser.parse_args()
    generator = Generator.load()
    targets = random_targets(options.targets)
    result: dict[str, Any] = {
        "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads()},
        "n": options.n,
    }
    for name, settings in (("bare", {"draws": 1, "steering": 0}), ("default", {})):
        figures, samples, C = measure(
            generator, targets, options.per_target, resolution=options.n, seed=10**6, **settings
        )
        result[name] = figures
        print(name, figures, flush=True)
    similar = diversity(samples)
    result["diversity"] = {
        "similarity_median": float(np.median(similar)),
        "similarity_p95": float(np.quantile(similar, 0.95)),
    }
    known = part(load_dataset(), "train")
    wanted = targets[samples.target]
    error = tensor.tensor_error(C, wanted)
    if options.n == known.n:
        rows = np.flatnonzero(samples.connected)[:400]
        best, which = similarity_to(cell.unpack(samples.packed[rows], samples.n), known.octants())
        nearer = error[rows] < tensor.tensor_error(known.C[which], wanted[rows])
        result["novelty"] = {
            "similarity_median": float(np.median(best)),
            "similarity_above_0.98": float((best > 0.98).mean()),
            "nearer_to_target_than_most_similar": float(nearer.mean()),
        }
        print(result["diversity"], result["novelty"], flush=True)
    index, near = library.nearest(known, targets)
    cells = library.load_library()
    index, _ = library.nearest(cells, targets)
    moved = library.correct(cells, index[:, 0], targets, parameters=1, tolerance=2e-3)
    result["retrieval"] = {
        "nearest_mean": float(near.mean()),
        "corrected_mean": float(tensor.tensor_error(moved.C, targets).mean()),
    }
    print(result["retrieval"], flush=True)
    some = targets[: options.refined]
    samples = generator.sample(some, 1, seed=10**6 + np.arange(len(some)), resolution=options.n)
    refined = generator.refine(samples, some)
    left = tensor.tensor_error(refined.C, some[refined.params[:, 0].astype(int)])
    result["refined"] = {
        "targets": len(some),
        "delivered": len(refined),
        "error_mean": float(left.mean()),
        "error_p95": float(np.quantile(left, 0.95)),
        "disconnected": int(sum(not cell.connectivity(o).connected for o in refined.octants())),
        "homogenisations_mean": float(refined.params[:, 2].mean()),
    }
    print(result["refined"], flush=True)
    result["seconds_per_cell"] = {
        f"{name}_n{n}_batch{batch}": time_sample(generator, n, batch, **settings)
        for n in (32, 64)
        for name, settings in (("bare", {"draws": 1, "steering": 0}), ("default", {}))
        for batch in (1, 16)
    }
    if options.unet:
        unet = time_unet()
        ours = result["seconds_per_cell"]
        result["unet"] = unet | {
            "seconds_per_cell_18_steps": 18 * unet["seconds_per_forward"],
            "ratio_batch1": 18 * unet["seconds_per_forward"] / ours["default_n64_batch1"],
            "ratio_batch16": 18 * unet["seconds_per_forward"] / ours["default_n64_batch16"],
        }
    print(result["seconds_per_cell"], result.get("unet"), flush=True)
    write_json(options.out, result)


if __name__ == "__main__":
    main()
