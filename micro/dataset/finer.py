"""The data set at twice the resolution, with opened twins and thin cells: blocks of finished work, resumable.

Every cell of a first edition is made again at the resolution wanted: by its formula where it has one, else by
its level set. One that encloses void in a lattice of its own kind gets an opened twin
(:mod:`micro.dataset.twins`): the finest channels that drain it, and the level set moved so far that by its
derivatives the tensor is the old one again. Thin cells, which the first edition's resolution could not carry,
come from the formulas. Everything is homogenised at the resolution it is delivered at.

The work is one list in a fixed order, cut into blocks: each holds closed cells with their twins, open cells
and thin cells, those first that lie farthest from all before in (K/K_s, mu'/G_s, G/G_s, V), so that what is
finished at any time is a data set that covers the whole. A block is one file, written whole. Finished blocks
can be gathered in one file (:func:`united`), which a build goes on from wherever it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber
from micro.cell.octant import encloses, largest_component
from micro.dataset.build import dataset_directory, distinct
from micro.dataset.dataset import split, thin, with_provenance
from micro.dataset.twins import opened
from micro.families.families import FAMILIES, family
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.sensitivity import sensitivities
from micro.library.labelling import is_stiff, presentable
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike
from micro.runtime.jobs import Workers
from micro.runtime.progress import Progress, unheard
from micro.shape.channels import is_open
from micro.shape.distance import signed_distance
from micro.shape.space import resampled

RTOL = 3e-3
"""Residual tolerance of labels: a constant's relative error is below 1e-5, 1e-6 on average."""

THIN = (0.03, 0.15)
"""Volumes of the thin cells."""

_CLOSED, _OPEN, _THIN = 16, 16, 8
"""Jobs of each kind in a block, as long as there are any."""

_MIDDLE, _LATER = (0.4, 0.9), 3.0
"""Volumes at which open cells are rare, and how much later closed cells of other volumes come."""

_DRAWS = 12
"""Formulas drawn at most for one thin cell."""

_ALIKE = 0.02
"""Volume fractions by which a formula's cell may differ between the resolutions and still be that cell."""

_SEED = 164

ORIGINAL, TWIN = 0, 1
"""What a cell is: as it was drawn, or opened."""

SOURCES = ("first edition", "opened twins", "thin", "thin, opened")
"""Sources of the finished data set."""

Made = tuple[Bools, Floats, str, tuple[int, int, bool]]
"""Octant, tensor, family, and (number, what, open)."""


@dataclass(frozen=True)
class Job:
    """One original to be made, homogenised and, if it is closed, opened.

    Attributes
    ----------
    number : int
        Row in the first edition, or minus one minus the number of a thin cell.
    octant : bool array, shape (s, s, s), or None
        The cell in the first edition; None for a thin cell.
    name : str
        Its family.
    params : array, shape (p,)
    """

    number: int
    octant: Bools | None
    name: str
    params: Floats


@dataclass(frozen=True)
class Block:
    """Jobs whose cells make up one file."""

    path: Path
    n: int
    jobs: tuple[Job, ...]
    nu: float = tensor.POISSON

    def cells(self) -> CellSet:
        """All cells of the jobs; parameters are (number, what, open)."""
        made = [row for job in self.jobs for row in make(job, self.n, self.nu)]
        octants = np.array([m[0] for m in made], dtype=bool).reshape(-1, *(self.n,) * 3)
        C, names = [m[1] for m in made], [m[2] for m in made]
        params = np.array([m[3] for m in made], dtype=np.float64).reshape(-1, 3)
        return CellSet.from_octants(octants, C, family=names, params=params, poisson=self.nu)

    def make(self) -> None:
        """Write the cells."""
        self.cells().save(self.path)


def finer_directory(first: CellSet, n: int) -> Path:
    """Where the blocks made of a first edition lie unless told otherwise."""
    return dataset_directory() / f"refined-{n}-{first.digest()[:16]}"


