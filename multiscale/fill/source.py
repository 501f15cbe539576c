"""Where a lattice's cells come from: a set (the data set, the library), the generator, or both.

All answer the same questions of :mod:`multiscale.fill.filling`: one good cell for a material, candidates
for every group of elements, chosen candidates brought onto their targets, and cells with a given face.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from scipy import sparse

from micro.cell.cellset import CellSet
from micro.cell.tensor import Bounds
from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.progress import Progress

GENERATED = "generated-to-order"
"""Family of the cells that the generator made for a lattice; the data set has generated ones of its own."""

IS_SOLID = 1e-6
"""Tensor error up to which a material is the base material."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Cells to choose from.

    Attributes
    ----------
    faces : bool array, shape (cells, n, n)
        Outer faces.
    C : array, shape (cells, 3)
        Their tensors, as far as known.
    exact : bool array, shape (cells,)
        Whether that is the cell's own; otherwise it is predicted, and the cell has to be finished.
    avoid : bool array, shape (cells,)
        Cells to take only if there is no other: they enclose void, or are in pieces.
    index : int array, shape (groups, k)
        Rows of these arrays by group.
    origin : object
        What their source makes cells of them from; nobody else's affair.
    """

    faces: Bools
    C: Floats
    exact: Bools
    avoid: Bools
    index: Ints
    origin: Any


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Who meets whom among the groups that are to be filled.

    Attributes
    ----------
    size : int array, shape (m,)
        Elements of each.
    counts : sparse array, shape (m, m)
        Interfaces between them.
    fixed : CellSet
        The f cells that are there already: of the fixed regions, of an earlier lattice.
    beside : sparse array, shape (m, f)
        Interfaces with those.
    """

    size: Ints
    counts: sparse.csr_array
    fixed: CellSet
    beside: sparse.csr_array


@dataclass(frozen=True, eq=False)
class Matched:
    """Cells made for some of what was asked, and which of it they are for; not everything gets one."""

    cells: CellSet
    rows: Ints


@dataclass(frozen=True, eq=False)
class Finished:
    """Chosen cells before and after they were brought onto their targets, each with its own tensor.

    Attributes
    ----------
    before, after : CellSet
        Of m cells.
    """

    before: CellSet
    after: CellSet


class CellSource(Protocol):
    """What fills need.

    Attributes
    ----------
    name : str
        For messages.
    known : CellSet
        Cells to show beside the design in property space.
    draws : bool
        Whether its candidates are drawn, which takes time: then only for groups to which no cell of an
        earlier lattice is near.
    """

    draws: bool

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def known(self) -> CellSet: ...  # noqa: D102

    def begin(self, earlier: CellSet | None, draft: bool = False) -> None:
        """A new lattice, of which there may be an earlier one: nothing else of the past is to count.

        Of a ``draft``, which another lattice is to follow, less is expected.
        """

    def material(self, target: Floats) -> CellSet:
        """One cell, as near to a tensor (3,) as can be."""

    def candidates(self, targets: Floats, neighbours: Neighbours, progress: Progress) -> Candidates:
        """Candidates for each target (m, 3)."""

    def take(self, offered: Candidates, rows: Ints) -> CellSet:
        """Some of its candidates that are exact."""

    def finish(
        self, offered: Candidates, chosen: Ints, targets: Floats, bounds: Bounds, progress: Progress
    ) -> Finished:
        """The chosen rows (m,) of its candidates, moved toward their targets.

        Parameters
        ----------
        offered : Candidates
            What :meth:`candidates` returned.
        chosen : int array (m,)
            Rows of it.
        targets : array (m, 3)
            Units of E_s.
        bounds : Bounds
            Errors at which a cell is near enough.
        progress : Progress
        """

    def nearer(self, faces: Bools, targets: Floats, bounds: Bounds, progress: Progress) -> list[Matched]:
        """Cells made anew for ``targets`` (m, 3) from which the chosen ones stay far, with all effort.

        Parameters
        ----------
        faces : bool array (m, n, n)
            Outer faces of the chosen ones.
        targets : array (m, 3)
        bounds : Bounds
        progress : Progress
        """

    def with_faces(self, faces: Bools, targets: Floats, bounds: Bounds, progress: Progress) -> Matched | None:
        """Cells for ``targets`` (m, 3) with outer faces like ``faces`` (m, n, n); None if it makes none.

        Parameters
        ----------
        faces : bool array (m, n, n)
        targets : array (m, 3)
        bounds : Bounds
        progress : Progress
        """
