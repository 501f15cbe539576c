"""Two designs of the generator at equal training time, on the same data: which learns clean shapes sooner?

1. ``latent``: the packaged design, dense layers on 256 coordinates of a shape space.
2. ``tokens``: a transformer on the 120 patches i <= j <= k (4^3 voxels each) of the saturated signed distance
   of an octant of 32, conditioned by adaptive layer norms; plain products for the attention.

Same noise levels, loss, conditions, self-conditioning, sampler, batch, and seconds of one thread.

    python benchmarks/generator_designs.py --minutes 8 --out benchmarks/results/generator_designs.json
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from micro.cell import octant as cell, tensor
from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber
from micro.cell.octant import encloses
from micro.data.packaged import load_dataset
from micro.dataset import dataset
from micro.diffusion import process
from micro.diffusion.conditions import Conditions
from micro.diffusion.network import Denoiser
from micro.homogenize.octants import homogenize_octants
from micro.runtime.files import write_json
from micro.shape.distance import SATURATION, signed_distance
from micro.shape.space import ShapeSpace, half_period
from micro.training.checkpoint import Averaged
from micro.training.data import Data
from micro.training.phases import denoising_loss

N, PATCH = 32, 4


def token_voxels() -> np.ndarray:
    """For each of the 120 patches the chamber row of its 64 voxels, (120, 64)."""
    per = N // PATCH
    rank = chamber(N).unfold(np.arange(N * (N + 1) * (N + 2) // 6)).astype(int)
    rows = []
    for a in range(per):
        for b in range(a, per):
            for c in range(b, per):
                block = [slice(PATCH * x, PATCH * (x + 1)) for x in (a, b, c)]
                rows.append(rank[tuple(block)].ravel())
    return np.array(rows)


class Block(nn.Module):
    """Attention and a dense layer, both with adaptive layer norms."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.modulate = nn.Linear(256, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Tokens (m, t, width) and conditions (m, 256)."""
        a, b, c, d, f, g = self.modulate(e)[:, None].chunk(6, dim=-1)
        m, t, w = x.shape
        h = self.norms[0](x) * (1 + a) + b
        q, k, v = self.qkv(h).view(m, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5).softmax(dim=-1)
        x = x + (0.3 + c) * self.mix((weight @ v).transpose(1, 2).reshape(m, t, w))
        return x + (0.3 + g) * self.dense(self.norms[1](x) * (1 + d) + f)


