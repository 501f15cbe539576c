"""From a tensor field to a lattice of cells: group, choose, finish, choose again.

1. Elements of fixed regions: one cell per material, searched for with more effort, since its error
   repeats in every element of the region.
2. Design elements: tensors within a tolerance form a group that shares one cell.
3. Each group has candidates from the source of cells (:mod:`multiscale.fill.source`); one is chosen for
   all groups together so that neighbours touch and the objective suffers least
   (:mod:`multiscale.fill.selection`).
4. Chosen cells that are far from their group's tensor are moved toward it, and groups that fit their
   neighbours worst are offered cells made for the face that suits most of these. All of them are candidates
   beside the old ones, and everything is chosen again.

The tensors of the result are the cells' own, homogenised as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.cell.octant import encloses
from micro.cell.tensor import Bounds, relative_error, tensor_error
from micro.runtime.arrays import Floats, Ints
from micro.runtime.progress import Progress, unheard
from multiscale.case.settings import FillSettings
from multiscale.fill.grouping import Groups as TensorGroups, group_tensors
from multiscale.fill.selection import (
    Groups,
    Pool,
    Selection,
    Weights,
    common_faces,
    interface_counts,
    misfit,
    select,
)
from multiscale.fill.set_source import FAR
from multiscale.fill.source import GENERATED, Candidates, CellSource, Neighbours
from multiscale.lattice.lattice import Lattice
from multiscale.objective.influence import Influence
from multiscale.problem.problem import Problem, Role
from multiscale.problem.reduction import Reduction

#: Share of the design's groups that are offered cells made for their neighbours' faces, those that fit worst,
_OFFERED = 0.05
#: and how often at most: what one group takes is what its neighbours have to fit.
_ROUNDS = 3
#: Share of the sum that an offer has to gain for another one: on the flagship the first gains a quarter, the
#: second less than a hundredth in as much time.
_WORTH = 0.01
#: Cells of an earlier lattice that a group may take again.
_REUSED = 8
#: Tensor error up to which a cell of an earlier lattice is that of the same material.
_SAME = 5e-4
#: Lack of overlap (1/o - 1) of a group's interfaces, on average, up to which it fits.
_FITS = 0.02


@dataclass(frozen=True, eq=False)
class Filled:
    """A lattice and how well it follows the wanted tensors.

    Attributes
    ----------
    lattice : Lattice
    error, relative : array (nx, ny, nz)
        Tensor error (Eq. 4) and relative error of each solid element's cell against the wanted tensor; NaN in
        voids.
    error_design, relative_design : array (elements,)
        Of the design elements.
    groups : int
        Groups of design elements.
    weak : int
        Groups whose cell misses the asked contact with a neighbour.
    generated : int
        Groups of design elements whose cell was generated for them.
    enclosing : int
        Unique cells that enclose void in a lattice of their own kind.
    enclosing_elements : int
        Elements filled with one of these.
    """

    lattice: Lattice
    error: Floats
    relative: Floats
    error_design: Floats
    relative_design: Floats
    groups: int
    weak: int
    generated: int
    enclosing: int
    enclosing_elements: int


class Filling:
    """A lattice on its way: the groups, what each may take, and what it has taken.

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
    progress : Progress, optional
        Groups that have a cell.
    earlier : CellSet, optional
        Cells of an earlier lattice, with tensors of their own: the nearest ones are candidates too, and what
        was made for that lattice need not be made again.
    draft : bool
        Whether the lattice is about to be replaced: then cells are made anew for groups that lack a contact
        alone, not for those that come off worst.
    """

    def __init__(
        self,
        problem: Problem,
        reduction: Reduction,
        wanted: Floats,
        source: CellSource,
        settings: FillSettings,
        progress: Progress = unheard,
        earlier: CellSet | None = None,
        draft: bool = False,
    ):
        self.draft = draft
        self.problem, self.reduction, self.wanted = problem, reduction, wanted
        self.source, self.settings = source, settings
        self._progress = progress
        role = reduction.elements(problem.role)
        fixed, design = (role == Role.FIXED) & reduction.elements(problem.filled), role == Role.DESIGN
        materials = _by_material(wanted[fixed])
        self.bounds = Bounds(settings.tolerance, settings.relative_tolerance)
        groups = group_tensors(wanted[design], self.bounds)
        self.fixed, self.total = len(materials.target), len(materials.target) + len(groups.target)
        label = np.full(role.shape, -1, dtype=np.int64)
        label[fixed] = materials.label
        label[design] = self.fixed + groups.label
        self.groups = Groups(
            label,
            np.concatenate([materials.target, groups.target]),
            np.concatenate([materials.size, groups.size]),
            interface_counts(label, self.total),
        )
        self.weights = Weights(settings.overlap, settings.min_contact, self.bounds, settings.hold)

        self._show(self.total, "cells for the fixed regions")
        source.begin(earlier, draft)
        self._earlier = earlier
        special = [self._material(target) for target in materials.target]
        offered = self._asked_for(joined(special) if special else source.known.subset(slice(0, 0)))
        n = source.known.n
        self._candidates, self._offered = offered, len(offered.C)
        index = np.full((self.total, offered.index.shape[1]), -1, dtype=np.int64)
        index[self.fixed :] = offered.index
        faces = offered.faces if len(offered.faces) else np.zeros((0, n, n), dtype=bool)
        self.pool = Pool(faces, offered.C, offered.avoid, index)
        self._made: list[CellSet] = []
        self._asked: set[tuple[int, bytes]] = set()
        if special:
            self._add(joined(special), np.arange(self.fixed))
        if earlier is not None:
            order, _ = self._nearest_earlier
            column = np.full((self.total, order.shape[1]), -1, dtype=np.int64)
            column[self.fixed :] = order
            self._offer(earlier, column)
        self.selection: Selection | None = None

    @property
    def rows(self) -> Ints:
        """The pool's cell of each group, as chosen."""
        assert self.selection is not None
        return self.pool.index[np.arange(self.total), self.selection.choice]

    def choose(self, model: Influence | None) -> None:
        """Choose for all groups, finish what was chosen, and choose again.

        Parameters
        ----------
        model : Influence or None
            What tensor errors do to the objective; without one they count alike.
        """
        self._show(self.total - self.fixed, "choosing cells that fit")
        self.selection = select(self.pool, self.groups, self.weights, model)
        self._finish()
        self.selection = select(self.pool, self.groups, self.weights, model)
        for _ in range(_ROUNDS):
            before = self.selection
            if not self._grow():
                break
            self.selection = select(self.pool, self.groups, self.weights, model, before.choice)
            if not self.draft and self.selection.cost > (1 - _WORTH) * before.cost:
                break
        self._show(0, "done")

    def improve(self, model: Influence) -> None:
        """Choose again with another model, from where the choice is; nothing new is made."""
        assert self.selection is not None
        self.selection = select(self.pool, self.groups, self.weights, model, self.selection.choice)

    def restore(self, selection: Selection | None) -> None:
        """Take an earlier choice again."""
        self.selection = selection

    def tensors(self) -> Floats:
        """The chosen cells' own tensors on the reduced grid, (mx, my, mz, 3); zero in voids."""
        values = np.concatenate([self.pool.C[self.rows], np.zeros((1, 3))])[self.groups.label]
        given = ~self.reduction.elements(self.problem.filled)
        values[given] = self.wanted[given]
        return values

    def filled(self) -> Filled:
        """The lattice as chosen."""
        assert self.selection is not None
        problem, reduction = self.problem, self.reduction
        used, cell = np.unique(self.rows, return_inverse=True)
        cells = self._cells(used)
        index = np.append(cell.reshape(-1), -1)[self.groups.label]
        attrs = {
            "case": problem.name,
            "source": self.settings.source,
            "tolerance": self.settings.tolerance,
            "relative_tolerance": self.settings.relative_tolerance,
        }
        lattice = Lattice(
            cells,
            reduction.expand_elements(index),
            problem.cell_size_m,
            problem.young_pa,
            problem.poisson,
            attrs,
        )
        error, relative = np.full(problem.shape, np.nan), np.full(problem.shape, np.nan)
        solid = lattice.solid
        own, asked = lattice.tensors()[solid], reduction.expand_elements(self.wanted)[solid]
        error[solid], relative[solid] = tensor_error(own, asked), relative_error(own, asked)
        closed = encloses(cells.octants())
        return Filled(
            lattice,
            error,
            relative,
            error[problem.design],
            relative[problem.design],
            self.total - self.fixed,
            len(self.selection.weak),
            int(np.count_nonzero(self._generated())),
            int(closed.sum()),
            int(closed[lattice.index[solid]].sum()),
        )

    # ------------------------------------------------------------------- steps
    def _finish(self) -> None:
        """Bring the chosen cells onto their targets; only what is exact stays in the pool.

        A cell of an earlier lattice stays as it is; where it is far off, the source's nearest candidate is
        brought onto the target beside it.
        """
        chosen, targets = self.rows[self.fixed :], self.groups.target[self.fixed :]
        own = self._candidates.index
        near = np.asarray(self.bounds.error(self.pool.C[own], targets[:, None])) + self.pool.avoid[own]
        near = np.where(own >= 0, near, np.inf)
        fresh = chosen < self._offered
        nearest = own[np.arange(len(own)), near.argmin(axis=1)]
        far = self.bounds.error(self.pool.C[chosen], targets) > FAR * self.bounds.tolerance
        open_ = np.flatnonzero(fresh | (far & (nearest >= 0)))
        self._drop_predicted()
        if len(open_) == 0:
            return
        chosen, targets = np.where(fresh, chosen, nearest)[open_], targets[open_]
        finished = self.source.finish(self._candidates, chosen, targets, self.bounds, self._progress)
        everyone = self.fixed + open_
        new = np.flatnonzero((finished.after.packed != finished.before.packed).any(axis=1))
        known = self._candidates.exact[chosen]
        self._add(finished.before.subset(~known), everyone[~known])
        self._add(finished.after.subset(new), everyone[new])
        left = np.flatnonzero(self.bounds.error(finished.after.C, targets) > FAR * self.bounds.tolerance)
        if len(left) and not self.draft:
            faces = self.pool.faces[chosen[left]]  # on which the neighbours agree
            for made in self.source.nearer(faces, targets[left], self.bounds, self._progress):
                self._add(made.cells, everyone[left[made.rows]])

    def _grow(self) -> bool:
        """Offer groups cells made for their neighbours' faces; whether there is anything new to choose from.

        A twentieth of the groups, those that weigh most in the sum, and those that lack a contact (of a draft
        only these). What a group was offered for the same face before would be the same again.
        """
        assert self.selection is not None
        choice = self.selection.choice
        found = misfit(self.pool, self.groups, choice)
        # What weighs most in the sum: much missed at many interfaces, or a tensor far off in many elements.
        missed = self.weights.overlap * found * np.asarray(self.groups.counts.sum(axis=1)).reshape(-1)
        error = self.bounds.error(self.pool.C[self.rows], self.groups.target)
        missed += self.groups.size * error**2 / (2 * self.bounds.tolerance)
        weak = np.isin(np.arange(self.total), self.selection.weak)
        bad = weak if self.draft else weak | (error > FAR * self.bounds.tolerance) | (found > _FITS)
        order = np.lexsort((-missed, ~weak))
        order = order[(order >= self.fixed) & bad[order]]
        faces = common_faces(self.pool, self.groups, choice, order)
        asked = [(g, face.tobytes()) for g, face in zip(order.tolist(), faces, strict=True)]
        new = [i for i, key in enumerate(asked) if key not in self._asked and faces[i].any()]
        count = max(int(np.ceil(_OFFERED * (self.total - self.fixed))), int(weak.sum()))
        rows = np.array(new[:count], dtype=np.int64)
        if len(rows) == 0:
            return False
        self._asked.update(asked[i] for i in rows)
        groups = order[rows]
        made = self.source.with_faces(faces[rows], self.groups.target[groups], self.bounds, self._progress)
        if made is None or len(made.rows) == 0:
            return False
        self._add(made.cells, groups[made.rows])
        return True

    @cached_property
    def _nearest_earlier(self) -> tuple[Ints, Floats]:
        """Cells of the earlier lattice nearest to each design group, the nearest first, and their errors."""
        assert self._earlier is not None
        targets = self.groups.target[self.fixed :]
        error = np.stack([self.bounds.error(self._earlier.C, target) for target in targets])
        order = np.argsort(error, axis=1, kind="stable")[:, :_REUSED]
        return order, np.take_along_axis(error, order, axis=1)

    def _material(self, target: Floats) -> CellSet:
        """A fixed region's cell: that of the earlier lattice if there is one, else what the source finds."""
        if self._earlier is not None:
            error = tensor_error(self._earlier.C, target)
            nearest = int(np.argmin(error))
            if error[nearest] <= _SAME:
                return self._earlier.subset([nearest])
        return self.source.material(target)

    def _asked_for(self, fixed: CellSet) -> Candidates:
        """The source's candidates for the design groups beside the cells of the fixed regions.

        Cells that have to be drawn are asked for only where no earlier one is near. There that one stands
        while they are drawn.
        """
        count = self.total - self.fixed
        stands = np.zeros(count, dtype=bool)
        cells, given = [fixed], np.arange(self.fixed)
        if self._earlier is not None and self.source.draws:
            order, error = self._nearest_earlier
            stands = error[:, 0] <= self.bounds.tolerance / 2  # as near as a made cell is brought
            cells.append(self._earlier.subset(order[stands, 0]))
            given = np.concatenate([given, self.fixed + np.flatnonzero(stands)])
        asked = np.flatnonzero(~stands)
        if len(asked) == 0:
            nothing, no = fixed.subset(slice(0, 0)), np.zeros(0, dtype=bool)
            index = np.full((count, 1), -1, dtype=np.int64)
            return Candidates(nothing.faces(), nothing.C, no, no, index, None)
        rows = self.fixed + asked
        counts = self.groups.counts[rows]
        beside = counts[:, given]
        met = np.flatnonzero(np.asarray(beside.sum(axis=0)).reshape(-1))
        neighbours = Neighbours(
            self.groups.size[rows], counts[:, rows], joined(cells).subset(met), beside[:, met]
        )
        offered = self.source.candidates(self.groups.target[rows], neighbours, self._progress)
        index = np.full((count, offered.index.shape[1]), -1, dtype=np.int64)
        index[asked] = offered.index
        return replace(offered, index=index)

    def _drop_predicted(self) -> None:
        """Take candidates without a tensor of their own out of the index."""
        index = self.pool.index
        known = np.append(self._candidates.exact, np.ones(len(self.pool.C) - self._offered, dtype=bool))
        self.pool = replace(self.pool, index=np.where((index >= 0) & known[index], index, -1))

    def _add(self, cells: CellSet, groups: Ints) -> None:
        """One more candidate for each of some groups."""
        if len(cells) == 0:
            return
        column = np.full((self.total, 1), -1, dtype=np.int64)
        column[groups, 0] = np.arange(len(cells))
        self._offer(cells, column)

    def _offer(self, cells: CellSet, columns: Ints) -> None:
        """More candidates: rows of ``cells`` (groups, k), -1 for none."""
        avoid = np.zeros(len(cells), dtype=bool)
        if self.settings.cavities == "avoid":
            avoid = encloses(cells.octants())
        columns = np.where(columns >= 0, columns + len(self.pool.C), -1)
        self._made.append(cells)
        self.pool = Pool(
            np.concatenate([self.pool.faces, cells.faces()]),
            np.concatenate([self.pool.C, cells.C]),
            np.concatenate([self.pool.avoid, avoid]),
            np.concatenate([self.pool.index, columns], axis=1),
        )

    def _cells(self, rows: Ints) -> CellSet:
        """Cells of the pool, in the order of ``rows``."""
        offered = rows < self._offered
        parts = []
        if offered.any():
            parts.append(self.source.take(self._candidates, rows[offered]))
        if not offered.all():
            parts.append(joined(self._made).subset(rows[~offered] - self._offered))
        order = np.argsort(np.concatenate([np.flatnonzero(offered), np.flatnonzero(~offered)]))
        return joined(parts).subset(order)

    def _generated(self) -> NDArray[np.bool_]:
        """Which groups of design elements hold a cell that was generated for them."""
        rows = self.rows[self.fixed :]
        made = rows >= self._offered
        out = np.zeros(len(rows), dtype=bool)
        if made.any():
            out[made] = joined(self._made).family[rows[made] - self._offered] == GENERATED
        return out

    def _show(self, left: int, what: str) -> None:
        self._progress(self.total - left, self.total, what)


def _by_material(tensors: Floats) -> TensorGroups:
    """One group for each distinct tensor (N, 3)."""
    target, label, size = np.unique(tensors, axis=0, return_inverse=True, return_counts=True)
    return TensorGroups(label.reshape(-1), target, size)


def joined(sets: list[CellSet]) -> CellSet:
    """Cells of different origins as one set; parameters are kept if all have them."""
    if len({s.params.shape[1] for s in sets}) == 1:
        return CellSet.concat(sets, attrs={})
    return CellSet.concat([s.without_parameters() for s in sets], attrs={})
