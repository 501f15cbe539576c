"""From one cell to another in steps that fit: noise along an arc, targets along a path, likeness, refinement.

Both cells' noises are found by DDIM backwards; between them the noise is turned along an arc while the target
tensor goes along in equal ratios of its moduli (Yang et al. 2024, Fig. 5, move the noise alone). Every
estimate of the sampler is guided by the likeness of neighbours (:mod:`micro.generator.likeness`): a smoothing
of the coordinates along the sequence between its given ends, stronger in the directions that move the outer
face. The network makes cells of it; then each is moved onto its target by the homogeniser's own slopes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from micro.cell import octant as cell, tensor
from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber
from micro.cell.octant import at_resolution, connectivity, face, similarity
from micro.diffusion import process
from micro.diffusion.conditions import Conditions
from micro.generator.generator import Generator
from micro.generator.guidance import Decoder, Guidance, raised
from micro.generator.likeness import Likeness, Strength
from micro.generator.scalars import OVER_BOUND, Scalar
from micro.inverse import Goal, match_target
from micro.inverse.binary import binary_cell
from micro.inverse.matching import Match
from micro.inverse.polish import polished
from micro.runtime.arrays import Bools, Floats, Singles
from micro.runtime.errors import InputError, NotConverged
from micro.shape.derivative import level_field
from micro.shape.distance import signed_distance
from micro.shape.space import ShapeSpace

CHAIN = Strength(8.0, 50.0)
"""How much neighbours on the way are to be alike (:mod:`micro.generator.likeness`)."""

_STEPS = 24
"""Of the sampler, forwards and backwards."""

_CLOSER = (0.3, 0.1)
"""Shares of the tolerance that cells are moved to where a modulus turns back."""

_STUCK = 5e-3
"""Tensor error above which a cell is begun anew from its neighbours."""

_SAME_MODULUS = 1e-3
"""Change of a modulus, relative to the solid's, below which it counts as standing still."""


@dataclass(frozen=True)
class Sequence:
    """A sequence of cells and what it is worth.

    Attributes
    ----------
    cells : CellSet
        All steps, the given ends included.
    targets : array, shape (m, 3)
        Tensors asked for; NaN where none was.
    homogenisations : int
    shifted : bool
        Whether the last cell stands moved by half a period, as which it is more like the first.
    """

    cells: CellSet
    targets: Floats
    homogenisations: int
    shifted: bool = False

    @property
    def errors(self) -> Floats:
        """Tensor errors (Eq. 4) to the path, (m,)."""
        return np.asarray(tensor.tensor_error(self.cells.C, self.targets))

    @property
    def likeness(self) -> Floats:
        """Similarity (Eq. 5) of neighbours, (m - 1,)."""
        octants = self.cells.octants()
        return np.asarray(similarity(octants[1:], octants[:-1]))

    @property
    def nested(self) -> Floats:
        """The similarity that their volumes alone allow: of a cell within its neighbour, (m - 1,)."""
        v = self.cells.volume
        return np.asarray(np.sqrt(np.minimum(v[1:], v[:-1]) / np.maximum(v[1:], v[:-1])))

    @property
    def faces(self) -> Floats:
        """Overlap (Eq. 5, in the plane) of neighbours' outer faces, (m - 1,)."""
        return overlap(self.cells.octants())

    @property
    def faces_by_area(self) -> Floats:
        """The overlap that the areas of their faces alone allow, (m - 1,)."""
        area = face(self.cells.octants()).mean(axis=(1, 2))
        return np.asarray(np.sqrt(np.minimum(area[1:], area[:-1]) / np.maximum(area[1:], area[:-1])))

    @property
    def _bound(self) -> Floats:
        return np.asarray(tensor.hashin_shtrikman(self.cells.volume, self.cells.poisson)[0])

    @property
    def monotone(self) -> bool:
        """Whether no modulus turns back on its way by more than a thousandth of the solid's."""
        return not turning(self.cells.C).any()

    def report(self) -> dict[str, Any]:
        """Figures as JSON values."""
        asked = bool(np.isfinite(self.targets).all())
        inner = self.errors[1:-1]
        return {
            "steps": len(self.cells),
            "error_mean": float(inner.mean()) if asked and len(inner) else None,
            "error_worst": float(inner.max()) if asked and len(inner) else None,
            "similarity_mean": float(self.likeness.mean()),
            "similarity_least": float(self.likeness.min()),
            "similarity_by_volume_mean": float(self.nested.mean()),
            "faces_mean": float(self.faces.mean()),
            "faces_least": float(self.faces.min()),
            "faces_by_area_mean": float(self.faces_by_area.mean()),
            "monotone": self.monotone,
            "connected": all(connectivity(o).connected for o in self.cells.octants()),
            "homogenisations": self.homogenisations,
            "shifted": self.shifted,
            "bulk_over_bound": (tensor.bulk(self.cells.C) / self._bound).tolist(),
            "bulk_over_bound_least": float((tensor.bulk(self.cells.C) / self._bound).min()),
            "C": self.cells.C.tolist(),
            "volume": self.cells.volume.tolist(),
        }


