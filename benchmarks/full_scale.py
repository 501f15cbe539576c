"""Where a lattice's full-scale value comes from: the macro mesh, the size of the cells, the voxels.

Solves the lattice of a run, and the structure without a design, by macro meshes of 1, 2, 4, ... elements an
edge of a cell with the cells' own tensors, and voxel by voxel; all values are of the displacements at the
cells' corners. Meant for `cases/cloak_slab.toml` and small cases: a mesh of 8 elements an edge takes 512
times the memory of the design's own.

    python benchmarks/full_scale.py runs/cloak_slab --meshes 1 2 4 --voxels 8 16 --out full_scale.json
    python benchmarks/full_scale.py runs/cloak_slab --picture docs/images/full-scale-error.png

Rows that the file has are kept, and solutions are kept beside it: the same command goes on. `--round 0` is
the first lattice. The picture shows where corners are off, homogenised and at full scale, first and last.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from micro.runtime.files import write_json
from micro.runtime.npz import read_arrays
from micro.runtime.progress import Reporter
from multiscale.figures.style import new_figure, save
from multiscale.lattice.lattice import Lattice
from multiscale.objective.purpose import make_objective
from multiscale.problem.grid import split_elements
from multiscale.problem.problem import Role, build_problem
from multiscale.problem.tensor_field import load_tensors
from multiscale.rundir import provenance
from multiscale.rundir.directory import RunDirectory
from multiscale.verify.full_scale import measure


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--meshes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--voxels", type=int, nargs="*", default=[8])
    parser.add_argument("--round", type=int, help="of this round instead of the best")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    run = RunDirectory.open(given.run)
    if given.picture is not None:
        draw(run, given.picture)
    if given.out is not None:
        decompose(run, given)


def decompose(run: RunDirectory, given: argparse.Namespace) -> None:
    """The table."""
    case, problem = run.case, run.problem
    where = run.path if given.round is None else run.path / "rounds" / str(given.round)
    lattice, tensors = Lattice.load(where / "lattice.zarr"), load_tensors(where / "design.npz", problem)
    reporter = Reporter()
    coarse = make_objective(case, problem)
    plain = problem.tensor.copy()
    plain[problem.design] = problem.reference[problem.design]
    built = np.where(problem.filled[..., None], lattice.tensors(), problem.tensor)
    fields = {"lattice": built, "plain": plain, "design": tensors}
    about = {"run": given.run.name, "quantity": coarse.quantity, "lattice": lattice.digest()}
    rows: list[dict[str, Any]] = []
    if given.out.is_file():
        before = json.loads(given.out.read_text(encoding="utf-8"))
        rows = before["rows"] if before.get("lattice") == about["lattice"] else []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        versions, machine = provenance.versions(), provenance.machine()
        write_json(given.out, {**about, "rows": rows, "versions": versions, "machine": machine})

    for refine in given.meshes:
        if any(row.get("elements_an_edge") == refine for row in rows):
            continue
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
        keep(row)
    kept = given.out.with_suffix("")
    kept.mkdir(parents=True, exist_ok=True)
    for voxels in given.voxels:
        if not any(row.get("voxels_per_cell") == voxels for row in rows):
            found = measure(
                case, problem, lattice, None, voxels_per_cell=voxels, reporter=reporter, kept=kept
            )
            keep({"model": "voxels", **found.metrics})
    for row in rows:
        mesh = row["model"] == "mesh"
        name = f"{row['elements_an_edge']} elements" if mesh else f"voxels, {row['voxels_per_cell']}"
        value = row["lattice" if mesh else coarse.quantity]
        plain = row["plain"] if mesh else row.get(f"{coarse.quantity}_void", float("nan"))
        print(f"| {name} | {100 * value:.2f} % | {100 * plain:.1f} % |")


def draw(run: RunDirectory, path: Path) -> None:
    """Where the cells' corners are off, on the middle plane, of the first load."""
    best = run.metrics["full_scale"]["round"]
    figure = new_figure((8.6, 8.2))
    axes = figure.subplots(2, 2)
    load = run.problem.loads[0].name
    hole = run.problem.role == Role.VOID
    panels = []
    for number in (0, best):
        arrays = read_arrays(run.path / "rounds" / str(number) / "full_scale.npz")
        for end, said in ((".homogenised", "homogenised"), ("", "at full scale")):
            reference, built = (arrays[f"{load}.{name}{end}"] for name in ("reference", "lattice"))
            size = np.sqrt((reference[run.problem.observed_nodes] ** 2).sum(axis=-1).mean())
            off = 100 * np.linalg.norm(built - reference, axis=-1) / size
            off[~run.problem.observed_nodes] = np.nan
            panels.append((f"round {number}, {said}", off[:, :, off.shape[2] // 2]))
    top = np.nanmax([np.nanmax(off) for _, off in panels])
    for ax, (said, off) in zip(axes.flat, panels, strict=True):
        image = ax.imshow(off.T, origin="lower", vmin=0, vmax=top, cmap="magma")
        ax.contour(hole[:, :, hole.shape[2] // 2].T, levels=[0.5], colors="#888888", linewidths=0.8)
        ax.set_title(said)
        ax.set_axis_off()
    figure.colorbar(image, ax=axes, shrink=0.6, label="displacement off by, % of the root mean square")
    save(figure, path)


if __name__ == "__main__":
    main()
