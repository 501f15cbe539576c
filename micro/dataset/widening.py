"""More cells beyond the edge of what a data set reaches, and up to the solid.

A gamut ends where its cells do, and an optimiser goes to where it ends. Runs look farther, each a
file of binary, connected, homogenised cells:

- **fillings**: the densest cells with their void narrowed step by step until none is left, and the solid with
  straight channels that widen. No formula is drawn above a volume of 0.97, and yet the solid is a cell;
- **cells from elsewhere**, such as the ends of ``micro extreme``, homogenised again;
- **marches**: topology optimisation toward tensors ahead of the edge, in rounds, each beyond the edge that
  the last one left; and a round where a design asked for more than there was. They begin with one minimal
  surface or another, at half the resolution: what a cell grew from decides where it can go. (From the cell at
  the edge they get hardly anywhere: docs/method.md.)

What is found is added behind the cells that were there, which stay as they are, with their parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber
from micro.cell.octant import at_resolution
from micro.cell.tensor import POISSON
from micro.dataset.build import clean, dataset_directory, distinct
from micro.dataset.dataset import masks, sources, split, take, thin, with_provenance
from micro.dataset.extremes import LEAST, RIM
from micro.gamut.gamut import Gamut
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.inverse import Goal, Settings, match_target, optimise
from micro.library.build import choose
from micro.library.labelling import COARSE_RTOL
from micro.library.retrieval import nearest
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError, NotConverged
from micro.runtime.jobs import Workers, fingerprint
from micro.runtime.progress import Progress, unheard
from micro.shape.distance import signed_distance

SOURCE = "edge"
"""How the sources of the cells that are found begin."""

_FIRST = "first"
"""Attribute of a widened set: how the set was made that it was made from."""

_DENSE, _FILLED = 0.88, 40
"""Cells of at least this volume are filled; so many of them."""

_WIDEST = 0.25
"""Width of the solid's widest channels, in edges of an octant."""

_AHEAD = 0.08
"""How far ahead a goal lies, as a tensor error (Eq. 4)."""

_ROOM, _FULLEST = 0.05, 0.98
"""Volume that a march may add, and the largest that it may come to."""

_BEGINNINGS = ("neovius", "i-wp", "schwarz-p")
"""Fields of :mod:`micro.inverse.start` that marches begin with, by turns: each leads farthest somewhere."""

_EFFORT, _TRIALS, _ENOUGH = 4.0, 40, 2e-3
"""Factor on the usual number of evaluations, which are cheap at half the resolution (with 1 marches end less
far out); homogenisations after them, and the tensor error (Eq. 4) at which these end."""


@dataclass(frozen=True)
class Shapes:
    """Octants (m, n, n, n) to be homogenised, of one family."""

    path: Path
    octants: Bools
    family: str
    nu: float = POISSON

    def make(self) -> None:
        """Write the cells, those left out whose solve failed."""
        result = homogenize_octants(self.octants, nu=self.nu, rtol=COARSE_RTOL)
        good = result.status == Status.OK
        found = CellSet.from_octants(self.octants[good], result.C[good], family=self.family, poisson=self.nu)
        found.save(self.path)


@dataclass(frozen=True)
class March:
    """One topology optimisation at half the resolution, its voxels halved and its surface moved on."""

    path: Path
    settings: Settings

    def make(self) -> None:
        """Write every cell on the way after the halving; nothing if no connected cell is found."""
        goal, n = self.settings.goal, 2 * self.settings.n
        assert goal.target is not None
        trail: tuple[tuple[Bools, Floats], ...] = ()
        try:
            coarse = optimise(self.settings)
        except NotConverged:
            pass  # An outcome, not to be tried again on resuming.
        else:
            found = match_target(
                at_resolution(coarse.octant, n),
                goal.target,
                tolerance=_ENOUGH,
                iterations=_TRIALS,
                nu=goal.nu,
                keep=True,
            )
            trail = found.trail
        octants = np.array([octant for octant, _ in trail], dtype=bool).reshape(-1, n, n, n)
        C = np.array([own for _, own in trail]).reshape(-1, 3)
        CellSet.from_octants(octants, C, family="inverse-match", poisson=goal.nu).save(self.path)


Run = Shapes | March


def fillings(cells: CellSet, folder: Path) -> list[Run]:
    """The solid's channels, and fillings of dense cells spread evenly over their tensors."""
    dense = np.flatnonzero((cells.volume >= _DENSE) & (cells.volume < 1))
    chosen = dense[choose(cells.C[dense], _FILLED)] if len(dense) else dense
    runs: list[Run] = [
        Shapes(folder / "channels.zarr.zip", _channelled(cells.n), "channelled", cells.poisson)
    ]
    for number, row in enumerate(chosen.tolist()):
        path, steps = folder / f"filling{number:03d}.zarr.zip", _narrowed(cells.octants(row))
        if len(steps):
            runs.append(Shapes(path, steps, "filled", cells.poisson))
    return runs


