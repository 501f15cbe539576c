"""``multiscale unseen``: how a cloak does under loads that it was not designed for.

The standard set holds the block at the low face of each axis in turn and pulls the opposite face along each
axis: three tensions and six shears. Beside it stand the six uniform far-field stresses and their nine first
moments on the block without supports, each alone, and the worst combinations of the six and of all fifteen
(:mod:`multiscale.objective.any_load`). Each distortion is measured as in the case, against the block of
reference material under the same load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.progress import Reporter
from multiscale.case.case import Case
from multiscale.case.load_space import LoadSpace, combination_text, far_field_basis
from multiscale.objective.any_load import AnyLoadObjective
from multiscale.objective.objective import DistortionObjective
from multiscale.objective.purpose import solver_options
from multiscale.problem import grid
from multiscale.problem.loads import AXIS_NAMES, LoadCase, build_load
from multiscale.problem.problem import Problem
from multiscale.problem.supports import check_supported
from multiscale.problem.symmetry import mirror_obstacle
from multiscale.rundir.directory import RunDirectory
from multiscale.solve.elasticity import SolverOptions

#: Structures compared.
STRUCTURES = ("void", "design", "lattice")
ANY_STRESS = "any_stress"
"""What the worst combination of far-field stresses is called."""
ANY_FAR_FIELD = "any_far_field"
"""What the worst combination of far-field stresses and their first moments is called."""
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


@dataclass(frozen=True)
class FarField:
    """What far-field stresses and their first moments do to several structures.

    Attributes
    ----------
    distortions : dict
        By load and structure; ``any_stress`` and ``any_far_field`` are the worst of all combinations of the
        stresses, and of these and the moments.
    worst : dict
        By these two, structure and load: the amplitudes of the worst combination.
    measures : dict
        By these two and structure: ``strain_deviation`` and ``energy_mismatch`` under it.
    """

    distortions: dict[str, dict[str, float]]
    worst: dict[str, dict[str, dict[str, float]]]
    measures: dict[str, dict[str, dict[str, float]]]


def far_field_distortions(
    case: Case, problem: Problem, fields: dict[str, Floats], options: SolverOptions
) -> FarField:
    """Distortions under the far fields, and the combinations that are the worst.

    Parameters
    ----------
    case : Case
    problem : Problem
        The case's.
    fields : dict of str to array (nx, ny, nz, 3)
        As for :func:`unseen_distortions`.
    options : SolverOptions
    """
    basis = case.model_copy(update={"loads": (), "load_space": LoadSpace(far_field="moments")})
    numbers = range(len(basis.load_cases))
    loads = tuple(build_load(basis, number, problem.solid) for number in numbers)
    for number, load in enumerate(loads):
        check_supported(load, problem.solid, case.file, f"load_space[{number}]")
    # A far field of one component is even or odd about every plane: the block's own planes serve.
    planes = tuple(
        axis
        for axis in range(3)
        if mirror_obstacle(axis, problem.role, problem.tensor, problem.observed, loads) is None
        and all(np.allclose(np.flip(f, axis), f, rtol=1e-9, atol=0) for f in fields.values())
    )
    part = replace(problem, loads=loads, targets=(), mirror_axes=planes, combine="worst")
    everything = AnyLoadObjective(part, options)
    stresses = everything.within([load.name for load in far_field_basis()])
    found = FarField({}, {ANY_STRESS: {}, ANY_FAR_FIELD: {}}, {ANY_STRESS: {}, ANY_FAR_FIELD: {}})
    for name, field in fields.items():
        reduced = everything.reduction.elements(field)
        displacements = everything.displacements(reduced)
        for key, distortion in everything.per_load(displacements).items():
            found.distortions.setdefault(key, {})[name] = distortion
        for key, objective in ((ANY_STRESS, stresses), (ANY_FAR_FIELD, everything)):
            worst = objective.worst(displacements)
            found.distortions.setdefault(key, {})[name] = worst.distortion
            found.worst[key][name] = worst.loads
            found.measures[key][name] = objective.measures_of(reduced, displacements, worst)
    return found


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
    try:
        far = far_field_distortions(run.case, problem, fields, options)
    except InputError as error:  # a body that does not reach all faces, or is not in equilibrium there
        reporter.say(f"no far-field stresses on this body: {error}")
    else:
        found |= far.distortions
        reads = ("design.npz", "lattice.zarr")
        run.add("unseen_worst", far.worst, reads=reads)
        run.add("unseen_measures", far.measures, reads=reads)
        for key, what in ((ANY_STRESS, "any far-field stress"), (ANY_FAR_FIELD, "with first moments")):
            values = far.distortions[key]
            reporter.say(
                f"[bold]{what}[/bold] worst {values['lattice']:.4f} (without cloak {values['void']:.4f}): "
                f"{combination_text(far.worst[key]['lattice'])}"
            )
    run.add("unseen", found, reads=("design.npz", "lattice.zarr"))
    worst = max(found, key=lambda load: found[load]["lattice"])
    reporter.say(
        f"[bold]unseen loads[/bold] worst {worst}: {found[worst]['lattice']:.4f} "
        f"(without cloak {found[worst]['void']:.4f})"
    )
    return found
