"""From a tensor field to a lattice of cells: group, choose, correct, assemble.

1. Elements of fixed regions: one cell per material, searched for with more effort, since its error
   repeats in every element of the region.
2. Design elements: tensors within a tolerance form a group that shares one cell.
3. Each group has candidates from the source of cells (:mod:`multiscale.cell_source`); one is chosen for
   all groups together so that neighbours touch (:mod:`multiscale.selection`).
4. Chosen cells whose error exceeds the tolerance are moved toward their group's tensor; a move that would
   cost a contact is given up.

The tensors of the result are the cells' own, homogenised as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from micro.cellset import CellSet
from micro.tensor import tensor_error
from multiscale.cell_source import Candidates, CellSource
from multiscale.grouping import Groups, group_tensors
from multiscale.lattice import Lattice
from multiscale.problem import Problem, Role
from multiscale.reduction import Reduction
from multiscale.selection import interface_counts, select
from multiscale.settings import FillSettings

Array = NDArray[np.float64]

#: Tensor error that one fully missed overlap between two neighbours is worth in the selection.
_OVERLAP_WEIGHT = 0.005


@dataclass(frozen=True, eq=False)
class Filled:
    """A lattice and how well it follows the wanted tensors.

    Attributes
    ----------
    lattice : Lattice
    error : array (nx, ny, nz)
        Tensor error (Eq. 4) of each solid element's cell against the wanted tensor; NaN in voids.
    groups : int
        Groups of design elements.
    weak : int
        Groups whose cell misses the asked contact with a neighbour.
    generated : int
        Groups of design elements whose cell was generated.
    """

    lattice: Lattice
    error: Array
    groups: int
    weak: int
    generated: int


def fill(
    problem: Problem,
    reduction: Reduction,
    wanted: Array,
    source: CellSource,
    settings: FillSettings,
    progress: Callable[[int, int, str], None] | None = None,
) -> Filled:
    """Fill every solid element with a cell.

    Parameters
    ----------
    problem : Problem
    reduction : Reduction
        Its mirror planes halve the work: mirror images share their cell.
    wanted : array (mx, my, mz, 3)
        Tensors on the reduced grid, zero in voids.
    source : CellSource
        Where cells come from.
    settings : FillSettings
    progress : callable, optional
        Called as ``progress(done, total, what)``.
    """
    role = reduction.elements(problem.role)
    solid = role != Role.VOID
    design = role == Role.DESIGN
    fixed_groups = _by_material(wanted[solid & ~design])
    design_groups = group_tensors(wanted[design], settings.tolerance)
    count_fixed = len(fixed_groups.target)
    label = np.full(role.shape, -1, dtype=np.int64)
    label[solid & ~design] = fixed_groups.label
    label[design] = count_fixed + design_groups.label
    target = np.concatenate([fixed_groups.target, design_groups.target])
    size = np.concatenate([fixed_groups.size, design_groups.size])
    total = count_fixed + len(design_groups.target)

    def say(done: int, what: str) -> None:
        if progress is not None:
            progress(done, total, what)

    say(0, "cells for the fixed regions")
    special = joined([source.material(target) for target in fixed_groups.target])

    def left(count: int, what: str) -> None:
        say(total - count, what)

    offered = source.candidates(design_groups.target, settings.candidates, left)
    say(count_fixed, "choosing cells that touch")
    candidates, errors = _with_special(offered, special, fixed_groups)
    counts = interface_counts(label, len(target))
    faces = np.concatenate([offered.faces, special.faces()])
    choice = select(candidates, errors, size, counts, faces, settings.min_contact, _OVERLAP_WEIGHT)
    chosen = candidates[np.arange(len(target)), choice.choice]

    finished = source.finish(chosen[count_fixed:], design_groups.target, settings.tolerance, left)
    unique, original = joined([special, finished.after]), joined([special, finished.before])
    lattice_cells, weak = _keep_contacts(unique, original, counts, settings.min_contact)
    lattice = Lattice(
        lattice_cells,
        reduction.expand_elements(label),
        problem.cell_size_m,
        problem.young_pa,
        problem.poisson,
        {"case": problem.name, "source": settings.source, "tolerance": settings.tolerance},
    )
    whole = reduction.expand_elements(wanted)
    error = np.full(problem.shape, np.nan)
    mask = lattice.solid
    error[mask] = tensor_error(lattice.tensors()[mask], whole[mask])
    say(total, "done")
    generated = int(finished.generated.sum())
    return Filled(lattice, error, len(design_groups.target), weak, generated)


def _by_material(tensors: Array) -> Groups:
    """One group for each distinct tensor (N, 3)."""
    target, label, size = np.unique(tensors, axis=0, return_inverse=True, return_counts=True)
    return Groups(label.reshape(-1), target, size)


def _with_special(offered: Candidates, special: CellSet, fixed: Groups) -> tuple[NDArray[np.int64], Array]:
    """Candidates (m, k) and errors of all groups: the special cell alone for fixed groups."""
    own = np.full((len(fixed.target), offered.index.shape[1]), -1, dtype=np.int64)
    own_error = np.full(own.shape, np.inf)
    own[:, 0] = len(offered.faces) + np.arange(len(special))
    own_error[:, 0] = tensor_error(special.C, fixed.target)
    return np.concatenate([own, offered.index]), np.concatenate([own_error, offered.error])


def joined(sets: list[CellSet]) -> CellSet:
    """Cells of different origins as one set; parameters are kept if all have them."""
    if len({s.params.shape[1] for s in sets}) == 1:
        return CellSet.concat(sets)
    return CellSet.concat([CellSet.from_octants(s.octants(), s.C, family=s.family.tolist()) for s in sets])


def _keep_contacts(
    corrected: CellSet,
    original: CellSet,
    counts: sparse.csr_array,
    min_contact: float,
) -> tuple[CellSet, int]:
    """The corrected cells, except where the correction costs a contact that the original cell has.

    Returns the cells and the number of groups left with too small a contact.
    """
    rows, columns = counts.nonzero()
    asked = max(1.0 / corrected.n**2, min_contact)

    def short(faces: NDArray[np.bool_]) -> NDArray[np.bool_]:
        both = (faces[rows] & faces[columns]).mean(axis=(1, 2))
        return both < asked

    back = np.zeros(len(corrected), dtype=bool)
    while True:
        pick = np.where(back, len(corrected), 0) + np.arange(len(corrected))
        merged = CellSet.concat([corrected, original]).subset(pick)
        bad = short(merged.faces())
        groups = np.unique(np.concatenate([rows[bad], columns[bad]]))
        fresh = groups[~back[groups]]
        if len(fresh) == 0:
            return merged, len(groups)
        back[fresh] = True
