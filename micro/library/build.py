"""Making the cell library: draw, label coarsely, choose for coverage, label finely.

1. Rounds of candidates are drawn from the families: the first afresh, later ones mostly as variations of
   the cells nearest to goals in property space that lie where cells are few, beyond the known, or wanted.
   Each candidate has its own random stream, so the result depends on the seed alone. They are homogenised
   at a coarse resolution.
2. From the cells nearest to more goals a Gauss-Newton search on all shape parameters goes toward them
   (:mod:`micro.library.reach`); the cells on its way join the pool.
3. ``count`` of the pool are chosen by farthest-point sampling in scaled moduli (K/K_s, mu'/G_s, G/G_s),
   with a shorter yardstick where cells are most wanted (:data:`FOCUS`).
4. The chosen ones are evaluated and homogenised at the library's resolution.

Every homogenised shard is a file in the work directory: the same command takes up where a killed one stopped.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber
from micro.cell.tensor import POISSON, scaled_moduli
from micro.families.families import FAMILIES, GRAIN, LEADING, family, wavy_from_plates
from micro.families.solids import ABSENT
from micro.library.labelling import (
    COARSE_RTOL,
    FINE,
    FINE_RTOL,
    Labels,
    ReachJob,
    label_jobs,
    labels_of,
    padded,
)
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike
from micro.runtime.jobs import Workers
from micro.runtime.progress import Progress, unheard

FOCUS: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((0.27, 0.10, 0.07), (0.34, 0.15, 0.11)),
    ((0.45, 0.10, 0.13), (0.80, 0.27, 0.25)),
)
"""Boxes (low, high) in (C11, C12, C44) where designs need many cells: around a medium of E = 0.23 E_s,
nu = 0.29, and the stiffer rings that cloak a hole in it."""

MEDIUM: Floats = np.array([0.303974, 0.125975, 0.089000])
"""The isotropic surroundings of the mechanical cloak (C11, C12, C44), which the library must reach."""


@dataclass(frozen=True)
class Recipe:
    """What determines a library.

    Attributes
    ----------
    n, count, seed : int
        Resolution of the octants, number of cells, seed of everything random.
    coarse : int
        Resolution at which candidates are compared.
    pool : int
        Number of candidates.
    round_size : int
        Candidates of one round.
    reach : int
        Number of goals that are searched for by all shape parameters.
    focus : float
        How much denser (in length) cells are chosen inside :data:`FOCUS`.
    nu : float
        Poisson's ratio of the base material.
    """

    n: int = 32
    count: int = 3600
    seed: int = 1
    coarse: int = 16
    pool: int = 5000
    round_size: int = 500
    reach: int = 40
    focus: float = 2.0
    nu: float = POISSON

    def check(self) -> None:
        """Refuse what cannot be built.

        Raises
        ------
        InputError
            Naming the value that is out of range.
        """
        for key, low, high in (
            ("n", 4, 256),
            ("coarse", 4, 64),
            ("count", 1, 10**6),
            ("round_size", 16, 10**5),
        ):
            if not low <= getattr(self, key) <= high:
                raise InputError(f"must lie in {low}..{high}", key=key, value=getattr(self, key))
        if self.pool < self.count:
            raise InputError("the pool must hold at least `count` candidates", key="pool", value=self.pool)
        if self.focus < 1:
            raise InputError("must be at least 1", key="focus", value=self.focus)
        if not -1 < self.nu < 0.5:
            raise InputError("lies between -1 and 0.5", key="nu", value=self.nu)

    def key(self) -> str:
        """A short hash of what the candidates depend on (not the number chosen)."""
        parts = {k: v for k, v in asdict(self).items() if k not in ("n", "count", "pool", "reach", "focus")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


_WAVY = ("trig-solid", "trig-sheet", "tpms-solid", "tpms-sheet", "clad", "wavy")


def draw(seed: int, index: int) -> tuple[str, Floats]:
    """Candidate ``index`` drawn afresh: a family's name and parameters, padded with NaN to (PARAMS,)."""
    rng = np.random.default_rng([seed, index])
    chosen = family(str(rng.choice(list(FAMILIES))))
    return chosen.name, padded(chosen.sample(rng, rng.uniform(0.05, 0.95), 32))