def schedule(first: CellSet, n: int, folder: Path) -> list[Block]:
    """All blocks made of a first edition, in their order."""
    rows = range(0, len(first), 512)
    closed = np.concatenate([encloses(first.octants(slice(i, i + 512))) for i in rows])
    points = np.column_stack([tensor.scaled_moduli(first.C), first.volume])
    closed_rows = np.flatnonzero(closed)
    rank = np.empty(len(closed_rows))
    rank[farthest_first(points[closed_rows])] = np.arange(len(closed_rows))
    middle = (first.volume[closed_rows] > _MIDDLE[0]) & (first.volume[closed_rows] < _MIDDLE[1])
    closed_rows = closed_rows[np.argsort(np.where(middle, rank, _LATER * rank), kind="stable")]
    open_rows = np.flatnonzero(~closed)
    open_rows = open_rows[farthest_first(points[open_rows])]
    count = max(-(-len(closed_rows) // _CLOSED), -(-len(open_rows) // _OPEN))
    blocks = []
    for b in range(count):
        own = [*closed_rows[_CLOSED * b : _CLOSED * (b + 1)], *open_rows[_OPEN * b : _OPEN * (b + 1)]]
        jobs = [Job(int(r), first.octants(int(r)), str(first.family[r]), first.params[r]) for r in own]
        jobs += [Job(-1 - k, None, "", np.empty(0)) for k in range(_THIN * b, _THIN * (b + 1))]
        blocks.append(Block(folder / f"block{b:05d}.zarr.zip", n, tuple(jobs), first.poisson))
    return blocks


def farthest_first(points: Floats) -> NDArray[np.intp]:
    """All points (m, d) in an order in which each is the farthest from those before it; (m,)."""
    order = np.empty(len(points), dtype=np.intp)
    distance = np.full(len(points), np.inf)
    at = int(np.argmax(points.sum(axis=1))) if len(points) else 0
    for i in range(len(points)):
        order[i] = at
        np.minimum(distance, ((points - points[at]) ** 2).sum(axis=1), out=distance)
        distance[at] = -1.0
        at = int(np.argmax(distance))
    return order


def make(job: Job, n: int, nu: float = tensor.POISSON) -> list[Made]:
    """The job's cell, and its opened twin if it is closed; nothing if it is not presentable at n."""
    found = _thin(-1 - job.number, n) if job.octant is None else _finer(job, n)
    if found is None:
        return []
    octant, level, name = found
    if is_open(octant):
        C = _tensor(octant, nu)
        return [] if C is None else [(octant, C, name, (job.number, ORIGINAL, True))]
    solved = sensitivities(octant, nu=nu, rtol=RTOL)
    if solved.status[0] != Status.OK or not is_stiff(solved.C[0]):
        return []
    rows: list[Made] = [(octant, solved.C[0], name, (job.number, ORIGINAL, False))]
    twin = opened(octant, level, solved.gradient[0])
    C = None if twin is None else _tensor(twin, nu)
    if twin is not None and C is not None:
        rows.append((twin, C, name, (job.number, TWIN, True)))
    return rows


def _tensor(octant: Bools, nu: float) -> Floats | None:
    """A cell's own tensor; None if it carries no load worth a name."""
    result = homogenize_octants(octant[None], nu=nu, rtol=RTOL)
    return result.C[0] if result.status[0] == Status.OK and is_stiff(result.C[0]) else None


def _finer(job: Job, n: int) -> tuple[Bools, Floats, str] | None:
    """A first edition's cell at n, its level in voxels, its family; None if it does not stay presentable."""
    assert job.octant is not None
    if job.name in FAMILIES:
        octant = family(job.name).octant(job.params, n)
        # A formula may fall apart at a resolution, or come out as another cell.
        if presentable(octant) and abs(octant.mean() - job.octant.mean()) < _ALIKE:
            return octant, 2.0 * n * signed_distance(octant[None])[0], job.name
    coarse = chamber(len(job.octant)).unfold(signed_distance(job.octant[None])[0])
    level = 2.0 * n * resampled(coarse[None], n)[0]
    octant = largest_component(level > 0)
    return (octant, chamber(n).fold(level), job.name) if presentable(octant) else None


def _thin(number: int, n: int) -> tuple[Bools, Floats, str] | None:
    """A thin cell by formula; the same for a number whatever else is made."""
    rng = np.random.default_rng([number, _SEED])
    for _ in range(_DRAWS):
        name = str(rng.choice(list(FAMILIES)))
        params = family(name).sample(rng, float(rng.uniform(*THIN)), n)
        octant = family(name).octant(params, n)
        if THIN[0] <= octant.mean() <= THIN[1] and presentable(octant):
            return octant, 2.0 * n * signed_distance(octant[None])[0], name
    return None


def united(blocks: Sequence[Block], first: CellSet, part: CellSet | None) -> CellSet:
    """The cells of all blocks from the first to the last without a gap, for a build to go on from.

    Attributes say which blocks of which first edition they are; parameters are (number, what, open).

    Raises
    ------
    InputError
        If no block is finished, or ``part`` belongs to another build.
    """
    count = _blocks_of(part, first, blocks[0].n)
    sets = [] if part is None else [part]
    while count < len(blocks) and blocks[count].path.exists():
        sets.append(CellSet.load(blocks[count].path))
        count += 1
    if not sets:
        raise InputError("no finished block", file=blocks[0].path.parent)
    return CellSet.concat(sets, attrs={"blocks": count, "first": first.digest()})


def _blocks_of(part: CellSet | None, first: CellSet, n: int) -> int:
    """How many blocks a part holds; it must be of this first edition and resolution."""
    if part is None:
        return 0
    if part.n != n or part.attrs.get("first") != first.digest() or "blocks" not in part.attrs:
        raise InputError("not a part of this data set's build", key="--start", value=part.attrs.get("first"))
    return int(part.attrs["blocks"])


def _only(blocks: Sequence[Block], part: CellSet) -> CellSet:
    """What a part has of these blocks."""
    numbers = [job.number for block in blocks for job in block.jobs]
    rows = np.flatnonzero(np.isin(part.params[:, 0], numbers))
    return replace(part.subset(rows), attrs={**part.attrs, "blocks": len(blocks)})


def assembled(cells: CellSet, attrs: dict[str, Any]) -> CellSet:
    """The data set of united cells: distinct, thinned, split, with sources, parts and openness.

    Dense regions are thinned among the open and the closed cells by themselves, so that neither drives out
    the other.
    """
    number, what, free = cells.params.T
    rows = distinct(cells)
    kept = [rows[(free[rows] == state)] for state in (1.0, 0.0)]
    kept = [r[thin(cells.C[r], cells.volume[r])] for r in kept if len(r)]
    rows = np.sort(np.concatenate(kept))
    part = split(cells.subset(rows))
    rows, part = rows[part >= 0], part[part >= 0]
    order = np.lexsort((number[rows], cells.volume[rows], cells.family[rows]))
    rows, part = rows[order], part[order]
    source = np.array(SOURCES)[(2 * (number[rows] < 0) + what[rows]).astype(int)]
    chosen = cells.subset(rows)
    bare = replace(chosen, params=np.empty((len(rows), 0)), attrs={})
    more = {
        "title": "Cubic cells for training, open and closed",
        "poisson": cells.poisson,
        "gathered": len(cells),
        "open": "".join(np.where(free[rows] == 1, "o", "c")),
    }
    return with_provenance(bare, source.tolist(), part, {**attrs, **more})


def build(
    first: CellSet,
    n: int,
    *,
    folder: PathLike | None = None,
    blocks: int | None = None,
    start: CellSet | None = None,
    workers: int | None = 1,
    make_new: bool = True,
    progress: Progress = unheard,
) -> CellSet:
    """Make the blocks that are not there yet and return all that is finished (:func:`united`).

    Parameters
    ----------
    first : CellSet
        The first edition.
    n : int
        Voxels along an octant's edge.
    folder : path, optional
        Directory of the blocks; kept, so that the same call resumes.
    blocks : int, optional
        Blocks to have in all (default: every one).
    start : CellSet, optional
        Blocks finished elsewhere (what an earlier call returned); of more than ``blocks`` the first ones.
    workers : int, optional
        Processes (None: all cores); under ``mpiexec`` the ranks do the work.
    make_new : bool
        False: only gather what is there.
    progress : Progress
        Told how much of each stage is done.

    Raises
    ------
    InputError
        If ``start`` belongs to another build, or nothing is finished.
    """
    every = schedule(first, n, finer_directory(first, n) if folder is None else Path(folder))
    every = every[:blocks]
    done = _blocks_of(start, first, n)
    if start is not None and done > len(every):
        start, done = _only(every, start), len(every)
    if make_new:
        with Workers(workers, progress) as team:
            team.finish("blocks", every[done:], before=done, total=len(every))
    return united(every, first, start)