def again(cells: CellSet, n: int, folder: Path) -> list[Run]:
    """Runs that homogenise cells from elsewhere at n.

    Raises
    ------
    InputError
        If their resolution does not divide n.
    """
    if n % cells.n:
        raise InputError(f"cells of a resolution that divides {n} are needed", key="--also", value=cells.n)
    name = cells.digest()[:12]
    runs: list[Run] = []
    for number in range(len(cells)):
        octant = at_resolution(cells.octants(number), n)
        path = folder / f"given-{name}-{number:04d}.zarr.zip"
        runs.append(Shapes(path, octant[None], "given", cells.poisson))
    return runs


def marches(cells: CellSet, count: int, folder: Path, toward: Floats | None = None) -> list[Run]:
    """Runs beyond the edge, ``count`` at most, spread evenly over it by farthest-point sampling.

    The way out is the gamut's normal in the metric that the optimiser measures distances in (Eq. 4), so that
    the nearest cell there is to the goal lies straight ahead.

    Parameters
    ----------
    cells : CellSet
    count : int
    folder : Path
        For the files.
    toward : array (m, 3), optional
        Tensors, units of E_s: the edge is only looked at where these lie.
    """
    gamut = Gamut.fit(cells.C, poisson=cells.poisson)
    void = np.flatnonzero(cells.volume < 1)
    places = cells.C[void] if toward is None else np.asarray(toward, dtype=np.float64)
    edge = places[gamut.phi(places) < RIM]
    edge = edge[choose(edge, count)]
    near = void[nearest(cells.subset(void), edge)[0][:, 0]]
    inward = gamut.gradient(edge) * tensor.PAPER_SPAN
    inward /= np.linalg.norm(inward, axis=1, keepdims=True)
    moduli = tensor.to_moduli(edge)
    ahead = tensor.to_moduli(edge - _AHEAD * inward * tensor.PAPER_SPAN)
    top = tensor.to_moduli(tensor.isotropic(1.0, cells.poisson))
    goals = tensor.from_moduli(np.clip(ahead, LEAST * moduli, top))
    out: list[Run] = []
    volumes = np.minimum(_FULLEST, cells.volume[near] + _ROOM)
    for number, (volume, target) in enumerate(zip(volumes.tolist(), goals.tolist(), strict=True)):
        goal = Goal("match", volume, target=tuple(target), nu=cells.poisson)
        start = _BEGINNINGS[number % len(_BEGINNINGS)]
        name = fingerprint([cells.n, start, volume, target, cells.poisson])
        settings = Settings(goal, n=cells.n // 2, start=start, effort=_EFFORT)
        out.append(March(folder / f"march-{name}.zarr.zip", settings))
    return out


def widen(
    first: CellSet,
    *,
    count: int = 450,
    rounds: int = 1,
    also: Sequence[CellSet] = (),
    toward: Floats | None = None,
    folder: Path | None = None,
    workers: int | None = None,
    progress: Progress = unheard,
    command: str = "micro dataset widen",
) -> CellSet:
    """A data set with the cells that fillings and rounds of marches find beyond its edge.

    Parameters
    ----------
    first : CellSet
        A data set. Cells that an earlier call added are left out first: the result depends on the others.
    count : int
        Marches of a round.
    rounds : int
        Rounds of marches.
    also : sequence of CellSet
        Cells found elsewhere, such as by ``micro extreme``.
    toward : array (m, 3), optional
        Tensors, units of E_s, such as those of a design that ended at the gamut's edge: a last round of
        marches begins where they lie.
    folder : path, optional
        Directory of finished runs, kept, so that the same call resumes.
    workers : int, optional
        Processes (default: all cores); under ``mpiexec`` the ranks do the work.
    progress : Progress
        Told how much of each stage is done.
    command : str
        To be recorded.

    Returns
    -------
    CellSet
        The first set's cells in their order, then what was found, by family and volume.

    Raises
    ------
    InputError
        If the first set has no parts, its resolution is odd, ``count`` or ``rounds`` is negative, or other
        cells are too fine.
    """
    for key, value in (("--marches", count), ("--rounds", rounds)):
        if value < 0:
            raise InputError("must not be negative", key=key, value=value)
    base = without_edge(first)
    if base.n % 2 and count > 0:
        raise InputError(
            "marches begin at half the resolution: an even n is needed", key="--data", value=base.n
        )
    work = dataset_directory() / f"edge-{base.digest()[:16]}" if folder is None else Path(folder)
    work.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, CellSet]] = []
    with Workers(workers, progress) as team:
        for number in range(rounds + 1 + (toward is not None)):
            name = f"{SOURCE} {number}"
            known = CellSet.concat([base, *(cells for _, cells in found)], attrs={})
            own = work / f"round{number}"
            own.mkdir(exist_ok=True)
            if number:
                runs = marches(known, count, own, toward if number > rounds else None)
            else:
                runs = fillings(known, own)
            if runs:
                team.finish(name, runs)
                found.append((name, _finished(runs)))
        for cells in also:
            base.require_poisson(cells.poisson)
            name, runs = f"{SOURCE} given", again(cells, base.n, work)
            team.finish(name, runs)
            found.append((name, _finished(runs)))
    return extended(base, found, command)


