"""Bringing generated cells onto their targets, by the surrogate's slopes or by the homogeniser's own.

A cell moves in its shape space by the least-norm step that the tensor's slope asks for. To *steer* is to
follow the surrogate: nothing is homogenised. To *refine* is to follow the derivatives that come with each
homogenisation (:mod:`micro.shape_slopes`). Each trial is delivered as it would be (binary, largest component,
connected) and replaces the cell only if it is nearer to its target; one that is not corrects the slope by
Broyden's update (1965) and shortens the next step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from micro import shape_slopes, tensor
from micro.diffusion.surrogate import Surrogate
from micro.homogenize import Status
from micro.sensitivity import sensitivities
from micro.shape_space import ShapeSpace, in_blocks

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Settle = Callable[[Singles], tuple[Singles, NDArray[np.bool_]]]
"""Coordinates (m, d) to those of the signed distance of their solid, and whether it is in one piece."""

Deliver = Callable[[Singles], tuple[NDArray[np.bool_], NDArray[np.bool_]]]
"""Coordinates (m, d) to octants (m, n, n, n) and whether each is connected (m,)."""

_RTOL = 3e-3
"""Residual tolerance of a trial; on the library's cells C is then right to 2e-5."""

_LONGEST, _SHORTEST = 3.0, 0.01
"""Longest step at first, in coordinates whose root mean square is one (so a cell has a norm of about 16), and
that at which a cell is given up."""

_STEERED = 2.0
"""Longest step that trusts the surrogate."""

_THICKER = 0.25
"""Voxels by which the surface of a cell in pieces moves outward in one trial."""

_TOGETHER = 64
"""Cells homogenised at once: what their solutions take in memory (7 MB each at n = 32)."""


def predict(surrogate: Surrogate, z: Singles) -> Floats:
    """The surrogate's tensors (m, 3)."""
    device = next(surrogate.parameters()).device

    def block(rows: Singles) -> Floats:
        with torch.no_grad():
            return surrogate(torch.from_numpy(rows).to(device)).double().cpu().numpy()

    return in_blocks(block, z)


def slopes(surrogate: Surrogate, z: Singles) -> Floats:
    """Derivatives (m, 3, d) of C11, C12, C44 on the scale of Eq. 4."""
    device = next(surrogate.parameters()).device

    def block(rows: Singles) -> Floats:
        at = torch.from_numpy(rows).to(device).requires_grad_(True)
        scaled = surrogate(at) / torch.from_numpy(tensor.PAPER_SPAN.copy()).to(at)
        grads = [torch.autograd.grad(scaled[:, i].sum(), at, retain_graph=i < 2)[0] for i in range(3)]
        return torch.stack(grads, dim=1).double().cpu().numpy()

    return in_blocks(block, z)


def least_norm(slope: Floats, missing: Floats, longest: Floats | float) -> Floats:
    """Shortest steps (m, d) that change the scaled tensor by ``missing`` (m, 3), cut at ``longest``."""
    gram = slope @ slope.transpose(0, 2, 1)
    # Damping keeps directions that hardly move C from taking long steps.
    damping = 1e-3 * np.trace(gram, axis1=1, axis2=2) / 3 + 1e-12
    weights = np.linalg.solve(gram + damping[:, None, None] * np.eye(3), missing[:, :, None])
    step = (slope.transpose(0, 2, 1) @ weights)[:, :, 0]
    size = np.linalg.norm(step, axis=1)
    return step * np.minimum(1.0, longest / np.maximum(size, 1e-12))[:, None]


def steer(
    surrogate: Surrogate,
    z: Singles,
    targets: Floats,
    settle: Settle,
    rounds: int = 4,
    free: Floats | None = None,
) -> tuple[Singles, Floats]:
    """Cells moved toward target tensors (m, 3) as the surrogate sees them: nothing is homogenised.

    After each step a cell settles: its level set becomes the signed distance of its own solid again. Off
    that manifold the surrogate, which has seen nothing but signed distances, can't be trusted (measured on
    one model: its error for raw samples is 4 %, for settled ones 1.3 %). Steps are confined to the range of
    the projector ``free`` (d, d). Returns the coordinates and the surrogate's tensors.
    """
    C = predict(surrogate, z)
    longest = np.full(len(z), _STEERED)
    for _ in range(rounds):
        error = np.asarray(tensor.tensor_error(C, targets))
        slope = slopes(surrogate, z) if free is None else slopes(surrogate, z) @ free
        step = least_norm(slope, (targets - C) / tensor.PAPER_SPAN, longest)
        tried, whole = settle((z + step).astype(np.float32))
        C_new = predict(surrogate, tried)
        better = whole & (np.asarray(tensor.tensor_error(C_new, targets)) < error)
        z, C = np.where(better[:, None], tried, z), np.where(better[:, None], C_new, C)
        longest = np.where(better, longest, 0.4 * np.minimum(longest, np.linalg.norm(step, axis=1)))
    return z, C


