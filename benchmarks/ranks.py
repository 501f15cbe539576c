"""One process against several MPI ranks: ``python benchmarks/ranks.py --out benchmarks/results/ranks.json``.

On an idle machine only: it compares wall times. Each measurement starts ``mpiexec -n N`` with one thread a
rank, and the results of all N have to be the same. ``--macro`` measures an objective and its gradient of the
flagship, refined: 1 is 40^3 elements, 4 is 160^3 (6 GB, some minutes). ``--full-scale RUN:VOXELS`` solves a
run's lattice voxel by voxel, so many along a cell's edge.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def homogenize(argument: str) -> dict[str, Any]:
    """Octants of n = 32 to a relative residual of 1e-5, shared by the ranks."""
    from micro.data.packaged import load_library
    from micro.homogenize.octants import homogenize_shared
    from micro.runtime.executor import executor

    cells, count = load_library(), int(argument)
    octants = cells.octants(np.arange(count) % len(cells))
    with executor(1) as processes:
        list(processes.run(abs, range(4 * processes.workers)))
        homogenize_shared(octants[: 32 * processes.workers], processes)  # kernels are loaded
        began = time.perf_counter()
        found = homogenize_shared(octants, processes)
    seconds = time.perf_counter() - began
    return {"count": count, "seconds": seconds, "digest": hashlib.sha256(found.C.tobytes()).hexdigest()}


def dataset(argument: str) -> dict[str, Any]:
    """A data set of so many candidates of n = 32 by formula, from nothing."""
    from micro.dataset.build import build
    from micro.library.build import Recipe

    count = int(argument)
    recipe = Recipe(n=32, count=count, seed=2, coarse=32, pool=count, round_size=count, reach=0)
    with tempfile.TemporaryDirectory() as work:
        began = time.perf_counter()
        cells = build(work, recipe, 0, workers=1)
        seconds = time.perf_counter() - began
    return {"count": count, "seconds": seconds, "digest": cells.digest()}


def macro(argument: str) -> dict[str, Any]:
    """An objective and its gradient of the flagship's ring, its tensors random, refined."""
    import resource

    from micro.runtime.progress import Reporter
    from multiscale.case.case import load_case
    from multiscale.run.session import Session
    from multiscale.solve.petsc import PETSc

    refine = int(argument)
    session = Session(load_case(ROOT / "cases" / "cloak.toml"), Reporter(False))
    field, mask = session.plain_field.copy(), session.design_mask
    field[mask] *= 0.6 + 0.4 * np.random.default_rng(0).random((int(mask.sum()), 1))
    objective = session.objective if refine == 1 else session.finer(refine)
    objective.value_and_gradient(field)  # sets up
    objective.forget()
    began, busy = time.perf_counter(), time.process_time()
    value, gradient = objective.value_and_gradient(1.001 * field)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    own = np.array([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0])
    vector = PETSc.Vec().createMPI((1, PETSc.DETERMINE))
    vector.setArray(own)
    return {
        "grid": 40 * refine,
        "unknowns": objective.unknowns,
        "seconds": seconds,
        "processor_seconds": busy,
        "bytes": vector.sum(),
        "iterations": objective.iterations[-2:],
        "value": value.total,
        "gradient": float(np.linalg.norm(gradient)),
    }


def full_scale(run_voxels: str) -> dict[str, Any]:
    """A run's lattice at full scale: time of set-up and solves, and the largest peak of a rank."""
    from multiscale.problem.reduction import Reduction
    from multiscale.rundir import provenance
    from multiscale.rundir.directory import RunDirectory
    from multiscale.solve.voxels.slabs import make_team
    from multiscale.verify.coarse_cells import coarse_lattice
    from multiscale.verify.full_scale import solve_full_scale

    path, voxels = run_voxels.rsplit(":", 1)
    run, edge = RunDirectory.open(path), int(voxels)
    reduction = Reduction(run.problem)
    lattice = coarse_lattice(run.lattice, edge).lattice
    team = make_team(1, reduction.shape[0], edge)
    before, rtol = provenance.peak_bytes(), 1e-4
    found = solve_full_scale(run.case, run.problem, reduction, lattice, team, rtol=rtol)
    return {
        "rtol": rtol,
        "voxels": int(np.prod(reduction.shape)) * edge**3,
        "seconds": found.setup_seconds + found.solve_seconds,
        "iterations": found.iterations,
        "bytes_a_rank_before": team.largest(before),
        "bytes_a_rank": team.largest(provenance.peak_bytes()),
        "value": float(np.sqrt(sum(np.sum(u**2) for u in found.corners))),
    }


WORK = {"homogenize": homogenize, "dataset": dataset, "macro": macro, "full_scale": full_scale}
#: What all ranks do together by PETSc or MPI, the rest being shared out by an executor, and how far values of
#: several ranks may be apart: as far as the solves' tolerances.
TOGETHER = {"macro": 1e-5, "full_scale": 1e-4}


def child(name: str, argument: str, out: Path) -> int:
    """Do one measurement, as a rank; rank 0 writes it."""
    from micro.runtime.executor import on_ranks
    from micro.runtime.files import write_json

    if name in TOGETHER:
        from multiscale.solve.ranks import is_root

        found = WORK[name](argument)
        if is_root():
            write_json(out, found)
        return 0

    def work() -> int:
        write_json(out, WORK[name](argument))
        return 0

    return on_ranks(work)


def measure(name: str, argument: str, ranks: int) -> dict[str, Any]:
    """One measurement in ranks of their own."""
    from multiscale.cli.doctor import find_mpiexec

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        line = [str(find_mpiexec()), "-n", str(ranks), sys.executable, __file__]
        threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run([*line, "--child", name, argument, str(out)], check=True, env=os.environ | threads)
        return {"what": name, "ranks": ranks, **json.loads(out.read_text(encoding="utf-8"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--octants", type=int, default=2000, help="0 leaves them out")
    parser.add_argument("--candidates", type=int, default=1000, help="of a data set; 0 leaves it out")
    parser.add_argument("--macro", type=int, nargs="*", default=[1, 2], help="refinements of the flagship")
    parser.add_argument("--full-scale", nargs="*", default=[], metavar="RUN:VOXELS", help="lattices")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        name, argument, out = chosen.child
        return child(name, argument, Path(out))
    from homogenize import hardware

    jobs = [
        ("homogenize", str(chosen.octants)),
        ("dataset", str(chosen.candidates)),
        *(("macro", str(k)) for k in chosen.macro),
        *(("full_scale", run) for run in chosen.full_scale),
    ]
    report: dict[str, Any] = {"hardware": hardware(1), "measurements": []}
    agreed = True
    for name, argument in jobs:
        if argument == "0":
            continue
        rows = [measure(name, argument, ranks) for ranks in chosen.ranks]
        for row in rows:
            row["times_faster"] = rows[0]["seconds"] / row["seconds"]
            faster = f"x {row['times_faster']:.2f}"
            print(f"{name} {argument}, {row['ranks']} rank(s): {row['seconds']:.1f} s, {faster}", flush=True)
            if name in TOGETHER:
                agreed &= abs(row["value"] / rows[0]["value"] - 1) < TOGETHER[name]
            else:
                agreed &= row["digest"] == rows[0]["digest"]
        report["measurements"] += rows
    report["same_for_any_ranks"] = agreed
    if chosen.out is not None:
        from micro.runtime.files import write_json

        write_json(chosen.out, report)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
