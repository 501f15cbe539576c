"""Where a lattice's full-scale value comes from: the macro mesh, the size of the cells, the voxels.

Solves the lattice of a run, and the structure without a design, by macro meshes of 1, 2, 4, ... elements an
edge of a cell with the cells' own tensors, and voxel by voxel; all values are of the displacements at the
cells' corners. Meant for `cases/cloak_slab.toml` and small cases: a mesh of 8 elements an edge takes 512
times the memory of the design's own.

    python benchmarks/full_scale.py runs/cloak_slab --meshes 1 2 4 --voxels 8 16 --out full_scale.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from micro.runtime.files import write_json
from micro.runtime.progress import Reporter
from multiscale.objective.purpose import make_objective
from multiscale.problem.grid import split_elements
from multiscale.problem.problem import build_problem
from multiscale.rundir import provenance
from multiscale.rundir.directory import RunDirectory
from multiscale.verify.full_scale import measure


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--meshes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--voxels", type=int, nargs="*", default=[8])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    run = RunDirectory.open(given.run)
    case, problem, lattice = run.case, run.problem, run.lattice
    reporter = Reporter()
    coarse = make_objective(case, problem)
    plain = problem.tensor.copy()
    plain[problem.design] = problem.reference[problem.design]
    built = np.where(problem.filled[..., None], lattice.tensors(), problem.tensor)
    fields = {"lattice": built, "plain": plain, "design": run.design}
    rows: list[dict[str, Any]] = []
    for refine in given.meshes:
        start = time.monotonic()
        fine = make_objective(case, build_problem(case, refine=refine), case.solver.rtol_evaluate)

        def corners(u: np.ndarray, by: int = refine) -> np.ndarray:
            return u[::by, ::by, ::by] / by

        reference = None if fine.reference is None else [corners(u) for u in fine.reference]
        row: dict[str, Any] = {"model": "mesh", "elements_an_edge": refine, "unknowns": 0}
        for name, field in fields.items():
            solved = fine.displacements(split_elements(coarse.reduction.elements(field), refine))
            row[name] = coarse.value_elsewhere([corners(u) for u in solved], [], reference).total
            row["unknowns"] = fine.unknowns
        row["seconds"] = round(time.monotonic() - start, 2)
        reporter.say(str(row))
        rows.append(row)
    for voxels in given.voxels:
        found = measure(case, problem, lattice, None, voxels_per_cell=voxels, reporter=reporter)
        rows.append({"model": "voxels", **found.metrics})
    about = {"run": given.run.name, "quantity": coarse.quantity}
    write_json(
        given.out,
        {**about, "rows": rows, "versions": provenance.versions(), "machine": provenance.machine()},
    )


if __name__ == "__main__":
    main()