def extended(base: CellSet, found: list[tuple[str, CellSet]], command: str) -> CellSet:
    """A data set with further cells from named sources: distinct, thinned, and behind its own.

    They are for training: validation and test stay what they were, so that what was measured on them can be
    compared, and phi's slack stays that of cells drawn from all over. Near-duplicates follow the cell that
    was there, and what is like cells of two parts, as all that is nearly solid, belongs to none.
    """
    own = len(base)
    bare = base.without_parameters()
    together = CellSet.concat([bare, *(cells.without_parameters() for _, cells in found)], attrs={})
    source = np.array([*sources(base), *(name for name, cells in found for _ in range(len(cells)))])
    rows = distinct(together)
    rows = rows[thin(together.C[rows], together.volume[rows])]
    rows = np.union1d(np.arange(own), rows)
    given = np.argmax(np.stack(list(masks(base).values())), axis=0)
    part = split(together.subset(rows), share=0.0, given=given)
    order = own + np.lexsort((together.volume[rows[own:]], together.family[rows[own:]]))
    order = np.concatenate([np.arange(own), order])
    rows, part = rows[order], part[order]
    new = CellSet.concat([base, together.subset(rows[own:])], attrs={})
    attrs = {
        "title": base.attrs.get("title"),
        "poisson": base.poisson,
        "command": f"{base.attrs.get('command')}; {command}",
        "gathered": int(base.attrs.get("gathered", own)) + sum(len(cells) for _, cells in found),
        _FIRST: {key: base.attrs.get(key) for key in ("command", "gathered")},
    }
    return with_provenance(new, source[rows].tolist(), part, attrs)


def beyond_edge(cells: CellSet) -> Bools:
    """Which cells of a data set :func:`widen` added, (m,)."""
    return np.asarray(np.char.startswith(sources(cells), SOURCE))


def without_edge(cells: CellSet) -> CellSet:
    """A data set without the cells that :func:`widen` added: the very set it was given."""
    if "source" not in cells.attrs:
        return cells
    found = beyond_edge(cells)
    if not found.any():
        return cells
    first = take(cells, np.flatnonzero(~found))
    made = first.attrs.get(_FIRST, {})
    attrs = {key: value for key, value in first.attrs.items() if key != _FIRST and key not in made}
    return replace(first, attrs=attrs | {key: value for key, value in made.items() if value is not None})


def _finished(runs: Sequence[Run]) -> CellSet:
    """The clean cells of finished runs."""
    return clean(CellSet.concat([CellSet.load(run.path) for run in runs], attrs={}))


def _narrowed(octant: Bools) -> Bools:
    """The octant with its void narrowed from all sides by half a voxel at a time, (m, n, n, n)."""
    grid, n = chamber(len(octant)), len(octant)
    depth = np.ceil(-4 * n * signed_distance(octant[None])[0]) / 2
    least = np.unique(depth[depth > 0])[1:]
    steps = [grid.unfold(depth < edge) for edge in least]
    return np.array(steps, dtype=bool).reshape(-1, n, n, n)


def _channelled(n: int) -> Bools:
    """The solid, and it with square channels at the octant's edges, narrow to wide; (m, n, n, n)."""
    away, cells = np.arange(n), [np.ones((n,) * 3, dtype=bool)]
    for width in range(1, int(_WIDEST * n) + 1):
        low, high = away < width, away >= n - width
        for one, other in ((low, low), (low, high)):
            section = one[:, None] & other[None, :]
            void = np.zeros((n,) * 3, dtype=bool)
            for axis in range(3):
                void |= np.expand_dims(section | section.T, axis)
            cells.append(~void)
    return np.array(cells)
