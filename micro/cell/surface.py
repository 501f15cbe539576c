"""Closed surfaces of triangles: read from files, and which points of a grid lie inside.

A point is inside where the surface winds round it: along a ray the crossings out of the body and into it do
not cancel. Bodies that overlap are therefore one (a parity of crossings would make a hole of the overlap),
and a cavity is a body whose surface is turned inside out, as modellers write it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.cell.surface_files import read_3mf, read_obj, read_ply, read_stl
from micro.cell.volume_mesh import MESH_FORMATS, read_mesh
from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.errors import InputError

#: Rays are shifted by this share of the surface's size, in directions that no mesh has: they pass beside
#: edges and corners, which centres and nodes of a grid would meet.
_ASIDE = 1e-7
_AT_ONCE = 1 << 21  # pairs of a triangle and a ray


def read_triangles(path: Path, group: str | None = None) -> Floats:
    """Corners (t, 3, 3) of the triangles of a closed surface, in the file's units.

    Parameters
    ----------
    path : Path
        STL, OBJ, PLY, 3MF, or any mesh that meshio reads (Gmsh, Abaqus, VTU, MED, ...); of a mesh of solid
        elements the outer faces.
    group : str, optional
        Name of the physical group (Gmsh), element set (Abaqus) or family (MED) to take.

    Raises
    ------
    InputError
        If the file can't be read as a mesh, or its surface is not closed or not oriented.
    """
    points, faces = _joined(*_read(path, group))
    return _closed(points, faces, path, group)


def read_faces(path: Path) -> tuple[Floats, NDArray[np.integer]]:
    """Points (p, 3) and triangles (t, 3) of a surface in a mesh file, closed or not, in the file's units.

    Points of the same place are one, but for 3MF, whose objects may touch.

    Raises
    ------
    InputError
        If the file can't be read as a mesh.
    """
    points, faces = _read(path, None)
    if path.suffix.lower() != ".3mf":
        points, faces = _joined(points, faces)
    points = np.asarray(points, dtype=np.float64)
    if not len(faces) or not np.isfinite(points).all():
        raise InputError("holds no surface", file=path)
    return points, faces


def _read(path: Path, group: str | None) -> tuple[Floats, NDArray]:
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise InputError(f"must be a mesh file ({', '.join(FORMATS)})", file=path, value=kind or path.name)
    if not path.is_file():
        raise InputError("is a directory" if path.is_dir() else "there is no such mesh file", file=path)
    if kind in MESH_FORMATS:
        return read_mesh(path, group)
    if group is not None:
        raise InputError(f"{kind} files have no groups", file=path, key="group", value=group)
    return _READERS[kind](path)


def inside(triangles: Floats, x: Floats, y: Floats, z: Floats) -> Bools:
    """Which points lie in a closed surface: where :func:`winding` is not zero.

    Parameters
    ----------
    triangles : array, shape (t, 3, 3)
    x, y, z : arrays
        Coordinates of the grid's planes.
    """
    return winding(triangles, x, y, z) != 0


def winding(triangles: Floats, x: Floats, y: Floats, z: Floats) -> Ints:
    """How often a closed surface winds round points: in how many bodies a point lies.

    Parameters
    ----------
    triangles : array (t, 3, 3)
        Anticlockwise seen from outside (the other way round counts negative).
    x, y, z : arrays
        Coordinates, broadcastable; quickest as an open grid (x and y of length 1 along the last axis).

    Returns
    -------
    int array of the broadcast shape
    """
    shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
    last = shape[-1] if shape else 1
    if not shape or max(np.ndim(c) and c.shape[-1] for c in (x, y)) > 1 or z.size > last:
        flat = [np.broadcast_to(c, shape).reshape(-1, 1) for c in (x, y, z)]
        return _columns(triangles, flat[0][:, 0], flat[1][:, 0], flat[2]).reshape(shape)
    across = (*shape[:-1], 1)
    at_x, at_y = (np.broadcast_to(c, across).ravel() for c in (x, y))
    return _columns(triangles, at_x, at_y, np.reshape(z, (1, -1))).reshape(shape)


def _columns(triangles: Floats, x: Floats, y: Floats, z: Floats) -> Ints:
    """Winding (c, m) at heights z (c, m) or (1, m) above the places x, y (c,)."""
    step = _ASIDE * float(np.ptp(triangles.reshape(-1, 3), axis=0).max())
    order = np.argsort(x, kind="stable")
    rays = np.stack([x + step * (np.sqrt(2.0) - 1), y + step * (np.sqrt(3.0) - 1)], axis=-1)[order]
    ray, height, sign = _crossings(triangles, rays)
    column = order[ray]
    count, levels = len(x), z.shape[1]
    if len(z) == 1:
        # A crossing counts for all points below it: those of the sorted heights before its own.
        sorted_z = np.argsort(z[0], kind="stable")
        place = np.searchsorted(z[0][sorted_z], height)
        sums = np.bincount(column * (levels + 1) + place, weights=sign, minlength=count * (levels + 1))
        above = sums.reshape(count, levels + 1)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        out = np.empty((count, levels), dtype=np.int64)
        out[:, sorted_z] = np.rint(above)
        return out
    counted = height > z[column, 0]
    above = np.bincount(column[counted], weights=sign[counted], minlength=count)
    return np.rint(above).astype(np.int64)[:, None]


def _crossings(triangles: Floats, rays: Floats) -> tuple[Ints, Floats, Floats]:
    """Where lines along z through rays (c, 2), sorted by x, meet triangles: ray, height, and +1 going out."""
    a, b, c = (np.ascontiguousarray(triangles[:, i]) for i in range(3))
    low, high = triangles[:, :, :2].min(axis=1), triangles[:, :, :2].max(axis=1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    start, stop = (
        np.searchsorted(rays[:, 0], low[:, 0]),
        np.searchsorted(rays[:, 0], high[:, 0], side="right"),
    )
    count = np.where(area == 0.0, 0, np.maximum(stop - start, 0))
    found: list[tuple[Ints, Floats, Floats]] = []
    ends = np.cumsum(count)
    first = 0
    while first < len(count):
        done = ends[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(ends, done + _AT_ONCE, side="right")))
        part = slice(first, end)
        triangle = np.repeat(np.arange(first, end), count[part])
        offset = np.arange(len(triangle)) - np.repeat(ends[part] - count[part] - done, count[part])
        ray = start[triangle] + offset
        near = (rays[ray, 1] >= low[triangle, 1]) & (rays[ray, 1] <= high[triangle, 1])
        triangle, ray = triangle[near], ray[near]
        d = rays[ray] - a[triangle, :2]
        e, f = b[triangle] - a[triangle], c[triangle] - a[triangle]
        s = (d[:, 0] * f[:, 1] - d[:, 1] * f[:, 0]) / area[triangle]
        t = (e[:, 0] * d[:, 1] - e[:, 1] * d[:, 0]) / area[triangle]
        hit = (s >= 0) & (t >= 0) & (s + t <= 1)
        height = a[triangle, 2] + s * e[:, 2] + t * f[:, 2]
        found.append((ray[hit], height[hit], np.sign(area[triangle])[hit]))
        first = end
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)
    ray, height, sign = (np.concatenate(part) for part in zip(*found, strict=True))
    return ray, height, sign


def _joined(points: Floats, faces: NDArray) -> tuple[Floats, NDArray]:
    """Points of the same place are one; triangles that this leaves two corners are left out."""
    points, one = np.unique(np.asarray(points, dtype=np.float64) + 0.0, axis=0, return_inverse=True)
    faces = one.reshape(-1)[faces]
    flat = (faces == np.roll(faces, 1, axis=1)).any(axis=1)
    return points, faces[~flat]


def _closed(points: Floats, faces: NDArray, path: Path, group: str | None = None) -> Floats:
    """The triangles' corners, if every edge joins two that agree on which side is out."""
    if not len(faces) or not np.isfinite(points).all():
        raise InputError("holds no surface", file=path)
    open_edges, turned, _ = edge_faults(faces)
    if open_edges:
        whose = "" if group is None else f" of group '{group}'"
        raise InputError(
            f"the surface{whose} is not closed: {open_edges} edges do not join two triangles", file=path
        )
    if turned:
        faces = _turned(points, faces)
        if edge_faults(faces)[1]:
            raise InputError(
                f"the triangles disagree on which side is outside, along {turned} edges: mend the normals in "
                "the program that wrote it",
                file=path,
            )
    return points[faces]


