"""The source of cells that a case names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from micro.cell.cellset import CellSet, require_poisson
from micro.data.packaged import load_dataset, load_library
from micro.generator.generator import Generator
from micro.runtime.files import cache_path
from micro.runtime.jobs import Cache
from multiscale.case.settings import FILL_SOURCES, FillSettings
from multiscale.fill.files import WEIGHTS, cells_of
from multiscale.fill.generator_source import GeneratorSource, JoinedSource
from multiscale.fill.set_source import SetSource
from multiscale.fill.source import CellSource


def make_source(settings: FillSettings, path: Callable[[str], Path], poisson: float) -> CellSource:
    """The source that a case asks for.

    Parameters
    ----------
    settings : FillSettings
    path : callable
        Finds a file that the settings name.
    poisson : float
        Poisson's ratio of the case's base material, for which voxels of a cell are homogenised.

    Raises
    ------
    InputError
        If that file can't be used, or its cells are of another base material.
    """
    avoid = settings.cavities == "avoid"

    def generator(name: str | Path | None, spare: CellSet) -> GeneratorSource:
        loaded = Generator.load() if name is None else Generator.load(name)
        require_poisson("generated cells", loaded.model.poisson, poisson, name)
        spare.require_poisson(poisson)
        near, cache = SetSource(spare, 16, avoid), Cache(cache_path("cells"))
        return GeneratorSource(loaded, near, settings.generated, settings.seed, cache)

    if settings.source == "generator":
        return generator(None, load_dataset())
    if settings.source == "dataset+generator":
        cells = load_dataset()
        return JoinedSource(cells, generator(None, cells), settings.candidates, avoid)
    if settings.source in FILL_SOURCES:
        cells = load_dataset() if settings.source == "dataset" else load_library()
        return SetSource(cells, settings.candidates, avoid)
    file = path(settings.source)
    if file.suffix == WEIGHTS:
        return generator(file, load_dataset())
    return SetSource(cells_of(file, poisson), settings.candidates, avoid)
