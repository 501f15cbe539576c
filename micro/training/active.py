"""Active learning: the generator's own cells, homogenised.

One round: aim at tensors in the holes and beyond the rim of the coverage, generate, drop what is
disconnected or dusty, homogenise. The cells become a source of the data set (:mod:`micro.dataset.build`),
which thins what is dense; the next generator is trained on it.

Or aim where the data are, or all over the gamut: steering ends where the surrogate is right by its own
account, and there it errs more than on the data's cells. The generator's own cells for such tensors show it
that; they are a set for training alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from micro.cell import tensor
from micro.cell.cellset import CellSet, require_poisson
from micro.cell.chamber import pack
from micro.data.packaged import load_gamut
from micro.dataset.dataset import with_provenance
from micro.generator.generator import Generator
from micro.generator.samples import Samples
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.library.build import goals
from micro.library.labelling import COARSE_RTOL, SMALLEST_MODULUS, is_stiff, presentable
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.executor import executor
from micro.runtime.progress import Progress, unheard

FOLDERS = {"holes": "active", "known": "around", "gamut": "gamut"}
"""Where a round's targets may lie (where no cell is known, around known tensors, all over the gamut), and the
folder of a work directory that its cells are kept in.
"""

_CHUNK = 50
"""Targets of one job."""

_AROUND = 0.05
"""Relative standard deviation of targets about the tensors of known cells."""

_BANDS = 20
"""Into which the logarithm of their norm is divided."""

_NEAR = 0.01
"""Tensor error (Eq. 4) at which a cell of a round has arrived: holes are wider."""


def aims(C: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Target tensors (count, 3) around sparse regions of the known ones (m, 3), all positive definite."""
    found: list[Floats] = []
    while sum(map(len, found)) < count:
        moduli = goals(C, count, rng) * tensor.to_moduli(tensor.SOLID)
        found.append(tensor.from_moduli(moduli[(moduli > SMALLEST_MODULUS).all(axis=1)]))
    return np.concatenate(found)[:count]


def around(C: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Target tensors (count, 3) near known ones (m, 3), all positive definite, as many soft as stiff ones.

    Half are near any of the known ones. The others are spread evenly over the logarithm of their norm: of
    the data's cells one in fifty has less than a tenth of the typical stiffness, of a cloak's one in fifteen.
    """
    size = np.log(tensor.frobenius(C))
    band = np.floor(_BANDS * (size - size.min()) / max(float(np.ptp(size)), 1e-12)).astype(np.int64)
    _, band, members = np.unique(band, return_inverse=True, return_counts=True)
    even = 1.0 / members[band]
    share = 0.5 / len(C) + 0.5 * even / even.sum()
    found: list[Floats] = []
    while sum(map(len, found)) < count:
        near = C[rng.choice(len(C), size=count, p=share)] * (1 + _AROUND * rng.standard_normal((count, 3)))
        found.append(near[tensor.is_definite(near)])
    return np.concatenate(found)[:count]


def active_round(
    generator: Generator,
    known: CellSet,
    count: int,
    *,
    seed: int,
    draws: int = 4,
    trials: int = 1,
    aim: str = "holes",
    open: bool = False,
    progress: Progress = unheard,
) -> CellSet:
    """New cells with their tensors, at the resolution of the known ones.

    Parameters
    ----------
    generator : Generator
    known : CellSet
        The data: what is aimed at are their holes or their tensors; cells get their resolution.
    count : int
        Targets; a few less cells come out.
    seed : int
        Decides targets and cells.
    draws : int
        Candidates for each; fewer leave more variety.
    trials : int
        Homogenisations of a cell at most: 1 takes it as it is generated, more move it on toward its target
        (:mod:`micro.generator.refinement`), further out where targets lie beyond the rim.
    aim : "holes", "known" or "gamut"
        Where targets lie; those of "gamut" are random ones with phi >= 0 of the packaged gamut.
    open : bool
        Whether cells are to enclose no void in a lattice of their own kind.
    progress : Progress
        Told how many targets are done.

    Raises
    ------
    InputError
        If the aim is none of these, or the base materials differ.
    """
    if aim not in FOLDERS:
        raise InputError(f"is one of {', '.join(FOLDERS)}", key="aim", value=aim)
    known.require_poisson(generator.model.poisson)
    rng = np.random.default_rng([seed, count])
    if aim == "gamut":
        gamut = load_gamut()
        require_poisson("the gamut's cells", gamut.poisson, generator.model.poisson)
        targets = gamut.draw(count, rng)
    else:
        targets = {"holes": aims, "known": around}[aim](known.C, count, rng)
    parts = [(np.empty((0, *(known.n,) * 3), dtype=bool), np.empty((0, 3)))]
    jobs = [
        (generator, targets[start : start + _CHUNK], seed * 10**6 + start, draws, known.n, trials, open)
        for start in range(0, count, _CHUNK)
    ]
    with executor(1) as processes:
        for number, part in enumerate(processes.run(_clean_cells, jobs), start=1):
            parts.append(part)
            progress(min(number * _CHUNK, count), count)
    octants, C = (np.concatenate(column) for column in zip(*parts, strict=True))
    _, first = np.unique(pack(octants), axis=0, return_index=True)
    rows = np.sort(first)
    cells = CellSet.from_octants(octants[rows], C[rows], family="generated", poisson=known.poisson)
    made = {"seed": seed, "aim": aim, "targets": count, "trials": trials, "asked_open": open}
    if aim == "holes":
        return replace(cells, attrs=made)
    training = np.zeros(len(rows), dtype=np.int64)
    return with_provenance(cells, ["generated"] * len(rows), training, made)


def _clean_cells(job: tuple[Generator, Floats, int, int, int, int, bool]) -> tuple[Bools, Floats]:
    """Octants and tensors for some targets of a round; ranks share these jobs."""
    generator, targets, first, draws, n, trials, open = job
    seeds = first + np.arange(len(targets))
    # What the surrogate is not sure of is what there is to learn.
    samples = generator.sample(targets, 1, seed=seeds, draws=draws, caution=0.0, resolution=n, open=open)
    octants, C = _homogenised(samples, generator, targets, trials)
    clean = np.array([presentable(octant) for octant in octants], dtype=bool) & is_stiff(C)
    return octants[clean], C[clean]


def _homogenised(
    samples: Samples, generator: Generator, targets: Floats, trials: int
) -> tuple[Bools, Floats]:
    """Octants and tensors of the samples in one piece whose solves converge."""
    if trials > 1:
        moved = generator.refined(samples, targets[samples.target], tolerance=_NEAR, trials=trials)
        return moved.octants[moved.known], moved.C[moved.known]
    octants = samples.octants()[samples.connected]
    if not len(octants):
        return octants, np.empty((0, 3))
    result = homogenize_octants(octants, nu=samples.poisson, rtol=COARSE_RTOL)
    good = result.status == Status.OK
    return octants[good], result.C[good]
