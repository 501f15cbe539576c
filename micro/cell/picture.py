"""A picture of one cell, cut open: its smoothed surface by ray casting, with numpy alone.

Parallel rays march through the cell until the smoothed solid fraction exceeds one half; the fraction's
gradient there is the surface's normal. No graphics driver, so it works anywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micro.cell.octant import cell_from_octant
from micro.runtime.arrays import Bools, Bytes, Floats
from micro.runtime.files import PathLike, atomic_path

_VIEW = np.array([0.9, 0.55, 0.5])
"""From the cell's centre towards the eye."""

_LIGHT = np.array([0.35, 0.75, 0.95])
_COLOUR = np.array([0.36, 0.56, 0.80])
_STEP = 0.7
"""Steps along a ray, in voxels."""


def cell_image(octant: Bools, pixels: int = 360) -> Bytes:
    """Shaded view of the cell of a bool octant (n, n, n), its near corner cut out; (pixels, pixels, 3)."""
    n = len(octant)
    solid = ndimage.gaussian_filter(cell_from_octant(octant).astype(np.float32), 0.7, mode="wrap")
    solid[n:, n:, n:] = 0  # closed cells show their inside there
    solid = np.pad(solid, 2)
    size = len(solid)
    towards = _VIEW / np.linalg.norm(_VIEW)
    right = np.cross([0.0, 0.0, 1.0], towards)
    right /= np.linalg.norm(right)
    up = np.cross(towards, right)
    span = np.linspace(-0.87, 0.87, pixels) * (size - 4)
    centre = (size - 1) / 2
    origin = centre + span[None, :, None] * right + span[::-1, None, None] * up
    depth = np.arange(0.9, -0.9, -_STEP / size) * size
    hit = np.full((pixels, pixels), np.nan)
    before = np.zeros((pixels, pixels))
    for d in depth:
        at = np.moveaxis(origin + d * towards, -1, 0)
        open_ray = np.isnan(hit) & (np.abs(at - centre) < size / 2).all(axis=0)
        if not open_ray.any():
            continue
        now = np.zeros((pixels, pixels))
        now[open_ray] = ndimage.map_coordinates(solid, at[:, open_ray], order=1, mode="constant")
        through = now > 0.5
        hit[through] = (d + _STEP * (now - 0.5) / np.maximum(now - before, 1e-6))[through]
        before = now
    return _shaded(solid, origin, hit, towards)


def _shaded(solid: NDArray, origin: Floats, hit: Floats, towards: Floats) -> Bytes:
    image = np.ones((*hit.shape, 3))
    there = ~np.isnan(hit)
    at = (origin[there] + hit[there, None] * towards).T
    normal = -np.stack([ndimage.map_coordinates(g, at, order=1) for g in np.gradient(solid)], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    light = _LIGHT / np.linalg.norm(_LIGHT)
    shade = 0.35 + 0.65 * np.clip(normal @ light, 0, None)
    # Farther parts are paler, so that depth shows.
    haze = 0.45 * np.clip((hit[there].max() - hit[there]) / (1.4 * len(solid)), 0, 1)
    image[there] = (_COLOUR * shade[:, None]) * (1 - haze[:, None]) + haze[:, None]
    return np.asarray(np.round(255 * np.clip(image, 0, 1)), dtype=np.uint8)


def save_picture(path: PathLike, octant: Bools, pixels: int = 360) -> None:
    """Write :func:`cell_image` as a PNG file."""
    from matplotlib.image import imsave

    with atomic_path(path) as temporary:
        imsave(temporary, cell_image(octant, pixels))
