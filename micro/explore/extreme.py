"""Extreme cells from many starts: generated ones near the extreme, and random ones beside them.

Where topology optimisation ends depends on where it starts. The data set's cells nearest to the goal give
tensors and volumes to the generator, whose cells, as level sets, are the starts (Yang et al. 2024, Fig. 4).
More come from the best ends: their noise, found by DDIM backwards, is turned a little and drawn from again.
Every start is one job of its own, kept in a file, so a run can be stopped and goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from micro.cell import tensor
from micro.cell.cellset import CellSet, require_poisson
from micro.cell.chamber import pack, unpack
from micro.cell.octant import at_resolution
from micro.data.packaged import load_dataset
from micro.diffusion import process
from micro.diffusion.conditions import Conditions
from micro.generator.generator import Generator
from micro.inverse import Goal, Settings, begin, optimise
from micro.inverse.binary import binary_cell
from micro.inverse.goal import ZENER
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError, NotConverged
from micro.runtime.files import claim, write_json
from micro.runtime.jobs import Workers
from micro.runtime.npz import read_arrays, write_arrays
from micro.runtime.progress import Progress, unheard
from micro.shape.distance import signed_distance

KINDS = ("generated", "random", "varied")
"""What a start is: drawn by the generator, a random trigonometric field, drawn from a best end's noise."""

_NEAR = 0.05
"""Cells of the data set within this volume of the goal's may give conditions."""

_SOFTEST = 0.5
"""Share of the least stiffness from which a cell may give conditions."""

_BEST = 5
"""Ends whose noise is varied."""

_TURN = 0.35
"""Angle by which noise is turned, in radians."""

_STEPS = 40
"""Of the sampler, where its way back has to be exact."""

_ARRAYS = ("start_C", "start_volume", "packed", "n", "C", "met", "solves", "seconds")
"""What a run's file holds."""


@dataclass(frozen=True)
class Plan:
    """What to look for and from how many starts.

    Attributes
    ----------
    goal : Goal
        Not ``match``.
    n : int
        Voxels along the octants' edge.
    starts : int
        Generated ones.
    compare : bool
        Whether as many random starts are run beside them.
    varied : int
        Further starts from the noise of the best ends.
    conditions : int
        Cells of the data set whose tensors and volumes are asked for.
    seed : int
    effort : float
        Factor on the number of evaluations.
    """

    goal: Goal
    n: int = 16
    starts: int = 20
    compare: bool = False
    varied: int = 0
    conditions: int = 10
    seed: int = 0
    effort: float = 1.0

    def __post_init__(self) -> None:
        if self.goal.name == "match":
            raise InputError("is bulk, shear, young or poisson", key="objective", value="match")
        for key, least in (("starts", 1), ("varied", 0), ("conditions", 1)):
            if getattr(self, key) < least:
                raise InputError(f"at least {least}", key=key, value=getattr(self, key))

    def settings(self, field: Floats | str, seed: int = 0) -> Settings:
        """Of one optimisation from a field (n, n, n) or a named start."""
        return Settings(self.goal, n=self.n, start=field, seed=seed, effort=self.effort)


@dataclass(frozen=True)
class Run:
    """One start and where it led.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS`.
    start_C, start_volume : array (3,), float
        Of the start made solid and void at the goal's volume; NaN where it is in pieces.
    octant : bool array, shape (n, n, n), or None
        The end; None where it was not connected.
    C, volume : array (3,), float
        Of the end, NaN without one.
    met : bool
        Whether the end fulfils the goal's constraints.
    solves : int
    seconds : float
    """

    kind: str
    start_C: Floats
    start_volume: float
    octant: Bools | None
    C: Floats
    volume: float
    met: bool
    solves: int
    seconds: float


@dataclass(frozen=True)
class _Job:
    path: Path
    kind: str
    settings: Settings

    def make(self) -> None:
        """Optimise from one start and write its file."""
        began, settings = time.perf_counter(), self.settings
        state = begin(settings)
        start = binary_cell(state.x, state.n, settings.goal.volume, settings.nu)
        nothing = np.full(3, np.nan)
        known: dict[str, Any] = {
            "start_C": nothing if start is None else start.C,
            "start_volume": np.nan if start is None else start.volume,
        }
        try:
            result = optimise(settings, state=state)
        except NotConverged:
            # A start that leads to no connected cell is an outcome, not to be tried again on resuming.
            found: dict[str, Any] = {
                "packed": pack(np.zeros((0, settings.n, settings.n, settings.n), bool)),
                "C": nothing,
            }
            found |= {"met": False, "solves": sum(s.evaluations for s in settings.stages())}
        else:
            found = {"packed": pack(result.octant[None]), "C": result.C, "met": result.met}
            found["solves"] = result.solves
        seconds = time.perf_counter() - began
        arrays = known | found | {"n": settings.n, "seconds": seconds}
        write_arrays(self.path, {name: np.asarray(value) for name, value in arrays.items()}, pack=False)


