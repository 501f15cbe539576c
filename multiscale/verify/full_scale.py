"""Full-scale verification: the assembled lattice solved voxel by voxel under the case's own loads.

For a cloak three structures are solved: the *reference* (the surroundings' cell in every element, no hole),
the *void* (the same with the hole) and the *lattice*; :mod:`multiscale.verify.comparison` says which for
other objectives. Displacements at the cells' corners give values that contain everything homogenisation
leaves out. Beside them stand the homogenised predictions from the tensors of the very cells that were
solved, at the same voxels: what then differs is the cells' finite size and the way unlike neighbours meet,
not the resolution.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from micro.cell.tensor import isotropic
from micro.runtime.arrays import Bools
from micro.runtime.memory import require
from micro.runtime.npz import write_arrays
from micro.runtime.progress import Reporter
from multiscale.case.case import Case
from multiscale.case.voxels import check_full_scale
from multiscale.lattice.lattice import Lattice
from multiscale.objective.combination import Value
from multiscale.problem.problem import Problem
from multiscale.problem.reduction import Reduction
from multiscale.problem.size import full_scale_bytes
from multiscale.rundir import provenance
from multiscale.rundir.directory import RunDirectory
from multiscale.solve import ranks as parallel
from multiscale.solve.petsc import free_dropped
from multiscale.solve.voxels.multigrid import ELEMENT_BYTES, Multigrid
from multiscale.solve.voxels.slabs import make_team, ranks_beside
from multiscale.solve.voxels.solve import solve
from multiscale.solve.voxels.team import Team
from multiscale.verify.coarse_cells import CoarseLattice, Composites, coarse_lattice
from multiscale.verify.comparison import Comparison, compare, difference
from multiscale.verify.extrapolation import extrapolated
from multiscale.verify.materials import VoxelLattice
from multiscale.verify.solution import FullScale, content, load_solution, save_solution
from multiscale.verify.voxel_model import corner_displacements, fixed_masks, forces, prescribed, voxel_model

#: Mean relative error of the coarse cells' tensors beyond which what is solved is not this lattice any more:
#: on the flagship it is 0.001 at 8 voxels, 0.012 at 4, and 0.041 at 2, where hardly a cell is left of a cell.
MOST_ERROR = 0.03
#: Relative residual of the voxel solves: five cases' values move by 5e-5 of them at most (docs/method.md).
RTOL = 1e-3


def solve_full_scale(
    case: Case,
    problem: Problem,
    reduction: Reduction,
    lattice: VoxelLattice,
    team: Team,
    *,
    rtol: float,
    wanted: Bools | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> FullScale:
    """Solve a lattice, voxel by voxel, under every load of the case.

    ``wanted`` (mx+1, my+1, mz+1) are the corners whose displacements are needed; the observed ones if None.
    All ranks of a team that holds slabs have to call, and have the result.

    Parameters
    ----------
    case : Case
    problem : Problem
    reduction : Reduction
    lattice : VoxelLattice
    team : Team
    rtol : float
        Relative residual.
    wanted : bool array, optional
    progress : callable, optional
        Called as ``progress(iterations, relative residual)``.
    """
    start = time.monotonic()
    free_dropped()  # what coarse cells, predictions and the structure before have left in the heap
    tensor = isotropic(1.0, lattice.poisson)
    per_cell, model = lattice.per_cell, voxel_model(lattice, reduction, team)
    if wanted is None:
        wanted = reduction.nodes(problem.observed_nodes)
    setup, solving = time.monotonic() - start, 0.0
    multigrid: Multigrid | None = None
    constrained: Bools | None = None
    corners, work, iterations, residual, averaged = [], [], [], 0.0, 0
    for number, load in enumerate(reduction.loads):
        start = time.monotonic()
        if multigrid is None or constrained is None or not np.array_equal(constrained, load.constrained):
            multigrid = None  # the memory of the last one, before the next
            multigrid = Multigrid(model.solid, tensor, fixed_masks(load, per_cell, team), team, model.moduli)
            constrained = load.constrained
        force = forces(case, number, problem, reduction, model)
        moved = prescribed(load, model)
        setup += time.monotonic() - start
        start = time.monotonic()
        solution = solve(multigrid, tensor, force, moved, team, rtol=rtol, progress=progress)
        solving += time.monotonic() - start
        found, count = corner_displacements(solution.u, model, load, wanted)
        corners.append(found)
        once = force[0] < team.owned(len(solution.u)) * solution.u[0].size  # a plane of two ranks counts once
        own = float(force[1][once] @ solution.u.reshape(-1)[force[0][once]])
        work.append(team.total(own) / per_cell**3)
        iterations.append(solution.iterations)
        residual, averaged = max(residual, solution.residual), max(averaged, count)
        del solution  # 24 bytes a voxel, before the next load
    return FullScale(
        corners, work, iterations, residual, model.unknowns, model.removed, averaged, setup, solving
    )


@dataclass(frozen=True, eq=False)
class Measurement:
    """A lattice measured at full scale.

    Attributes
    ----------
    metrics : dict
        As the section ``verify`` of metrics.json has them.
    comparison : Comparison
    solved : dict of str to FullScale
        By structure.
    files : dict of str to str
        Names of the kept solutions, by structure.
    """

    metrics: dict[str, Any]
    comparison: Comparison
    solved: dict[str, FullScale]
    files: dict[str, str]

    @property
    def value(self) -> float:
        """J of the lattice."""
        return float(self.metrics[self.comparison.quantity])


def verify(
    run_dir: str | Path,
    *,
    voxels_per_cell: int = 8,
    max_memory: float | None = None,
    threads: int | None = None,
    rtol: float = RTOL,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Verify a finished run's lattice at full scale; adds ``verify`` to its metrics.

    Results are kept by resolution. Where the coarse cells are off by more than :data:`MOST_ERROR` the result
    is marked as not to be trusted, and does not stand in for a better one.

    Parameters
    ----------
    run_dir : path
        Directory of a run whose lattice is filled.
    voxels_per_cell : int
        An even divisor of the cells' own resolution.
    max_memory : float, optional
        Bytes; default nine tenths of what the machine has free.
    threads : int, optional
        Default: OMP_NUM_THREADS if set, else the cores that this process may use.
    rtol : float
        Relative residual of the voxel solves.
    reporter : Reporter, optional
        Silent by default.

    Returns
    -------
    dict
        What was found at this resolution: the section ``verify`` of the metrics.

    Raises
    ------
    InputError
        If there is no filled lattice, the resolution does not divide the cells', or memory is short.
    NotConverged
        If a solve fails.
    """
    run = RunDirectory.open(run_dir)
    parallel.on_root(run.check_addable)  # what can't be added to shows before the work
    found = measure(
        run.case,
        run.problem,
        run.lattice,
        run.metrics.get("uniform", {}).get("tensor"),
        voxels_per_cell=voxels_per_cell,
        max_memory=max_memory,
        threads=threads,
        rtol=rtol,
        reporter=reporter,
    )
    file = f"verify_{voxels_per_cell}.npz"

    def keep() -> None:
        more = extrapolated(run, found.comparison.objective, found.solved, found.metrics)
        if more and reporter is not None:
            said = f"{found.comparison.quantity} {more['extrapolated']:.4g}"
            reporter.say(f"extrapolated to the cells' own {run.lattice.voxels_per_cell} voxels: {said}")
        found.metrics.update(more)
        save_displacements(run.path / file, found)
        run.add(f"verify/{voxels_per_cell}", found.metrics, files=(file,), reads=("lattice.zarr",))

    parallel.on_root(keep)
    return found.metrics


