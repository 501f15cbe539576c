"""Cells of low resolution: of random formula, by level sets and of struts."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from micro.cell.octant import connectivity, largest_component, symmetrise
from micro.families.families import FAMILIES


def octants(count: int, n: int, seed: int = 0) -> np.ndarray:
    """Cells of random formula with both solid and void."""
    rng = np.random.default_rng(seed)
    names, found = list(FAMILIES), []
    while len(found) < count:
        family = FAMILIES[names[rng.integers(len(names))]]
        octant = family.octant(family.sample(rng, rng.uniform(0.2, 0.8), n), n)
        if 0 < octant.mean() < 1:
            found.append(octant)
    return np.stack(found)


def schwarz_p(size: int) -> NDArray[np.bool_]:
    """Octant of a Schwarz-P cell of ``size`` voxels an edge and volume 0.3."""
    c = np.cos((np.arange(size // 2) + 0.5) * 2 * np.pi / size)
    field = np.round(c[:, None, None] + c[:, None] + c, 9)
    return field > np.quantile(field, 0.7)


def _waves(rng: np.random.Generator, n: int, terms: int, highest: int) -> NDArray[np.float64]:
    x = (np.arange(n) + 0.5) / n
    field = np.zeros((n, n, n))
    for _ in range(terms):
        weight = rng.normal()
        for k in permutations(rng.integers(0, highest + 1, 3)):
            a, b, c = (np.cos(np.pi * q * x) for q in k)
            field += weight * a[:, None, None] * b[:, None] * c
    return np.round(field, 9)  # equal values stay equal under permutation


def random_octant(
    seed: int, n: int = 8, volume: tuple[float, float] = (0.2, 0.6), highest: int = 3
) -> NDArray[np.bool_]:
    """A connected octant from a random trigonometric level set, solid or sheet."""
    rng = np.random.default_rng(seed)
    while True:
        field = _waves(rng, n, int(rng.integers(1, 7)), highest)
        field = symmetrise(-np.abs(field) if rng.random() < 0.5 else field).round(9)
        octant = field > np.quantile(field, 1 - rng.uniform(*volume))
        if not octant.any():
            continue
        octant = largest_component(octant)
        if octant.any() and connectivity(octant).connected and octant.mean() > volume[0] / 2:
            return octant


def thin_truss(seed: int, n: int = 16) -> NDArray[np.bool_]:
    """A connected octant of a few struts, 1 to 4 voxels thick, volume 5 to 20 %."""
    rng = np.random.default_rng(seed)
    x = (np.arange(n) + 0.5) / n
    at = np.stack(np.meshgrid(x, x, x, indexing="ij"), axis=-1)
    joints = np.array([p for p in product((0.0, 0.5, 1.0), repeat=3) if p == tuple(sorted(p, reverse=True))])
    while True:
        octant = np.zeros((n, n, n), dtype=bool)
        for _ in range(rng.integers(1, 5)):
            i, j = rng.choice(len(joints), 2, replace=False)
            radius = rng.uniform(0.6, 2.2) / n
            for p in permutations(range(3)):
                a, b = joints[i][list(p)], joints[j][list(p)]
                t = np.clip((at - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
                octant |= np.linalg.norm(at - a - t[..., None] * (b - a), axis=-1) < radius
        octant = symmetrise(octant)
        if not octant.any():
            continue
        octant = largest_component(octant)
        if octant.any() and connectivity(octant).connected and 0.05 <= octant.mean() <= 0.2:
            return octant


def thin_cells(count: int) -> NDArray[np.bool_]:
    """Trusses and level sets of volume 5 to 20 %, half of each, n = 16."""
    trusses = [thin_truss(s) for s in range(count // 2)]
    return np.stack(trusses + [random_octant(s, 16, (0.05, 0.2), 4) for s in range(count - count // 2)])
