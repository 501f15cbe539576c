"""Making the data set: gather what the sources have, clean, thin, split.

Sources, in the order of their making:

1. ``library``: the packaged library.
2. ``pool 000`` ...: rounds of candidates by formula, homogenised at the data set's own resolution, the
   later ones aimed at holes of the coverage (:mod:`micro.library.build`).
3. ``extremes``: cells by inverse homogenisation (:mod:`micro.dataset.extremes`).
4. ``active 001`` ...: cells made by the generator and homogenised (``micro active``).

Everything lies in a work directory as files that are written whole: the same command takes up where a
killed one stopped, and :func:`assemble` takes what is finished at any time.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.chamber import pack, packed_bytes
from micro.data.packaged import load_library
from micro.dataset.dataset import split, thin, with_provenance
from micro.dataset.duplicates import fingerprints
from micro.dataset.extremes import designs, pushes
from micro.families.families import FAMILIES, family
from micro.library.build import Recipe, label_pool
from micro.library.labelling import Labels, is_stiff, load_labels, presentable
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, cache_path
from micro.runtime.jobs import Workers
from micro.runtime.progress import Progress, unheard

POOL = Recipe(n=32, count=16000, seed=2, coarse=32, pool=16000, round_size=1000, reach=0)
"""The packaged data set's candidates by formula."""


def dataset_directory() -> Path:
    """Where data sets are made: ``$XDG_CACHE_HOME/multiscale/dataset``, by default in ~/.cache."""
    return cache_path("dataset")


PUSHES = 42
"""The packaged data set's cells that are pushed outwards."""

EARLY = 10
"""Rounds of the pool at whose edge cells are pushed."""


def build(
    work: PathLike,
    recipe: Recipe = POOL,
    runs: int = PUSHES,
    *,
    workers: int | None = None,
    progress: Progress = unheard,
    command: str | None = None,
) -> CellSet:
    """Label all candidates, as far as that is not done, and assemble the data set.

    Parameters
    ----------
    work : path
        Directory of finished work; kept, so that the same call resumes.
    recipe : Recipe
        Of the candidates by formula (``n`` must equal ``coarse``).
    runs : int
        Cells to be pushed outwards (:mod:`micro.dataset.extremes`); 0 leaves inverse homogenisation out.
    workers : int, optional
        Processes (default: all cores); under ``mpiexec`` the ranks do the work.
    progress : Progress
        Told how much of each stage is done.
    command : str, optional
        The command to be recorded.

    Returns
    -------
    CellSet
        As :func:`assemble`.
    """
    recipe.check()
    with Workers(workers, progress) as team:
        label_pool(recipe, Path(work) / recipe.key(), team)
        make_extremes(Path(work), recipe, runs, team)
    return assemble(work, recipe, command=command)


def make_extremes(work: Path, recipe: Recipe, runs: int, team: Workers) -> None:
    """Topology optimisations, and ``runs`` cells of library and early rounds pushed outwards.

    Parameters
    ----------
    work : Path
        Directory of finished work.
    recipe : Recipe
    runs : int
        Cells to be pushed; 0 makes nothing at all.
    team : Workers
    """
    if runs == 0:
        return
    folder = work / recipe.key() / "extremes"
    team.finish("extremes", designs(recipe.n, folder, recipe.nu))
    early = [f"pool {number:03d}" for number in range(EARLY)]
    parts = [cells for name, cells in gather(work, recipe, early) if len(cells)]
    team.finish("extremes", pushes(CellSet.concat(parts), runs, folder))