def measure(
    case: Case,
    problem: Problem,
    original: Lattice,
    uniform: list[float] | None,
    *,
    voxels_per_cell: int,
    reporter: Reporter | None = None,
    max_memory: float | None = None,
    threads: int | None = None,
    rtol: float = RTOL,
    kept: Path | None = None,
    known: Composites | None = None,
) -> Measurement:
    """Solve a case's lattice, and what it is compared with, at full scale.

    Parameters
    ----------
    case : Case
    problem : Problem
        The case's.
    original : Lattice
        At its own resolution.
    uniform : list of float or None
        Tensor of the best uniform cell, of a compliance.
    voxels_per_cell, max_memory, threads, rtol, reporter
        As :func:`verify`.
    kept : Path, optional
        Directory where solutions are kept, each named by what was solved: what is there is not solved
        again.
    known : Composites, optional
        Coarse cells of lattices measured before.

    Raises
    ------
    InputError, NotConverged
        As :func:`verify`.
    """
    started = time.monotonic()
    reporter = reporter or Reporter(False)
    check_full_scale(case)
    original = original.compact()
    original.cells.require_poisson(problem.poisson)
    reduction = Reduction(problem)
    voxels = int(np.prod(np.array(reduction.shape, dtype=np.int64))) * voxels_per_cell**3
    team = make_team(threads or _threads(), reduction.shape[0], voxels_per_cell)
    known = known or Composites(problem.poisson)
    announce(voxels, reduction, voxels_per_cell, max_memory, reporter, team, len(original.cells))
    with reporter.task("coarse cells", 1, steady=False) as task:
        made = parallel.on_root(lambda: coarse_lattice(original, voxels_per_cell, task.reach, known))
    coarse = _on_all(made, original, voxels_per_cell)
    comparison = compare(case, problem, original, coarse, uniform, known)
    reporter.say(
        f"cells at {voxels_per_cell} voxels an edge: tensors off by {coarse.error_mean:.4f} on average "
        f"(relatively {coarse.relative_mean:.4f})"
    )
    solved: dict[str, FullScale] = {}
    names: dict[str, str] = {}
    for name, lattice in comparison.lattices.items():
        names[name] = f"{content(case, lattice, rtol)}.npz"
        file = None if kept is None else kept / names[name]
        if file is not None and parallel.agreed(file.is_file()):
            solved[name] = load_solution(file)
            reporter.say(f"{name}: solved before, {solved[name].iterations} iterations")
            continue
        with reporter.task(f"{name} at full scale", 100, steady=False) as task:

            def show(iteration: int, residual: float, task: Any = task) -> None:
                # Digits gained are what passes steadily.
                share = int(100 * min(1.0, max(0.0, np.log(residual) / np.log(rtol))))
                task.reach(max(share, task.done), 100, f"iteration {iteration}, residual {residual:.1e}")

            solved[name] = solve_full_scale(
                case,
                problem,
                reduction,
                lattice,
                team,
                rtol=rtol,
                wanted=comparison.wanted,
                progress=show,
            )
        s = solved[name]
        if file is not None:
            parallel.on_root(partial(save_solution, file, s))
        reporter.say(
            f"{name}: {s.unknowns} unknowns, {s.iterations} iterations, residual {s.residual:.1e}, "
            f"set-up {s.setup_seconds:.0f} s, solve {s.solve_seconds:.0f} s"
        )
    peak = team.largest(provenance.peak_bytes())
    team.close()
    seconds = time.monotonic() - started
    metrics = _metrics(comparison, solved)
    key, trusted = comparison.quantity, coarse.relative_mean <= MOST_ERROR
    metrics |= {
        "trusted": trusted,
        "at": {
            str(voxels_per_cell): {
                key: metrics[key],
                f"{key}_homogenised": metrics[f"{key}_homogenised"],
                "cells_tensor_error_mean": coarse.error_mean,
                "cells_relative_error_mean": coarse.relative_mean,
                "trusted": trusted,
            }
        },
        "voxels_per_cell": voxels_per_cell,
        "voxels": voxels,
        "mirror_axes": ["xyz"[a] for a in reduction.axes],
        "cells_tensor_error_mean": coarse.error_mean,
        "cells_tensor_error_max": coarse.error_max,
        "cells_relative_error_mean": coarse.relative_mean,
        "cells_relative_error_max": coarse.relative_max,
        "rtol": rtol,
        "seconds": round(seconds, 2),
        "ranks": team.size,
        "peak_bytes": int(peak),
    }
    key = comparison.quantity
    said = [f"{key} {metrics[key]:.4g} (homogenised, same voxels: {metrics[f'{key}_homogenised']:.4g})"]
    for name, other in comparison.judged.items():
        if name != "lattice":
            said.append(f"{name} {metrics[other]:.4g} ({metrics[f'{other}_homogenised']:.4g})")
    said.append(f"{seconds:.0f} s, {metrics['peak_bytes'] / 1e9:.1f} GB")
    if not trusted:
        said.append(
            f"[bold]not this lattice[/bold]: at {voxels_per_cell} voxels its cells are off by "
            f"{coarse.relative_mean:.1%} on average (limit {MOST_ERROR:.0%}): take more --voxels-per-cell"
        )
    reporter.say("[bold]full scale[/bold] " + "; ".join(said))
    return Measurement(metrics, comparison, solved, names)


