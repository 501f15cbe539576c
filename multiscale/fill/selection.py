"""Choosing one candidate cell for every group, all together.

Every group g of elements has candidates c with tensors of their own. With J the objective as the quadratic
model of :mod:`multiscale.objective.influence` predicts it, N elements and e the tensor error (Eq. 4, or the
relative one measured by its own bound if that is larger, :class:`micro.cell.tensor.Bounds`), the choice
minimises ::

    N J  +  sum_g size_g guard(e(g, c_g))  +  weight * sum_{g<h} w(g, h) miss(c_g, c_h)  +  penalties

    guard(e) = e^2 / (2 tolerance) (1 + (e / (3 tolerance))^2)

The first term weighs errors by what they do: those that cancel, or that nothing depends on, are free. The
second one guards against what the model does not see, from three tolerances on steeply: a soft cell off by a
third is cheap for all else. Two neighbouring groups meet at w(g, h) interfaces;
``miss`` is 1/o - 1 with the overlap o of their patterns, as the compliance of a junction grows that passes
the share o of a section; :attr:`Weights.hold` weighs the piece of either cell that hangs by the smallest
share of its section (:mod:`multiscale.lattice.holds`) in the same way. A contact below what is asked, and a
cell that encloses void, are taken only if nothing else exists.

Iterated conditional modes (Besag 1986), blocks being groups: sweep over them, the largest first, and give
each its best candidate while the others stand still, until no group changes. Each step lowers the sum, so
it ends, in a local minimum. Without a choice to start with it is tried from the nearest tensors and from each
column of candidates that all groups have (cells from one noise fit each other), and the best of these is
annealed: in sweeps like the others each candidate is taken with its probability at a falling temperature
(Geman and Geman 1984). The result is deterministic. To start without a model of J its term is replaced by
sum_g size_g e(g, c_g).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from micro.cell.tensor import Bounds
from micro.runtime.arrays import Floats, Ints
from multiscale.lattice.contact import face_words, facing_voxels, neighbours
from multiscale.lattice.holds import Patches
from multiscale.objective.influence import Influence

#: Cost of an interface below the asked contact, in units of an element's tensor error.
_NO_CONTACT = 10.0
#: Overlap from which its lack costs no more: what has no contact is counted apart.
_LEAST_OVERLAP = 0.02
#: Cost of an element whose cell is one to avoid.
_AVOIDED = 1.0
#: Error, in tolerances, from which the guard is steep.
_STEEP = 3.0
#: More sweeps than any observed run needs (usually fewer than ten).
_SWEEPS = 50
#: Columns that a choice is started from, if there are no more: many are a set's nearest cells, of no kinship.
_STARTS = 8
#: First and last temperature, in units of an element's tensor error, and sweeps from the one to the other. On
#: the flagship's 897 groups with 8 cells from noise each the sum falls from 38.8 to 26.8, in a second; three
#: times as many sweeps, or three times the temperature, end within a hundredth of that.
_HOT, _COLD, _ANNEALED = 1.0, 0.03, 30


@dataclass(frozen=True, eq=False)
class Pool:
    """Cells, and which of them each group may take.

    Attributes
    ----------
    faces : bool array, shape (cells, n, n)
    C : array, shape (cells, 3)
    avoid : bool array, shape (cells,)
        Cells to take only if there is no other: they enclose void, or are in pieces.
    index : int array, shape (groups, k)
        Cells by group; -1 is no candidate.
    """

    faces: NDArray[np.bool_]
    C: Floats
    avoid: NDArray[np.bool_]
    index: Ints


@dataclass(frozen=True, eq=False)
class Groups:
    """What is to be filled.

    Attributes
    ----------
    label : int array, shape (mx, my, mz)
        Group of each element of the reduced grid, -1 in voids.
    target : array, shape (groups, 3)
    size : int array, shape (groups,)
    counts : sparse array, shape (groups, groups)
        Interfaces between groups (:func:`interface_counts`).
    """

    label: Ints
    target: Floats
    size: Ints
    counts: sparse.csr_array


@dataclass(frozen=True)
class Weights:
    """What counts how much.

    Attributes
    ----------
    overlap : float
        Tensor error of one element that an interface of half overlap is worth.
    min_contact : float
        Contact area asked of every interface, as a fraction of the face.
    bounds : Bounds
        Tensor errors at which the guard is as steep as the error itself.
    hold : float
        As ``overlap``, of the least hold; 0 leaves it out.
    """

    overlap: float
    min_contact: float
    bounds: Bounds
    hold: float = 0.0


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen candidate of each group and what is left wrong.

    Attributes
    ----------
    choice : int array, shape (groups,)
        Column of the candidate chosen for each group.
    weak : int array
        Groups that keep an interface below the asked contact.
    cost : float
        The sum that was minimised.
    predicted : float
        J as the model predicts it; 0 without one.
    sweeps : int
    """

    choice: Ints
    weak: Ints
    cost: float
    predicted: float
    sweeps: int


