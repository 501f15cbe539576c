"""How homogenised tensors change with a level set: rates at voxels, carried to the field near the surface."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from micro.runtime.arrays import Bools, Floats
from micro.shape.distance import mirrored_distance

_REACH = 4
"""Voxels from the surface within which distances are told apart."""
_SMOOTHING = 0.8
"""Standard deviation, in voxels, of the smoothing that tells voxels of one distance apart."""
_KEEP = 0.05
"""Least level of a voxel: where smoothing would wipe out a thin member, it stays."""
_NEAR, SMOOTH = 0.6, 1.0
_REMOVAL, _ADDITION = 1.7, 1.4
"""Change of C by whole voxels over what its derivative says: medians over random displacements of 0.5 to
1.5 voxels of library cells (n = 32). A voxel taken away leaves more strain to its neighbours."""


def level_field(octant: Bools) -> Floats:
    """Smoothed signed distance to the surface in voxels, positive on the octant's solid only; (n, n, n)."""
    distance = mirrored_distance(octant, _REACH)
    smooth = ndimage.gaussian_filter(np.clip(distance, -_REACH, _REACH), _SMOOTHING, mode="reflect")
    return np.where(octant, np.maximum(smooth, _KEEP), np.minimum(smooth, -_KEEP))


def carried_over(gradient: Floats, octant: Bools, width: float) -> Floats:
    """Energy densities of the solid carried smoothly over its surface; (c, n, n, n) to the same.

    Each voxel takes the Gaussian mean, of ``width`` voxels, of the solid around it.
    """
    weight = ndimage.gaussian_filter(octant.astype(np.float64), width, mode="reflect")
    means = [ndimage.gaussian_filter(g * octant, width, mode="reflect") for g in gradient]
    return np.stack(means) / np.maximum(weight, 1e-3)


def voxel_rates(gradient: Floats, octant: Bools) -> Floats:
    """Estimated change of C by each voxel that changes sides, (3, n, n, n).

    That by becoming solid of a void voxel, and that by becoming void, times -1, of a solid one;
    ``gradient`` (3, n, n, n) is dC / d(modulus), zero in the void.
    """
    return np.where(octant, _REMOVAL * gradient, _ADDITION * carried_over(gradient, octant, _NEAR))