def turning(C: Floats) -> Bools:
    """On which of the steps of a path (m, 3) a modulus turns back, by more than is nothing; (m - 1,)."""
    steps = np.diff(tensor.scaled_moduli(C), axis=0)
    return np.asarray((steps * np.sign(steps.sum(axis=0)) < -_SAME_MODULUS).any(axis=1))


def overlap(octants: Bools) -> Floats:
    """Overlap (Eq. 5, in the plane) of the outer faces of neighbours among octants (m, n, n, n); (m - 1,)."""
    faces = face(octants)
    both = (faces[1:] & faces[:-1]).sum(axis=(1, 2))
    size = np.sqrt(faces[1:].sum(axis=(1, 2)) * faces[:-1].sum(axis=(1, 2)))
    return np.asarray(both / np.maximum(size, 1))


def path_of_tensors(first: Floats, last: Floats, steps: int) -> Floats:
    """Tensors (steps, 3) from one to another, each modulus (K, mu', G) in equal ratios."""
    share = np.linspace(0, 1, steps)[:, None]
    low, high = np.log(tensor.to_moduli(np.stack([first, last])))
    return tensor.from_moduli(np.exp((1 - share) * low + share * high))


def interpolate(
    generator: Generator,
    ends: CellSet,
    steps: int = 9,
    *,
    along: str = "tensor",
    maximise: str | None = None,
    tolerance: float = 2e-3,
    trials: int = 8,
) -> Sequence:
    """Cells on the way from one to another.

    Parameters
    ----------
    generator : Generator
    ends : CellSet
        The two cells, homogenised: the sequence's ends. The last may come moved by half a period on every
        axis (the same material), if so it is more like the first.
    steps : int
        Cells, the ends included.
    along : str
        ``tensor``: noise and target go along, and each cell is moved onto its target. ``noise``: the noise
        alone, unconditional and unrefined; what the cells' tensors are, shows.
    maximise : str, optional
        ``bulk``: instead of a path of tensors one of volumes, in equal ratios; the sampler is guided by the
        regressor of the modulus over its bound (:mod:`micro.generator.guidance`), and each cell's surface is
        then moved to the optimum at its volume (:mod:`micro.inverse.polish`).
    tolerance : float
        Tensor error (Eq. 4) at which a cell is left alone.
    trials : int
        Homogenisations of a cell by the shape space's slopes, and as many again voxel by voxel if it is not
        there yet.

    Raises
    ------
    InputError
        If there are not two cells, or too few steps, or the cells' base material is not the
        generator's.
    """
    if len(ends) != 2:
        raise InputError("two cells are needed", key="ends", value=len(ends))
    if steps < 3:
        raise InputError("is at least 3", key="steps", value=steps)
    if maximise is not None and maximise not in OVER_BOUND:
        raise InputError(f"is {' or '.join(OVER_BOUND)}", key="maximise", value=maximise)
    if along not in ("tensor", "noise"):
        raise InputError("is tensor or noise", key="along", value=along)
    ends.require_poisson(generator.model.poisson)
    ends, shifted = in_phase(ends)
    if maximise is not None:
        return replace(_stiffest(generator, ends, steps, maximise, trials), shifted=shifted)
    targets = path_of_tensors(ends.C[0], ends.C[1], steps)
    asked = targets if along == "tensor" else np.full_like(targets, np.nan)
    z = drawn(generator, ends, Conditions.of(asked, None), steps)
    samples = generator.samples_of(z, ends.n)
    if along == "noise":
        octants, count = samples.octants(), 0
        octants, C, count = _moved(octants, samples.connected, ends, targets, np.inf, 1)
    else:
        done = generator.refined(samples, targets[1:-1], tolerance=tolerance, trials=trials)
        octants, C, more = _moved(done.octants, done.known, ends, targets, tolerance, trials, done.C)
        count = int(done.trials.sum()) + more
        octants, C, more = straightened(octants, C, ends, targets, tolerance, trials)
        count += more
    first, last = ends.octants()
    return Sequence(
        CellSet.from_octants(
            np.concatenate([first[None], octants, last[None]]),
            np.concatenate([ends.C[:1], C, ends.C[1:]]),
            family="interpolated",
            poisson=ends.poisson,
        ),
        targets,
        count,
        shifted,
    )


