"""How large a problem is and what it will cost: one model of memory and time, fitted to measurements.

The constants and what they were fitted to stand in ``multiscale/data/cost.json``; ``benchmarks/cost.py``
fits them and says how far each measurement is off. They hold for one core of the machine measured (AMD EPYC,
two cores): elsewhere for an order of magnitude, and for what to ask a scheduler for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from micro.runtime import memory
from micro.runtime.files import PathLike
from multiscale.case.case import Case
from multiscale.problem.problem import Problem, Role, parity


@dataclass(frozen=True)
class Cost:
    """Predicted time and memory of a stage.

    Attributes
    ----------
    seconds : float
        On the ranks asked for.
    bytes : float
        All ranks together.
    what : str
        Of how much.
    """

    seconds: float
    bytes: float
    what: str


@cache
def constants() -> dict[str, Any]:
    """The model's constants, with the measurements behind them."""
    found: dict[str, Any] = json.loads((files("multiscale") / "data" / "cost.json").read_text("utf-8"))
    return found


def unknowns(shape: tuple[int, ...]) -> int:
    """Unknowns of a solved grid of elements, fixed ones included."""
    return 3 * int(np.prod([n + 1 for n in shape]))


def operators(problem: Problem) -> int:
    """Different supports and parities of the loads: each has a multigrid of its own."""
    if len(problem.loads) == 1:
        return 1
    return len(
        {
            (load.fixed.tobytes(), tuple(parity(load, axis) for axis in problem.mirror_axes))
            for load in problem.loads
        }
    )


def macro_bytes(count: int, ranks: int = 1) -> float:
    """Memory of the macro stage with so many unknowns of all operators, all ranks together."""
    model = constants()["macro"]
    shared = model["bytes_per_unknown" if ranks == 1 else "bytes_per_unknown_of_several"]
    return float(ranks * (model["bytes"] + model["bytes_per_unknown_each"] * count) + shared * count)


def evaluation_seconds(count: int, loads: int, ranks: int = 1) -> float:
    """Time of an objective and its gradient."""
    model = constants()["macro"]
    alone = model["seconds_of_a_million"] * (count / 1e6) ** model["exponent"]
    return float(loads * alone / ranks ** model["rank_exponent"])


def fill_seconds(groups: int) -> float:
    """Time of a fill with so many groups of design elements, in one process."""
    return float(constants()["fill"]["seconds_per_group"] * groups)


def full_scale_bytes(voxels: int, ranks: int = 1) -> float:
    """Memory that each rank takes for a solve of so many voxels."""
    model = constants()["full_scale"]
    return float(model["bytes"] + model["bytes_per_voxel"] * voxels / ranks)


def full_scale_cost(voxels: int, iterations: float, solves: int) -> Cost:
    """Solves of structures of so many voxels, one after the other."""
    model = constants()["full_scale"]
    each = voxels * (model["seconds_per_voxel"] + iterations * model["seconds_per_voxel_iteration"])
    return Cost(solves * each, full_scale_bytes(voxels), f"{voxels:,} voxels, {solves} solves")


def predict(case: Case, problem: Problem, ranks: int = 1) -> dict[str, Cost]:
    """Cost of a case's stages: ``evaluation`` (an objective and its gradient), ``design``, ``full_scale``.

    The design takes all evaluations that the case allows; most stop earlier. What a fill takes depends on how
    many groups its design falls into, which nothing says before.
    """
    count = unknowns(problem.solved_shape)
    loads = len(problem.loads)
    memory = macro_bytes(count * operators(problem), ranks)
    one = evaluation_seconds(count, loads, ranks)
    o = case.optimizer
    evaluations = o.uniform_iterations + o.stages * o.iterations
    found = {
        "evaluation": Cost(one, memory, f"{count:,} unknowns, {loads} load(s)"),
        "design": Cost(one * evaluations, memory, f"{evaluations} evaluations at most"),
    }
    edge = case.full_scale.voxels_per_cell
    if edge is not None:
        voxels = int(np.prod(problem.solved_shape)) * edge**3
        known = constants()["full_scale"]["iterations"]
        iterations = float(np.interp(edge, [float(k) for k in known], list(known.values())))
        structures = 1 + 2 * (case.objective.reference is not None)
        solves = loads * (structures + case.full_scale.rounds)
        found["full_scale"] = full_scale_cost(voxels, iterations, solves)
    return found


def sizes(problem: Problem) -> dict[str, int]:
    """Numbers of elements by role, unknowns of the full and the mirrored model, bytes of a solve."""
    count = unknowns(problem.solved_shape)
    return {
        "elements": int(problem.role.size),
        **{role.name.lower(): int((problem.role == role).sum()) for role in Role},
        "observed_nodes": int(problem.observed_nodes.sum()),
        "unknowns_full": unknowns(problem.shape),
        "unknowns": count,
        "memory_bytes": int(macro_bytes(count * operators(problem))),
    }


def require_memory(problem: Problem, file: PathLike | None) -> None:
    """Refuse a problem, of the case in ``file``, whose solves need more memory than is free.

    Raises
    ------
    InputError
        With both numbers.
    """
    grid = " x ".join(map(str, problem.solved_shape))
    memory.require(
        macro_bytes(unknowns(problem.solved_shape) * operators(problem)),
        f"a solved grid of {grid} elements",
        "take fewer [grid] elements, more mirror planes, or a larger machine",
        key="grid.elements",
        file=file,
    )
