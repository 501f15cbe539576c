"""From tensors to cells: draw, screen, steer, deliver, and refine.

A cell is drawn by the diffusion model in a shape space (:mod:`micro.diffusion`). Drawing is so cheap that a
few candidates are drawn for each cell asked for; the surrogate and a check of connectivity choose among them,
and the surrogate's slope moves the chosen one onto its target. None of this homogenises anything. The cell
is the largest component of its level set at the wanted resolution; its tensor is always its own,
homogenised at that resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.resources import as_file, files
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from micro.cell.cellset import CellSet
from micro.diffusion import process
from micro.diffusion.conditions import Conditions
from micro.diffusion.residual import Corrected, Residual
from micro.diffusion.weights import Model
from micro.generator.face_guidance import FaceGuide, face_layer
from micro.generator.guidance import Decoder, Function, Guidance, Wish, as_wish
from micro.generator.likeness import YIELDING, Likeness
from micro.generator.refinement import MOVES, RELATIVE, Refinement, refine
from micro.generator.samples import CLEAN, Delivery, Samples, generated, joined
from micro.generator.steering import NEAR, Predictor, predict, steer
from micro.runtime.arrays import Floats, Singles
from micro.runtime.errors import InputError
from micro.runtime.jobs import fingerprint
from micro.runtime.progress import Progress, unheard
from micro.shape.channels import is_open
from micro.shape.space import ShapeSpace

DEFAULT = "default"
"""Name of the packaged weights."""

_LOOSE, _BROKEN = 0.02, 1.0
"""What a candidate's loose solid adds to its error in the choice: a little, and more below :data:`CLEAN`."""

_CLOSED = 0.5
"""What enclosed void adds where open cells are asked for: less than a cell in pieces costs."""

_FACE = 0.1
"""What a face unlike the one to be continued adds to a candidate's error, times 1 - overlap (Eq. 5)."""

_ROWS = 256
"""Candidates handled at once."""

_CORRECTED = 4
"""Steps at most by which cells are steered before they are refined, if the surrogate is corrected."""


