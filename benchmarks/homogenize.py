"""Time, memory and iterations of the homogeniser: ``python benchmarks/homogenize.py --out result.json``.

Each measurement runs in a process of its own, so that its peak memory is its own. The cells are
Schwarz-P (volume 0.3) and, for the batches, level sets of the same kind at volumes 0.25 to 0.6.
Tolerances are the defaults (relative residual 1e-5, voids removed). Times are the best of the repeats, so
compiling, which happens once on a machine, is not in them; processor time stands beside wall time, because a
machine may be shared.

Two peers. FANS 0.6 (C++, FFT preconditioning, not on PyPI): on two ranks of a machine with two cores it
takes for the six load cases of Schwarz-P 0.92 s at 32^3 voxels, 3.8 s at 64^3 and 31 s at 128^3. fedoo
(finite elements in Python, ``pip install fedoo h5py pandas``) homogenises the same voxels by a direct solver,
the void 1e-6 as stiff: ``--peer-up-to 8`` measures it on the full cell, if it is installed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FULL_BATCH = {16: 64, 32: 16, 64: 2}


def octants(n: int, count: int) -> NDArray[np.bool_]:
    """Schwarz-P of volume 0.3 first, then of volumes spread over 0.25 to 0.6."""
    c = np.cos((np.arange(n) + 0.5) * np.pi / n)
    field = np.round(c[:, None, None] + c[:, None] + c, 9)
    volumes = [0.3, *np.linspace(0.25, 0.6, count - 1)]
    return np.stack([field > np.quantile(field, 1 - v) for v in volumes])


def measure(n: int, count: int, path: str, repeats: int, threads: int) -> dict[str, Any]:
    """One measurement, in a fresh process."""
    import torch

    from micro.cell.octant import cell_from_octant
    from micro.homogenize.octants import homogenize_octants
    from micro.homogenize.periodic import homogenize_cell

    torch.set_num_threads(threads)
    some = octants(n, count)
    cell = cell_from_octant(some[0])
    seconds, busy, result = [], [], None
    for _ in range(repeats):
        start, processor = time.perf_counter(), time.process_time()
        result = homogenize_octants(some) if path == "octant" else homogenize_cell(cell)
        seconds.append((time.perf_counter() - start) / count)
        busy.append((time.process_time() - processor) / count)
    assert result is not None
    return {
        "n": n,
        "path": path,
        "cells": count,
        "seconds_per_cell": min(seconds),
        "processor_seconds_per_cell": min(busy),
        "iterations": float(np.mean(result.iterations)),
        "iterations_max": int(np.max(result.iterations)),
        "residual": float(np.max(result.residual)),
        "C": np.asarray(result.C[0] if path == "octant" else result.C[[0, 0, 3], [0, 1, 3]]).tolist(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure_fedoo(n: int) -> dict[str, Any]:
    """Schwarz-P by fedoo's ``get_homogenized_stiffness``, once, in a fresh process."""
    import fedoo as fd

    from micro.cell.octant import cell_from_octant

    cell = cell_from_octant(octants(n, 2)[0])
    start, processor = time.perf_counter(), time.process_time()
    fd.ModelingSpace("3D")
    size = 2 * n
    mesh = fd.mesh.box_mesh(*[size + 1] * 3, 0, 1, 0, 1, 0, 1, elm_type="hex8", name="cell")
    at = np.floor(mesh.nodes[mesh.elements].mean(axis=1) * size).astype(int)
    solid = cell[tuple(at.T)]
    parts = []
    for name, young, elements in (("solid", 1.0, solid), ("void", 1e-6, ~solid)):
        mesh.element_sets[name] = np.flatnonzero(elements)
        law = fd.constitutivelaw.ElasticIsotrop(young, 0.3, name=f"{name} law")
        form = fd.weakform.StressEquilibrium(law, name=f"{name} form")
        part = mesh.extract_elements(name, name=f"{name} mesh")
        parts.append(fd.Assembly.create(form, part, "hex8", name=f"{name} assembly"))
    total = fd.Assembly.sum(*parts, name="total")
    C = np.asarray(fd.homogen.get_homogenized_stiffness(total, meshperio=True))
    return {
        "n": n,
        "path": f"fedoo {fd.__version__}",
        "cells": 1,
        "seconds_per_cell": time.perf_counter() - start,
        "processor_seconds_per_cell": time.process_time() - processor,
        "C": C[[0, 0, 3], [0, 1, 3]].tolist(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def hardware(threads: int) -> dict[str, Any]:
    """What the figures were measured on, and with."""
    import torch

    model = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "simd": torch.backends.cpu.get_cpu_capability(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file (default: standard output)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64], help="octant sizes n")
    parser.add_argument("--general-up-to", type=int, default=32, help="largest n for the general path")
    parser.add_argument("--peer-up-to", type=int, default=0, help="largest n for fedoo, if installed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = []
    for n in chosen.sizes:
        cases = [(1, "octant"), (FULL_BATCH.get(n, 4), "octant")]
        cases += [(1, "general")] if n <= chosen.general_up_to else []
        jobs: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]]
        jobs = [(measure, (n, count, path, chosen.repeats, chosen.threads)) for count, path in cases]
        jobs += [(measure_fedoo, (n,))] if n <= chosen.peer_up_to else []
        for work, arguments in jobs:
            with context.Pool(1) as pool:
                row = pool.apply(work, arguments)
            results.append(row)
            text = f"n = {n:3d} {row['path']:8s} x {row['cells']:3d}: "
            text += f"{1e3 * row['seconds_per_cell']:9.1f} ms a cell"
            text += f" ({1e3 * row['processor_seconds_per_cell']:.1f} of processors)"
            memory = f"{row['peak_bytes'] / 2**30:.2f} GiB"
            iterations = f", {row['iterations']:.1f} iterations" if "iterations" in row else ""
            print(f"{text}{iterations}, {memory}", file=sys.stderr)
    report = json.dumps({"hardware": hardware(chosen.threads), "results": results}, indent=2)
    if chosen.out is None:
        print(report)
        return
    from micro.runtime.files import atomic_path

    with atomic_path(chosen.out) as temporary:
        temporary.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
