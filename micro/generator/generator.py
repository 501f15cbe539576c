"""From tensors to cells: draw, screen, steer, deliver, and refine.

A cell is drawn by the diffusion model in a shape space (:mod:`micro.diffusion`). Drawing is so cheap that a
few candidates are drawn for each cell asked for; the surrogate and a check of connectivity choose among them,
and the surrogate's slope moves the chosen ones onto their target. None of this homogenises anything. The cell
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
from micro.diffusion.uncertainty import predict_with_error
from micro.diffusion.weights import Model
from micro.generator.face_guidance import FaceGuide, face_layer
from micro.generator.guidance import Aim, Decoder, Function, Guidance, Wish, as_wish, checked_request
from micro.generator.likeness import YIELDING, Likeness
from micro.generator.refinement import MOVES, RELATIVE, Refinement, refine
from micro.generator.samples import CLEAN, Delivery, Samples, Solids, generated, joined
from micro.generator.steering import NEAR, Predictor, steer
from micro.runtime.arrays import Floats, Ints, Singles
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

GUIDED_STEPS, SCREENED_STEPS = 18, 8
"""Steps of the sampler: where each of them is guided, or what it draws is delivered, and where the best of
several draws is steered (cells for 200 random targets are 0.73 % off with 18, 0.77 to 0.78 % with 12, 9 and
7; with 18 half of the time goes there)."""

FINALISTS = 2
"""Candidates of a cell that are steered, the best of which is delivered."""

CAUTION = 5.0
"""Weight of the error that the surrogate is expected to make in the choice among draws, beside the one that
it sees, which is steered away then."""

_FACE = 0.1
"""What a face unlike the one to be continued adds to a candidate's error, times 1 - overlap (Eq. 5)."""

_ROWS = 256
"""Candidates handled at once."""

_CORRECTED = 4
"""Steps at most by which cells are steered before they are refined, if the surrogate is corrected."""


