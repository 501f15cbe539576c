"""The best uniform part: the one cell which, everywhere in the design region, makes the stiffest structure.

What a graded part has to beat. All cells of a set no heavier than a given mass are candidates; few have to
be solved. With u the solution for one tensor C0 of the design region, of energies s_i = sum_e u_e^T K_i u_e
there and e_f = elsewhere, any multiple of u is a trial displacement for another tensor C, and the best
multiple gives by the principle of minimum potential energy

    c(C) >= c(C0)^2 / (s . C + e_f).

So cells are solved in the order of that bound, until the best found is below the bounds of all that are
left: the minimum over the set is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from multiscale.objective.combination import Value
from multiscale.objective.compliance import ComplianceObjective


@dataclass(frozen=True, eq=False)
class Uniform:
    """The stiffest uniform part.

    Attributes
    ----------
    row : int
        Of the cell set.
    value : Value
        Its compliance, N mm.
    solved : int
        Cells that had to be solved.
    """

    row: int
    value: Value
    solved: int


def best_uniform(
    objective: ComplianceObjective,
    cells: CellSet,
    density: float,
    fill: Callable[[Floats], Floats],
    design: Bools,
    rtol: float = 1e-6,
) -> Uniform:
    """The cell of least compliance among those of a volume fraction up to ``density``.

    Parameters
    ----------
    objective : ComplianceObjective
    cells : CellSet
    density : float
    fill : callable
        From tensors (N, 3) of the design elements to a field of the reduced grid.
    design : bool array (mx, my, mz)
        Design elements of the reduced grid.
    rtol : float
        Relative residual of the solves.

    Raises
    ------
    InputError
        If every cell is heavier.
    """
    rows = np.flatnonzero(cells.volume <= density)
    if len(rows) == 0:
        raise InputError("no known cell is that light", key="objective.mass_limit", value=density)
    rows = rows[_not_dominated(tensor.to_moduli(cells.C[rows]))]
    C = cells.C[rows]
    count = int(design.sum())
    bound = np.zeros(len(rows))
    current = int(np.argmax(tensor.young(C)))
    left = np.ones(len(rows), dtype=bool)
    best: tuple[float, int, Value] | None = None
    solved = 0
    objective.forget()
    while True:
        field = fill(np.broadcast_to(C[current], (count, 3)))
        displacements = objective.displacements(field, rtol)
        value = objective.value_of(displacements)
        left[current] = False
        solved += 1
        if best is None or value.total < best[0]:
            best = (value.total, current, value)
        bound = np.maximum(bound, _bounds(objective, displacements, field, value, design, C))
        # A whisker of the solves' own error.
        left &= bound < best[0] * (1 - 1e-6)
        if not left.any():
            return Uniform(int(rows[best[1]]), best[2], solved)
        open_ = np.flatnonzero(left)
        current = int(open_[np.argmin(bound[open_])])


def _bounds(
    objective: ComplianceObjective,
    displacements: list[Floats],
    field: Floats,
    value: Value,
    design: Bools,
    C: Floats,
) -> Floats:
    """Lower bounds (m,) of J for the uniform tensors C (m, 3)."""
    per_load = np.empty((len(displacements), len(C)))
    for i, (load, u) in enumerate(zip(objective.loads, displacements, strict=True)):
        energy = objective.scale * objective.operators[i].energies(u, u)
        own = energy[design].sum(axis=0)
        elsewhere = float((energy[~design] * field[~design]).sum())
        per_load[i] = value.per_load[load.name] ** 2 / (C @ own + elsewhere)
    return np.array([objective.combination.value(column) for column in per_load.T])


def _not_dominated(moduli: Floats) -> NDArray[np.intp]:
    """Rows of moduli (m, 3) than which no other has all three larger or equal: c falls with each of them."""
    order = np.lexsort(-moduli.T)
    kept: list[int] = []
    for row in order:
        if not kept or not (moduli[kept] >= moduli[row]).all(axis=1).any():
            kept.append(int(row))
    return np.array(sorted(kept), dtype=np.intp)