def in_phase(ends: CellSet) -> tuple[CellSet, bool]:
    """Two cells, the last one moved by half a period if so it is more like the first, and whether it was."""
    first, last = ends.octants()
    moved = cell.in_phase(last, first)
    if moved is last:
        return ends, False
    names = [str(f) for f in ends.family]
    return CellSet.from_octants(np.stack([first, moved]), ends.C, family=names, poisson=ends.poisson), True


def _stiffest(generator: Generator, ends: CellSet, steps: int, name: str, trials: int) -> Sequence:
    """A sequence along volumes, each cell as stiff as its surface can be made."""
    model, nothing = generator.model, np.full((steps, 3), np.nan)
    scalar = Scalar(OVER_BOUND[name], model.poisson)
    volumes = np.geomspace(ends.volume[0], ends.volume[1], steps)

    wish = raised(lambda shape: scalar(shape.tensor, shape.volume))
    inner = np.zeros(steps - 2, dtype=np.intp)
    guidance = Guidance(Decoder(model.space, model.surrogate), [wish], inner, None)
    z = drawn(generator, ends, Conditions.of(None, volumes), steps, guidance.pull)
    n = ends.n
    fields = chamber(n).fold(model.space.levels(z, n))
    octants, C, count = [ends.octants()[0]], [ends.C[0]], 0
    for field, volume in zip(fields, volumes[1:-1], strict=True):
        goal = Goal(name, float(volume), nu=ends.poisson)
        # A drawn cell may have lost its thinnest walls: the one before it, grown, is the other candidate.
        both = [binary_cell(level, n, goal.volume, ends.poisson) for level in (field, _level(octants[-1]))]
        candidates = [cell for cell in both if cell is not None]
        if not candidates:
            raise NotConverged(f"no connected cell of volume {volume:.3f}; take ends of a finer resolution")
        best = min(candidates, key=lambda cell: goal.loss(cell.C))
        found, solves = polished(best, goal, trials)
        octants.append(found.octant)
        C.append(found.C)
        count += solves + len(candidates)
    cells = CellSet.from_octants(
        np.stack([*octants, ends.octants()[1]]),
        np.stack([*C, ends.C[1]]),
        family="interpolated",
        poisson=ends.poisson,
    )
    return Sequence(cells, nothing, count)


def _level(octant: Bools) -> Floats:
    """The level field of an octant on its fundamental domain."""
    return chamber(len(octant)).fold(level_field(octant))


def drawn(
    generator: Generator, ends: CellSet, asked: Conditions, steps: int, extra: process.Pull | None = None
) -> Any:
    """Coordinates (steps - 2, d) between two cells, guided towards likeness; ``extra`` is a further guide.

    Parameters
    ----------
    generator : Generator
    ends : CellSet
        Two cells.
    asked : Conditions
        Of all steps, the ends included.
    steps : int
    extra : callable, optional
    """
    model = generator.model
    octants = at_resolution(ends.octants(), model.space.n)
    z = torch.from_numpy(model.space.encode(signed_distance(octants)))
    outer = asked.rows(torch.tensor([0, steps - 1]))
    noise = process.invert(model.denoiser, z, outer, steps=_STEPS).double()
    angle = np.linspace(0, np.pi / 2, steps)[1:-1]
    way = torch.stack([np.cos(a) * noise[0] + np.sin(a) * noise[1] for a in angle]).float()
    likeness = along_a_chain(model.space, z.numpy(), steps - 2)
    inner, rows = asked.rows(torch.arange(1, steps - 1)), torch.arange(steps - 2)

    def pull(clean: Tensor, noise: float) -> Tensor:
        if extra is not None:
            clean = extra(clean, rows, noise)
        return torch.from_numpy(likeness(clean.numpy(), noise)).to(clean)

    drawn = process.sample_together(model.denoiser, way, inner, steps=_STEPS, pull=pull)
    return drawn.cpu().numpy()