def interface_counts(label: Ints, groups: int) -> sparse.csr_array:
    """w (m, m), symmetric: interfaces between groups; ``label`` (nx, ny, nz), -1 for no element."""
    rows, columns = [], []
    for axis in range(3):
        a, b = neighbours(label, axis)
        both = (a >= 0) & (b >= 0) & (a != b)
        rows += [a[both], b[both]]
        columns += [b[both], a[both]]
    r, c = np.concatenate(rows), np.concatenate(columns)
    return sparse.coo_array((np.ones(len(r)), (r, c)), shape=(groups, groups)).tocsr()


def select(
    pool: Pool,
    groups: Groups,
    weights: Weights,
    model: Influence | None = None,
    start: Ints | None = None,
) -> Selection:
    """Choose a candidate for every group.

    Parameters
    ----------
    pool : Pool
        Every group with at least one candidate.
    groups : Groups
    weights : Weights
    model : Influence, optional
        What tensor errors do to the objective; by themselves they count alike.
    start : int array, shape (groups,), optional
        Columns to go on from.
    """
    if start is not None:
        return _settled(_Search(pool, groups, weights, model, start))
    rows = len(pool.index)
    common = np.flatnonzero((pool.index >= 0).all(axis=0))
    starts: list[Ints | None] = [None]
    if 1 < len(common) <= _STARTS:
        starts += [np.full(rows, column, dtype=np.int64) for column in common]
    found = [_settled(_Search(pool, groups, weights, model, columns)) for columns in starts]
    best = min(found, key=lambda selection: selection.cost)
    search = _Search(pool, groups, weights, model, best.choice)
    rng = np.random.default_rng(0)
    for temperature in np.geomspace(_HOT, _COLD, _ANNEALED):
        search.sweep(float(temperature), rng)
    return min(best, _settled(search), key=lambda selection: selection.cost)


def _settled(search: _Search) -> Selection:
    """The local minimum that a search comes to."""
    sweeps, changed = 0, True
    while changed and sweeps < _SWEEPS:
        changed, sweeps = search.sweep(), sweeps + 1
    return Selection(search.choice, search.weak(), search.cost(), search.predicted(), sweeps)


def misfit(pool: Pool, groups: Groups, choice: Ints) -> Floats:
    """``miss`` of each group, a mean over its interfaces with other groups; (groups,)."""
    search = _Search(pool, groups, Weights(1.0, 0.0, Bounds(1.0)), None, choice)
    missed = np.array([search.interfaces(g)[choice[g]] for g in range(len(choice))])
    total = np.asarray(groups.counts.sum(axis=1)).reshape(-1)
    return np.divide(missed, total, out=np.zeros(len(choice)), where=total > 0)


def common_faces(pool: Pool, groups: Groups, choice: Ints, rows: Ints) -> NDArray[np.bool_]:
    """The face that suits all neighbours of each of some groups best, (rows, n, n).

    A voxel is solid if it is so at more than half of the group's interfaces with other groups: of all
    patterns that one differs least from the neighbours', counted in voxels.

    Parameters
    ----------
    pool : Pool
    groups : Groups
    choice : int array (groups,)
        Column of each group's candidate.
    rows : int array
        Groups that a face is wanted for.
    """
    counts = groups.counts.astype(np.int64)
    cells = pool.index[np.arange(len(choice)), choice]
    out = np.zeros((len(rows), *pool.faces.shape[1:]), dtype=bool)
    for face, g in zip(out, rows.tolist(), strict=True):
        span = slice(counts.indptr[g], counts.indptr[g + 1])
        weight, others = counts.data[span], counts.indices[span]
        # Whole numbers: the sum is as symmetric as the faces are.
        solid = np.tensordot(weight, pool.faces[cells[others]].astype(np.int64), 1)
        face[:] = 2 * solid > weight.sum()
    return out


