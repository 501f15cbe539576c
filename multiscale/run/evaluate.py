"""A tensor field judged, whoever made it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from micro.runtime.errors import InputError
from micro.runtime.files import check_writable, write_json
from micro.runtime.progress import Reporter
from multiscale.case.case import load_case
from multiscale.case.purpose import UNIFORM
from multiscale.case.settings import DesignSettings
from multiscale.design.feasibility import feasibility
from multiscale.objective.combination import Value
from multiscale.problem.given_field import read_field
from multiscale.problem.size import require_memory
from multiscale.run.correction import require_mesh
from multiscale.run.session import Session, value_table
from multiscale.rundir import provenance
from multiscale.solve import ranks as parallel

#: Elements along an edge of a cell, of the finest mesh that a field can be judged on.
MESHES = (2, 4)


# ------------------------------------------------------------------- evaluation
def evaluate_case(
    path: str | Path,
    tensors: str | Path,
    out: str | Path,
    reporter: Reporter | None = None,
    *,
    all_elements: bool = False,
    mesh: int = 2,
) -> dict[str, Any]:
    """What any tensor field on a case's grid is worth, whoever made it; writes ``metrics.json``.

    Beside the objective stand the measures that others use (:mod:`multiscale.objective.field_measures`), so
    that a design published elsewhere can be compared in its authors' terms and in these.

    Parameters
    ----------
    path : path
        The case file.
    tensors : path
        npz with arrays ``C11``, ``C12``, ``C44`` of the grid's shape in units of E_s.
    out : path
        Directory for ``metrics.json``.
    reporter : Reporter, optional
        Says the values; silent by default.
    all_elements : bool
        Take the fixed regions' tensors from the file too (a lattice as built), not from the case.
    mesh : {2, 4}
        Elements along an edge of a cell of the finest mesh that it is judged on.

    Raises
    ------
    InputError
        Wrong input, or a mesh that needs more memory than there is; nothing was written.
    """
    check_writable(out, "--out")
    if mesh not in MESHES:
        raise InputError(f"must be one of {', '.join(map(str, MESHES))}", key="--mesh", value=mesh)
    reporter = reporter or Reporter(False)
    start = time.monotonic()
    session = Session(load_case(path), reporter)
    problem = session.problem
    given = read_field(Path(tensors), problem, DesignSettings(), all_elements)
    gamut = session.gamut
    out = Path(out)
    if (out / "run.json").exists():
        raise InputError(
            "holds a run, whose metrics would be lost: give another", key="--out", value=str(out)
        )
    if (out / "metrics.json").exists():
        raise InputError(
            "holds metrics.json already: give a new directory, or remove it", key="--out", value=str(out)
        )
    require_memory(problem, session.case.file)
    if mesh > 2:
        require_mesh(session, mesh, "--mesh", operators=1)
    objective = session.objective
    setup = time.monotonic() - start
    mask = problem.solid if all_elements else problem.design
    reduced = objective.reduction.symmetric_elements(given, mask, tensors)
    keep = objective.reduction.elements(mask)
    field = session.plain_field.copy()
    field[keep] = reduced[keep]
    fields = {"design": field}
    if session.purpose.baseline != UNIFORM:
        fields = {session.purpose.baseline.name: session.plain_field, **fields}
    results: dict[str, Value] = {}
    details: dict[str, dict[str, Any]] = {}
    for name, f in fields.items():
        results[name], displacements = session.evaluate(f)
        for section, values in objective.details(f, displacements).items():
            details.setdefault(section, {})[name] = values
    results["design_refined"] = session.evaluate_refined(field)[0]
    if mesh > 2:
        results[f"design_refined_{mesh}"] = session.evaluate_refined(field, refine=mesh)[0]
    phi = gamut.phi(given[problem.design])
    feasible = feasibility(phi, session.case.gamut.margin)
    metrics = {
        **details,
        objective.quantity: value_table(results),
        "feasibility": feasible,
        "solver": {"unknowns": objective.unknowns, "iterations_mean": float(np.mean(objective.iterations))},
        "time": {"setup": round(setup, 3), "total": round(time.monotonic() - start, 3)},
        "memory": {"peak_bytes": provenance.peak_bytes()},
        "case_sha256": session.case.digest(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "ranks": parallel.ranks(),
        "fixed_regions_from": "file" if all_elements else "case",
    }
    parallel.on_root(lambda: write_json(out / "metrics.json", metrics))
    if feasible["violations"]:
        reporter.say(
            f"[yellow]{feasible['violations']} of {len(phi)} tensors lie outside the gamut (phi down to "
            f"{phi.min():.3g}): no known cell has them[/]"
        )
    reporter.say(f"{objective.quantity} " + ", ".join(f"{k} {v.total:.4g}" for k, v in results.items()))
    for load, measures in details.get("measures", {}).get("design", {}).items():
        reporter.say(f"{load}: " + ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in measures.items()))
    return metrics