def along_a_chain(space: ShapeSpace, ends: Singles, inner: int, strength: Strength = CHAIN) -> Likeness:
    """Likeness of cells on a chain between two given ones.

    Parameters
    ----------
    space : ShapeSpace
    ends : array, shape (2, d)
    inner : int
        Cells between them.
    strength : Strength
    """
    counts = sparse.diags_array([np.ones(inner - 1)] * 2, offsets=[-1, 1], shape=(inner, inner))
    beside = np.zeros((inner, 2))
    beside[0, 0] = beside[-1, 1] = 1.0
    return Likeness(space, counts, strength, given=ends, beside=beside)


def _moved(
    octants: Bools,
    known: Any,
    ends: CellSet,
    targets: Floats,
    tolerance: float,
    trials: int,
    C: Floats | None = None,
) -> tuple[Bools, Floats, int]:
    """Cells off their targets moved voxel by voxel; one in pieces begins as its nearest whole neighbour.

    So does, once more, one that got stuck: its neighbours' targets are near its own.
    """
    first, last = ends.octants()
    chain, count = [first, *octants, last], 0
    whole = np.array([0, *(1 + np.flatnonzero(known)), len(chain) - 1])
    found = np.full((len(octants), 3), np.nan) if C is None else C.copy()
    for i in range(1, len(chain) - 1):
        if not tensor.tensor_error(found[i - 1], targets[i]) <= tolerance:  # not known, or off
            near = whole[np.argmin(abs(whole - i))]
            match = _match(chain[near], targets[i], ends, tolerance, trials)
            chain[i], found[i - 1], count = match.octant, match.C, count + match.homogenisations
    error = np.array([0.0, *tensor.tensor_error(found, targets[1:-1]), 0.0])
    for i in np.flatnonzero(error > max(_STUCK, tolerance)).tolist():
        for near in sorted(np.flatnonzero(error <= tolerance).tolist(), key=lambda j: abs(j - i))[:2]:
            match = _match(chain[near], targets[i], ends, tolerance, trials)
            count += match.homogenisations
            if match.error < error[i]:
                chain[i], found[i - 1], error[i] = match.octant, match.C, match.error
    return np.stack(chain[1:-1]), found, count


def _match(start: Bools, target: Floats, ends: CellSet, tolerance: float, trials: int) -> Match:
    return match_target(start, target, tolerance=tolerance, iterations=trials, nu=ends.poisson, rtol=1e-4)


def straightened(
    octants: Bools, C: Floats, ends: CellSet, targets: Floats, tolerance: float, trials: int
) -> tuple[Bools, Floats, int]:
    """Cells beside a step on which a modulus turns back, moved closer to their targets.

    Ends that are much alike in a modulus leave steps smaller than the tolerance. Returns octants, tensors and
    the number of homogenisations.

    Parameters
    ----------
    octants : bool array, shape (m, n, n, n)
        Cells between the ends.
    C : array, shape (m, 3)
    ends : CellSet
    targets : array, shape (m + 2, 3)
        Those of the ends included.
    tolerance : float
        Tensor error (Eq. 4) that they were moved to.
    trials : int
        Homogenisations of a cell at most, each time.
    """
    octants, C, count = octants.copy(), C.copy(), 0
    for closer in _CLOSER:
        back = turning(np.concatenate([ends.C[:1], C, ends.C[1:]]))
        for i in np.flatnonzero(back[:-1] | back[1:]).tolist():
            match = _match(octants[i], targets[i + 1], ends, closer * tolerance, trials)
            octants[i], C[i], count = match.octant, match.C, count + match.homogenisations
    return octants, C, count
