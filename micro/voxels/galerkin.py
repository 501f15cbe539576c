"""The algebra of an element and its eight children: interpolation, spectral bounds, coarse products."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micro.runtime.arrays import Floats
from micro.runtime.errors import NotConverged
from micro.runtime.threads import run
from micro.voxels.hexahedron import unit_stiffness

Array = NDArray[Any]
DEGREES = (1, 2, 3)
"""Smoothing steps on the finest grid, the next and all others. Products with the fine grid cost
most, and more smoothing on the coarse grids saves a third of them on thin cells."""
FINE_RADIUS, COARSE_RADIUS = 0.8, 1.0
"""Radii in units of the element bound. A single step smooths best when it underestimates the spectrum;
it stays a contraction up to 1.5 times its radius."""
#: What is added to the diagonal of a scaled coarsest operator, one after the other until it is definite; its
#: eigenvalues are at most its size, so the last one does for every finite matrix of this program.
SHIFTS = tuple(10.0**k for k in range(-5, 6))
NO_SHIFT = (
    "the coarsest operator of a voxel solve is not definite whatever is added to it: the moduli hold numbers "
    "that are infinite or undefined"
)
#: Matrices worked on at once in the set-up (4.6 kB each in float64, and a few copies).
_CHUNK = 4096


def shifted_inverse(a: Array) -> Array:
    """Inverse of a semidefinite matrix of unit diagonal, shifted.

    Free pieces and mechanisms leave zero eigenvalues, which float32 matrices turn into slightly negative
    ones; a shift, raised only where it must be, keeps their part of the inverse bounded.

    Raises
    ------
    NotConverged
        If no shift makes it definite: the matrix holds infinite or undefined numbers.
    """
    for shift in SHIFTS if np.isfinite(a).all() else ():
        shifted = a + shift * np.eye(len(a))
        try:
            np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            continue
        return np.linalg.inv(shifted)
    raise NotConverged(NO_SHIFT)


def interpolation(place: Sequence[int]) -> Floats:
    """Corner values (24, 24) of a child from those of its parent.

    ``place`` says along x, y and z whether it is the lower child (0), the upper one (1) or as long as its
    parent (2).
    """
    lines = (np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.0, 1.0]]), np.eye(2))
    x, y, z = place
    trilinear = np.kron(np.kron(lines[x], lines[y]), lines[z])
    return np.kron(trilinear, np.eye(3)).astype(np.float64)


@cache
def children_stiffness(nu: float) -> Array:
    """Stiffness (27, 576) of a voxel of unit modulus in an element of twice its size.

    By its place along x, y and z: the lower child, the upper one, or the only one.
    """
    k, matrices = unit_stiffness(nu).numpy(), []
    for place in product(range(3), repeat=3):
        p = interpolation(place)
        matrices.append((p.T @ k @ p).ravel())
    return np.array(matrices, dtype=np.float32)


@cache
def child_interpolation(axis: int, child: int) -> Tensor:
    """Values at the corners of one of two children from the parent's, halved along ``axis``: (24, 24)."""
    place = [2, 2, 2]
    place[axis] = child
    return torch.from_numpy(interpolation(place))


@cache
def element_bound(stiffness: bytes) -> float:
    """Bound of the spectrum of D^-1 A, D the node blocks: its value on a single element.

    A and D are sums over elements, so no quotient u^T A u / u^T D u exceeds the largest of one element.
    """
    k = torch.frombuffer(bytearray(stiffness), dtype=torch.float64).reshape(24, 24)
    d = torch.zeros_like(k)
    for a in range(8):
        s = slice(3 * a, 3 * a + 3)
        d[s, s] = k[s, s]
    lower = torch.linalg.cholesky(d)
    half = torch.linalg.solve_triangular(lower, k, upper=False)
    full = torch.linalg.solve_triangular(lower, half.T, upper=False)
    return float(torch.linalg.eigvalsh((full + full.T) / 2)[-1])


def element_radius(table: Floats, threads: int = 1) -> float:
    """Bound of the spectrum of D^-1 A, D the diagonal: its largest value on a single element.

    A and D are sums over elements, so no quotient u^T A u / u^T D u exceeds the largest of one element.

    Parameters
    ----------
    table : array, shape (m, 24, 24)
    threads : int, optional
    """

    def largest(part: Floats) -> float:
        diagonal = np.diagonal(part, axis1=1, axis2=2)
        scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
        return float(np.linalg.eigvalsh(part * scale[:, None] * scale[:, :, None]).max())

    parts = [table[start : start + _CHUNK] for start in range(0, len(table), _CHUNK)]
    return max([0.0, *run([partial(largest, part) for part in parts], threads)])