def vary(name: str, params: Floats, seed: int, index: int) -> tuple[str, Floats]:
    """A variation of a cell: new tilts, a volume up to a tenth away, and half the time a new shape.

    Shape parameters are multiplied by about one, so what is absent (zero) stays absent.

    Parameters
    ----------
    name, params : str, array (p,)
        The cell.
    seed, index : int
        Of its random stream.
    """
    rng = np.random.default_rng([seed, index])
    chosen, n, lead = family(name), FINE, len(LEADING)
    shape = params[lead : len(chosen.parameters)].copy()
    if rng.random() < 0.5:
        other = shape * np.exp(rng.normal(0.0, rng.choice([0.05, 0.2]), len(shape)))
        shape = np.where(shape == ABSENT, ABSENT, np.round(other / GRAIN) * GRAIN)
    leading = params[:lead].copy()
    volume = cell_volume(chosen.chamber_field(params, n), n) + rng.uniform(-0.1, 0.1)
    level = chosen.level(chamber(n), shape)
    leading[1:] += np.round(rng.normal(0.0, rng.choice([0.05, 0.15]), 2) * np.std(level) / GRAIN) * GRAIN
    varied = np.concatenate([leading, shape])
    return name, padded(chosen.with_volume(varied, min(max(volume, 0.03), 0.97), n))


def cell_volume(chamber_field: Floats, n: int) -> float:
    """Solid fraction of a level set on the chamber of n."""
    return chamber(n).mean(chamber_field > 0)


def choose(C: Floats, count: int, focus: float = 1.0) -> NDArray[np.intp]:
    """Farthest-point sampling in scaled moduli; indices (count,) in the order chosen.

    Inside :data:`FOCUS` distances count ``focus`` times, so that cells stand denser there. Starts from
    the stiffest cell.
    """
    points = scaled_moduli(C)
    weight = np.where(in_focus(C), focus, 1.0)
    chosen = np.empty(min(count, len(points)), dtype=np.intp)
    distance = np.full(len(points), np.inf)
    at = int(np.argmax(points.sum(axis=1)))
    for i in range(len(chosen)):
        chosen[i] = at
        np.minimum(distance, weight * np.linalg.norm(points - points[at], axis=1), out=distance)
        at = int(np.argmax(distance))
    return chosen


def in_focus(C: Floats) -> Bools:
    """Which tensors (m, 3) lie in a box of :data:`FOCUS`."""
    inside = [((np.array(low) <= C) & (np.array(high) >= C)).all(axis=1) for low, high in FOCUS]
    return np.any(inside, axis=0)


