"""Where a lattice's cells come from: a set (the data set, the library), the generator, or both.

All answer the same questions of :mod:`multiscale.fill`: one good cell for a material, candidates for every
group of elements, chosen candidates brought onto their targets, and cells with a given face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from micro import library
from micro.cellset import CellSet
from micro.dataset import load_dataset
from micro.families import FAMILIES
from micro.generator import Generator, Samples
from micro.refinement import Refinement
from micro.tensor import SOLID, tensor_error
from multiscale.cavities import encloses
from multiscale.settings import FILL_SOURCES, FillSettings

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Say = Callable[[int, str], None]
"""Progress: (groups still open, what is being done)."""

_TRIALS = 2
"""Trials that a cell of a set is given for its correction."""

_REFINEMENTS = 4
"""Homogenisations that a generated cell is given, the first one included."""

_DRAWS = 1
"""Candidates drawn for each generated one: a choice among several would cost the likeness of neighbours."""

_GUIDED_DRAWS = 4
"""The same for cells that continue a given face."""

_STEERING = 2
"""Steps that a candidate is moved by the surrogate; the homogeniser does the rest."""

_MATERIAL_SAMPLES, _MATERIAL_TRIALS = 6, 10
"""Generated cells for a material, and homogenisations of each: their error repeats in a whole region."""

_FURTHER = 4
"""Cells looked at for each one wanted, so that those that enclose void can be passed over."""

GENERATED = "generated"
"""Family of the cells that the generator made for a lattice."""

_IS_SOLID = 1e-6
"""Tensor error up to which a material is the base material."""

_FAR = 2.0
"""Tensor error, in tolerances, from which a chosen cell of a set is corrected; less is for the selection."""


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
        Whether that is the cell's own; otherwise it is foretold, and the cell has to be finished.
    avoid : bool array, shape (cells,)
        Cells to take only if there is no other: they enclose void, or are in pieces.
    index : int array, shape (groups, k)
        Rows of these arrays by group.
    """

    faces: Bools
    C: Array
    exact: Bools
    avoid: Bools
    index: Ints


@dataclass(frozen=True, eq=False)
class Finished:
    """Chosen cells before and after they were brought onto their targets, each with its own tensor."""

    before: CellSet
    after: CellSet


@dataclass(frozen=True, eq=False)
class Faced:
    """Cells made for given faces, and which of those they are for; not every face gets one."""

    cells: CellSet
    rows: Ints


def solid_cell(n: int) -> CellSet:
    """The cell without void, of octant edge n."""
    return CellSet.from_octants(np.ones((1, n, n, n), dtype=bool), SOLID[None], family=["solid"])


