"""Quasi-Newton steps toward a wanted tensor: three equations, many unknowns.

All searches here are one method: the shortest step that the slope says will do (a damped least-norm
solution), cut at a trust radius, and Broyden's rank-one update (1965) of the slope with what it showed.
"""

from __future__ import annotations

import numpy as np

from micro.runtime.arrays import Floats

DAMPING = 1e-3
"""Share of the mean squared slope that is added: directions that hardly move C take no long steps."""


def least_norm(
    slope: Floats, missing: Floats, damping: float = DAMPING, free: Floats | None = None
) -> Floats:
    """Shortest steps that change a tensor by what is missing.

    Parameters
    ----------
    slope : array, shape (..., k, d)
        Change of the (scaled) tensor, or of k numbers, by each coordinate.
    missing : array, shape (..., k)
    damping : float
        Relative to the mean of the slope's squared singular values.
    free : array, shape (d, d), optional
        Symmetric: how readily each direction is taken. A projector confines steps to its range; otherwise
        the step is shortest after division by it.

    Returns
    -------
    array, shape (..., d)
        ``J^T (J J^T + damping tr(J J^T) / k)^-1 missing``, with ``J free`` in place of J and the result times
        ``free`` if that is given.
    """
    if free is not None:
        return least_norm(slope @ free, missing, damping) @ free
    across = np.swapaxes(slope, -1, -2)
    gram = slope @ across
    k = gram.shape[-1]
    shift = damping * np.trace(gram, axis1=-2, axis2=-1) / k + 1e-12
    weights = np.linalg.solve(gram + np.asarray(shift)[..., None, None] * np.eye(k), missing[..., None])
    return np.asarray((across @ weights)[..., 0])


def cut(step: Floats, longest: Floats | float) -> Floats:
    """Steps (..., d) no longer than ``longest`` (...)."""
    size = np.linalg.norm(step, axis=-1)
    return step * np.minimum(1.0, longest / np.maximum(size, 1e-12))[..., None]


def within(step: Floats, largest: float) -> Floats:
    """A step (d,) of which no coordinate is larger than ``largest``."""
    return np.asarray(step / max(1.0, float(np.abs(step).max()) / largest))


def broyden(slope: Floats, step: Floats, change: Floats, noise: float = 0.0) -> Floats:
    """The slope (3, d) that explains the change (3,) which a step (d,) showed, and is nearest to the old one.

    ``noise`` is a length below which steps show more noise than slope: little is learned from them.

    Parameters
    ----------
    slope : array, shape (3, d)
    step : array, shape (d,)
    change : array, shape (3,)
    noise : float
    """
    length = float(step @ step) + noise**2
    return slope + np.outer(change - slope @ step, step) / max(length, 1e-12)
