"""Cells that the generator draws, alone or beside those of a set."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from micro.cell.cellset import CellSet
from micro.cell.octant import encloses, in_phase
from micro.cell.tensor import Bounds, tensor_error
from micro.diffusion.residual import Residual, most_telling
from micro.generator import blocks
from micro.generator.generator import Generator
from micro.generator.likeness import LATTICE, YIELDING, Likeness
from micro.generator.refinement import Refinement
from micro.generator.samples import Samples, joined
from micro.runtime.arrays import Bools, Floats, Ints, Singles
from micro.runtime.jobs import Cache
from micro.runtime.progress import Progress
from micro.shape.space import distance_at
from multiscale.fill.set_source import SetSource, solid_cell
from multiscale.fill.source import (
    GENERATED,
    Candidates,
    Finished,
    Matched,
    Neighbours,
)

_REFINEMENTS = 4
"""Homogenisations that a generated cell is given, the first one included, before it counts as stuck."""

_FAR_REFINEMENTS = 8
"""The same where no other cell came near: soft tensors, at the edge of what can be built."""

_GUIDED_DRAWS = 4
"""Candidates drawn for each cell that continues a given face."""

_STEERING = 8
"""Steps that a candidate is moved by the surrogate; the homogeniser does the rest."""

_WAVES = (0.08, 0.3)
"""Shares of a lattice's cells that are refined before the rest, which is steered by what they show."""

_TELLING = 32
"""Homogenised cells from which on they say something about others."""

_STUCK = 4.0
"""Error, over what a cell is refined to, from which it got stuck."""

_CONTINUED = 2
"""Times that cells which got stuck begin with others, which may have got farther meanwhile."""

_MATERIAL_SAMPLES, _MATERIAL_TRIALS = 6, 10
"""Generated cells for a material, and homogenisations of each: their error repeats in a whole region."""


