"""Guidance of the sampler by any differentiable function of the decoded shape.

Each estimate of the sampler is decoded: coordinates -> level set -> soft voxels, volume, tensor (the
surrogate's). A wish is a function of that :class:`Shape`; its gradient goes back through the decoder, and the
estimate is moved a little down it. The network makes a cell of the moved estimate at the noise that is left
(universal guidance, Bansal et al. 2023, in the space of clean estimates). Candidates that miss their wish
cost more in the choice among draws, and the steps toward a target tensor take directions in which the wish,
to first order, stays as it is.

Openness, the wish that a cell encloses no void in a lattice of its own kind, is no smooth function of the
shape, but what opens a closed cell is a set of voxels: the finest channels that drain its pockets
(:func:`micro.shape.channels.drain`), found anew at every estimate and held fixed in the gradient. How deep
solid still stands in them can be lowered; the network makes a cell around the channels, instead of losing
what they are cut out of afterwards.

Faces to be continued (:mod:`micro.generator.face_guidance`) are the wish whose function is linear in the
coordinates: its minimum is taken in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from micro.cell.chamber import chamber, fundamental_domain
from micro.diffusion.process import Pull
from micro.diffusion.surrogate import Surrogate
from micro.generator.face_guidance import FaceGuide
from micro.generator.steering import Beside
from micro.runtime.arrays import Floats, Ints, Singles
from micro.runtime.errors import InputError
from micro.shape.channels import closed_pockets, drain
from micro.shape.space import ShapeSpace, in_blocks

UPHILL, TO_A_GOAL = 0.5, 3.0
"""Longest step of a wish without and with a goal at each estimate, in 256 coordinates of a cell whose norm
is about 16: with 3, six wished-for holes of six were free, with 1 two (the tensor's error 0.2 % as the
surrogate sees it, steered). The norm grows with the root of their number, and so do these."""

_COORDINATES = 256
"""That number."""

VOLUME = 0.01
"""Volume fraction by which a cell may miss a volume asked for beside a tensor before steps toward the tensor
mind it: of 50 requests the volume is then off by 0.008 and the tensor by 0.99 %; minding nothing 0.014 and
0.89 %, minding all of it 0.002 and 1.17 %."""

WEIGHT = 0.1
"""What a unit of a wish's excess costs in the choice among draws, beside the tensor error (Eq. 4)."""


class Decoder:
    """From coordinates to what wishes are functions of, differentiable.

    Parameters
    ----------
    space : ShapeSpace
    surrogate : Surrogate
    """

    def __init__(self, space: ShapeSpace, surrogate: Surrogate):
        self.n, self.surrogate = space.n, surrogate
        self.mean = torch.from_numpy(space.mean).float()
        self.basis = torch.from_numpy(space.basis).float()
        self.weights = torch.from_numpy(chamber(space.n).weights / space.n**3).float()
        self.rank = torch.from_numpy(fundamental_domain(space.n)[1].copy())
        # A voxel fills while the surface passes it, from half a voxel on one side of its centre to the other.
        self.sharpness = 4.0 * 2 * space.n


class Shape:
    """b estimates of cells, decoded; every tensor carries its gradient to ``z``.

    Parameters
    ----------
    decoder : Decoder
    z : Tensor, shape (b, d)
    target : int Tensor, shape (b,)
    noise : float

    Attributes
    ----------
    z : Tensor, shape (b, d)
        Coordinates in the shape space.
    target : int Tensor, shape (b,)
        Row of the targets that each is made for.
    noise : float
        Standard deviation of the noise that is left in the sampler's state, 0 for a finished candidate: of
        the order of one, estimates are still blurred.
    """

    def __init__(self, decoder: Decoder, z: Tensor, target: Tensor, noise: float = 0.0):
        self._decoder, self.z, self.target, self.noise = decoder, z, target, noise

    @property
    def n(self) -> int:
        """Voxels along the octant's edge."""
        return self._decoder.n

    @cached_property
    def level(self) -> Tensor:
        """Level set on the chamber i <= j <= k, in cell edges, positive in the solid; (b, q)."""
        return self._decoder.mean.to(self.z) + self.z @ self._decoder.basis.to(self.z)

    @cached_property
    def levels(self) -> Tensor:
        """Level set on the whole octant, index 0 at the cell's outer face; (b, n, n, n)."""
        return self.level[:, self._decoder.rank.to(self.z.device)].unflatten(1, (self.n,) * 3)

    @cached_property
    def density(self) -> Tensor:
        """Soft voxels of the octant, 0 in the void and 1 in the solid; (b, n, n, n)."""
        return torch.sigmoid(self._decoder.sharpness * self.levels)

    @cached_property
    def volume(self) -> Tensor:
        """Volume fractions (b,)."""
        return torch.sigmoid(self._decoder.sharpness * self.level) @ self._decoder.weights.to(self.z)

    @cached_property
    def tensor(self) -> Tensor:
        """C11, C12, C44 in units of E_s, as the surrogate sees them; (b, 3)."""
        return self._decoder.surrogate(self.z)


