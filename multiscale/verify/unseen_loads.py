"""``multiscale unseen``: how a cloak does under loads that it was not designed for.

The standard set holds the block at the low face of each axis in turn and pulls the opposite face along each
axis: three tensions and six shears. Each distortion is measured as in the case, against the block of
reference material under the same load.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.progress import Reporter
from multiscale.objective.objective import DistortionObjective
from multiscale.objective.purpose import solver_options
from multiscale.problem import grid
from multiscale.problem.loads import AXIS_NAMES, LoadCase
from multiscale.problem.problem import Problem
from multiscale.rundir.directory import RunDirectory
from multiscale.solve.elasticity import SolverOptions

#: Structures compared.
STRUCTURES = ("void", "design", "lattice")
_TRACTION = 1e-3
"""Force per area, in units of E_s; distortions do not depend on it."""


def standard_loads(problem: Problem, axis: int) -> tuple[LoadCase, ...]:
    """Held at the low face of ``axis``, pulled at the high one along x, y and z."""
    low, high = f"{AXIS_NAMES[axis]}-", f"{AXIS_NAMES[axis]}+"
    fixed = np.repeat(grid.face_nodes(low, problem.shape)[..., None], 3, axis=-1)
    quads = grid.on_face(problem.solid, high)
    loads = []
    for component, name in enumerate(AXIS_NAMES):
        force = grid.quad_forces(quads, high, _TRACTION * np.eye(3)[component], problem.shape)
        kind = "tension" if component == axis else "shear"
        loads.append(
            LoadCase(
                f"{kind}_{high[0]}" if component == axis else f"{kind}_{high[0]}{name}",
                1.0,
                fixed,
                np.zeros(fixed.shape),
                force,
            )
        )
    return tuple(loads)


def unseen_distortions(
    problem: Problem, fields: dict[str, Floats], options: SolverOptions, reporter: Reporter | None = None
) -> dict[str, dict[str, float]]:
    """Distortions by load of the standard set and structure.

    Parameters
    ----------
    problem : Problem
    fields : dict of str to array (nx, ny, nz, 3)
        Tensor fields of the whole grid, zero in voids; symmetric about the problem's mirror planes.
    options : SolverOptions
    reporter : Reporter, optional
    """
    out: dict[str, dict[str, float]] = {}
    for axis in range(3):
        if not grid.on_face(problem.solid, f"{AXIS_NAMES[axis]}+").any():
            continue
        if not grid.on_face(problem.solid, f"{AXIS_NAMES[axis]}-").any():
            continue
        # Holding one face alone leaves the planes across the other axes.
        mirror = tuple(a for a in problem.mirror_axes if a != axis)
        part = replace(problem, loads=standard_loads(problem, axis), mirror_axes=mirror)
        objective = DistortionObjective(part, options)
        for name, field in fields.items():
            value = objective.value(objective.reduction.elements(field))
            for load, distortion in value.per_load.items():
                out.setdefault(load, {})[name] = distortion
        if reporter is not None:
            said = ", ".join(f"{load} {out[load]['lattice']:.4f}" for load in value.per_load)
            reporter.say(f"held at {AXIS_NAMES[axis]}-: distortion of the lattice {said}")
    return out


def unseen(run_dir: str | Path, reporter: Reporter | None = None) -> dict[str, Any]:
    """Distortions of a finished run's cloak under the standard set; adds ``unseen`` to its metrics.

    Silent without a reporter.

    Raises
    ------
    InputError
        If the directory is not that of a finished run, or its objective is not a distortion.
    """
    reporter = reporter or Reporter(False)
    run = RunDirectory.open(run_dir)
    run.require("evaluate")
    run.check_addable()
    if not run.purpose.has_reference:
        raise InputError("only cloaks have distortions", file=run_dir, key="objective.type")
    problem, lattice = run.problem, run.lattice
    plain = np.where(problem.design[..., None], problem.reference, problem.tensor)
    built = np.where(problem.filled[..., None], lattice.tensors(), problem.tensor)
    fields = {"void": plain, "design": run.design, "lattice": built}
    options = solver_options(run.case, run.case.solver.rtol_evaluate)
    found = unseen_distortions(problem, {name: fields[name] for name in STRUCTURES}, options, reporter)
    run.add("unseen", found, reads=("design.npz", "lattice.zarr"))
    worst = max(found, key=lambda load: found[load]["lattice"])
    reporter.say(
        f"[bold]unseen loads[/bold] worst {worst}: {found[worst]['lattice']:.4f} "
        f"(without cloak {found[worst]['void']:.4f})"
    )
    return found