class GeneratorSource:
    """Generated cells: candidates j of all groups are drawn together as the neighbours they are.

    Cells that are there already, of the fixed regions or of an earlier lattice, are given, and the others
    continue them (:mod:`micro.generator.likeness`). Every cell that is homogenised, those of an earlier
    lattice too, shows what the surrogate misses near it, by which others are steered before they are
    homogenised (:mod:`micro.diffusion.residual`). Cells that can't be made in one piece come from ``spare``.

    Parameters
    ----------
    generator : Generator
    spare : SetSource
    count : int
        Candidates for each group.
    seed : int
        As of :meth:`micro.generator.generator.Generator.sample`.
    cache : Cache, optional
        Of cells that were made before.
    """

    draws = True

    def __init__(
        self,
        generator: Generator,
        spare: SetSource,
        count: int = 2,
        seed: int = 0,
        cache: Cache | None = None,
    ):
        self.generator, self.spare, self.count, self.cache = generator, spare, count, cache
        self.seed = seed
        self.resolution = spare.cells.n
        self.open = spare.avoid_cavities
        self.known = spare.known
        self.poisson = generator.model.poisson
        self.name = "the generator"
        self.begin(None)

    def begin(self, earlier: CellSet | None, draft: bool = False) -> None:
        """As :class:`CellSource`: what cells of an earlier lattice show of the surrogate is learned.

        A draft has one candidate for each group, and is refined half as far.
        """
        self._draft = draft
        self._earlier = earlier if earlier is not None and len(earlier) else None
        self._shown: list[tuple[Singles, Floats]] = []
        self._learned: Residual | None = None

    def _learn(self, z: Singles, C: Floats) -> None:
        """Remember what homogenised cells (m, d) are, where that is known."""
        good = np.isfinite(C).all(axis=1)
        self._shown.append((z[good], C[good]))
        self._learned = None

    def _residual(self) -> Residual | None:
        """What is known of the surrogate's error so far."""
        space = self.generator.model.space
        if self._earlier is not None:
            self._learn(space.encode(distance_at(self._earlier.octants(), space.n)), self._earlier.C)
            self._earlier = None
        if self._learned is None and sum(len(C) for _, C in self._shown) >= _TELLING:
            known, tensors = (np.concatenate(column) for column in zip(*self._shown, strict=True))
            self._learned = Residual.of(self.generator.model.surrogate, known, tensors)
        return self._learned

    def material(self, target: Floats) -> CellSet:
        """As :class:`CellSource`: the best of the generated ones and the spare source's, in phase."""
        solid = solid_cell(target, self.resolution, self.poisson)
        if solid is not None:
            return solid
        wanted = np.asarray(target, dtype=np.float64).reshape(1, 3)
        samples = self._drawn(wanted, self.seed, _MATERIAL_SAMPLES)
        asked = np.repeat(wanted, len(samples), axis=0)
        found = blocks.refined(
            self.generator, samples, asked, tolerance=2e-4, trials=_MATERIAL_TRIALS, cache=self.cache
        )
        refined = self._generated(found, np.flatnonzero(found.known))
        if self.spare.avoid_cavities:
            refined = refined.subset(~encloses(refined.octants()))
        made = CellSet.concat(
            [refined.without_parameters(), self.spare.material(target).without_parameters()]
        )
        return self._in_phase(made.subset([int(np.argmin(tensor_error(made.C, wanted)))]))

    def _in_phase(self, made: CellSet) -> CellSet:
        """A material's cell, moved by half a period if so it is more like what the lattice's noise gives.

        A cell and its half-period shift are the same material, and of one noise come cells of one phase:
        those beside the material's are drawn from the lattice's. The flagship's unlike neighbours overlap by
        98.5 % with its surroundings in phase with that, and by 97.4 and 97.5 % with others out of phase.
        """
        alone = Likeness(self.generator.model.space, np.zeros((1, 1)), LATTICE)
        settings: dict[str, Any] = {"seed": self.seed, "open": self.open}
        settings |= {"resolution": self.resolution, "steering": 0}
        own = blocks.sample_together(self.generator, made.C, alone, cache=self.cache, **settings)
        octant = in_phase(made.octants(0), own.octants()[0])
        return CellSet.from_octants(octant[None], made.C, family=made.family.tolist(), poisson=made.poisson)

    def candidates(self, targets: Floats, neighbours: Neighbours, progress: Progress) -> Candidates:
        """As :class:`CellSource`; tensors are the surrogate's."""
        m, count = len(targets), 1 if self._draft else self.count
        space = self.generator.model.space
        likeness = Likeness(
            space,
            neighbours.counts,
            LATTICE,
            size=neighbours.size,
            given=space.encode(distance_at(neighbours.fixed.octants(), space.n)),
            beside=neighbours.beside,
        )
        parts = []
        for number in range(count):

            def drawn(done: int, total: int, what: str = "", before: int = number * m) -> None:
                progress((before + done) // count, m, "generating cells")

            drawn(0, m)
            parts.append(
                blocks.sample_together(
                    self.generator,
                    targets,
                    likeness,
                    seed=self.seed,
                    number=number,
                    steering=_STEERING,
                    resolution=self.resolution,
                    open=self.open,
                    progress=drawn,
                    cache=self.cache,
                )
            )
        samples = joined(parts, self.resolution)
        octants = samples.octants()
        avoid = ~samples.connected
        if self.spare.avoid_cavities:
            avoid = avoid | encloses(octants)
        index = np.arange(m * count, dtype=np.int64).reshape(count, m).T
        exact = np.zeros(m * count, dtype=bool)
        return Candidates(octants[:, 0], samples.predicted, exact, avoid, index, samples)

    def take(self, offered: Candidates, rows: Ints) -> CellSet:
        """As :class:`CellSource`: none of the candidates is exact."""
        if len(rows):
            raise ValueError("generated cells have to be finished")
        return self.spare.cells.subset(rows)

    def finish(
        self, offered: Candidates, chosen: Ints, targets: Floats, bounds: Bounds, progress: Progress
    ) -> Finished:
        """As :class:`CellSource`."""
        samples: Samples = offered.origin
        found = self._in_waves(samples.rows(chosen), targets, bounds, progress)
        octants, C = found.octants.copy(), found.C.copy()
        generated, began = found.known, found.start_known[:, None]
        before = np.where(began[..., None, None], found.start_octants, octants)
        C_before = np.where(began, found.start_C, C)
        lost = np.flatnonzero(~generated)
        if len(lost):
            near = self.spare.candidates(targets[lost], None, progress)
            spare = self.spare.finish(near, near.index[:, 0], targets[lost], bounds, progress)
            octants[lost], C[lost] = spare.after.octants(), spare.after.C
            before[lost], C_before[lost] = spare.before.octants(), spare.before.C
        family = np.where(generated, GENERATED, "spare").tolist()
        return Finished(
            CellSet.from_octants(before, C_before, family=family, poisson=self.poisson),
            CellSet.from_octants(octants, C, family=family, poisson=self.poisson),
        )

    def nearer(self, faces: Bools, targets: Floats, bounds: Bounds, progress: Progress) -> list[Matched]:
        """As :class:`CellSource`: what its neighbours have bent too far, with their faces again and alone."""
        again = self.with_faces(faces, targets, bounds, progress, trials=_FAR_REFINEMENTS)
        return [again, self.alone(targets, bounds, progress)]

    def with_faces(
        self,
        faces: Bools,
        targets: Floats,
        bounds: Bounds,
        progress: Progress,
        trials: int = _REFINEMENTS,
    ) -> Matched:
        """As :class:`CellSource`: drawn under guidance by the face, refined so that it hardly moves."""
        samples = self._drawn(targets, self.seed, faces=faces, draws=_GUIDED_DRAWS, steering=_STEERING)
        continuing = partial(progress, what="cells that continue their neighbours")
        found = self._refined(samples, targets, bounds, continuing, trials, yielding=YIELDING)
        self._continued(found, targets, bounds, progress, keep=True)
        rows = np.flatnonzero(found.known)  # the others came out in pieces
        return Matched(self._generated(found, rows), rows)

    def _in_waves(self, samples: Samples, targets: Floats, bounds: Bounds, progress: Progress) -> Refinement:
        """Samples refined, those first that tell most about the others."""
        m = len(samples)
        order, ends = np.arange(m), [m]
        first = int(_WAVES[0] * m)
        if self._residual() is None and first > 0 and 2 * first >= _TELLING:  # a start and an end each
            ends = [*(int(share * m) for share in _WAVES), m]
            telling = most_telling(self.generator.model.surrogate, samples.z, ends[-2])
            order = np.concatenate([telling, np.setdiff1d(order, telling)])
        parts, start = [], 0
        for end in ends:
            rows = order[start:end]

            def refining(done: int, total: int, what: str = "", before: int = start) -> None:
                progress(before + done, m, "refining cells")

            parts.append(
                self._refined(samples.rows(rows), targets[rows], bounds, refining, yielding=YIELDING)
            )
            start = end
        found = Refinement.joined(parts).rows(np.argsort(order))
        self._continued(found, targets, bounds, progress)
        return found

    def _continued(
        self, found: Refinement, targets: Floats, bounds: Bounds, progress: Progress, keep: bool = False
    ) -> None:
        """Cells that got stuck go on voxel by voxel, in place.

        Each begins with whichever cell is nearest to its target: what gets stuck is mostly soft, and so are
        its neighbours in the space of tensors, some of which are not stuck. Where it is to ``keep`` its face,
        it begins with itself.
        """
        aim = self._aim(bounds)
        for _ in range(1 if keep else _CONTINUED):
            known = np.flatnonzero(found.known)
            stuck = np.flatnonzero(~(aim.error(found.C, targets) <= _STUCK * aim.tolerance))
            if keep:
                stuck = np.intersect1d(stuck, known)
            if len(stuck) == 0 or len(known) == 0:
                return
            start = stuck
            if not keep:
                start = known[[np.argmin(aim.error(found.C[known], target)) for target in targets[stuck]]]
            there = blocks.moved(
                found.octants[start],
                targets[stuck],
                aim,
                open=self.open,
                nu=self.poisson,
                progress=partial(progress, what="moving cells that got stuck"),
                cache=self.cache,
            )
            found.take(self.generator.model.space, stuck, there, targets, aim)
            self._learn(found.z[stuck], found.C[stuck])

    def _drawn(self, targets: Floats, seed: int, count: int = 1, **settings: Any) -> Samples:
        """Samples for each target; all are homogenised, so what the surrogate misses does not count."""
        settings |= {"seed": seed, "resolution": self.resolution, "open": self.open, "cache": self.cache}
        settings["caution"] = 0.0
        return blocks.sample(self.generator, targets, count, **settings)

    def _refined(
        self,
        samples: Samples,
        targets: Floats,
        bounds: Bounds,
        progress: Progress,
        trials: int = _REFINEMENTS,
        **held: Any,
    ) -> Refinement:
        """Samples refined in the shape space, as far as is aimed at; what they show is learned."""
        aim = self._aim(bounds)
        settings: dict[str, Any] = {"tolerance": aim.tolerance, "relative": aim.relative, "trials": trials}
        settings |= {"residual": self._residual(), "progress": progress, "cache": self.cache}
        found = blocks.refined(self.generator, samples, targets, **settings, **held)
        moved = (found.z != found.start_z).any(axis=1)
        z, C = (
            np.concatenate([found.start_z, found.z[moved]]),
            np.concatenate([found.start_C, found.C[moved]]),
        )
        self._learn(z, C)
        return found

    def _aim(self, bounds: Bounds) -> Bounds:
        """Half of what a group's members may be apart: the cell adds little to that. All of it in a draft."""
        return bounds if self._draft else bounds.scaled(0.5)

    def _generated(self, found: Refinement, rows: Ints) -> CellSet:
        return CellSet.from_octants(
            found.octants[rows], found.C[rows], family=GENERATED, poisson=self.poisson
        )

    def alone(self, targets: Floats, bounds: Bounds, progress: Progress) -> Matched:
        """Cells for targets (m, 3) that no other cell came near, with the effort that soft tensors need."""
        progress(0, len(targets), "generating cells where none is near")
        samples = self._drawn(targets, self.seed)
        refining = partial(progress, what="refining cells")
        found = self._refined(samples, targets, bounds, refining, trials=_FAR_REFINEMENTS)
        self._continued(found, targets, bounds, progress)
        good = found.known
        if self.spare.avoid_cavities:
            good = good & ~encloses(found.octants)
        rows = np.flatnonzero(good)
        return Matched(self._generated(found, rows), rows)


class JoinedSource(SetSource):
    """Candidates of a set, and where these do not fit their neighbours, cells that the generator makes.

    Parameters
    ----------
    cells : CellSet
    generator : GeneratorSource
    count : int
        Candidates for each group.
    avoid_cavities : bool
        Whether cells that enclose void are passed over.
    """

    def __init__(self, cells: CellSet, generator: GeneratorSource, count: int, avoid_cavities: bool):
        super().__init__(cells, count, avoid_cavities)
        self.generator = generator
        self.name += " and the generator"

    def begin(self, earlier: CellSet | None, draft: bool = False) -> None:
        """As :class:`CellSource`."""
        self.generator.begin(earlier, draft)

    def nearer(self, faces: Bools, targets: Floats, bounds: Bounds, progress: Progress) -> list[Matched]:
        """As :class:`CellSource`: generated ones."""
        return [self.generator.alone(targets, bounds, progress)]

    def with_faces(self, faces: Bools, targets: Floats, bounds: Bounds, progress: Progress) -> Matched | None:
        """As :class:`CellSource`."""
        return self.generator.with_faces(faces, targets, bounds, progress)