Function = Callable[[Shape], Tensor]
"""Values (b,) of a :class:`Shape`, differentiable by torch."""


@dataclass(frozen=True)
class Wish:
    """A function of the decoded shape that is to become small.

    Attributes
    ----------
    function : callable
        Of a :class:`Shape`, to values (b,).
    goal : float, optional
        Value that is small enough: steps end where the gradient says it is reached. None: the smaller the
        better, each step is as long as it may be.
    step : float, optional
        Longest step at each estimate: :data:`UPHILL` or :data:`TO_A_GOAL` by default.
    weight : float
        What a unit of it costs in the choice among draws, beside the tensor error.
    """

    function: Function
    goal: float | None = None
    step: float | None = None
    weight: float = WEIGHT

    def excess(self, shape: Shape) -> Tensor:
        """What the values (b,) are above the goal; the values themselves if there is none.

        Raises
        ------
        InputError
            If the function does not give one finite value for each cell.
        """
        value = self.function(shape)
        if value.shape != (len(shape.z),) or not bool(torch.isfinite(value).all()):
            raise InputError(
                "gives one finite value for each cell", key="guides", value=(tuple(value.shape), len(shape.z))
            )
        return value if self.goal is None else (value - self.goal).clamp_min(0)

    def gradient(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Excess (b,) and its gradient (b, d) by the coordinates."""
        with torch.enable_grad():
            at = shape.z.detach().float().requires_grad_(True)
            excess = self.excess(Shape(shape._decoder, at, shape.target, shape.noise))
            if not excess.requires_grad:  # the function says that nothing is to be done
                return excess.detach(), torch.zeros_like(at)
            (slope,) = torch.autograd.grad(excess.sum(), at, allow_unused=True)
        return excess.detach(), torch.zeros_like(at) if slope is None else slope

    def moved(self, shape: Shape) -> Tensor:
        """Coordinates (b, d) after a step down the gradient."""
        excess, slope = self.gradient(shape)
        size = slope.norm(dim=1).clamp_min(1e-12)
        usual = (UPHILL if self.goal is None else TO_A_GOAL) * (slope.shape[1] / _COORDINATES) ** 0.5
        length = torch.full_like(size, usual if self.step is None else self.step)
        if self.goal is not None:
            length = torch.minimum(length, excess / size)
        return shape.z - (length / size)[:, None].to(shape.z) * slope.to(shape.z)


def raised(function: Function, to: float | None = None, **settings: Any) -> Wish:
    """The wish that a function becomes large, or at least ``to``."""
    return Wish(lambda shape: -function(shape), None if to is None else -to, **settings)


class Guidance:
    """All that guides the sampling of m candidates: faces to continue, and wishes.

    Parameters
    ----------
    decoder : Decoder
    wishes : sequence of Wish
    target : int array, shape (m,)
        Row of the targets that each candidate is for.
    face : FaceGuide, optional
        Of m candidates.
    """

    def __init__(
        self, decoder: Decoder, wishes: Sequence[Wish], target: NDArray[np.intp], face: FaceGuide | None
    ):
        self._decoder, self._wishes, self.face = decoder, tuple(wishes), face
        self._target = torch.from_numpy(np.asarray(target, dtype=np.int64))

    def repeated(self, draws: int) -> Guidance:
        """The same for ``draws`` candidates of every one, one after the other."""
        face = None if self.face is None else self.face.repeated(draws)
        return Guidance(self._decoder, self._wishes, np.repeat(self._target.numpy(), draws), face)

    def rows(self, index: NDArray[np.intp]) -> Guidance:
        """The same for some of the candidates."""
        face = None if self.face is None else self.face.rows(index)
        return Guidance(self._decoder, self._wishes, self._target.numpy()[index], face)

    @property
    def pull(self) -> Pull | None:
        """What maps an estimate of the sampler to the one to go on with; None if there is nothing to do."""
        return self._moved if self._wishes or self.face is not None else None

    def _moved(self, clean: Tensor, rows: Tensor, noise: float) -> Tensor:
        target = self._target[rows.cpu()].to(clean.device)
        for wish in self._wishes:
            clean = wish.moved(Shape(self._decoder, clean, target, noise))
        return clean if self.face is None else self.face(clean, rows)

    def cost(self, z: Singles) -> Floats:
        """What the wishes make candidates (m, d) cost, (m,)."""
        return self._evaluated(z, lambda shape: torch.stack([self._costs(shape)]))[:, 0]

    def _costs(self, shape: Shape) -> Tensor:
        with torch.no_grad():
            return torch.stack([w.weight * w.excess(shape) for w in self._wishes]).sum(dim=0)

    def beside(self, volume: Floats) -> Beside | None:
        """What steps toward a tensor mind besides: volumes (m,) asked for, NaN for none; the wishes' values.

        None if there is neither.
        """
        if not self._wishes and not np.isfinite(volume).any():
            return None

        def beside(z: Singles, rows: Ints) -> tuple[Floats, Floats, Floats]:
            some = self.rows(rows)
            found = some._evaluated(z, some._rows)
            value, slope = found[:, :, 0], found[:, :, 1:]
            missing = np.zeros_like(value)
            off = np.nan_to_num(volume[rows] - value[:, 0])
            missing[:, 0] = np.sign(off) * np.maximum(np.abs(off) - VOLUME, 0.0)
            slope[missing[:, 0] == 0, 0] = 0.0
            return slope, missing, np.abs(missing[:, 0])

        return beside

    def _rows(self, shape: Shape) -> Tensor:
        """Values and gradients of volume and wishes, (1 + w, b, 1 + d), all as long as the volume's."""
        with torch.enable_grad():
            at = shape.z.detach().float().requires_grad_(True)
            volume = Shape(self._decoder, at, shape.target).volume
            (slope,) = torch.autograd.grad(volume.sum(), at)
        rows = [torch.cat([volume.detach()[:, None], slope], dim=1)]
        for wish in self._wishes:
            excess, wished = wish.gradient(shape)
            unit = wished / wished.norm(dim=1, keepdim=True).clamp_min(1e-12)
            rows.append(torch.cat([excess[:, None], slope.norm(dim=1, keepdim=True) * unit], dim=1))
        return torch.stack(rows)

    def __bool__(self) -> bool:
        return bool(self._wishes)

    def _evaluated(self, z: Singles, function: Callable[[Shape], Tensor]) -> Floats:
        """A function of shapes to (w, b, ...), as (m, w, ...): each row rounded alike wherever it stands."""
        at = np.concatenate([z, self._target.numpy()[:, None].astype(np.float32)], axis=1)
        device = next(self._decoder.surrogate.parameters()).device

        def block(rows: Singles) -> Floats:
            z = torch.from_numpy(np.ascontiguousarray(rows[:, :-1])).to(device)
            target = torch.from_numpy(rows[:, -1].astype(np.int64)).to(device)
            found = function(Shape(self._decoder, z, target)).transpose(0, 1)
            return found.double().cpu().numpy()

        return in_blocks(block, at)


@dataclass(frozen=True, eq=False)
class Aim:
    """What m candidates are to become: tensors (m, 3) and volumes (m,), NaN for none, wishes, openness."""

    C: Floats
    volume: Floats
    guide: Guidance
    open: bool

    def repeated(self, times: int) -> Aim:
        """The same for ``times`` candidates of every one, one after the other."""
        C, volume = np.repeat(self.C, times, axis=0), np.repeat(self.volume, times)
        return Aim(C, volume, self.guide.repeated(times), self.open)


def checked_request(
    targets: ArrayLike | None,
    volume: ArrayLike | None,
    seed: int | ArrayLike,
    n: int,
    draws: int,
    resolution: int,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Tensors (q, 3) and volumes (q,), NaN where nothing is asked, and seeds (q,).

    Parameters
    ----------
    targets, volume, seed, n, draws, resolution
        As of :meth:`micro.generator.generator.Generator.sample`.

    Raises
    ------
    InputError
        If the arrays do not match or a number is out of range.
    """
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


def as_wish(guide: Wish | Function) -> Wish:
    """A wish as it is; of a plain function, that it become small."""
    return guide if isinstance(guide, Wish) else Wish(guide)


LATE = 1.0
"""Noise below which estimates are sharp enough to have pockets worth draining."""

_MARGIN = 0.5
"""Voxels by which the surface is to lie beyond a channel's voxels."""


def openness() -> Wish:
    """The wish, for ``Generator.sample(..., guides=[openness()])``; best beside ``open=True``.

    Its value is the mean depth, in voxels, of the solid in the channels that are missing, 0 for an open cell.
    """
    return Wish(_missing_channels, goal=0.0)


def _missing_channels(shape: Shape) -> Tensor:
    """Mean depth (b,) of what stands in the way, in voxels."""
    if shape.noise > LATE:
        return torch.zeros(len(shape.z), device=shape.z.device)
    depth = 2 * shape.n * shape.level
    solids = (shape.level > 0).cpu().numpy()
    return torch.stack([_depth(row, solid, shape.n) for row, solid in zip(depth, solids, strict=True)])


def _depth(depth: Tensor, solid: np.ndarray, n: int) -> Tensor:
    if len(closed_pockets(~solid, n)[1]) == 0:
        return 0.0 * depth.sum()
    plan = drain(solid, np.ones(len(solid)), n)
    if plan is None:
        return 0.0 * depth.sum()
    off = torch.zeros_like(depth)
    for voxels, sign in ((plan.channels, 1.0), (plan.filled, -1.0)):
        at = torch.from_numpy(voxels).to(depth.device)
        off = off + at * torch.relu(sign * depth + _MARGIN)
    return off.sum() / max(1, int(plan.channels.sum() + plan.filled.sum()))
