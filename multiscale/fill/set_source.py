"""Cells out of a set, corrected toward what is wanted."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.cell.octant import encloses
from micro.cell.tensor import Bounds, isotropic, tensor_error
from micro.families.families import FAMILIES
from micro.gamut.least_volume import EXCESS, LeastVolume
from micro.library import retrieval as library
from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.errors import InputError
from micro.runtime.progress import Progress
from multiscale.fill.source import (
    IS_SOLID,
    Candidates,
    CellSource,
    Finished,
    Matched,
    Neighbours,
)

_TRIALS = 2
"""Trials that a cell of a set is given for its correction."""

_FURTHER = 4
"""Cells looked at for each one wanted, so that those that enclose void can be passed over."""

FAR = 2.0
"""Error, in tolerances, from which a chosen cell is corrected or made anew; less is for the selection."""


def solid_cell(target: Floats, n: int, poisson: float) -> CellSet | None:
    """The cell without void, of octant edge n, if the target is the base material itself."""
    solid = isotropic(1.0, poisson)
    if tensor_error(target, solid) > IS_SOLID:
        return None
    return CellSet.from_octants(np.ones((1, n, n, n), bool), solid[None], family="solid", poisson=poisson)


class SetSource:
    """Cells of a set: the nearest ones; those made by formula are corrected by their parameters.

    Parameters
    ----------
    cells : CellSet
    count : int
        Candidates for each group.
    avoid_cavities : bool
        Whether cells that enclose void are passed over.
    """

    draws = False

    def __init__(self, cells: CellSet, count: int = 48, avoid_cavities: bool = True):
        self.cells = self.known = cells
        self.count = count
        self.avoid_cavities = avoid_cavities
        self.name = f"a set of {len(cells)}"

    def begin(self, earlier: CellSet | None, draft: bool = False) -> None:
        """As :class:`CellSource`: cells of a set have no past."""

    def material(self, target: Floats) -> CellSet:
        """As :class:`CellSource`; the base material itself is a cell without void."""
        solid = solid_cell(target, self.cells.n, self.cells.poisson)
        if solid is not None:
            return solid
        wanted = np.reshape(target, (1, 3))
        made = self._open_near(self.cells, wanted).subset([0])
        by_formula = self.cells.subset(np.isin(self.cells.family, list(FAMILIES)))
        if len(by_formula):
            # What a formula gives can be corrected by its parameters.
            near = self._open_near(by_formula, wanted)
            matched = library.match(near, target, neighbours=4, steps=6)
            made = CellSet.concat([matched.without_parameters(), made.without_parameters()])
        return made.subset([int(np.argmin(tensor_error(made.C, wanted)))])

    def _open_near(self, cells: CellSet, wanted: Floats) -> CellSet:
        """The 64 cells nearest to a tensor (1, 3), in order; those that enclose void only if all do."""
        near, _ = library.nearest(cells, wanted, min(64, len(cells)))
        some = cells.subset(near[0])
        if self.avoid_cavities:
            closed = encloses(some.octants())
            some = some if closed.all() else some.subset(~closed)
        return some

    def candidates(self, targets: Floats, neighbours: Neighbours | None, progress: Progress) -> Candidates:
        """As :class:`CellSource`; the nearest ones, whoever their neighbours are."""
        further = _FURTHER if self.avoid_cavities else 1
        index, _ = library.nearest(self.cells, targets, min(further * self.count, len(self.cells)))
        rows, place = np.unique(index, return_inverse=True)
        place = place.reshape(index.shape)
        progress(0, len(targets), "looking for cells without closed voids")
        closed = self._closed(rows)
        # Open ones first, each kind by nearness.
        order = np.argsort(closed[place], axis=1, kind="stable")[:, : self.count]
        place = np.take_along_axis(place, order, axis=1)
        used, place = np.unique(place, return_inverse=True)
        known = np.ones(len(used), dtype=bool)
        cells = self.cells.subset(rows[used])
        index = place.reshape(len(targets), -1).astype(np.int64)
        return Candidates(cells.faces(), cells.C, known, closed[used], index, rows[used])

    def _closed(self, rows: NDArray[np.intp]) -> Bools:
        if not self.avoid_cavities:
            return np.zeros(len(rows), dtype=bool)
        parts = [encloses(self.cells.octants(rows[i : i + 256])) for i in range(0, len(rows), 256)]
        return np.concatenate(parts)

    def take(self, offered: Candidates, rows: Ints) -> CellSet:
        """As :class:`CellSource`."""
        return self.cells.subset(offered.origin[rows])

    def finish(
        self, offered: Candidates, chosen: Ints, targets: Floats, bounds: Bounds, progress: Progress
    ) -> Finished:
        """As :class:`CellSource`; cells that no formula makes stay as they are."""
        before = self.take(offered, chosen)
        formula = np.isin(before.family, list(FAMILIES))
        far = np.flatnonzero(formula & (bounds.error(before.C, targets) > FAR * bounds.tolerance))
        if len(far) == 0:
            return Finished(before, before)
        corrected = library.correct(
            self.cells,
            offered.origin[chosen[far]],
            targets[far],
            steps=_TRIALS,
            tolerance=bounds.tolerance,
            relative=bounds.relative,
            progress=partial(progress, what="correcting cells"),
        )
        pick = np.arange(len(before))
        pick[far] = len(before) + np.arange(len(far))
        return Finished(before, CellSet.concat([before, corrected]).subset(pick))

    def nearer(self, faces: Bools, targets: Floats, bounds: Bounds, progress: Progress) -> list[Matched]:
        """Nothing: a set makes nothing.

        Parameters
        ----------
        faces, targets, bounds, progress
            As :meth:`CellSource.nearer`.
        """
        return []

    def with_faces(self, faces: Bools, targets: Floats, bounds: Bounds, progress: Progress) -> Matched | None:
        """None: a set makes nothing.

        Parameters
        ----------
        faces, targets, bounds, progress
            As :meth:`CellSource.with_faces`.
        """
        return None


def lightened(source: CellSource, least: LeastVolume, excess: float = EXCESS) -> CellSource:
    """A source of cells without those that are heavier than v(C) by ``excess``.

    Raises
    ------
    InputError
        If the cells do not come from a set.
    """
    if type(source) is not SetSource:  # one that makes cells as well would lose them
        raise InputError("under a mass limit cells come from a set, such as 'dataset'", key="fill.source")
    light = source.cells.subset(least.light(source.cells, excess))
    return SetSource(light, source.count, source.avoid_cavities)
