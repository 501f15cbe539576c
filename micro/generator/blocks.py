"""Cells for many targets as independent jobs, a few targets at a time.

:func:`sample` and :func:`refined` do what the generator's methods of the same names do, :func:`make` both and
the homogenising between them; ranks and processes share the jobs (:mod:`micro.runtime.executor`). How targets
are parted does not depend on who works, so neither do the cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np

from micro.cell.cellset import CellSet
from micro.cell.tensor import Bounds
from micro.diffusion.weights import Model
from micro.generator.generator import Generator
from micro.generator.guidance import Wish, raised
from micro.generator.likeness import Likeness
from micro.generator.refinement import MOVES, Moved, Refinement, move
from micro.generator.regressor import regressor
from micro.generator.samples import Samples, generated, joined
from micro.homogenize.fields import Status
from micro.runtime.arrays import Bools, Floats, Ints, Singles
from micro.runtime.executor import executor
from micro.runtime.jobs import Cache
from micro.runtime.progress import Progress, unheard


class _Sized(Protocol):
    def __len__(self) -> int: ...


Job = TypeVar("Job")
Part = TypeVar("Part", bound=_Sized)

_CELLS = 32
"""Cells of a block, few enough for processes to share the work evenly."""

_REFINED = 16
"""Cells of a block that are refined, some of which need much longer than others."""

_SHARED = 4
"""Blocks that there are to be, however few the cells."""

_MOVED = 4
"""Cells of a block that are moved voxel by voxel, one after the other, which takes long."""


@dataclass(frozen=True)
class Request:
    """What is to be done for each target.

    Attributes
    ----------
    weights, device : str
        Of the generator; every process loads it for itself.
    per_target, resolution : int
        Cells for each target, and voxels along an octant's edge.
    refined : bool
        Whether cells are moved onto their targets by the homogeniser's slopes.
    tolerance, relative : float
        Tensor error (Eq. 4) and relative error at which, both, a cell is left alone.
    settings : dict
        Further arguments of :meth:`micro.generator.generator.Generator.sample`.
    face : bool array, shape (r, r), optional
        What all cells continue.
    wishes : tuple
        Pairs such as ``("raise", "K / K_HS")``: ``raise`` or ``lower``, and what
        :func:`micro.generator.regressor.regressor` takes.
    """

    weights: str
    device: str
    per_target: int
    resolution: int
    refined: bool
    tolerance: float
    relative: float
    settings: dict[str, Any]
    face: Bools | None = None
    wishes: tuple[tuple[str, str], ...] = ()

    def guides(self, model: Model) -> list[Wish]:
        """The wishes as the sampler of a model takes them."""
        found = [(word, regressor(text, model.surrogate, model.poisson)) for word, text in self.wishes]
        return [raised(scalar) if word == "raise" else Wish(scalar) for word, scalar in found]


@dataclass(frozen=True)
class Block:
    """A job: the targets from row ``first`` on, (k, 3), and their volumes (k,)."""

    request: Request
    first: int
    targets: Floats
    volume: Floats


@dataclass(frozen=True)
class Made:
    """A block's cells.

    Attributes
    ----------
    samples : Samples
        Of the generator; ``target`` counts all targets.
    octants, C, trials : arrays, shapes (m, n, n, n), (m, 3), (m,)
        As delivered; C is NaN where a cell has no tensor.
    good : bool array, shape (m,)
        Which are to be kept.
    drawing, solving : float
        Seconds.
    """

    samples: Samples
    octants: Bools
    C: Floats
    trials: Ints
    good: Bools
    drawing: float
    solving: float


def sample(
    generator: Generator,
    targets: Floats,
    n: int,
    *,
    faces: Bools | None = None,
    progress: Progress = unheard,
    cache: Cache | None = None,
    **settings: Any,
) -> Samples:
    """As :meth:`micro.generator.generator.Generator.sample`, with one seed for all targets.

    Parameters
    ----------
    generator : Generator
    targets : array, shape (q, 3)
    n : int
        Cells for each target.
    faces : bool array, shape (q, r, r), optional
        Faces that the cells of each target are to continue.
    progress : Progress
        Told how many cells are done.
    cache : Cache, optional
        Of what was made before.
    **settings
        Further arguments of the generator's method.
    """
    jobs = [
        (generator, first, targets[span], n, None if faces is None else faces[span], settings)
        for first, span in _shared(len(targets), max(1, _CELLS // n))
    ]
    parts = _done(_sample, jobs, Samples, cache, progress, len(targets) * n)
    return joined(parts, parts[0].n)


def _sample(job: tuple[Generator, int, Floats, int, Bools | None, dict[str, Any]]) -> Samples:
    generator, first, targets, n, faces, settings = job
    return generator.sample(targets, n, faces=faces, **settings).moved(first)


def sample_together(
    generator: Generator,
    targets: Floats,
    likeness: Likeness,
    *,
    seed: int = 0,
    number: int = 0,
    open: bool = False,
    progress: Progress = unheard,
    cache: Cache | None = None,
    **settings: Any,
) -> Samples:
    """One cell for each target, drawn together as neighbours: they are drawn here, the rest is jobs.

    Parameters
    ----------
    generator : Generator
    targets : array, shape (m, 3)
    likeness : Likeness
        Of m cells.
    seed, number, open
        As of :meth:`micro.generator.generator.Generator.draw_together`.
    progress : Progress
        Told how many cells are done.
    cache : Cache, optional
        Of what was made before.
    **settings
        Further arguments of :meth:`micro.generator.generator.Generator.settle`.
    """
    asked = {"seed": seed, "number": number, "open": open}
    (drawn,) = _done(_drawn, [(generator, targets, likeness, asked)], Drawn, cache)
    z = drawn.z
    settings["open"] = open
    jobs = [(generator, first, z[span], targets[span], settings) for first, span in _shared(len(z), _CELLS)]
    parts = _done(_settled, jobs, Samples, cache, progress, len(z))
    return joined(parts, parts[0].n)


@dataclass(frozen=True)
class Drawn:
    """Coordinates (m, d) as they were drawn."""

    z: Singles

    def __len__(self) -> int:
        return len(self.z)


def _drawn(job: tuple[Generator, Floats, Likeness, dict[str, Any]]) -> Drawn:
    generator, targets, likeness, asked = job
    return Drawn(generator.draw_together(targets, likeness, **asked))


def _settled(job: tuple[Generator, int, Singles, Floats, dict[str, Any]]) -> Samples:
    generator, first, z, targets, settings = job
    return generator.settle(z, targets, **settings).moved(first)


def refined(
    generator: Generator,
    samples: Samples,
    targets: Floats,
    *,
    progress: Progress = unheard,
    cache: Cache | None = None,
    **settings: Any,
) -> Refinement:
    """As :meth:`micro.generator.generator.Generator.refined`.

    Parameters
    ----------
    generator : Generator
    samples : Samples
    targets : array, shape (m, 3)
        Of each sample.
    progress : Progress
        Told how many cells are done.
    cache : Cache, optional
        Of what was made before.
    **settings
        Further arguments of the generator's method.
    """
    jobs = [
        (generator, samples.rows(np.arange(span.start, span.stop)), targets[span], settings)
        for _, span in _shared(len(samples), _REFINED)
    ]
    return Refinement.joined(_done(_refined, jobs, Refinement, cache, progress, len(samples)))


def moved(
    octants: Bools,
    targets: Floats,
    bounds: Bounds,
    *,
    progress: Progress = unheard,
    cache: Cache | None = None,
    **settings: Any,
) -> Moved:
    """As :func:`micro.generator.refinement.move`.

    Parameters
    ----------
    octants : bool array, shape (m, n, n, n)
    targets : array, shape (m, 3)
    bounds : Bounds
        Errors at which a cell is left alone.
    progress : Progress
        Told how many cells are done.
    cache : Cache, optional
        Of what was made before.
    **settings
        Further arguments of that function.
    """
    jobs = [(octants[s], targets[s], bounds, settings) for _, s in _shared(len(octants), _MOVED)]
    return Moved.joined(_done(_moved, jobs, Moved, cache, progress, len(octants)))


def _moved(job: tuple[Bools, Floats, Bounds, dict[str, Any]]) -> Moved:
    octants, targets, bounds, settings = job
    return move(octants, targets, bounds, **settings)


def _refined(job: tuple[Generator, Samples, Floats, dict[str, Any]]) -> Refinement:
    generator, samples, targets, settings = job
    return generator.refined(samples, targets, **settings)


def _done(
    work: Callable[[Job], Part],
    jobs: list[Job],
    kind: type[Part],
    cache: Cache | None,
    progress: Progress = unheard,
    total: int = 0,
) -> list[Part]:
    """Results of jobs, those that the cache knows from there; ``progress`` counts their cells."""
    parts: list[Part] = []
    with executor(1) as processes:
        for part in cache.run(work, jobs, kind) if cache else processes.run(work, jobs):
            parts.append(part)
            progress(sum(map(len, parts)), total)
    return parts


def _spans(count: int, size: int) -> Iterator[tuple[int, slice]]:
    """Of so many cells those of each block, ``size`` at most."""
    for first in range(0, max(count, 1), size):
        yield first, slice(first, min(first + size, count))


def _shared(count: int, size: int) -> Iterator[tuple[int, slice]]:
    """The same, in several blocks for processes to share."""
    return _spans(count, max(1, min(size, -(-count // _SHARED))))


def blocks(request: Request, targets: Floats, volume: Floats) -> Iterator[Block]:
    """The jobs for targets (q, 3) and volumes (q,), which do not depend on who will do them."""
    for first, span in _spans(len(targets), max(1, _CELLS // request.per_target)):
        yield Block(request, first, targets[span], volume[span])


def make(block: Block) -> Made:
    """Do one block."""
    asked = block.request
    generator = _loaded(asked.weights, asked.device)
    began = time.perf_counter()
    faces = None if asked.face is None else np.repeat(asked.face[None], len(block.targets), axis=0)
    samples = generator.sample(
        block.targets,
        asked.per_target,
        volume=block.volume,
        resolution=asked.resolution,
        faces=faces,
        guides=asked.guides(generator.model),
        **asked.settings,
    )
    drawn = time.perf_counter()
    if asked.refined:
        done = generator.refined(
            samples,
            block.targets[samples.target],
            tolerance=asked.tolerance,
            relative=asked.relative,
            trials=6,
            moves=MOVES,
            yielding=1.0 if faces is None else 0.0,
        )
        octants, C, trials, good = done.octants, done.C, done.trials, done.known
    else:
        result = samples.homogenize()
        octants, C, trials = samples.octants(), result.C, np.ones(len(samples), dtype=np.int64)
        good = (result.status == Status.OK) & samples.connected
    solving = time.perf_counter() - drawn
    counted = samples.moved(block.first)
    return Made(counted, octants, C, trials, good, drawn - began, solving)


def cells_of(made: list[Made]) -> CellSet:
    """The cells to be kept, as :func:`micro.generator.samples.generated`."""
    names = ("octants", "C", "trials", "good")
    columns = (np.concatenate([getattr(m, name) for m in made]) for name in names)
    return generated(joined([m.samples for m in made], made[0].samples.n), *columns)


@lru_cache(maxsize=1)
def _loaded(weights: str, device: str) -> Generator:
    return Generator.load(weights, device)
