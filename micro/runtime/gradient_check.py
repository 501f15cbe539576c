"""Whether a gradient is the gradient: central differences along random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from micro.runtime.arrays import Floats


@dataclass(frozen=True)
class GradientCheck:
    """Derivatives along some directions.

    Attributes
    ----------
    analytic : array, shape (directions, ...)
        By the gradient.
    differences : array, shape (directions, ...)
        By central differences.
    error : float
        Largest deviation of the two, relative to the largest difference quotient.
    """

    analytic: Floats
    differences: Floats
    error: float


def check_gradient(
    function: Callable[[Floats], ArrayLike],
    x: ArrayLike,
    gradient: ArrayLike,
    *,
    step: float = 1e-5,
    directions: int | Sequence[Floats] = 3,
    seed: int = 0,
    where: ArrayLike = True,
) -> GradientCheck:
    """Compare a gradient with central differences, second order in the step.

    Parameters
    ----------
    function : callable
        Of an array like ``x``; gives a number or an array (...).
    x : array_like
        Where.
    gradient : array_like, shape (..., *x.shape)
        What is claimed to be the derivative of the function there.
    step : float
        Length of the steps' largest component, in units of x: large against the function's own noise, small
        against its curvature.
    directions : int or sequence of arrays like x
        How many random directions are tried, or which ones.
    seed : int
        Of random directions.
    where : array_like of bool
        Components of x that may move; broadcast to it.

    Returns
    -------
    GradientCheck

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([1.0, 2.0])
    >>> bool(check_gradient(lambda x: np.sum(x**3), x, 3 * x**2).error < 1e-9)
    True
    >>> bool(check_gradient(lambda x: np.sum(x**3), x, 2 * x**2).error > 0.1)
    True
    """
    at, claimed = np.asarray(x, dtype=np.float64), np.asarray(gradient, dtype=np.float64)
    if isinstance(directions, int):
        rng = np.random.default_rng(seed)
        directions = [rng.standard_normal(at.shape) for _ in range(directions)]
    analytic, differences = [], []
    for direction in directions:
        move = direction * np.broadcast_to(np.asarray(where, dtype=bool), at.shape)
        move = move / np.abs(move).max()
        analytic.append(np.tensordot(claimed, move, axes=at.ndim))
        after, before = (np.asarray(function(at + sign * step * move)) for sign in (1, -1))
        differences.append((after - before) / (2 * step))
    a, d = np.array(analytic), np.array(differences)
    return GradientCheck(a, d, float(np.abs(a - d).max() / max(float(np.abs(d).max()), 1e-300)))