def _on_all(made: CoarseLattice | None, original: Lattice, per_cell: int) -> CoarseLattice:
    """The coarse lattice that rank 0 has made, on every rank."""
    if parallel.ranks() == 1:
        assert made is not None
        return made
    m, k = len(original.cells), per_cell // 2
    numbers = [f.name for f in fields(CoarseLattice) if f.name != "lattice"]
    mine: Any = [None] * 3
    if made is not None:
        told = np.array([getattr(made, name) for name in numbers])
        mine = [made.lattice.moduli[made.lattice.material], made.lattice.cells.C, told]
    shapes: list[tuple[int, ...]] = [(m, k, k, k), (m, 3), (len(numbers),)]
    moduli, C, told = (parallel.from_root(a, s) for a, s in zip(mine, shapes, strict=True))
    same = replace(original, cells=replace(original.cells, C=C))
    return CoarseLattice(VoxelLattice.of(same, moduli), *map(float, told))


def announce(
    voxels: int,
    reduction: Reduction,
    per_cell: int,
    max_memory: float | None,
    reporter: Reporter,
    team: Team,
    cells: int,
) -> None:
    """Say what is going to be solved and how much memory it takes; refuse if that is too much.

    A limit that is given is each rank's; what is free is shared by those of one machine.

    Parameters
    ----------
    voxels : int
        Of the solved part.
    reduction : Reduction
    per_cell : int
    max_memory : float or None
        Bytes.
    reporter : Reporter
    team : Team
    cells : int
        Different ones, whose voxels' moduli differ: so do the elements of the first coarse grid.
    """
    shape = " x ".join(str(m * per_cell) for m in reduction.shape)
    planes = "".join("xyz"[a] for a in reduction.axes) or "none"
    need = full_scale_bytes(voxels, team.size) + ELEMENT_BYTES * cells * (per_cell // 2) ** 3
    reporter.say(
        f"full scale: {shape} = {voxels} voxels (mirror planes: {planes}), "
        f"about {need / 1e9:.1f} GB of memory" + (f" on each of {team.size} ranks" if team.size > 1 else "")
    )
    require(
        need if max_memory is not None else need * team.beside,
        f"a lattice of {per_cell} voxels per cell",
        "take fewer --voxels-per-cell",
        key="--max-memory" if max_memory is not None else "memory",
        limit=max_memory,
    )


def _metrics(comparison: Comparison, solved: dict[str, FullScale]) -> dict[str, Any]:
    objective, predicted = comparison.objective, comparison.predicted
    reduction = objective.reduction
    full = {name: s.corners for name, s in solved.items()}
    values: dict[str, Value] = {}
    for name, key in comparison.judged.items():
        values[key] = objective.value_elsewhere(full[name], solved[name].work, full.get("reference"))
        values[f"{key}_homogenised"] = objective.value_of(predicted[name])
    totals = {key: value.total for key, value in values.items()}
    quantity = comparison.quantity
    if "uniform" in solved:
        for gain, end in (("gain", ""), ("gain_homogenised", "_homogenised")):
            totals[gain] = totals[f"{quantity}_uniform{end}"] / totals[f"{quantity}{end}"] - 1
        design = reduction.problem.design
        for name, lattice in comparison.lattices.items():
            totals[f"density_{name}"] = float(lattice.densities()[design].mean())
    loads = [load.name for load in reduction.loads]
    deformation = comparison.objective.deformation
    size_effect = {
        name: {
            load: difference(reduction, comparison.wanted, deformation(i, u), deformation(i, h))
            for i, (load, u, h) in enumerate(zip(loads, full[name], predicted[name], strict=True))
        }
        for name in solved
    }
    return {
        **totals,
        "per_load": {load: {key: v.per_load[load] for key, v in values.items()} for load in loads},
        # What homogenisation misses: full-scale against homogenised displacements, relative.
        "size_effect": size_effect,
        "unknowns": max(s.unknowns for s in solved.values()),
        "iterations": {name: s.iterations for name, s in solved.items()},
        "residual": max(s.residual for s in solved.values()),
        "removed_voxels": {name: reduction.element_weight * s.removed for name, s in solved.items()},
        "corners_in_void": max(s.averaged for s in solved.values()),
        "solve_seconds": {name: round(s.solve_seconds, 2) for name, s in solved.items()},
        "setup_seconds": {name: round(s.setup_seconds, 2) for name, s in solved.items()},
    }


def save_displacements(path: Path, found: Measurement) -> None:
    """Whole-grid corner displacements in cell edges: LOAD.STRUCTURE and LOAD.STRUCTURE.homogenised."""
    reduction = found.comparison.objective.reduction
    arrays = {}
    for name, full in found.solved.items():
        for load, u, h in zip(reduction.loads, full.corners, found.comparison.predicted[name], strict=True):
            arrays[f"{load.name}.{name}"] = reduction.expand_displacement(u, load).astype(np.float32)
            arrays[f"{load.name}.{name}.homogenised"] = reduction.expand_displacement(h, load).astype(
                np.float32
            )
    write_arrays(path, arrays)


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = len(os.sched_getaffinity(0)) // ranks_beside()
    return int(asked) if asked.isdigit() and int(asked) > 0 else max(1, cores)
