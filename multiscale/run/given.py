"""The design stage of a field that was made elsewhere: read, projected onto the gamut, judged, kept."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from micro.runtime.files import atomic_path
from multiscale.design.feasibility import count_violations
from multiscale.problem.given_field import read_field
from multiscale.problem.tensor_field import save_tensors
from multiscale.run.session import Session
from multiscale.rundir.directory import RunDirectory
from multiscale.solve import ranks as parallel


def given_design(session: Session, directory: RunDirectory) -> None:
    """Take the field that ``[design] source`` names; leaves design.npz and a history of two lines.

    Tensors outside the gamut, which no known cell has, are moved to their nearest inside; how many and how
    far is said and stands in the metrics (``design.*``).

    Raises
    ------
    InputError
        If the file holds no field for this case.
    """
    case, reporter, start = session.case, session.reporter, time.monotonic()
    assert case.design.source is not None
    path, margin = case.path(case.design.source), case.gamut.margin
    objective, gamut = session.objective, session.gamut
    given = read_field(path, session.problem, case.design)
    reduced = objective.reduction.symmetric_elements(given, session.problem.design, path)
    tensors = reduced[session.design_mask]
    phi = gamut.phi(tensors)
    outside = count_violations(phi, margin)
    inside = gamut.project(tensors, margin) if outside else tensors
    moved = np.linalg.norm(inside - tensors, axis=-1) / np.linalg.norm(tensors, axis=-1)
    space, weight = session.space(), objective.reduction.element_weight
    records: list[dict[str, Any]] = []
    for kind, field in (("evaluation", tensors), ("projection", inside)):
        value = objective.value(space.field(field))
        phi = gamut.phi(field)
        limited = {} if session.limit is None else {session.limit.name: session.limit.density(field)}
        records.append(
            {
                "stage": 0,
                "kind": kind,
                "evaluation": 1,
                "count": len(records) + 1,
                objective.quantity: value.total,
                "per_load": value.per_load,
                **limited,
                "constraint": float(margin - phi.min()),
                "violations": count_violations(phi, margin),
                "seconds": round(time.monotonic() - start, 3),
            }
        )
    reporter.say(
        f"design: {path.name}, {objective.quantity} {records[0][objective.quantity]:.4g}; "
        f"{weight * outside} of {weight * len(tensors)} tensors lie outside the gamut and are projected onto "
        f"it (by up to {moved.max():.1%}): {objective.quantity} {records[1][objective.quantity]:.4g}"
    )
    whole = objective.reduction.expand_elements(space.field(inside))

    def keep() -> None:
        save_tensors(directory.path / "design.npz", whole)
        with atomic_path(directory.path / "history.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    parallel.on_root(keep)
    metrics = {
        "feasibility": session.feasibility(inside),
        "solver": session.solver_metrics(objective),
        "design": {
            "source": case.design.source,
            "projected": weight * outside,
            "projected_by_max": float(moved.max()),
            f"{objective.quantity}_given": records[0][objective.quantity],
        },
        **session.mass(inside),
    }
    seconds = {"setup": start - session.started, "macro": time.monotonic() - start}
    directory.finish("design", seconds, metrics, files=("design.npz", "history.jsonl"))