class CellSource(Protocol):
    """What fills need.

    Attributes
    ----------
    name : str
        For messages.
    known : CellSet
        Cells to show beside the design in property space.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def known(self) -> CellSet: ...  # noqa: D102

    def material(self, target: Array) -> CellSet:
        """One cell, as near to a tensor (3,) as can be."""

    def candidates(self, targets: Array, say: Say) -> Candidates:
        """Candidates for each target (m, 3)."""

    def take(self, rows: Ints) -> CellSet:
        """Some of the last candidates that are exact."""

    def finish(self, chosen: Ints, targets: Array, tolerance: float, say: Say) -> Finished:
        """The chosen rows (m,) of the last candidates, moved toward their targets."""

    def with_faces(self, faces: Bools, targets: Array, tolerance: float, say: Say) -> Faced | None:
        """Cells for ``targets`` (m, 3) with outer faces like ``faces`` (m, n, n); None if it makes none."""


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

    def __init__(self, cells: CellSet, count: int = 48, avoid_cavities: bool = True):
        self.cells = self.known = cells
        self.count = count
        self.avoid_cavities = avoid_cavities
        self.name = f"a set of {len(cells)}"
        self._rows = np.zeros(0, dtype=np.int64)

    def material(self, target: Array) -> CellSet:
        """As :class:`CellSource`; the base material itself is a cell without void."""
        if tensor_error(target, SOLID) < _IS_SOLID:
            return solid_cell(self.cells.n)
        wanted = np.reshape(target, (1, 3))
        made = self._open_near(self.cells, wanted).subset([0])
        by_formula = self.cells.subset(np.isin(self.cells.family, list(FAMILIES)))
        if len(by_formula):
            # What a formula gives can be corrected by its parameters.
            near = self._open_near(by_formula, wanted)
            matched = library.match(near, target, neighbours=4, steps=6)
            made = CellSet.concat([_plain(matched), _plain(made)])
        return made.subset([int(np.argmin(tensor_error(made.C, wanted)))])

    def _open_near(self, cells: CellSet, wanted: Array) -> CellSet:
        """The 64 cells nearest to a tensor (1, 3), in order; those that enclose void only if all do."""
        near, _ = library.nearest(cells, wanted, min(64, len(cells)))
        some = cells.subset(near[0])
        if self.avoid_cavities:
            shut = encloses(some.octants())
            some = some if shut.all() else some.subset(~shut)
        return some

    def candidates(self, targets: Array, say: Say) -> Candidates:
        """As :class:`CellSource`."""
        further = _FURTHER if self.avoid_cavities else 1
        index, _ = library.nearest(self.cells, targets, min(further * self.count, len(self.cells)))
        rows, place = np.unique(index, return_inverse=True)
        place = place.reshape(index.shape)
        say(len(targets), "looking for cells without closed voids")
        shut = self._shut(rows)
        # Open ones first, each kind by nearness.
        order = np.argsort(shut[place], axis=1, kind="stable")[:, : self.count]
        place = np.take_along_axis(place, order, axis=1)
        used, place = np.unique(place, return_inverse=True)
        self._rows = rows[used]
        known = np.ones(len(used), dtype=bool)
        cells = self.cells.subset(self._rows)
        return Candidates(
            cells.faces(), cells.C, known, shut[used], place.reshape(len(targets), -1).astype(np.int64)
        )

    def _shut(self, rows: NDArray[np.intp]) -> Bools:
        if not self.avoid_cavities:
            return np.zeros(len(rows), dtype=bool)
        parts = [encloses(self.cells.octants(rows[i : i + 256])) for i in range(0, len(rows), 256)]
        return np.concatenate(parts)

    def take(self, rows: Ints) -> CellSet:
        """As :class:`CellSource`."""
        return self.cells.subset(self._rows[rows])

    def finish(self, chosen: Ints, targets: Array, tolerance: float, say: Say) -> Finished:
        """As :class:`CellSource`; cells that no formula makes stay as they are."""
        before = self.take(chosen)
        formula = np.isin(before.family, list(FAMILIES))
        far = np.flatnonzero(formula & (tensor_error(before.C, targets) > _FAR * tolerance))
        if len(far) == 0:
            return Finished(before, before)
        corrected = library.correct(
            self.cells,
            self._rows[chosen[far]],
            targets[far],
            steps=_TRIALS,
            tolerance=tolerance,
            progress=lambda step, left: say(left, f"correcting cells, round {step + 1}"),
        )
        pick = np.arange(len(before))
        pick[far] = len(before) + np.arange(len(far))
        return Finished(before, CellSet.concat([before, corrected]).subset(pick))

    def with_faces(self, faces: Bools, targets: Array, tolerance: float, say: Say) -> Faced | None:
        """None: a set makes nothing."""
        return None


class GeneratorSource:
    """Generated cells: candidate j of every group is drawn from the same noise.

    Neighbouring groups want tensors that are nearly alike, and the sampler is continuous: from the same
    noise their cells are nearly alike too, and meet. Cells that can't be made in one piece come from
    ``spare``.

    Parameters
    ----------
    generator : Generator
    spare : SetSource
    count : int
        Candidates for each group.
    seed, draws : int
        As of :meth:`micro.generator.Generator.sample`.
    """

    def __init__(
        self, generator: Generator, spare: SetSource, count: int = 4, seed: int = 0, draws: int = _DRAWS
    ):
        self.generator, self.spare, self.count = generator, spare, count
        self.seed, self.draws = seed, draws
        self.resolution = spare.cells.n
        self.known = spare.known
        self.name = "the generator"
        self._samples: Samples | None = None

    def material(self, target: Array) -> CellSet:
        """As :class:`CellSource`: the best of the generated ones and the spare source's."""
        if tensor_error(target, SOLID) < _IS_SOLID:
            return solid_cell(self.resolution)
        wanted = np.asarray(target, dtype=np.float64).reshape(1, 3)
        samples = self.generator.sample(wanted, _MATERIAL_SAMPLES, seed=self.seed, resolution=self.resolution)
        refined = self.generator.refine(samples, wanted, tolerance=2e-4, trials=_MATERIAL_TRIALS)
        if self.spare.avoid_cavities:
            refined = refined.subset(~encloses(refined.octants()))
        made = CellSet.concat([_plain(refined), _plain(self.spare.material(target))])
        return made.subset([int(np.argmin(tensor_error(made.C, wanted)))])

    def candidates(self, targets: Array, say: Say) -> Candidates:
        """As :class:`CellSource`; tensors are the surrogate's."""
        m, count = len(targets), self.count
        samples = self.generator.sample(
            targets,
            count,
            seed=self.seed,
            draws=self.draws,
            steering=_STEERING,
            resolution=self.resolution,
            progress=lambda done, total: say(m - done // count, "generating cells"),
        )
        self._samples = samples
        octants = samples.octants()
        avoid = ~samples.connected
        if self.spare.avoid_cavities:
            avoid = avoid | encloses(octants)
        index = np.arange(m * count, dtype=np.int64).reshape(m, count)
        return Candidates(octants[:, 0], samples.predicted, np.zeros(m * count, dtype=bool), avoid, index)

    def take(self, rows: Ints) -> CellSet:
        """As :class:`CellSource`: none of the candidates is exact."""
        if len(rows):
            raise ValueError("generated cells have to be finished")
        return self.spare.cells.subset(rows)

    def finish(self, chosen: Ints, targets: Array, tolerance: float, say: Say) -> Finished:
        """As :class:`CellSource`."""
        assert self._samples is not None
        found = self.generator.refined(
            self._samples.rows(chosen),
            targets,
            # Half of what a group's members may be apart: the cell adds little to that.
            tolerance=0.5 * tolerance,
            trials=_REFINEMENTS,
            progress=lambda trial, left: say(left, f"refining cells, round {trial}"),
        )
        octants, C = self._again(found, targets, tolerance, say)
        generated = np.isfinite(C).all(axis=1) & found.start_known
        before, C_before = found.start_octants.copy(), found.start_C.copy()
        lost = np.flatnonzero(~generated)
        if len(lost):
            near = self.spare.candidates(targets[lost], say).index[:, 0]
            spare = self.spare.finish(near, targets[lost], tolerance, say)
            octants[lost], C[lost] = spare.after.octants(), spare.after.C
            before[lost], C_before[lost] = spare.before.octants(), spare.before.C
        family = np.where(generated, GENERATED, "spare").tolist()
        return Finished(
            CellSet.from_octants(before, C_before, family=family),
            CellSet.from_octants(octants, C, family=family),
        )

    def with_faces(self, faces: Bools, targets: Array, tolerance: float, say: Say) -> Faced | None:
        """As :class:`CellSource`: drawn under guidance by the face, refined so that it stays."""
        samples = self.generator.sample(
            targets,
            1,
            seed=self.seed,
            draws=_GUIDED_DRAWS,
            steering=_STEERING,
            resolution=self.resolution,
            faces=faces,
        )
        found = self.generator.refined(
            samples,
            targets,
            tolerance=0.5 * tolerance,
            trials=_REFINEMENTS,
            faces=faces,
            progress=lambda trial, left: say(left, f"cells that continue their neighbours, round {trial}"),
        )
        rows = np.flatnonzero(found.known)  # the others came out in pieces
        return Faced(CellSet.from_octants(found.octants[rows], found.C[rows], family=GENERATED), rows)

    def _again(
        self, found: Refinement, targets: Array, tolerance: float, say: Say
    ) -> tuple[NDArray[np.bool_], Array]:
        """Octants and tensors, those beyond the tolerance replaced by freshly drawn ones if nearer."""
        octants, C = found.octants.copy(), found.C.copy()
        far = np.flatnonzero(~np.less_equal(tensor_error(C, targets), tolerance))
        if len(far):
            say(len(far), "drawing other cells")
            samples = self.generator.sample(targets[far], 1, seed=self.seed + 1, resolution=self.resolution)
            fresh = self.generator.refined(
                samples, targets[far], tolerance=0.5 * tolerance, trials=_REFINEMENTS
            )
            gain = ~np.greater_equal(tensor_error(fresh.C, targets[far]), tensor_error(C[far], targets[far]))
            gain &= fresh.known
            octants[far[gain]], C[far[gain]] = fresh.octants[gain], fresh.C[gain]
        return octants, C


class JoinedSource(SetSource):
    """Candidates of a set, and where these do not fit their neighbours, cells that the generator makes."""

    def __init__(self, cells: CellSet, generator: GeneratorSource, count: int, avoid_cavities: bool):
        super().__init__(cells, count, avoid_cavities)
        self.generator = generator
        self.name += " and the generator"

    def with_faces(self, faces: Bools, targets: Array, tolerance: float, say: Say) -> Faced | None:
        """As :class:`CellSource`."""
        return self.generator.with_faces(faces, targets, tolerance, say)


def make_source(settings: FillSettings, path: Callable[[str], Path]) -> CellSource:
    """The source that a case asks for; ``path`` finds a file that it names.

    Raises
    ------
    InputError
        If that file can't be used.
    """
    avoid = settings.cavities == "avoid"

    def generator(name: str | Path | None, spare: CellSet) -> GeneratorSource:
        loaded = Generator.load() if name is None else Generator.load(name)
        return GeneratorSource(loaded, SetSource(spare, 16, avoid), settings.generated, settings.seed)

    if settings.source == "generator":
        return generator(None, load_dataset())
    if settings.source == "dataset+generator":
        cells = load_dataset()
        return JoinedSource(cells, generator(None, cells), settings.candidates, avoid)
    if settings.source in FILL_SOURCES:
        cells = load_dataset() if settings.source == "dataset" else library.load_library()
        return SetSource(cells, settings.candidates, avoid)
    file = path(settings.source)
    if file.suffix == ".safetensors":
        return generator(file, load_dataset())
    return SetSource(CellSet.load(file), settings.candidates, avoid)


def _plain(cells: CellSet) -> CellSet:
    """The cells without parameters, so that cells of different origin can be joined."""
    return CellSet.from_octants(cells.octants(), cells.C, family=cells.family.tolist())