def assemble(work: PathLike, recipe: Recipe = POOL, *, command: str | None = None) -> CellSet:
    """The data set of what is finished in ``work``: clean, thinned and split, with sources and parts.

    Cells are sorted by family and volume, so that neighbours in the file share bits and compress.

    Raises
    ------
    InputError
        If nothing is there, a file is damaged, or a source has another resolution.
    """
    if recipe.n != recipe.coarse:
        raise InputError("candidates are labelled at the data set's resolution", key="coarse")
    parts, names = [], []
    for name, cells in gather(Path(work), recipe):
        if len(cells):
            parts.append(cells)
            names += [name] * len(cells)
    if not parts:
        raise InputError("no finished cells; run `micro dataset build`", file=work)
    cells, source = CellSet.concat(parts, attrs={}), np.array(names)
    rows = distinct(cells)
    rows = rows[thin(cells.C[rows], cells.volume[rows])]
    # In the order of making, so that what is added later changes nothing for these.
    part = split(cells.subset(rows))
    rows, part = rows[part >= 0], part[part >= 0]
    order = np.lexsort((cells.volume[rows], cells.family[rows]))
    rows, part = rows[order], part[order]
    attrs = {
        "title": "Cubic cells for training",
        "command": command or shlex.join(["micro", "dataset", "build", *pool_arguments(recipe)]),
        "poisson": cells.poisson,
        "gathered": len(cells),
    }
    return with_provenance(cells.subset(rows), source[rows].tolist(), part, attrs)


def gather(work: Path, recipe: Recipe, only: Sequence[str] | None = None) -> Iterator[tuple[str, CellSet]]:
    """Each finished source with its clean cells; a file of another resolution is refused.

    ``only`` names the sources that are wanted beside the library (default: all).
    """
    packaged = load_library()
    if packaged.n == recipe.n and packaged.poisson == recipe.nu:
        yield "library", packaged
    for name, folder in _sources(work, recipe):
        if only is not None and name not in only:
            continue
        if name.startswith("pool"):
            yield name, pool_cells(folder, recipe.n, recipe.nu)
        else:
            yield name, clean(_of_resolution(folder, recipe.n))


def _sources(work: Path, recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """Names and files of what is finished, in the order of making."""
    own = work / recipe.key()
    for number in range(-(-recipe.pool // recipe.round_size)):
        yield f"pool {number:03d}", own / f"round{number:03d}"
    for path in sorted(own.glob("extremes/*.zarr.zip")):
        yield "extremes", path
    for path in sorted(work.glob("active/round*.zarr.zip")):
        yield f"active {path.name[5:8]}", path


def pool_cells(folder: Path, n: int, nu: float = tensor.POISSON) -> CellSet:
    """The good candidates of a round's finished shards, evaluated at n; they were checked when labelled.

    Evaluating takes longer than all the rest, so the cells are kept beside the shards.
    """
    shards = sorted(folder.glob("*.npz"))
    if not shards:
        return CellSet.from_octants(np.empty((0, n, n, n), bool), np.empty((0, 3)), poisson=nu)
    kept = folder / f"cells-of-{len(shards)}.zarr.zip"
    if not kept.exists():
        good = Labels.concat([load_labels(path) for path in shards])
        good = good.take(good.good)
        packed = [
            pack(family(name).octant(params, n)[None])
            for name, params in zip(good.names.tolist(), good.params, strict=True)
        ]
        bits = np.concatenate([np.empty((0, packed_bytes(n)), np.uint8), *packed])
        CellSet(n, bits, good.C, good.volume, good.names, good.params, poisson=nu).save(kept)
    return CellSet.load(kept)


def clean(cells: CellSet) -> CellSet:
    """The cells that are connected, without dust, and stiff enough to carry a load.

    Parameters that belong to no formula (a generator's, an optimiser's) are dropped.
    """
    good = [i for i in np.flatnonzero(is_stiff(cells.C)).tolist() if presentable(cells.octants(i))]
    kept = cells.subset(np.array(good, dtype=np.intp))
    if set(kept.family.tolist()) <= set(FAMILIES):
        return kept
    return replace(kept, params=np.empty((len(kept), 0)), attrs={})


def distinct(cells: CellSet) -> NDArray[np.intp]:
    """Rows of cells that are not, voxel for voxel, an earlier cell or its shift by half a period."""
    return np.sort(np.unique(fingerprints(cells.packed, cells.n), return_index=True)[1])


def pool_arguments(recipe: Recipe) -> list[str]:
    """The command's options that give this recipe."""
    keys = ["n", "pool", "seed", "round_size", *(["nu"] if recipe.nu != tensor.POISSON else [])]
    return [f"--{key.replace('_', '-')}={getattr(recipe, key)}" for key in keys]


def _of_resolution(path: Path, n: int) -> CellSet:
    cells = CellSet.load(path)
    if cells.n != n:
        raise InputError(f"cells of n = {n} are needed", file=path, key="n", value=cells.n)
    return cells