def edge_faults(faces: NDArray) -> tuple[int, int, int]:
    """What is wrong with the edges of triangles (t, 3).

    Returns
    -------
    open, turned, crowded : int
        Edges with an odd number of triangles; the others whose triangles don't run along them as often one
        way as the other; and those with more than two.
    """
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    key = np.minimum(start, end) * (int(faces.max()) + 1) + np.maximum(start, end)
    _, index, count = np.unique(key, return_inverse=True, return_counts=True)
    balance = np.bincount(index.reshape(-1), weights=np.where(start < end, 1.0, -1.0))
    odd = count % 2 == 1
    return int(odd.sum()), int((balance[~odd] != 0).sum()), int((count > 2).sum())


def _turned(points: Floats, faces: NDArray) -> NDArray:
    """Triangles of one body made to agree; of several bodies unchanged: one might be a cavity."""
    import pyvista

    mesh = pyvista.PolyData.from_regular_faces(points, faces)
    if int(mesh.connectivity(largest=False)["RegionId"].max()) > 0:
        return faces
    mesh = mesh.compute_normals(
        cell_normals=True,
        point_normals=False,
        split_vertices=False,
        consistent_normals=True,
        auto_orient_normals=True,
    )
    return np.asarray(mesh.regular_faces)


_READERS: dict[str, Callable[[Path], tuple[Floats, NDArray]]] = {
    ".stl": read_stl,
    ".obj": read_obj,
    ".ply": read_ply,
    ".3mf": read_3mf,
}
FORMATS = (*_READERS, *MESH_FORMATS)
"""Endings of the files that :func:`read_triangles` reads."""