class Generator:
    """The generator of cubic cells.

    Examples
    --------
    >>> from micro.generator.generator import Generator
    >>> cells = Generator.load().sample([[0.30, 0.13, 0.09]], n=2, seed=1, resolution=32)
    >>> cells.octants().shape
    (2, 32, 32, 32)
    """

    def __init__(self, model: Model, device: str | torch.device = "cpu"):
        self.model = model.to(device)
        self.device = torch.device(device)
        self._delivery = Delivery(self.model)
        self._loaded_from: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes load weights for themselves, once, instead of being sent them with every job."""
        if self._loaded_from is None:
            return Generator, (self.model, str(self.device))
        return _loaded, (self._loaded_from, str(self.device))

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights and where they compute: what a cache knows its cells by."""
        model, space = self.model, self.model.space
        weights = [*model.denoiser.state_dict().values(), *model.surrogate.state_dict().values()]
        numbers = [space.mean, space.basis, *(tensor.cpu().numpy() for tensor in weights)]
        return fingerprint([space.n, model.poisson, self.device.type, numbers])

    @staticmethod
    def load(name: str | PathLike[str] = DEFAULT, device: str | torch.device = "cpu") -> Generator:
        """The packaged generator, or one from a file of weights.

        Raises
        ------
        InputError
            If the file is missing, damaged or of another kind.
        """
        model = _packaged() if name == DEFAULT else Model.load(Path(name))
        generator = Generator(model, device)
        generator._loaded_from = DEFAULT if name == DEFAULT else str(Path(name).absolute())
        return generator

    def sample(
        self,
        targets: ArrayLike | None = None,
        n: int = 4,
        *,
        volume: ArrayLike | None = None,
        guidance: float = 1.0,
        steps: int = 18,
        seed: int | ArrayLike = 0,
        draws: int = 8,
        steering: int = 4,
        resolution: int = 32,
        faces: ArrayLike | None = None,
        open: bool = False,
        guides: Sequence[Wish | Function] = (),
        progress: Progress = unheard,
    ) -> Samples:
        """Cells for target tensors, volume fractions, both, or (both None) unconditionally.

        Parameters
        ----------
        targets : array_like, shape (q, 3), optional
            C11, C12, C44 in units of E_s; a row of NaN asks for no tensor.
        n : int
            Cells for each target.
        volume : array_like, shape (q,), optional
            Solid fractions; NaN asks for none.
        guidance : float
            Above 1 the conditions count more, at twice the time.
        steps : int
            Steps of the sampler.
        seed : int or int array, shape (q,)
            Cell j of a target depends on its target, its seed and j alone, whatever else is sampled with it.
        draws : int
            Candidates drawn for each cell; 1 is the bare model.
        steering : int
            Steps by which the surrogate's slope moves the chosen candidate onto its target; 0 for none.
        resolution : int
            Voxels along the octants' edge.
        faces : bool array, shape (q, r, r), optional
            Faces that the cells of each target are to continue (:mod:`micro.generator.face_guidance`).
        open : bool
            Whether to look for cells that enclose no void in a lattice of their own kind: the network is
            asked for them, if it has learned of openness; open ones are chosen among the draws; and where
            there are none the chosen cell is drained (:func:`micro.shape.channels.drained`).
        guides : sequence of Wish or callables
            What else the cells are to be: functions of the decoded shape that are to become small
            (:mod:`micro.generator.guidance`).
        progress : Progress
            Told how many cells are done.

        Raises
        ------
        InputError
            If the arrays do not match or a number is out of range.
        """
        wanted, volumes, seeds = _checked(targets, volume, seed, n, draws, resolution)
        q = len(seeds)
        face = _guide(self.model.space, faces, q)
        wishes = [as_wish(guide) for guide in guides]
        decoder = Decoder(self.model.space, self.model.surrogate)
        group = max(1, _ROWS // draws)
        numbers = np.arange(q * n)
        parts = []
        for start in range(0, len(numbers), group):
            of = numbers[start : start + group]
            row, j = of // n, of % n
            near = Guidance(decoder, wishes, row, None if face is None else face.rows(row))
            z = self._choose(wanted[row], volumes[row], seeds[row], j, draws, steps, guidance, near, open)
            if steering:
                # Those chosen among several are redistanced already.
                z = self._delivery.redistanced(z).z if draws == 1 else z
                free = None if face is None else face_layer(self.model.space).free()
                z = self._steered(z, wanted[row], volumes[row], steering, near, open, free)
            parts.append(self._delivery.samples(z, row, resolution, open))
            progress(int(of[-1]) + 1, len(numbers))
        return joined(parts, resolution)

    def draw_together(
        self,
        targets: ArrayLike,
        likeness: Likeness,
        *,
        seed: int = 0,
        number: int = 0,
        steps: int = 18,
        open: bool = False,
    ) -> Singles:
        """Coordinates (m, d) of one cell for each target, from one noise and drawn together as neighbours.

        :meth:`settle` makes cells of them.

        Parameters
        ----------
        targets : array_like, shape (m, 3)
            In units of E_s.
        likeness : Likeness
            Of m cells (:mod:`micro.generator.likeness`).
        seed, number : int
            Of the noise.
        steps, open
            As of :meth:`sample`.

        Raises
        ------
        InputError
            If the arrays do not match.
        """
        wanted, volumes, _ = _checked(targets, None, seed, 1, 1, self.model.space.n)
        m = len(wanted)
        if len(likeness) != m:
            raise InputError("targets and likeness do not match", key="likeness", value=(len(likeness), m))
        rng = np.random.default_rng([seed, number])
        noise = rng.standard_normal((1, self.model.space.dimension), dtype=np.float32)
        asked = Conditions.of(wanted, volumes, np.ones(m) if open else None)

        def pull(clean: torch.Tensor, noise: float) -> torch.Tensor:
            return torch.from_numpy(likeness(clean.cpu().numpy(), noise)).to(clean)

        z = process.sample_together(
            self.model.denoiser,
            torch.from_numpy(np.repeat(noise, m, axis=0)).to(self.device),
            asked.to(self.device),
            steps=steps,
            pull=pull,
        )
        return z.cpu().numpy()

    def settle(
        self,
        z: Singles,
        targets: ArrayLike,
        *,
        steering: int = 4,
        yielding: float = YIELDING,
        resolution: int = 32,
        open: bool = False,
    ) -> Samples:
        """Cells of coordinates (m, d) that were drawn together, each steered onto its target (m, 3).

        Steering moves the outer faces less readily than the rest; ``refined(..., yielding=...)`` does so too.

        Parameters
        ----------
        z : array, shape (m, d)
        targets : array_like, shape (m, 3)
            In units of E_s.
        steering, resolution, open
            As of :meth:`sample`.
        yielding : float
            How readily steering moves the outer faces, compared with all else.
        """
        wanted, _, _ = _checked(targets, None, 0, 1, 1, resolution)
        if steering:
            free = face_layer(self.model.space).free(yielding)
            z = self._onto(self._delivery.redistanced(z).z, wanted, steering, open, free)
        return self._delivery.samples(z, np.arange(len(z)), resolution, open)

    def refine(
        self,
        samples: Samples,
        targets: ArrayLike,
        *,
        tolerance: float = 2e-3,
        relative: float = RELATIVE,
        trials: int = 6,
        moves: int = MOVES,
        yielding: float = 1.0,
    ) -> CellSet:
        """Cells moved onto their targets (q, 3) by the homogeniser's slopes
        (:mod:`micro.generator.refinement`).

        Returns a CellSet of the samples that could be homogenised, in their order, with the row of the
        target, the number of the sample and the homogenisations spent as parameters.

        Parameters
        ----------
        samples : Samples
        targets : array_like, shape (q, 3)
            In units of E_s.
        tolerance, relative : float
            Tensor error (Eq. 4) and relative error at which, both, a cell is left alone.
        trials : int
            Homogenisations of a cell by slopes at most, the first one included.
        moves : int
            Homogenisations of a cell that is still off after these, moved voxel by voxel; none where the
            outer faces do not yield.
        yielding : float
            How readily the outer faces move, compared with all else; 0 where they continue given ones.
        """
        wanted = np.asarray(targets, dtype=np.float64).reshape(-1, 3)[samples.target]
        settings: dict[str, Any] = {"tolerance": tolerance, "relative": relative, "trials": trials}
        settings["moves"] = moves
        done = self.refined(samples, wanted, yielding=yielding, **settings)
        return generated(samples, done.octants, done.C, done.trials, done.known)

    def refined(
        self,
        samples: Samples,
        targets: Floats,
        *,
        tolerance: float,
        relative: float = RELATIVE,
        trials: int,
        moves: int = 0,
        yielding: float = 1.0,
        residual: Residual | None = None,
    ) -> Refinement:
        """As :meth:`refine` with a target (m, 3) for each sample, and all that is known of each.

        Parameters
        ----------
        samples : Samples
        targets : array, shape (m, 3)
        tolerance, relative, trials, moves, yielding
            As of :meth:`refine`; cells that were drawn open stay open.
        residual : Residual, optional
            What the surrogate misses near these cells: before anything is homogenised they are steered
            once more, by the corrected one.
        """
        z, free = samples.z, None if yielding == 1.0 else face_layer(self.model.space).free(yielding)
        if residual is not None:
            corrected = Corrected(self.model.surrogate, residual)
            z = self._onto(z, targets, _CORRECTED, samples.open, free, corrected)
        return refine(
            self.model.space,
            z,
            targets,
            lambda z: self._delivery.octants(z, samples.n, samples.open),
            n=samples.n,
            tolerance=tolerance,
            relative=relative,
            trials=trials,
            moves=moves if yielding > 0 else 0,
            open=samples.open,
            nu=self.model.poisson,
            free=free,
        )

    def _onto(
        self,
        z: Singles,
        targets: Floats,
        rounds: int,
        open: bool,
        free: Floats | None,
        predictor: Predictor | None = None,
    ) -> Singles:
        """Cells (m, d) steered onto their tensors (m, 3) and nothing else."""
        nothing = Guidance(Decoder(self.model.space, self.model.surrogate), (), np.arange(len(z)), None)
        volumes = np.full(len(z), np.nan)
        return self._steered(z, targets, volumes, rounds, nothing, open, free, predictor)

    def _choose(
        self,
        C: Floats,
        volume: Floats,
        seeds: NDArray[np.int64],
        j: NDArray[np.intp],
        draws: int,
        steps: int,
        guidance: float,
        guide: Guidance,
        open: bool,
    ) -> Singles:
        """The best of ``draws`` candidates for each of m cells, (m, d)."""
        streams = [np.random.default_rng([int(s), int(k)]) for s, k in zip(seeds, j, strict=True)]
        size = (draws, self.model.space.dimension)
        noise = np.concatenate([rng.standard_normal(size, dtype=np.float32) for rng in streams])
        free = np.ones(draws * len(C)) if open else None
        asked = Conditions.of(np.repeat(C, draws, axis=0), np.repeat(volume, draws), free)
        z = process.sample(
            self.model.denoiser,
            torch.from_numpy(noise).to(self.device),
            asked.to(self.device),
            steps=steps,
            guidance=guidance,
            pull=guide.repeated(draws).pull,
        )
        drawn = z.cpu().numpy()
        if draws == 1:
            return drawn
        found = self._delivery.redistanced(drawn)
        clean, kept = found.clean, found.solid
        cost = (
            np.where(clean < 1, _LOOSE, 0.0) + np.where(clean < CLEAN, _BROKEN, 0.0) + 10.0 * ~found.touches
        )
        aim = np.repeat(C, draws, axis=0)
        given = np.isfinite(aim).all(axis=1)
        cost[given] += NEAR.error(predict(self.model.surrogate, found.z[given]), aim[given])
        part = np.repeat(volume, draws)
        cost += np.where(np.isfinite(part), np.abs(kept.mean(axis=(1, 2, 3)) - part), 0.0)
        if open:
            cost += _CLOSED * ~np.array([is_open(octant) for octant in kept], dtype=bool)
        if guide.face is not None:
            cost += _FACE * guide.face.repeated(draws).mismatch(kept)
        if guide:
            cost += guide.repeated(draws).cost(found.z)
        best = cost.reshape(-1, draws).argmin(axis=1)
        return found.z[np.arange(len(best)) * draws + best]

    def _steered(
        self,
        z: Singles,
        C: Floats,
        volume: Floats,
        rounds: int,
        guide: Guidance,
        open: bool,
        free: Floats | None,
        predictor: Predictor | None = None,
    ) -> Singles:
        """Cells (m, d) moved onto their tensors, where any is asked for, and onto the volume beside it.

        Steps take each direction as readily as ``free`` (d, d) says. The predictor is the surrogate unless
        given.
        """
        given = np.flatnonzero(np.isfinite(C).all(axis=1))
        if len(given) == 0:
            return z
        out = z.copy()
        if open:
            # Channels change the tensor: what is closed is drained before it is looked at.
            n = self.model.space.n
            solid = self._delivery.solids(z[given], n).solid
            closed = given[~np.array([is_open(octant) for octant in solid], dtype=bool)]
            if len(closed):
                out[closed] = self._delivery.redistanced(z[closed], open).z

        def redistance(moved: Singles) -> tuple[Singles, NDArray[np.bool_]]:
            found = self._delivery.redistanced(moved, open)
            return found.z, (found.clean >= CLEAN) & found.touches

        beside = guide.rows(given).beside(volume[given])
        by = self.model.surrogate if predictor is None else predictor
        out[given], _ = steer(by, out[given], C[given], redistance, rounds, free, beside)
        return out

    def samples_of(self, z: Singles, resolution: int) -> Samples:
        """The cells of given coordinates (m, d), as :meth:`sample` delivers them; each is its own target."""
        return self._delivery.samples(z.astype(np.float32), np.arange(len(z)), resolution)


@lru_cache(maxsize=2)
def _loaded(name: str, device: str) -> Generator:
    return Generator.load(name, device)


def _checked(
    targets: ArrayLike | None,
    volume: ArrayLike | None,
    seed: int | ArrayLike,
    n: int,
    draws: int,
    resolution: int,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Tensors (q, 3) and volumes (q,), NaN where nothing is asked, and seeds (q,)."""
    for key, value, low, high in (
        ("n", n, 1, 10**6),
        ("draws", draws, 1, 1024),
        ("resolution", resolution, 8, 256),
    ):
        if not low <= value <= high:
            raise InputError(f"lies between {low} and {high}", key=key, value=value)
    wanted = None if targets is None else np.asarray(targets, dtype=np.float64)
    if wanted is not None and (wanted.ndim != 2 or wanted.shape[1] != 3):
        raise InputError("targets are tensors (q, 3)", key="targets", value=wanted.shape)
    volumes = None if volume is None else np.asarray(volume, dtype=np.float64).reshape(-1)
    if volumes is not None and ((volumes <= 0) | (volumes >= 1)).any():
        raise InputError("volume fractions lie between 0 and 1", key="volume", value=volumes.tolist()[:5])
    counts = [len(x) for x in (wanted, volumes) if x is not None]
    q = counts[0] if counts else max(1, np.asarray(seed).size)
    if any(c != q for c in counts):
        raise InputError("as many volumes as targets are needed", key="volume", value=counts)
    seeds = np.broadcast_to(np.asarray(seed, dtype=np.int64), (q,))
    nothing = np.full(q, np.nan)
    return (
        np.full((q, 3), np.nan) if wanted is None else wanted,
        nothing if volumes is None else volumes,
        seeds,
    )


def _guide(space: ShapeSpace, faces: ArrayLike | None, q: int) -> FaceGuide | None:
    if faces is None:
        return None
    wanted = np.asarray(faces)
    if len(wanted) != q:
        raise InputError("as many faces as targets are needed", key="faces", value=(len(wanted), q))
    return FaceGuide(space, wanted)


@lru_cache(maxsize=1)
def _packaged() -> Model:
    with as_file(files("micro") / "data" / "generator.safetensors") as path:
        return Model.load(path)
