"""Interpolation between random pairs of test cells: what `micro interpolate` is worth on average.

    python benchmarks/sequences.py --out benchmarks/results/sequences.json   # 50 pairs, minutes of one core

Pairs are drawn from the data set's test part by a seed. Of every pair: whether all cells are connected, the
tensor error (Eq. 4) to the path, similarity of neighbours (Eq. 5) beside what their volumes allow, and
overlap of their outer faces beside what the faces' areas allow.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from homogenize import hardware

from micro.cell.cellset import CellSet
from micro.data.packaged import load_dataset
from micro.dataset.dataset import part
from micro.explore.sequence import interpolate
from micro.generator.generator import Generator
from micro.runtime.files import write_json

SHOWN = ("error_mean", "error_worst", "similarity_mean", "faces_mean", "monotone", "connected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generator", default="default", help="weights")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sequences.json"))
    options = parser.parse_args()
    generator, cells = Generator.load(options.generator), part(load_dataset(), "test")
    rng, rows = np.random.default_rng(options.seed), []
    for number in range(options.pairs):
        pair = rng.choice(len(cells), 2, replace=False)
        ends: CellSet = cells.subset(pair).without_parameters()
        began = time.perf_counter()
        found = interpolate(generator, ends, options.steps).report()
        row = {key: value for key, value in found.items() if key not in ("C", "bulk_over_bound")}
        rows.append({"pair": pair.tolist(), **row, "seconds": time.perf_counter() - began})
        print(number, {key: rows[-1][key] for key in SHOWN}, flush=True)

    def over(key: str) -> np.ndarray:
        return np.array([row[key] for row in rows], dtype=float)

    write_json(
        options.out,
        {
            "hardware": hardware(torch.get_num_threads()),
            "data": load_dataset().digest(),
            "pairs": len(rows),
            "steps": options.steps,
            "seed": options.seed,
            "connected": float(over("connected").mean()),
            "monotone": float(over("monotone").mean()),
            "error_mean": float(over("error_mean").mean()),
            "error_worst": float(over("error_worst").max()),
            "similarity_mean": float(over("similarity_mean").mean()),
            "similarity_of_the_worst_pair": float(over("similarity_mean").min()),
            "similarity_by_volume_mean": float(over("similarity_by_volume_mean").mean()),
            "faces_mean": float(over("faces_mean").mean()),
            "faces_by_area_mean": float(over("faces_by_area_mean").mean()),
            "shifted": float(over("shifted").mean()),
            "homogenisations": float(over("homogenisations").mean()),
            "seconds": float(over("seconds").mean()),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