class Tokens(nn.Module):
    """Denoiser of chamber values (m, q) by way of 120 tokens; the interface of :class:`Denoiser`."""

    def __init__(self, width: int = 192, depth: int = 6, heads: int = 6):
        super().__init__()
        voxels = token_voxels()
        q = voxels.max() + 1
        self.register_buffer("voxels", torch.from_numpy(voxels))
        at = np.full(q, -1)
        at[voxels.ravel()] = np.arange(voxels.size)  # a voxel of a diagonal patch is read at one image
        self.register_buffer("at", torch.from_numpy(at))
        self.inlet = nn.Linear(2 * voxels.shape[1], width)
        self.place = nn.Parameter(0.02 * torch.randn(len(voxels), width))
        frame = Denoiser(1, 8, 1)
        self.frame = frame  # its embedding of noise and conditions
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.outlet = nn.LayerNorm(width), nn.Linear(width, voxels.shape[1])
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)

    def forward(self, x: Tensor, estimate: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """As :meth:`Denoiser.forward`."""
        return self.denoise(x, estimate, sigma, self.modulations(sigma, conditions))

    def modulations(self, sigma: Tensor, conditions: Conditions) -> Tensor:
        """As :meth:`Denoiser.modulations`, before the layers' own share."""
        return self.frame.embed(self.frame._embedding(sigma, conditions))

    def denoise(self, x: Tensor, estimate: Tensor, sigma: Tensor, e: Tensor) -> Tensor:
        """As :meth:`Denoiser.denoise`."""
        keep = 1 / (1 + sigma**2)[:, None]
        both = torch.cat([(x * keep.sqrt())[:, self.voxels], estimate[:, self.voxels]], dim=-1)
        h = self.inlet(both) + self.place
        for block in self.blocks:
            h = block(h, e)
        out = self.outlet(self.norm(h)).flatten(1)[:, self.at]
        return keep * x + sigma[:, None] * keep.sqrt() * out


def train(network: nn.Module, data: Data, minutes: float, batch: int, rate: float) -> tuple[nn.Module, int]:
    """Train for so long; the averaged network and the number of samples seen."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    average, step, started = Averaged(network, 0.999), 0, time.process_time()
    conditions = data.conditions()
    while (done := (time.process_time() - started) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200, 2.5 * (1 - done))
        rng = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data), (batch,), generator=rng)
        loss = denoising_loss(network, data.z[rows], conditions.rows(rows), rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update(network, step)
        step += 1
    return average.network, step * batch


def judge(network: nn.Module, dimension: int, levels, C: np.ndarray, per_target: int) -> dict[str, float]:
    """Bare samples against their targets: cleanliness and tensor error of the largest component."""
    wanted = np.repeat(C, per_target, axis=0)
    noise = torch.randn(len(wanted), dimension, generator=torch.Generator().manual_seed(1))
    started = time.process_time()
    z = process.sample(network, noise, Conditions.of(wanted, None), steps=18)
    seconds = time.process_time() - started
    solid = levels(z.numpy()) > 0
    found = [cell.connectivity(o) for o in solid]
    clean = np.array([f.largest_fraction for f in found])
    whole = np.array([f.touches_face and f.touches_middle for f in found])
    result = homogenize_octants(np.stack([cell.largest_component(o) for o in solid[whole]]), rtol=1e-2)
    error = np.full(len(wanted), np.nan)
    error[whole] = tensor.tensor_error(result.C, wanted[whole])
    by_target = error.reshape(-1, per_target)
    best = np.nanmin(by_target[np.isfinite(by_target).any(axis=1)], axis=1)
    return {
        "error_mean": float(np.nanmean(error)),
        "error_best_mean": float(np.nanmean(best)),
        "clean": float((clean >= 0.99).mean()),
        "one_piece": float((clean == 1).mean()),
        "meets_its_faces": float(whole.mean()),
        "seconds_per_sample": seconds / len(wanted),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a data set (default: the packaged one)")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--targets", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/generator_designs.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = load_dataset() if options.data is None else CellSet.load(options.data)
    known, check = dataset.part(cells, "train"), dataset.part(cells, "validation")
    distance = np.concatenate(
        [signed_distance(known.octants(slice(i, i + 200))) for i in range(0, len(known), 200)]
    )
    targets = check.C[np.random.default_rng(0).permutation(len(check))[: options.targets]]
    # Tokens: unit spread of the values, as the process asks for.
    scale = float(distance.std())
    both = np.concatenate([distance, distance[:, half_period(N)]]) / scale
    raw = Data(
        torch.from_numpy(both),
        torch.from_numpy(np.concatenate([known.C, known.C])).float(),
        torch.from_numpy(np.concatenate([known.volume, known.volume])).float(),
        torch.full((2 * len(known),), torch.nan),
    )
    results = {}
    torch.manual_seed(0)
    network, seen = train(Tokens(), raw, options.minutes, 64, 1e-3)
    grid = chamber(N)
    unfold = lambda z: np.stack([grid.unfold(row) for row in z])  # noqa: E731
    results["tokens"] = {"samples": seen, "parameters": sum(p.numel() for p in network.parameters())}
    results["tokens"] |= judge(network, both.shape[1], unfold, targets, 4)
    print("tokens", results["tokens"], flush=True)
    del raw, both
    space = ShapeSpace.fit(distance, N, 256)
    data = Data.encode(space, distance, known.C, known.volume, ~encloses(known.octants()))
    torch.manual_seed(0)
    network, seen = train(Denoiser(256, 512, 5), data, options.minutes, 256, 1.5e-3)
    results["latent"] = {"samples": seen, "parameters": sum(p.numel() for p in network.parameters())}
    results["latent"] |= judge(network, 256, lambda z: space.levels(z, N), targets, 4)
    print("latent", results["latent"], flush=True)
    write_json(
        options.out,
        {
            "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads()},
            "minutes_of_one_thread": options.minutes,
            "cells": len(known),
            "targets": len(targets),
            "saturation": SATURATION,
            "designs": results,
        },
    )


if __name__ == "__main__":
    main()
