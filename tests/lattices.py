"""Small lattices for tests of exports: smooth cells, thin bars, no symmetry of the whole."""

from __future__ import annotations

import numpy as np

from micro.cell.cellset import CellSet
from multiscale.lattice.lattice import Lattice

N = 6


def octants() -> np.ndarray:
    """Smooth level sets, a solid cell, and thin bars (one voxel of the octant wide)."""
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    x, y, z = (np.cos(np.pi * (v + 0.5) / N) for v in (low, mid, high))
    fields = [
        x + y + z + 0.3,
        -(x + y + z) + 0.3,
        x * y + y * z + z * x + 0.2,
        mid <= 0,
        mid >= N - 1,
        low >= 0,
    ]
    return np.array([f > 0 if f.dtype != bool else f for f in fields])


def make(index, cell_size_m: float = 2e-3, cells: np.ndarray | None = None) -> Lattice:
    stack = octants() if cells is None else cells
    volume = stack.mean(axis=(1, 2, 3))
    return Lattice(
        CellSet.from_octants(stack, volume[:, None] * [1.35, 0.58, 0.38]),
        np.array(index),
        cell_size_m,
        2e9,
        0.3,
    )


def mixed(seed: int = 5) -> Lattice:
    """3 x 4 x 2 elements of 2 mm, void in places, no two layers alike."""
    return make(np.random.default_rng(seed).integers(-1, 6, size=(3, 4, 2)))
