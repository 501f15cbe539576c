"""The nearest point of {phi >= margin} for a smooth phi that is close to a signed distance."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from micro.gamut.spline import TricubicSpline
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError

_STARTS = 3
"""Feasible grid points from which the boundary is searched, for each point."""

_STEPS = 25

_INSIDE = 2e-7
"""How far inside the margin the search aims, so that rounding does not end outside."""


def nearest_feasible(phi: TricubicSpline, points: Floats, margin: float) -> Floats:
    """Nearest points with phi >= margin for infeasible points (q, 3).

    From several of the nearest feasible grid points a projected descent slides along phi = margin:
    a step toward the point within the tangent plane, then a Newton step along the gradient back to the
    surface. Whatever it finds is accepted only where phi >= margin holds, so the result is feasible always;
    it is the nearest up to the search's resolution.

    Raises
    ------
    InputError
        If no grid point reaches the margin.
    """
    nodes = _feasible_nodes(phi, margin)
    count = min(_STARTS, len(nodes))
    _, near = cKDTree(nodes).query(points, k=count)
    start = nodes[near.reshape(len(points), count)]
    best = start[:, 0].copy()
    best_distance = np.linalg.norm(best - points, axis=1)
    for s in range(count):
        found = _slide(phi, points, start[:, s], margin)
        distance = np.linalg.norm(found - points, axis=1)
        better = distance < best_distance
        best[better], best_distance[better] = found[better], distance[better]
    return best


@lru_cache(maxsize=4)
def _feasible_nodes(phi: TricubicSpline, margin: float) -> Floats:
    """Points of a grid of half the spline's spacing with phi >= margin, next to infeasible ones."""
    low, high = phi.box
    step = phi.spacing / 2
    axes = [np.arange(a, b + step / 2, step) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    # phi is close to a distance, so only the coarse grid's neighbourhood of the surface needs the fine one.
    coarse = phi.value(grid[::2, ::2, ::2])
    if coarse.max() < margin:
        raise InputError("no tensor of the gamut has so large a margin", key="margin", value=margin)
    shell = np.abs(coarse - margin) <= 2 * phi.spacing
    near = np.argwhere(shell) * 2
    offsets = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    index = (near[:, None, :] + offsets).reshape(-1, 3)
    index = index[(index < np.array(grid.shape[:3])).all(axis=1)]
    fine = grid[index[:, 0], index[:, 1], index[:, 2]]
    fine = fine[phi.value(fine) >= margin]
    if len(fine):
        return fine
    return grid[::2, ::2, ::2][coarse >= margin]


def _slide(phi: TricubicSpline, points: Floats, start: Floats, margin: float) -> Floats:
    """Slide feasible ``start`` (q, 3) along the surface toward ``points``; always feasible."""
    best = start.copy()
    best_distance = np.linalg.norm(best - points, axis=1)
    step = np.ones(len(points))
    value, slope = phi.evaluate(best)
    moving = np.arange(len(points))
    for _ in range(_STEPS):
        x, g, f = best[moving], slope[moving], value[moving]
        squared = np.maximum((g**2).sum(axis=1), 1e-3)
        toward = points[moving] - x
        # Down to the surface along the normal, and along it by the tangential part of what is missing.
        normal = ((margin + _INSIDE - f) / squared)[:, None] * g
        tangent = toward - ((toward * g).sum(axis=1) / squared)[:, None] * g
        move = step[moving, None] * tangent
        length = np.linalg.norm(move, axis=1)
        # No step longer than half a spacing, where the surface may bend.
        move *= np.minimum(1.0, 0.5 * phi.spacing / np.maximum(length, 1e-12))[:, None]
        trial = x + normal + move
        f, g = phi.evaluate(trial)
        squared = np.maximum((g**2).sum(axis=1), 1e-3)
        trial = trial + ((margin + _INSIDE - f) / squared)[:, None] * g
        f, g = phi.evaluate(trial)
        distance = np.linalg.norm(trial - points[moving], axis=1)
        good = (f >= margin) & (distance < best_distance[moving])
        gain = best_distance[moving] - distance
        took = moving[good]
        best[took], best_distance[took] = trial[good], distance[good]
        value[took], slope[took] = f[good], g[good]
        step[moving] = np.where(good, np.minimum(1.0, 2.0 * step[moving]), 0.3 * step[moving])
        moving = moving[~(good & (gain < 1e-7)) & (step[moving] > 1e-2)]
        if not len(moving):
            break
    return best