def conditions(goal: Goal, cells: CellSet, count: int) -> np.ndarray:
    """Rows of the ``count`` cells nearest to a goal's extreme, at about its volume; the nearest first.

    Raises
    ------
    InputError
        If the data set has no cell of about the goal's volume.
    """
    rows = np.flatnonzero(np.abs(cells.volume - goal.volume) < _NEAR)
    if goal.isotropic:
        ratio = tensor.zener(cells.C[rows])
        isotropic = rows[(ratio > ZENER[0]) & (ratio < ZENER[1])]
        rows = isotropic if len(isotropic) >= count else rows
    if goal.name == "poisson":  # softer ones do not lead to a cell as stiff as asked for
        rows = rows[tensor.young(cells.C[rows]) > _SOFTEST * goal.stiffness]
    if not len(rows):
        raise InputError("the data set has no cell of about this volume", key="volume", value=goal.volume)
    loss = [goal.loss(C) for C in cells.C[rows]]
    return np.asarray(rows[np.argsort(loss, kind="stable")[:count]])


def explore(
    plan: Plan,
    out: Path,
    *,
    generator: Generator | None = None,
    workers: int | None = 1,
    progress: Progress = unheard,
) -> list[Run]:
    """All runs of a plan, those that ``out`` holds already read from there.

    Parameters
    ----------
    plan : Plan
    out : Path
        Folder: settings, a file a run, and after them ``cells.zarr.zip`` (the connected ends, the best first)
        and ``extreme.json`` (:func:`summary`).
    generator : Generator, optional
        The packaged one by default.
    workers : int, optional
        Processes (None: all cores); under ``mpiexec`` the ranks do the work.
    progress : Progress
        Told how much of each stage is done.

    Raises
    ------
    InputError
        If the folder holds another plan's runs, or the generator or the data set another base material.
    """
    generator = Generator.load() if generator is None else generator
    require_poisson("generated cells", generator.model.poisson, plan.goal.nu)
    load_dataset().require_poisson(plan.goal.nu)
    claim(out, _description(plan), "micro extreme")
    (out / "runs").mkdir(exist_ok=True)

    def of(kind: str, settings: Iterable[Settings]) -> list[_Job]:
        return [_Job(out / "runs" / f"{kind}{i:04d}.npz", kind, each) for i, each in enumerate(settings)]

    jobs = of("generated", map(plan.settings, generated(plan, generator)))
    if plan.compare:
        jobs += of("random", [plan.settings("waves", plan.seed + i) for i in range(plan.starts)])
    with Workers(workers, progress) as team:
        runs = _done(jobs, team)
        if plan.varied:
            fields = varied(plan, generator, [r for r in runs if r.kind == "generated"])
            runs += _done(of("varied", map(plan.settings, fields)), team)
    found = ends(plan, runs)
    if len(found):
        found.save(out / "cells.zarr.zip")
    write_json(out / "extreme.json", summary(plan, runs))
    return runs