@dataclass(frozen=True, eq=False)
class Refinement:
    """Refined cells, and what they were.

    Attributes
    ----------
    z : float32 array, shape (m, d)
    octants, start_octants : bool arrays, shape (m, n, n, n)
    C, start_C : arrays, shape (m, 3)
        Their own tensors, NaN where a cell has none (not connected, or its solve did not converge).
    trials : int array, shape (m,)
        Homogenisations spent.
    """

    z: Singles
    octants: NDArray[np.bool_]
    C: Floats
    start_octants: NDArray[np.bool_]
    start_C: Floats
    trials: NDArray[np.int64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which cells have a tensor, (m,)."""
        return np.asarray(np.isfinite(self.C).all(axis=1))

    @property
    def start_known(self) -> NDArray[np.bool_]:
        """Which had one at the start, (m,)."""
        return np.asarray(np.isfinite(self.start_C).all(axis=1))


def refine(
    space: ShapeSpace,
    z: Singles,
    targets: Floats,
    deliver: Deliver,
    *,
    tolerance: float = 2e-3,
    trials: int = 6,
    free: Floats | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Refinement:
    """Refine cells toward target tensors.

    Parameters
    ----------
    space : ShapeSpace
    z : float32 array, shape (m, d)
    targets : array, shape (m, 3)
        Units of E_s.
    deliver : callable
        Makes octants of coordinates.
    tolerance : float
        Tensor error (Eq. 4) at which a cell is left alone.
    trials : int
        Homogenisations of a cell at most, the first one included.
    free : array, shape (d, d), optional
        Projector onto the directions that steps may take.
    progress : callable, optional
        Called with (trial, cells still above the tolerance).
    """
    z = z.astype(np.float32).copy()
    octants, connected = deliver(z)
    C, slope = _evaluated(space, z, octants, connected)
    start, start_C = octants.copy(), C.copy()
    used = np.ones(len(z), dtype=np.int64)
    longest = np.full(len(z), _LONGEST)
    for trial in range(1, trials):
        error: Floats = np.asarray(tensor.tensor_error(C, targets))
        # Not `error > tolerance`: NaN is a cell that is not connected yet.
        rows = np.flatnonzero(~np.less_equal(error, tolerance) & (longest > _SHORTEST))
        if progress is not None:
            progress(trial, len(rows))
        if len(rows) == 0:
            break
        known = np.asarray(np.isfinite(C[rows]).all(axis=1))
        missing = (targets[rows] - np.nan_to_num(C[rows])) / tensor.PAPER_SPAN
        open_to = np.nan_to_num(slope[rows]) if free is None else np.nan_to_num(slope[rows]) @ free
        step = least_norm(open_to, missing, longest[rows])
        # A cell in pieces has no tensor and no slope: it is thickened until it holds together.
        step[~known] = _THICKER / (2 * space.n) * space.shift()
        tried = (z[rows] + step).astype(np.float32)
        new, connected = deliver(tried)
        C_new, slope_new = _evaluated(space, tried, new, connected)
        used[rows] += 1
        for i, row in enumerate(rows):
            solved = bool(np.isfinite(C_new[i]).all())
            nearer = solved and float(tensor.tensor_error(C_new[i], targets[row])) < error[row]
            if nearer or not known[i]:
                z[row], octants[row], C[row], slope[row] = tried[i], new[i], C_new[i], slope_new[i]
            else:
                longest[row] = 0.4 * min(longest[row], float(np.linalg.norm(step[i])))
                if solved:
                    learned = (C_new[i] - C[row]) / tensor.PAPER_SPAN - slope[row] @ step[i]
                    slope[row] += np.outer(learned, step[i]) / max(float(step[i] @ step[i]), 1e-12)
    return Refinement(z, octants, C, start, start_C, used)


def _evaluated(
    space: ShapeSpace, z: Singles, octants: NDArray[np.bool_], connected: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Tensors (m, 3) and their slopes (m, 3, d), NaN where a cell is in pieces or its solve failed."""
    C = np.full((len(octants), 3), np.nan)
    slope = np.full((len(octants), 3, space.dimension), np.nan)
    for rows in np.array_split(np.flatnonzero(connected), -(-int(connected.sum()) // _TOGETHER) or 1):
        if len(rows):
            result = sensitivities(octants[rows], rtol=_RTOL)
            good = result.status == Status.OK
            C[rows[good]] = result.C[good]
            solved = rows[good]
            slope[solved] = shape_slopes.slopes(space, z[solved], octants[solved], result.gradient[good])
    return C, slope
