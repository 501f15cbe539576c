"""Interpolation between random pairs of test cells: what `micro interpolate` is worth on average.

    python benchmarks/sequences.py --out benchmarks/results/sequences.json   # 50 pairs, minutes of one core

Pairs are drawn from the data set's test part by a seed. Of every pair: whether all cells are connected, the
tensor error (Eq. 4) to the path, similarity of neighbours (Eq. 5) beside what their volumes allow, and
overlap of their outer faces beside what the faces' areas allow, and beside what those of the ends allow.

The family along the bulk modulus' bound, from the thinnest closed box of n = 42 to a volume of 0.8:

    python benchmarks/sequences.py --family --out benchmarks/results/bulk_family.json     # a minute
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from homogenize import hardware

from micro.cell.cellset import CellSet
from micro.cell.octant import face, half_period_shift
from micro.data.packaged import load_dataset
from micro.dataset.dataset import part
from micro.explore.sequence import interpolate
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.inverse import Goal, Settings, optimise
from micro.runtime.files import write_json

THIN_N, THICK = 42, 0.8
"""Resolution whose walls of one voxel have a volume of 0.07, and the volume at the other end."""

SHOWN = ("error_mean", "error_worst", "similarity_mean", "faces_mean", "monotone", "connected")


def family(options: argparse.Namespace) -> None:
    """Sixteen cells from a volume of 0.07 to 0.8, each as stiff under pressure as its surface can be made."""
    box = np.zeros((THIN_N,) * 3, dtype=bool)
    box[0] = box[:, 0] = box[:, :, 0] = True
    began = time.perf_counter()
    thick = optimise(Settings(Goal("bulk", THICK), n=THIN_N))
    C = np.concatenate([homogenize_octants(box[None]).C, thick.C[None]])
    ends = CellSet.from_octants(np.stack([box, thick.octant]), C)
    found = interpolate(Generator.load(options.generator), ends, 16, maximise="bulk")
    if options.cells is not None:
        found.cells.save(options.cells)
    report = found.report()
    print(report, flush=True)
    timing = {"hardware": hardware(torch.get_num_threads()), "seconds": time.perf_counter() - began}
    write_json(options.out, {**timing, "n": THIN_N, **report})


def allowed_by_ends(ends: CellSet, steps: int) -> float:
    """The mean overlap of faces that no sequence between two cells can exceed, in whichever phase they are.

    Of the steps' overlaps, each at most the root of a ratio of areas, the product is at most the root of the
    ends' own ratio; of numbers up to one with a given product the sum is largest if all but one are one.
    """
    first, last = ends.octants()
    areas = [face(np.stack([first, x])).mean(axis=(1, 2)) for x in (last, half_period_shift(last))]
    return max(float((steps - 2 + np.sqrt(a.min() / a.max())) / (steps - 1)) for a in areas)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generator", default="default", help="weights")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sequences.json"))
    parser.add_argument("--family", action="store_true", help="the stiffest cells of 16 volumes instead")
    parser.add_argument("--bound", action="store_true", help="only what the pairs' faces allow")
    parser.add_argument("--cells", type=Path, help="of --family: the cells, to look at")
    options = parser.parse_args()
    if options.family:
        return family(options)
    generator, cells = Generator.load(options.generator), part(load_dataset(), "test")
    rng, rows = np.random.default_rng(options.seed), []
    pairs = [rng.choice(len(cells), 2, replace=False) for _ in range(options.pairs)]
    if options.bound:
        print(np.mean([allowed_by_ends(cells.subset(pair), options.steps) for pair in pairs]))
        return None
    for number, pair in enumerate(pairs):
        ends: CellSet = cells.subset(pair).without_parameters()
        began = time.perf_counter()
        found = interpolate(generator, ends, options.steps).report()
        row = {key: value for key, value in found.items() if key not in ("C", "bulk_over_bound")}
        row["faces_by_ends"] = allowed_by_ends(ends, options.steps)
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
            "faces_by_ends_mean": float(over("faces_by_ends").mean()),
            "shifted": float(over("shifted").mean()),
            "homogenisations": float(over("homogenisations").mean()),
            "seconds": float(over("seconds").mean()),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
