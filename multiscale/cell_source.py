"""Where a lattice's cells come from: the library (or a cell set), or the generator.

Both answer the same three questions of :mod:`multiscale.fill`: one good cell for a material, candidates for
every group of elements, and the chosen candidates brought onto their targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from micro import library
from micro.cellset import CellSet
from micro.generator import Generator, Samples
from micro.refinement import Refinement
from micro.tensor import tensor_error

Array = NDArray[np.float64]
Say = Callable[[int, str], None]
"""Progress: (groups still open, what is being done)."""

_TRIALS = 2
"""Trials that a cell of a set is given for its correction."""

_REFINEMENTS = 4
"""Homogenisations that a generated cell is given, the first one included."""

_DRAWS = 1
"""Candidates drawn for each generated one: a choice among several would cost the likeness of neighbours."""

_STEERING = 2
"""Steps that a candidate is moved by the surrogate; the homogeniser does the rest."""

_MATERIAL_SAMPLES, _MATERIAL_TRIALS = 6, 10
"""Generated cells for a material, and homogenisations of each: their error repeats in a whole region."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Cells to choose from.

    Attributes
    ----------
    faces : bool array, shape (cells, n, n)
        Outer faces.
    index : int array, shape (groups, k)
        Rows of ``faces`` by group.
    error : array, shape (groups, k)
        Their tensor errors, as far as known before they are homogenised.
    """

    faces: NDArray[np.bool_]
    index: NDArray[np.int64]
    error: Array


@dataclass(frozen=True, eq=False)
class Finished:
    """Chosen cells before and after they were brought onto their targets, each with its own tensor.

    ``generated`` tells which came from the generator (not from a cell set).
    """

    before: CellSet
    after: CellSet
    generated: NDArray[np.bool_]


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

    def candidates(self, targets: Array, count: int, say: Say) -> Candidates:
        """``count`` candidates for each target (m, 3)."""

    def finish(self, chosen: NDArray[np.int64], targets: Array, tolerance: float, say: Say) -> Finished:
        """The chosen rows (m,) of the last candidates, moved within ``tolerance`` of their targets."""


class SetSource:
    """Cells of a set made by formula: the nearest ones, corrected by their parameters."""

    def __init__(self, cells: CellSet):
        self.cells = self.known = cells
        self.name = f"a set of {len(cells)}"

    def material(self, target: Array) -> CellSet:
        """As :class:`CellSource`."""
        return library.match(self.cells, target, neighbours=4, steps=6)

    def candidates(self, targets: Array, count: int, say: Say) -> Candidates:
        """As :class:`CellSource`."""
        index, error = library.nearest(self.cells, targets, min(count, len(self.cells)))
        return Candidates(self.cells.faces(), index.astype(np.int64), error)

    def finish(self, chosen: NDArray[np.int64], targets: Array, tolerance: float, say: Say) -> Finished:
        """As :class:`CellSource`."""
        corrected = library.correct(
            self.cells,
            chosen,
            targets,
            steps=_TRIALS,
            tolerance=tolerance,
            progress=lambda step, left: say(left, f"correcting cells, round {step + 1}"),
        )
        return Finished(self.cells.subset(chosen), corrected, np.zeros(len(chosen), dtype=bool))


class GeneratorSource:
    """Generated cells: candidate j of every group is drawn from the same noise.

    Neighbouring groups want tensors that are nearly alike, and the sampler is continuous: from the same
    noise their cells are nearly alike too, and meet. Cells that can't be made in one piece come from
    ``spare``, and are counted.
    """

    def __init__(self, generator: Generator, spare: SetSource, seed: int = 0, draws: int = _DRAWS):
        self.generator, self.spare = generator, spare
        self.seed, self.draws = seed, draws
        self.resolution = spare.cells.n
        self.known = spare.known
        self.name = "the generator"
        self._samples: Samples | None = None

    def material(self, target: Array) -> CellSet:
        """As :class:`CellSource`: the best of the generated ones and the spare source's."""
        wanted = np.asarray(target, dtype=np.float64).reshape(1, 3)
        samples = self.generator.sample(wanted, _MATERIAL_SAMPLES, seed=self.seed, resolution=self.resolution)
        refined = self.generator.refine(samples, wanted, tolerance=2e-4, trials=_MATERIAL_TRIALS)
        made = CellSet.concat([_plain(refined), _plain(self.spare.material(target))])
        return made.subset([int(np.argmin(tensor_error(made.C, wanted)))])

    def candidates(self, targets: Array, count: int, say: Say) -> Candidates:
        """As :class:`CellSource`; errors are the surrogate's."""
        m = len(targets)
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
        error = tensor_error(samples.predicted, targets[samples.target])
        # A cell in pieces is no candidate as long as there is another.
        error = np.where(samples.connected, error, 1.0).reshape(m, count)
        index = np.arange(m * count, dtype=np.int64).reshape(m, count)
        return Candidates(samples.octants()[:, 0], index, error)

    def finish(self, chosen: NDArray[np.int64], targets: Array, tolerance: float, say: Say) -> Finished:
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
            near, _ = library.nearest(self.spare.cells, targets[lost])
            spare = self.spare.finish(near[:, 0], targets[lost], tolerance, say)
            octants[lost], C[lost] = spare.after.octants(), spare.after.C
            before[lost], C_before[lost] = spare.before.octants(), spare.before.C
        family = np.where(generated, "generated", "library").tolist()
        return Finished(
            CellSet.from_octants(before, C_before, family=family),
            CellSet.from_octants(octants, C, family=family),
            generated,
        )

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


def _plain(cells: CellSet) -> CellSet:
    """The cells without parameters, so that cells of different origin can be joined."""
    return CellSet.from_octants(cells.octants(), cells.C, family=cells.family.tolist())