class _Search:
    """The choice so far, and what of its cost is kept up to date."""

    def __init__(
        self, pool: Pool, groups: Groups, weights: Weights, model: Influence | None, start: Ints | None
    ):
        self.index, self.groups, self.weights, self.model = pool.index, groups, weights, model
        self.parts: list[Floats] = []
        self.amplitude: list[Floats] = []
        there = pool.index >= 0
        size = groups.size[:, None].astype(float)
        error = np.asarray(weights.bounds.error(pool.C[pool.index], groups.target[:, None]))
        tolerance = weights.bounds.tolerance
        guard = error**2 / (2 * tolerance) * (1.0 + (error / (_STEEP * tolerance)) ** 2)
        own = size * (guard + _AVOIDED * pool.avoid[pool.index])
        if model is None:
            own += size * error
        self.own: Floats = np.where(there, own, np.inf)
        nearest = np.where(there, error + pool.avoid[pool.index], np.inf)
        self.choice: Ints = (
            np.asarray(nearest.argmin(axis=1), dtype=np.int64) if start is None else start.copy()
        )
        self.words = face_words(pool.faces)
        self.area = facing_voxels(self.words, self.words)
        self.patches = Patches.of(pool.faces) if weights.hold else None
        self.asked = max(1.0, weights.min_contact * pool.faces[0].size)
        self.order = np.argsort(-groups.size, kind="stable")
        self.elements = int(groups.size.sum())
        if model is not None:
            self._linearise(model, pool)

    def _linearise(self, model: Influence, pool: Pool) -> None:
        """Amplitudes of the present choice, and every candidate's part in them."""
        inside = self.groups.label >= 0
        label = self.groups.label[inside]
        m = len(self.groups.size)
        for amplitude, sensitivity in zip(model.amplitude, model.sensitivity, strict=True):
            s = sensitivity[:, inside]
            by_group = np.stack(
                [[np.bincount(label, row[:, i], minlength=m) for i in range(3)] for row in s]
            )  # (modes, 3, groups)
            part = np.einsum("kig,gci->gkc", by_group, pool.C[pool.index])
            base = amplitude - np.einsum("kei,ei->k", s, model.field[inside])
            self.parts.append(part)
            self.amplitude.append(base + part[np.arange(m), :, self.choice].sum(axis=0))

    def sweep(self, temperature: float = 0.0, rng: np.random.Generator | None = None) -> bool:
        """Every group once, at its best or, with a temperature, at random; whether any changed."""
        changed = False
        for g in self.order:
            if np.count_nonzero(self.index[g] >= 0) < 2:
                continue
            now = self.choice[g]
            total = self.own[g] + self.interfaces(g)
            if self.model is not None:
                moved = [
                    a[:, None] + p[g] - p[g][:, [now]]
                    for a, p in zip(self.amplitude, self.parts, strict=True)
                ]
                total = total + self.elements * self.model.value(moved)
            if rng is not None:
                # The largest of these is each candidate with its probability (Gumbel 1954).
                total = total - temperature * rng.gumbel(size=len(total))
            best = int(np.argmin(total))
            if total[best] < total[now] - 1e-12:
                self.choice[g], changed = best, True
                if self.model is not None:
                    self.amplitude = [a[:, best] for a in moved]
        return changed

    def interfaces(self, g: int) -> Floats:
        """Cost (k,) of each candidate of ``g`` at the interfaces with its neighbours' present choices."""
        counts = self.groups.counts
        span = slice(counts.indptr[g], counts.indptr[g + 1])
        others = counts.indices[span]
        cells = self.index[others, self.choice[others]]
        own = self.index[g]
        both = facing_voxels(self.words[own][:, None], self.words[cells][None])
        a, b = self.area[own][:, None], self.area[cells][None]
        overlap = both / np.maximum(np.minimum(a, b), 1)
        miss = self.weights.overlap * (1.0 / np.maximum(overlap, _LEAST_OVERLAP) - 1.0)
        miss += _NO_CONTACT * (both < self.asked)
        if self.patches is not None:
            hold = self.patches.least_hold(own[:, None], cells[None])
            miss += self.weights.hold * (1.0 / np.maximum(hold, _LEAST_OVERLAP) - 1.0)
        return np.asarray(miss @ counts.data[span])

    def weak(self) -> Ints:
        """Groups with an interface below the asked contact."""
        counts = self.groups.counts
        cells = self.index[np.arange(len(self.choice)), self.choice]
        group = np.repeat(np.arange(len(cells)), np.diff(counts.indptr))
        missed = facing_voxels(self.words[cells[group]], self.words[cells[counts.indices]]) < self.asked
        return np.asarray(np.unique(group[missed]), dtype=np.int64)

    def cost(self) -> float:
        """The sum that is minimised."""
        rows = np.arange(len(self.choice))
        total = float(self.own[rows, self.choice].sum())
        total += sum(float(self.interfaces(int(g))[self.choice[g]]) for g in rows) / 2
        return total + self.elements * self.predicted()

    def predicted(self) -> float:
        """J of the present choice as the model has it; 0 without one."""
        return 0.0 if self.model is None else float(self.model.value(self.amplitude))
