"""Cells as level sets between their voxels: what a grid of any other pitch is resampled from.

A cell's level set is its smoothed signed distance (:func:`micro.shape.derivative.level_field`), trilinear
between the voxels' centres and mirrored on its faces. At every voxel's centre it has that voxel's sign, so
that no wall, gap or cavity of a voxel is lost, and its zero is moved by a fraction of a voxel until it
encloses the volume of the cell's voxels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats, Singles
from micro.shape.derivative import level_field
from multiscale.export.mesh.surface import find_level
from multiscale.lattice.lattice import Lattice

_KEPT = 0.05  # voxels: least distance of the surface from a voxel's centre, in terms of the level
_THIN = 0.25  # the same where smoothing alone would have wiped the voxel out: a wall or gap of a voxel
_TOLERANCE = 1e-3  # relative volume error left alone
_FINE, _FINE_BEYOND = 3, 48  # samples a voxel's edge that measure the volume; two for larger arrays
KEEP_BYTES = 512_000_000


def level_set(solid: Bools) -> Singles:
    """Level set of an octant or a cell at its voxels' centres, in voxels, positive in the solid.

    Parameters
    ----------
    solid : bool array, shape (n, n, n)
        Continued by its mirror images on all sides.

    Returns
    -------
    float32 array, shape (n, n, n)
        Interpolated trilinearly it encloses the voxels' own volume, to a thousandth where that can be had
        without any voxel's centre changing sides.
    """
    if solid.all() or not solid.any():
        return np.where(solid, 1.0, -1.0).astype(np.float32)
    field = level_field(solid).astype(np.float32)
    thin = np.abs(field) <= _KEPT * 1.001
    field[thin] = np.where(solid, _THIN, -_THIN)[thin]
    times = _FINE if len(solid) <= _FINE_BEYOND else 2
    between = _between(len(solid), times)
    wanted = float(solid.mean())

    def moved(level: float) -> Singles:
        shifted = field - np.float32(level - 0.5)
        return np.where(solid, np.maximum(shifted, _KEPT), np.minimum(shifted, -_KEPT))

    def error(level: float) -> float:
        finer = moved(level)
        for _ in range(3):
            finer = np.tensordot(finer, between, axes=(0, 1))
        # A sample's share of solid: the surface is as far from it as the level says.
        return float(np.clip(0.5 + times * finer, 0, 1).mean(dtype=np.float64)) / wanted - 1

    return moved(find_level(error, _TOLERANCE))


def _between(n: int, times: int) -> Singles:
    """Linear interpolation (n times, n) from n samples, mirrored at both ends, to a finer row of them."""
    sample, weight = positions((np.arange(n * times) + 0.5) / times, n)
    matrix = np.zeros((n * times, n), dtype=np.float32)
    rows = np.arange(n * times)
    matrix[rows, sample] += 1 - weight
    matrix[rows, np.minimum(sample + 1, n - 1)] += weight
    return matrix


def positions(place: Floats, n: int) -> tuple[NDArray[np.int32], Singles]:
    """Sample before each place in a row of ``n`` voxels, and the next one's weight.

    Beyond the first and the last voxel's centre a mirrored field does not change.
    """
    along = np.clip(place - 0.5, 0.0, n - 1.0)
    sample = np.minimum(along.astype(np.int32), max(n - 2, 0))
    return sample, (along - sample).astype(np.float32)


class LevelSets:
    """Level sets of the cells of a lattice, made when they are asked for.

    They are kept up to half a gigabyte; then those that the plane asked for does not need go.
    """

    def __init__(self, lattice: Lattice):
        self._lattice = lattice
        self._known: dict[int, Singles] = {}

    def planes(self, kinds: NDArray[np.integer], place: float) -> Singles:
        """Level sets (m, 2n, 2n) of kinds (m,) of cells at ``place`` voxels above their lower face.

        They are indexed [y, x].
        """
        size = self._lattice.voxels_per_cell
        samples, weights = positions(np.array([place]), size)
        first, weight = int(samples[0]), weights[0]
        out = np.empty((len(kinds), size, size), dtype=np.float32)
        for i, kind in enumerate(kinds.tolist()):
            known = self._of(kind, kinds)
            n = len(known)
            low, high = (
                known[:, :, layer if layer < n else size - 1 - layer].T for layer in (first, first + 1)
            )
            plane = low * (1 - weight) + high * weight
            if n < size:
                plane = np.concatenate([plane, plane[::-1]])
                plane = np.concatenate([plane, plane[:, ::-1]], axis=1)
            out[i] = plane
        return out

    def _of(self, kind: int, needed: NDArray[np.integer]) -> Singles:
        if kind not in self._known:
            if sum(field.nbytes for field in self._known.values()) > KEEP_BYTES:
                kept = set(needed.tolist())
                self._known = {k: field for k, field in self._known.items() if k in kept}
            self._known[kind] = level_set(self._lattice.voxels_of(kind))
        return self._known[kind]
