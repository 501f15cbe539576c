"""How large a problem is: elements by role, unknowns, and the memory that its solves take."""

from __future__ import annotations

from os import PathLike

import numpy as np

from micro.runtime import memory
from multiscale.problem.problem import Problem, Role

# Peak memory of a solve: interpreter and libraries, then matrix, multigrid hierarchy and fields per
# unknown. From 570 MB measured at 206,763 unknowns; good for an order, not for a promise.
MEMORY_BASE = 180e6
MEMORY_PER_UNKNOWN = 1900.0


def sizes(problem: Problem) -> dict[str, int]:
    """Numbers of elements by role, unknowns of the full and the mirrored model, bytes of a solve."""
    unknowns = 3 * int(np.prod([n + 1 for n in problem.solved_shape]))
    return {
        "elements": int(problem.role.size),
        **{role.name.lower(): int((problem.role == role).sum()) for role in Role},
        "observed_nodes": int(problem.observed_nodes.sum()),
        "unknowns_full": 3 * int(np.prod([n + 1 for n in problem.shape])),
        "unknowns": unknowns,
        "memory_bytes": int(MEMORY_BASE + MEMORY_PER_UNKNOWN * unknowns),
    }


def require_memory(problem: Problem, file: str | PathLike[str] | None) -> None:
    """Refuse a problem, of the case in ``file``, whose solves need more memory than is free.

    Raises
    ------
    InputError
        With both numbers.
    """
    grid = " x ".join(map(str, problem.solved_shape))
    unknowns = 3 * int(np.prod([n + 1 for n in problem.solved_shape]))
    memory.require(
        MEMORY_BASE + MEMORY_PER_UNKNOWN * unknowns,
        f"a solved grid of {grid} elements",
        "take fewer [grid] elements, more mirror planes, or a larger machine",
        key="grid.elements",
        file=file,
    )
