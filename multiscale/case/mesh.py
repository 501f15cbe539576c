"""Closed surfaces of triangles from mesh files, and which points lie inside.

A point is inside when a ray from it, along z, crosses the surface an odd number of times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError

FORMATS = (".stl", ".obj", ".ply")
#: Rays are shifted by this share of the surface's size, in directions that no mesh has: they pass beside
#: edges and corners, which centres and nodes of a grid would meet.
_ASIDE = 1e-7


def read_triangles(path: Path) -> Floats:
    """Corners (t, 3, 3) of the triangles of a closed surface, in the file's units.

    Raises
    ------
    InputError
        If the file can't be read as a mesh, or its surface is not closed.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"must be a mesh file ({', '.join(FORMATS)})", file=path)
    if not path.is_file():
        raise InputError("there is no such mesh file", file=path)
    import pyvista

    try:
        surface = pyvista.read(path).extract_surface(algorithm="dataset_surface").triangulate().clean()
    except Exception as error:  # whatever VTK makes of a damaged file
        raise InputError(f"can't be read as a mesh: {error}", file=path) from None
    if surface.n_cells == 0:
        raise InputError("holds no surface", file=path)
    if surface.n_open_edges:
        raise InputError(
            f"the surface is not closed: {int(surface.n_open_edges)} edges do not join two triangles",
            file=path,
        )
    corners = np.asarray(surface.points, dtype=np.float64)
    return corners[surface.faces.reshape(-1, 4)[:, 1:]]


def inside(triangles: Floats, x: Floats, y: Floats, z: Floats) -> Bools:
    """Which points lie in a closed surface.

    Parameters
    ----------
    triangles : array (t, 3, 3)
    x, y, z : arrays
        Coordinates, broadcastable.

    Returns
    -------
    bool array of the broadcast shape
    """
    shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
    points = np.stack([np.broadcast_to(c, shape).ravel() for c in (x, y, z)], axis=-1)
    step = _ASIDE * float(np.ptp(triangles.reshape(-1, 3), axis=0).max())
    columns, of = np.unique(points[:, :2], axis=0, return_inverse=True)
    rays = columns + step * np.array([np.sqrt(2.0) - 1, np.sqrt(3.0) - 1])
    column, height = _crossings(triangles, rays)
    # For each point the crossings of its column that lie above it.
    order = np.lexsort((height, column))
    column, height = column[order], height[order]
    first = np.searchsorted(column, np.arange(len(columns) + 1))
    of = of.reshape(-1)
    above = np.zeros(len(points), dtype=np.int64)
    for index in np.argsort(of, kind="stable"):
        low, high = first[of[index]], first[of[index] + 1]
        if high > low:
            above[index] = (high - low) - np.searchsorted(height[low:high], points[index, 2])
    return (above % 2 == 1).reshape(shape)


def _crossings(triangles: Floats, rays: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Where lines along z through rays (c, 2), sorted by x, meet triangles: ray numbers and heights."""
    columns: list[NDArray[np.int64]] = []
    heights: list[Floats] = []
    for a, b, c in triangles:
        corner = np.stack([a, b, c])
        low, high = corner[:, :2].min(axis=0), corner[:, :2].max(axis=0)
        start, stop = np.searchsorted(rays[:, 0], (low[0], high[0]))
        near = np.arange(start, stop)
        near = near[(rays[near, 1] >= low[1]) & (rays[near, 1] <= high[1])]
        edges = np.stack([b[:2] - a[:2], c[:2] - a[:2]], axis=-1)
        area = edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0]
        if len(near) == 0 or area == 0.0:
            continue
        d = rays[near] - a[:2]
        s = (d[:, 0] * edges[1, 1] - d[:, 1] * edges[0, 1]) / area
        t = (edges[0, 0] * d[:, 1] - edges[1, 0] * d[:, 0]) / area
        hit = (s >= 0) & (t >= 0) & (s + t <= 1)
        columns.append(near[hit])
        heights.append(a[2] + s[hit] * (b[2] - a[2]) + t[hit] * (c[2] - a[2]))
    if not columns:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    return np.concatenate(columns), np.concatenate(heights)
