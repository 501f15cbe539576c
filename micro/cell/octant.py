"""One cubic cell: octant and full cell, symmetry, faces, connectivity, similarity, packing.

An octant is a bool array ``(n, n, n)``, invariant under the six permutations
of its axes. Index 0 is the cell's outer face and index n-1 touches its
mid-plane, so the cell is the octant mirrored in all three axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError

_PERMUTATIONS = tuple(permutations(range(3)))


def checked_octants(octants: ArrayLike) -> NDArray:
    """Any array of octants (..., n, n, n) as it is.

    Raises
    ------
    InputError
        If its last three axes differ or are missing.
    """
    array = np.asarray(octants)
    if array.ndim < 3 or len(set(array.shape[-3:])) != 1 or array.shape[-1] == 0:
        raise InputError("an octant is an array (..., n, n, n)", value=array.shape)
    return array


def _permuted(array: NDArray, axes: tuple[int, ...]) -> NDArray:
    lead = array.ndim - 3
    return np.transpose(array, (*range(lead), *(lead + a for a in axes)))


def symmetrise(octant: ArrayLike) -> NDArray:
    """Average over the six axis permutations; shape (..., n, n, n).

    A bool octant stays bool by majority (a tie is solid); numbers are averaged.
    """
    array = checked_octants(octant)
    total = np.stack([_permuted(array, p) for p in _PERMUTATIONS]).sum(axis=0, dtype=np.float64)
    return np.asarray(total >= 3 if array.dtype == bool else total / 6)


def is_symmetric(octant: ArrayLike) -> bool:
    """Whether the octants (..., n, n, n) are invariant under all axis permutations."""
    array = checked_octants(octant)
    # A transposition and a cycle generate the whole group.
    return all(np.array_equal(array, _permuted(array, p)) for p in ((1, 0, 2), (1, 2, 0)))


def at_resolution(octant: NDArray, n: int) -> NDArray:
    """Octants (..., m, m, m), or fields on them, at n voxels an edge, each that of the nearest centre.

    Parameters
    ----------
    octant : array, shape (..., m, m, m)
    n : int
    """
    m = octant.shape[-1]
    at = np.minimum((np.arange(n) + 0.5) * m / n, m - 0.5).astype(int)
    return np.asarray(octant[..., at, :, :][..., at, :][..., at])


def half_period_shift(octant: ArrayLike) -> NDArray:
    """The same periodic material with its cell moved by half a period on every axis.

    Face and mid-plane change places; the homogenised tensor does not change.
    Shape (..., n, n, n).
    """
    return np.flip(checked_octants(octant), axis=(-3, -2, -1)).copy()


def cell_from_octant(octant: ArrayLike) -> NDArray:
    """The full cell, (..., n, n, n) to (..., 2n, 2n, 2n), by mirroring in each mid-plane."""
    cell = checked_octants(octant)
    for axis in (-3, -2, -1):
        cell = np.concatenate([cell, np.flip(cell, axis)], axis=axis)
    return cell


def octant_from_cell(cell: ArrayLike) -> NDArray:
    """The octant of a cubic cell, (..., 2n, 2n, 2n) to (..., n, n, n).

    Raises
    ------
    InputError
        If the size is odd, or the cell lacks a mirror plane or a permutation symmetry.
    """
    array = checked_octants(cell)
    size = array.shape[-1]
    if size % 2:
        raise InputError("a cell has an even number of voxels an edge", value=size)
    octant = array[..., : size // 2, : size // 2, : size // 2].copy()
    if not np.array_equal(cell_from_octant(octant), array):
        raise InputError("the cell is not its own mirror image in its three mid-planes")
    if not is_symmetric(octant):
        raise InputError("the cell is not invariant under permutation of its axes")
    return octant


def face(octants: ArrayLike) -> NDArray:
    """The outer face (index 0) of octants, (..., n, n, n) to (..., n, n); all six faces are alike."""
    return checked_octants(octants)[..., 0, :, :]


def similarity(a: ArrayLike, b: ArrayLike) -> Floats:
    """Shape similarity of two voxel sets (the founding paper's Eq. 5).

    Voxels solid in both over the geometric mean of their solid voxels: 1 for
    equal sets, 0 for disjoint ones (and where either is empty).

    Parameters
    ----------
    a, b : bool arrays, shape (..., n, n, n)
        Broadcast against each other.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    InputError
        If the octants are of different sizes.
    """
    a, b = checked_octants(a).astype(bool), checked_octants(b).astype(bool)
    if a.shape[-3:] != b.shape[-3:]:
        raise InputError(f"cannot compare octants of sizes {a.shape[-1]} and {b.shape[-1]}")
    axes = (-3, -2, -1)
    both = np.count_nonzero(a & b, axis=axes)
    product = np.count_nonzero(a, axis=axes).astype(np.float64) * np.count_nonzero(b, axis=axes)
    return np.divide(both, np.sqrt(product), out=np.zeros(np.shape(both)), where=product > 0)[()]


@dataclass(frozen=True)
class Connectivity:
    """How the solid of an octant hangs together (6-connected).

    Attributes
    ----------
    components : int
        Number of 6-connected components of the octant's solid.
    largest_fraction : float
        Share of the solid in the largest one (0 for an empty octant).
    touches_face, touches_middle : bool
        Whether the largest component reaches the outer face, and the mid-plane.
    connected : bool
        One component that touches both: the mirrored cell is then one piece that meets all its faces.
    """

    components: int
    largest_fraction: float
    touches_face: bool
    touches_middle: bool
    connected: bool


def in_phase(octant: NDArray, other: NDArray) -> NDArray:
    """An octant as it is, or moved by half a period if so it is more like another one.

    Parameters
    ----------
    octant, other : bool arrays, shape (n, n, n)
    """
    moved = half_period_shift(octant)
    return moved if similarity(other, moved) > similarity(other, octant) else octant


def connectivity(octant: ArrayLike) -> Connectivity:
    """Connectivity of one octant, bool (n, n, n).

    Raises
    ------
    InputError
        If it is not a single octant.
    """
    array = checked_octants(octant)
    if array.ndim != 3:
        raise InputError("connectivity is asked of one octant (n, n, n)", value=array.shape)
    labels, components = cc3d.connected_components(array != 0, connectivity=6, return_N=True)
    if components == 0:
        return Connectivity(0, 0.0, False, False, False)
    sizes = np.bincount(labels.ravel())[1:]
    largest = 1 + int(np.argmax(sizes))
    outer, middle = bool((labels[0] == largest).any()), bool((labels[-1] == largest).any())
    fraction = float(sizes[largest - 1] / sizes.sum())
    return Connectivity(components, fraction, outer, middle, components == 1 and outer and middle)


def largest_component(octant: ArrayLike) -> Bools:
    """One octant with all but its largest 6-connected component removed, kept symmetric; (n, n, n).

    The permutations map components onto components, so of a symmetric octant the largest
    one is itself symmetric unless several are equally large: then all of those go.
    """
    array = checked_octants(octant).astype(bool)
    labels, components = cc3d.connected_components(array, connectivity=6, return_N=True)
    if components <= 1:
        return array.copy()
    sizes = np.bincount(labels.ravel())[1:]
    best = np.flatnonzero(sizes == sizes.max())
    if len(best) > 1:
        return np.zeros_like(array)
    return labels == best[0] + 1


def encloses(octants: Bools) -> Bools:
    """Whether cells enclose void in a lattice of their own kind; bool octants (m, n, n, n) to (m,).

    In it an octant stands among its mirror images, so a piece of its void goes on for ever exactly if it
    meets both ends of some axis; what does not is closed, be it within the cell or across its faces. Among
    other cells this need not be so (:func:`find_cavities` is exact there), but neighbours are alike.
    """
    out = np.zeros(len(octants), dtype=bool)
    for i, octant in enumerate(octants):
        labels, count = cc3d.connected_components(~octant, connectivity=6, return_N=True)
        through = np.zeros(count + 1, dtype=bool)
        through[0] = True
        for axis in range(3):
            low, high = np.take(labels, 0, axis=axis), np.take(labels, -1, axis=axis)
            through[np.intersect1d(low, high)] = True
        out[i] = not through.all()
    return out
