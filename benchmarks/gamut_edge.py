r"""Does the gamut end where cells do? Topology optimisation toward tensors beyond its edge.

The optimisation starts from a wave, not from the data; but the data set's extremes were made by the same
method, so this says how far that method gets from elsewhere, not what is possible at all. Targets: the box
C11 0.50 .. 0.77, C12 0.10 .. 0.26, C44 0.15 .. 0.24, and cells soft in bulk and stiff in shear, which cloaks
ask for. The share of the box inside the gamut is counted on a grid as well.

    python benchmarks/gamut_edge.py --out benchmarks/results/gamut_edge.json     # 5 minutes of one thread

One tensor, found coarse from one start, then moved voxel by voxel at twice the resolution (half a minute):

    python benchmarks/gamut_edge.py --tensor 0.516 0.097 0.179 --n 16 --effort 8 \
        --out benchmarks/results/gamut_edge_tensor.json --cells benchmarks/data/edge_tensor.zarr.zip

And whether cells are to be had for tensors just within the edge, 60 of them drawn at random where phi lies
between 0 and 0.003: the nearest cell of the data set, moved voxel by voxel (two minutes of one thread):

    python benchmarks/gamut_edge.py --within 60 --out benchmarks/results/gamut_edge_within.json
"""

from __future__ import annotations

import argparse
import itertools
import platform
from pathlib import Path

import numpy as np
import torch

from micro.cell.cellset import CellSet
from micro.cell.octant import at_resolution
from micro.cell.tensor import from_scaled_moduli, scaled_moduli, tensor_error
from micro.data.packaged import load_dataset, load_gamut
from micro.homogenize.octants import homogenize_octants
from micro.inverse import Goal, Settings, match_target, optimise
from micro.library.retrieval import nearest
from micro.runtime.errors import NotConverged
from micro.runtime.files import write_json

BOX = ((0.77, 0.10, 0.15), (0.77, 0.10, 0.24), (0.68, 0.13, 0.20), (0.50, 0.10, 0.24), (0.60, 0.14, 0.22))
SOFT = ((0.01, 0.01, 0.10), (0.04, 0.02, 0.18), (0.10, 0.05, 0.28))
"""Scaled moduli K/K_s, mu'/G_s, G/G_s."""

RANGES = ((0.50, 0.77), (0.10, 0.26), (0.15, 0.24))
"""The box: C11, C12, C44."""

NARROW = 0.003
"""Up to which phi a tensor lies just within the edge."""

STARTS = ("schwarz-p", "i-wp")


def one(target: tuple[float, float, float], options: argparse.Namespace) -> None:
    """The cell nearest to a tensor: a topology optimisation, its voxels halved, its surface moved."""
    goal = Goal("match", 0.72, target=target)
    coarse = optimise(Settings(goal, n=options.n, start="i-wp", effort=options.effort))
    fine = at_resolution(coarse.octant, 2 * options.n)
    found = match_target(fine, target, tolerance=2e-3, iterations=60, rtol=1e-4)
    C = homogenize_octants(found.octant[None], rtol=1e-8).C
    cell = CellSet.from_octants(found.octant[None], C, family="edge-tensor")
    row = {
        "target": target,
        "target_phi": float(load_gamut("dataset").phi(target)),
        "coarse": coarse.C.tolist(),
        "coarse_error": float(tensor_error(coarse.C, np.array(target))),
        "found": C[0].tolist(),
        "error": float(tensor_error(C[0], np.array(target))),
        "homogenisations": found.homogenisations,
        "volume": float(cell.volume[0]),
        "n": len(found.octant),
    }
    print(row, flush=True)
    if options.cells is not None:
        cell.save(options.cells)
    write_json(options.out, row)


def within(options: argparse.Namespace) -> None:
    """Tensors just within the edge: how far the nearest known cell is, and where its surface moves to."""
    gamut, cells = load_gamut("dataset"), load_dataset()
    tensors = from_scaled_moduli(np.random.default_rng(3).uniform(0, 1, (1_500_000, 3)))
    phi = gamut.phi(tensors)
    targets = tensors[(phi >= 0) & (phi < NARROW)][: options.within]
    index, near = nearest(cells, targets, 1)
    starts = cells.octants(index[:, 0])
    found = [
        match_target(octant, target, tolerance=2e-3, iterations=25).error
        for octant, target in zip(starts, targets, strict=True)
    ]
    row = {
        "gamut_of_cells": gamut.source,
        "targets": len(targets),
        "phi_at_most": NARROW,
        "nearest_mean": float(near.mean()),
        "nearest_largest": float(near.max()),
        "moved_mean": float(np.mean(found)),
        "moved_largest": float(np.max(found)),
        "moved_within_1_percent": float(np.mean(np.array(found) <= 0.01)),
    }
    print(row, flush=True)
    write_json(options.out, row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=32, help="resolution of the octants")
    parser.add_argument("--effort", type=float, default=0.6, help="share of the usual evaluations")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gamut_edge.json"))
    parser.add_argument("--tensor", type=float, nargs=3, metavar=("C11", "C12", "C44"), help="this one alone")
    parser.add_argument("--cells", type=Path, help="of --tensor: the cell found")
    parser.add_argument(
        "--within", type=int, metavar="N", help="so many tensors just within the edge instead"
    )
    options = parser.parse_args()
    if options.within is not None:
        return within(options)
    if options.tensor is not None:
        return one(tuple(options.tensor), options)
    gamut, rows = load_gamut("dataset"), []
    grid = np.array(list(itertools.product(*(np.linspace(low, high, 9) for low, high in RANGES))))
    inside = gamut.phi(grid) >= 0
    share = {"all": float(inside.mean())}
    for value in np.unique(grid[:, 1]):
        share[f"C12 = {value:.2f}"] = float(inside[grid[:, 1] == value].mean())
    print(share, flush=True)
    soft = [tuple(C) for C in from_scaled_moduli(SOFT).tolist()]
    for target, volume in [*((C, 0.7) for C in BOX), *((C, 0.3) for C in soft)]:
        for start in STARTS:
            row = {
                "target": target,
                "target_scaled": scaled_moduli(target).round(3).tolist(),
                "target_phi": float(gamut.phi(target)),
                "start": start,
                "found": None,
            }
            goal = Goal("match", volume, target=target)
            try:
                C = optimise(Settings(goal, n=options.n, start=start, effort=options.effort)).C
                row |= {
                    "found": C.tolist(),
                    "found_scaled": scaled_moduli(C).round(3).tolist(),
                    "found_phi": float(gamut.phi(C)),
                    "error": float(tensor_error(C, np.array(target))),
                }
            except NotConverged:
                pass
            print(row, flush=True)
            rows.append(row)
    write_json(
        options.out,
        {
            "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads()},
            "gamut_of_cells": gamut.source,
            "n": options.n,
            "effort": options.effort,
            "share_of_box_inside": share,
            "runs": rows,
        },
    )


if __name__ == "__main__":
    main()
