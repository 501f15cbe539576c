"""Time, memory and iterations of the full-scale solver: ``python benchmarks/verify.py --out result.json``.

Cubes of N^3 voxels, 8 a cell edge, clamped below and sheared above, no mirror planes: one periodic lattice
of a cell of the packaged library. Each size runs in a process of its own, so that its peak memory is its own.
On a machine that others use too, the processor seconds are what compares.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PER_CELL = 8
#: The flagship's surrounding material; its nearest library cell is solved.
TENSOR = (0.303974, 0.125975, 0.089000)


def measure(voxels: int, threads: int, rtol: float) -> dict[str, Any]:
    """One size, in a fresh process."""
    from micro.cell.tensor import isotropic
    from micro.data.packaged import load_library
    from micro.library.retrieval import nearest
    from multiscale.lattice.lattice import Lattice
    from multiscale.solve.voxels.multigrid import Multigrid, coarse_masks
    from multiscale.solve.voxels.solve import solve
    from multiscale.solve.voxels.team import Team
    from multiscale.verify.coarse_cells import coarse_lattice
    from multiscale.verify.voxel_model import touching

    cells = load_library()
    index, _ = nearest(cells, np.array([TENSOR]), 1)
    count = voxels // PER_CELL
    whole = Lattice(cells.subset(index[0]), np.zeros((count, count, count), dtype=np.int32), 1e-3, 1e9, 0.3)
    voxels_of = coarse_lattice(whole, PER_CELL).lattice
    solid = voxels_of.materials(voxels_of.index)
    fixed = np.zeros((count + 1, count + 1, count + 1, 3), dtype=bool)
    fixed[:, 0] = True
    tensor = isotropic(1.0, 0.3)
    team = Team(threads)
    solve_small(team)  # compiled and warm
    start, used = time.perf_counter(), time.process_time()
    multigrid = Multigrid(solid, tensor, coarse_masks(fixed, PER_CELL), team, voxels_of.moduli)
    setup, setup_used = time.perf_counter() - start, time.process_time() - used
    force = np.zeros(multigrid.levels[0].nodes)
    force[:, -1, 0] = 1e-3 * (touching(solid, team) > 0)[:, -1]
    where = np.flatnonzero(force)
    load = where, force.reshape(-1)[where]
    del force
    none = np.zeros(0, dtype=np.int64), np.zeros(0)
    start, used = time.perf_counter(), time.process_time()
    solution = solve(multigrid, tensor, load, none, team, rtol=rtol)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "voxels": voxels**3,
        "edge": voxels,
        "solid_fraction": float((solid > 0).mean()),
        "iterations": solution.iterations,
        "residual": solution.residual,
        "setup_seconds": setup,
        "setup_processor_seconds": setup_used,
        "solve_seconds": seconds,
        "solve_processor_seconds": processor,
        "ns_per_voxel_and_iteration": 1e9 * seconds / voxels**3 / solution.iterations,
        "processor_ns_per_voxel_and_iteration": 1e9 * processor / voxels**3 / solution.iterations,
        "processor_us_per_voxel": 1e6 * (processor + setup_used) / voxels**3,
        "peak_bytes": peak,
    }


def solve_small(team: Any) -> None:
    """A solve of a few voxels, so that nothing is compiled while the clock runs."""
    from micro.cell.tensor import isotropic
    from multiscale.solve.voxels.multigrid import Multigrid, coarse_masks
    from multiscale.solve.voxels.solve import solve

    fixed = np.zeros((2, 2, 2, 3), dtype=bool)
    fixed[:, 0] = True
    multigrid = Multigrid(np.ones((16, 16, 16), np.uint8), isotropic(1.0, 0.3), coarse_masks(fixed, 16), team)
    load = np.array([16 * 17 * 3 * 17 + 16 * 3 * 17], dtype=np.int64), np.array([1e-3])
    solve(multigrid, isotropic(1.0, 0.3), load, (load[0][:0], load[1][:0]), team, rtol=1e-3)


def main() -> None:
    from homogenize import hardware

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file (default: standard output)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[40, 80, 160], help="voxels an edge")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rtol", type=float, default=1e-5)
    chosen = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = []
    for size in chosen.sizes:
        with context.Pool(1) as pool:
            row = pool.apply(measure, (size, chosen.threads, chosen.rtol))
        results.append(row)
        print(
            f"{size:4d}^3: {row['iterations']} iterations, {row['solve_seconds']:.1f} s "
            f"({row['solve_processor_seconds']:.1f} s of processor), "
            f"{row['processor_ns_per_voxel_and_iteration']:.0f} ns a voxel and iteration, "
            f"{row['peak_bytes'] / 2**30:.2f} GiB",
            file=sys.stderr,
        )
    if len(results) > 1:
        # What a voxel takes beyond the program itself: the slope between the two largest sizes.
        (a, b) = results[-2:]
        slope = (b["peak_bytes"] - a["peak_bytes"]) / (b["voxels"] - a["voxels"])
    report = {"hardware": hardware(chosen.threads), "rtol": chosen.rtol, "results": results}
    if len(results) > 1:
        report["bytes_per_voxel"] = slope
    text = json.dumps(report, indent=2)
    if chosen.out is None:
        print(text)
        return
    from micro.runtime.files import atomic_path

    with atomic_path(chosen.out) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