def sampler_steps(draws: int, steering: int, guided: bool) -> int:
    """Steps of the sampler that a cell gets unless told otherwise.

    Parameters
    ----------
    draws, steering : int
        As of :meth:`Generator.sample`.
    guided : bool
        Whether faces or wishes guide each step.
    """
    return SCREENED_STEPS if draws > 1 and steering and not guided else GUIDED_STEPS


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
        weights = [tensor.cpu().numpy() for tensor in model.state().values()]
        numbers = [space.mean, space.basis, *weights]
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
        steps: int | None = None,
        seed: int | ArrayLike = 0,
        draws: int = 16,
        caution: float = CAUTION,
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
        steps : int, optional
            Steps of the sampler; :func:`sampler_steps` of them unless given.
        seed : int or int array, shape (q,)
            Cell j of a target depends on its target, its seed and j alone, whatever else is sampled with it.
        draws : int
            Candidates drawn for each cell; 1 is the bare model.
        caution : float
            Weight of the error that the surrogate is expected to make (:mod:`micro.diffusion.uncertainty`) in
            the choice among draws, beside the one that it sees. The best two are steered then, and the better
            one is delivered, both errors counting alike. 0 takes the surrogate at its word: that leaves more
            variety, where cells are refined by the homogeniser afterwards. Weights that know of no expected
            error do so too.
        steering : int
            Steps by which the surrogate's slope moves those chosen onto their target; 0 for none.
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
        wanted, volumes, seeds = checked_request(targets, volume, seed, n, draws, resolution)
        if not 0 <= caution < np.inf:
            raise InputError("is not negative", key="caution", value=caution)
        q = len(seeds)
        face = _guide(self.model.space, faces, q)
        wishes = [as_wish(guide) for guide in guides]
        decoder = Decoder(self.model.space, self.model.surrogate)
        if steps is None:
            steps = sampler_steps(draws, steering, bool(wishes) or face is not None)
        group = max(1, _ROWS // draws)
        numbers = np.arange(q * n)
        parts = []
        for start in range(0, len(numbers), group):
            of = numbers[start : start + group]
            row, j = of // n, of % n
            near = Guidance(decoder, wishes, row, None if face is None else face.rows(row))
            aim = Aim(wanted[row], volumes[row], near, open)
            z = self._made(aim, seeds[row], j, draws, caution, steps, guidance, steering)
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
        steps: int = GUIDED_STEPS,
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
        steps : int
            Of the sampler.
        open : bool
            As of :meth:`sample`.

        Raises
        ------
        InputError
            If the arrays do not match.
        """
        wanted, volumes, _ = checked_request(targets, None, seed, 1, 1, self.model.space.n)
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
        wanted, _, _ = checked_request(targets, None, 0, 1, 1, resolution)
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
        aim = Aim(targets, np.full(len(z), np.nan), nothing, open)
        return self._steered(z, aim, rounds, free, predictor)

    def _made(
        self,
        aim: Aim,
        seeds: NDArray[np.int64],
        j: NDArray[np.intp],
        draws: int,
        caution: float,
        steps: int,
        guidance: float,
        steering: int,
    ) -> Singles:
        """Coordinates (m, d) of m cells: drawn, the most promising draws steered, the best of these."""
        cautious = steering > 0 and caution > 0 and self.model.uncertainty is not None
        delivery, kept = self._delivery, min(draws, FINALISTS) if cautious else 1
        z = self._drawn(aim, seeds, j, draws, steps, guidance)
        if draws > 1:
            found = delivery.redistanced(z)
            z = found.z[self._best(aim.repeated(draws), found, draws, kept, caution)]
        elif steering:
            z = delivery.redistanced(z).z
        if steering:
            guided = aim.guide.face is not None
            z = self._steered(
                z, aim.repeated(kept), steering, face_layer(self.model.space).free() if guided else None
            )
        if kept > 1:
            # One that is drained as it is delivered is judged as such; others are redistanced already.
            found = delivery.redistanced(z, True) if aim.open else delivery.solids(z, self.model.space.n)
            z = z[self._best(aim.repeated(kept), found, kept, 1, 1.0)]
        return z

    def _drawn(
        self,
        aim: Aim,
        seeds: NDArray[np.int64],
        j: NDArray[np.intp],
        draws: int,
        steps: int,
        guidance: float,
    ) -> Singles:
        """Candidates, ``draws`` for each of m cells one after the other, (m draws, d)."""
        streams = [np.random.default_rng([int(s), int(k)]) for s, k in zip(seeds, j, strict=True)]
        size = (draws, self.model.space.dimension)
        noise = np.concatenate([rng.standard_normal(size, dtype=np.float32) for rng in streams])
        each = aim.repeated(draws)
        free = np.ones(len(each.C)) if aim.open else None
        z = process.sample(
            self.model.denoiser,
            torch.from_numpy(noise).to(self.device),
            Conditions.of(each.C, each.volume, free).to(self.device),
            steps=steps,
            guidance=guidance,
            pull=each.guide.pull,
        )
        return z.cpu().numpy()

    def _best(self, aim: Aim, found: Solids, among: int, kept: int, caution: float) -> Ints:
        """Rows of the ``kept`` candidates that cost least of each ``among`` in a row, the best first.

        ``caution`` is the weight of the error that is expected beside the one that the surrogate sees.
        """
        clean, solid = found.clean, found.solid
        cost = (
            np.where(clean < 1, _LOOSE, 0.0) + np.where(clean < CLEAN, _BROKEN, 0.0) + 10.0 * ~found.touches
        )
        model, given = self.model, np.isfinite(aim.C).all(axis=1)
        C, expected = predict_with_error(model.surrogate, model.uncertainty, found.z[given])
        cost[given] += NEAR.error(C, aim.C[given]) + caution * expected
        cost += np.where(np.isfinite(aim.volume), np.abs(solid.mean(axis=(1, 2, 3)) - aim.volume), 0.0)
        if aim.open:
            cost += _CLOSED * ~np.array([is_open(octant) for octant in solid], dtype=bool)
        if aim.guide.face is not None:
            cost += _FACE * aim.guide.face.mismatch(solid)
        if aim.guide:
            cost += aim.guide.cost(found.z)
        order = np.argsort(cost.reshape(-1, among), axis=1, kind="stable")[:, :kept]
        first = among * np.arange(len(order))
        return np.asarray((first[:, None] + order).reshape(-1))

    def _steered(
        self, z: Singles, aim: Aim, rounds: int, free: Floats | None, predictor: Predictor | None = None
    ) -> Singles:
        """Cells (m, d) moved onto their tensors, where any is asked for, and onto the volume beside it.

        Steps take each direction as readily as ``free`` (d, d) says. The predictor is the surrogate unless
        given.
        """
        C, open = aim.C, aim.open
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

        beside = aim.guide.rows(given).beside(aim.volume[given])
        by = self.model.surrogate if predictor is None else predictor
        out[given], _ = steer(by, out[given], C[given], redistance, rounds, free, beside)
        return out

    def samples_of(self, z: Singles, resolution: int) -> Samples:
        """The cells of given coordinates (m, d), as :meth:`sample` delivers them; each is its own target."""
        return self._delivery.samples(z.astype(np.float32), np.arange(len(z)), resolution)


@lru_cache(maxsize=2)
def _loaded(name: str, device: str) -> Generator:
    return Generator.load(name, device)


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