def goals(C: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Tensors to aim at, as scaled moduli (count, 3): a third inside :data:`FOCUS`, others around the known.

    Known cells are taken with a probability that grows with their distance to the fourth neighbour, and
    the goal lies off them by about a tenth of the space. So most goals lie outside the covered region,
    and the cells at its boundary are varied most (goal exploration; Péré et al. 2018).
    """
    points = scaled_moduli(C)
    lonely = cKDTree(points).query(points, k=min(5, len(points)))[0][:, -1] + 1e-9
    picks = rng.choice(len(points), count, p=lonely / lonely.sum())
    aims = points[picks] + rng.normal(0.0, 0.06, (count, 3))
    focused = rng.random(count) < 1 / 3
    boxes = np.array(FOCUS)[rng.integers(len(FOCUS), size=count)]
    inside = boxes[:, 0] + rng.random((count, 3)) * (boxes[:, 1] - boxes[:, 0])
    aims[focused] = scaled_moduli(inside)[focused]
    return aims


def build(
    recipe: Recipe,
    work: PathLike,
    *,
    workers: int | None = None,
    progress: Progress = unheard,
    command: str | None = None,
) -> CellSet:
    """Build a library.

    Parameters
    ----------
    recipe : Recipe
    work : path
        Directory of the labelled shards; kept, so that the same call resumes.
    workers : int, optional
        Processes (default: all cores); under ``mpiexec`` the ranks do the work.
    progress : Progress
        Told how much of each stage is done.
    command : str, optional
        The command to be recorded.

    Returns
    -------
    CellSet
        ``recipe.count`` cells or a few less (some are no longer presentable at the finer resolution).
    """
    recipe.check()
    folder = Path(work) / recipe.key()
    started = time.time()
    with Workers(workers, progress) as team:
        pool = label_pool(recipe, folder, team)
        pool = Labels.concat([pool, _reached(recipe, pool, folder, team)])
        candidates = pool.take(pool.good)
        chosen = candidates.take(choose(candidates.C, recipe.count, recipe.focus))
        # The resolution and the cells name the folder, so that another choice gets another one.
        tag = hashlib.sha256(np.nan_to_num(chosen.params).tobytes()).hexdigest()[:12]
        fine = folder / f"n{recipe.n}-{tag}"
        jobs = label_jobs(
            fine, chosen.names.tolist(), chosen.params, n=recipe.n, rtol=FINE_RTOL, nu=recipe.nu
        )
        team.finish(f"label n={recipe.n}", jobs, size=lambda job: len(job.names))
        final = labels_of(jobs)
        final = final.take(final.good)
    octants = np.stack(
        [family(str(f)).octant(p, recipe.n) for f, p in zip(final.names, final.params, strict=True)]
    )
    # Cells of a family side by side, thin to thick: neighbours in the file share bits and compress.
    order = np.lexsort((final.volume, final.names))
    attrs = {
        "title": "Cubic cells by formula",
        "command": command or shlex.join(["micro", "library", "build", *recipe_arguments(recipe)]),
        "recipe": asdict(recipe),
        "seconds": round(time.time() - started, 1),
    }
    return CellSet.from_octants(
        octants[order],
        final.C[order],
        family=final.names[order].tolist(),
        params=final.params[order],
        attrs=attrs,
        poisson=recipe.nu,
    )


def recipe_arguments(recipe: Recipe) -> list[str]:
    """The command's options that give this recipe."""
    return [f"--{k.replace('_', '-')}={v}" for k, v in asdict(recipe).items()]


def label_pool(recipe: Recipe, folder: Path, team: Workers) -> Labels:
    """All candidates, labelled at the coarse resolution, round after round."""
    rounds: list[Labels] = []
    done = 0
    while done < recipe.pool:
        size = min(recipe.round_size, recipe.pool - done)
        names, params = _round(recipe, rounds, done, size)
        place = folder / f"round{len(rounds):03d}"
        jobs = label_jobs(place, names, params, n=recipe.coarse, rtol=COARSE_RTOL, nu=recipe.nu)
        stage = f"pool n={recipe.coarse}"
        team.finish(stage, jobs, size=lambda job: len(job.names), before=done, total=recipe.pool)
        rounds.append(labels_of(jobs))
        done += size
    return Labels.concat(rounds)


def _reached(recipe: Recipe, pool: Labels, folder: Path, team: Workers) -> Labels:
    """The cells tried on the way from the pool to ``recipe.reach`` goals."""
    # Starts with waves, whose many parameters bend a shape smoothly; struts move voxel layers.
    known = pool.take(pool.good & np.isin(pool.names, [*_WAVY, "plates"]))
    rng = np.random.default_rng([recipe.seed, recipe.pool])
    aims = goals(known.C, recipe.reach, rng)
    # Half of them around the medium itself and beyond it, on the side of high bulk and low shear moduli
    # where cells are rare: it should lie inside the gamut, with margin.
    beyond = np.array([0.008, -0.006, -0.006])
    aims[::2] = scaled_moduli(MEDIUM) + beyond + rng.normal(0.0, 0.015, (len(aims[::2]), 3))
    # Not always the nearest: different starts reach a goal by different shapes.
    _, near = cKDTree(scaled_moduli(known.C)).query(aims, k=8)
    near = near[np.arange(len(aims)), rng.integers(8, size=len(aims))]
    folder = folder / f"reach-{recipe.pool}-{recipe.reach}"
    jobs: list[ReachJob] = []
    for i, (p, aim) in enumerate(zip(near, aims, strict=True)):
        name, params = str(known.names[p]), known.params[p]
        if name == "plates":
            name, params = "wavy", wavy_from_plates(params)
        jobs.append(ReachJob(folder / f"{i:04d}.npz", name, params, aim, recipe.coarse, recipe.nu))
    team.finish("reach", jobs)
    return labels_of(jobs)


def _round(recipe: Recipe, rounds: list[Labels], start: int, size: int) -> tuple[list[str], Floats]:
    """The candidates start .. start + size: fresh ones and, once there are parents, mostly variations."""
    fresh = list(range(start, start + size))
    drawn = []
    if rounds:
        so_far = Labels.concat(rounds)
        parents = so_far.take(so_far.good)
        varied, fresh = fresh[: 3 * size // 4], fresh[3 * size // 4 :]
        rng = np.random.default_rng([recipe.seed, start, size])
        # One of the three nearest, so that a goal out of reach does not call on one cell alone.
        _, near = cKDTree(scaled_moduli(parents.C)).query(goals(parents.C, len(varied), rng), k=3)
        picks = near[np.arange(len(varied)), rng.integers(3, size=len(varied))]
        drawn += [
            vary(str(parents.names[p]), parents.params[p], recipe.seed, i)
            for p, i in zip(picks, varied, strict=True)
        ]
    drawn += [draw(recipe.seed, i) for i in fresh]
    return [name for name, _ in drawn], np.stack([params for _, params in drawn])