def generated(plan: Plan, generator: Generator) -> Floats:
    """Level sets of generated cells near the extreme, (starts, n, n, n)."""
    cells = load_dataset()
    rows = conditions(plan.goal, cells, min(plan.conditions, plan.starts))
    each = -(-plan.starts // len(rows))
    volume = np.minimum(cells.volume[rows], 0.999)
    # They are but starts: variety counts.
    samples = generator.sample(
        cells.C[rows], n=each, volume=volume, seed=plan.seed, caution=0.0, resolution=16
    )
    # The conditions take turns, so that fewer starts still have them all.
    order = np.argsort(np.arange(len(samples)) % each, kind="stable")[: plan.starts]
    return np.asarray(generator.model.space.levels(samples.z[order], plan.n), dtype=np.float64)


def varied(plan: Plan, generator: Generator, runs: Sequence[Run]) -> Floats:
    """Level sets drawn from the turned noise of the best ends, (varied, n, n, n)."""
    best = ends(plan, runs)
    best = best.subset(np.arange(min(_BEST, len(best))))
    if not len(best):
        raise NotConverged("no start led to a connected cell that could be varied; try more starts")
    model = generator.model
    of = np.arange(plan.varied) % len(best)
    z = model.space.encode(signed_distance(at_resolution(best.octants(), model.space.n)))
    asked = Conditions.of(best.C, None)
    noise = process.invert(model.denoiser, torch.from_numpy(z), asked, steps=_STEPS).numpy()[of]
    streams = [np.random.default_rng([plan.seed, i, 7]) for i in range(plan.varied)]
    fresh = np.stack([rng.standard_normal(noise.shape[1], dtype=np.float32) for rng in streams])
    turned = torch.from_numpy(np.cos(_TURN) * noise + np.sin(_TURN) * fresh).float()
    drawn = process.sample(model.denoiser, turned, Conditions.of(best.C[of], None), steps=_STEPS)
    return np.asarray(model.space.levels(drawn.numpy(), plan.n), dtype=np.float64)


def ends(plan: Plan, runs: Sequence[Run]) -> CellSet:
    """The connected ends, those that meet the goal first, by their loss; kind and ``met`` as parameters."""
    connected = [r for r in runs if r.octant is not None]
    connected.sort(key=lambda r: (not r.met, plan.goal.loss(r.C)))
    n = plan.n
    octants = np.array([r.octant for r in connected], dtype=bool).reshape(-1, n, n, n)
    C = [r.C for r in connected]
    params = np.array([[KINDS.index(r.kind), r.met] for r in connected], dtype=np.float64).reshape(-1, 2)
    name = f"extreme-{plan.goal.name}"
    return CellSet.from_octants(octants, C, family=name, params=params, poisson=plan.goal.nu)


def summary(plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """Of each kind of start: how many, the shares that end connected and meet the goal, median and best."""
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        some = [r for r in runs if r.kind == kind]
        if not some:
            continue
        met = sorted((r for r in some if r.met), key=lambda r: plan.goal.loss(r.C))
        values = np.array([plan.goal.value(r.C) for r in met])
        best = met[0] if met else None
        kinds[kind] = {
            "starts": len(some),
            "connected": float(np.mean([r.octant is not None for r in some])),
            "met": float(np.mean([r.met for r in some])),
            "median": float(np.median(values)) if met else None,
            "best": float(values[0]) if met else None,
            "best_C": best.C.tolist() if best else None,
            "best_volume": best.volume if best else None,
            "best_young": float(tensor.young(best.C)) if best else None,
            "best_zener": float(tensor.zener(best.C)) if best else None,
            "solves": int(sum(r.solves for r in some)),
            "seconds": float(sum(r.seconds for r in some)),
        }
    return {"plan": _description(plan), "bound": bound(plan.goal), "kinds": kinds}


def bound(goal: Goal) -> float | None:
    """The Hashin-Shtrikman bound of the objective at the goal's volume where there is one."""
    K, G = tensor.hashin_shtrikman(goal.volume, goal.nu)
    known = {"bulk": K}
    if goal.isotropic:
        known |= {"shear": G, "young": 9 * K * G / (3 * K + G)}
    return float(known[goal.name]) if goal.name in known else None


def _description(plan: Plan) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    if plan.goal.nu == tensor.POISSON:  # of which folders of older versions say nothing
        del plain["goal"]["nu"]
    return plain


def _done(jobs: list[_Job], team: Workers) -> list[Run]:
    """The runs of jobs, made where their files are not there yet."""
    team.finish("starts", jobs)
    return [_load(job.path, job.kind) for job in jobs]


def _load(path: Path, kind: str) -> Run:
    try:
        stored = read_arrays(path, _ARRAYS)
        octants = unpack(stored["packed"], int(stored["n"]))
        octant = octants[0] if len(octants) else None
        return Run(
            kind,
            stored["start_C"],
            float(stored["start_volume"]),
            octant,
            stored["C"],
            np.nan if octant is None else float(octant.mean()),
            bool(stored["met"]),
            int(stored["solves"]),
            float(stored["seconds"]),
        )
    except (InputError, ValueError) as error:
        raise InputError(f"a damaged run; delete it and run again: {error}", file=path) from error
