"""Fewer triangles for the same surface, by deleting vertices (Schroeder, Zarge, Lorensen 1992).

VTK's vtkDecimatePro only deletes vertices, and is told to keep the surface's topology and every vertex of
an open border: pieces of a surface that share a border still join without cracks after each was
decimated by itself, flat parts stay flat, and no piece needs the others in memory.
"""

from __future__ import annotations

import numpy as np
import pyvista
from numpy.typing import NDArray

from micro.runtime.arrays import Ints
from micro.runtime.errors import InputError

Mesh = tuple[NDArray, Ints]
"""Points (p, 3) and triangles (t, 3)."""

MOST = 0.99
BYTES_PER_TRIANGLE = 400
"""Measured: what VTK takes for a triangle of the surface being decimated."""

_FEATURE_ANGLE = 30.0  # degrees; sharper edges are kept as edges


def check_share(share: float) -> None:
    """Raise InputError unless ``share`` of the triangles can be removed.

    Raises
    ------
    InputError
        Otherwise.
    """
    if not 0 <= share <= MOST:
        raise InputError(
            f"the share of triangles to remove lies between 0 and {MOST}", key="decimate", value=share
        )


def decimate(points: NDArray[np.floating], triangles: NDArray[np.integer], share: float) -> Mesh:
    """Remove up to ``share`` of a surface's triangles; its borders stay.

    Parameters
    ----------
    points : array, shape (p, 3)
    triangles : int array, shape (t, 3)
        Into ``points``; a manifold, open or closed.
    share : float
        Between 0 and 0.99. Fewer go where more would change the topology.

    Returns
    -------
    points, triangles
        Points that are left are not moved. The surface given, if the result were not a manifold with
        the same border.

    Raises
    ------
    InputError
        If ``share`` is out of range.
    """
    check_share(share)
    given: Mesh = np.asarray(points, dtype=np.float64), np.asarray(triangles, dtype=np.int64)
    if not share or not len(triangles):
        return given
    surface = pyvista.PolyData.from_regular_faces(given[0], given[1].astype(int))
    fewer = surface.decimate_pro(
        share,
        feature_angle=_FEATURE_ANGLE,
        splitting=False,
        preserve_topology=True,
        boundary_vertex_deletion=False,
    )
    result = np.asarray(fewer.points, dtype=np.float64), _without_folds(np.asarray(fewer.regular_faces))
    if len(result[1]) == 0 or not _same_border(given, result):
        return given
    return result


def border(triangles: NDArray[np.integer]) -> Ints | None:
    """Directed edges (e, 2) that no other triangle runs through backwards; None if not a manifold.

    A closed surface with consistent orientation has none.
    """
    triangles = np.asarray(triangles, dtype=np.int64)
    start, end = triangles.ravel(), np.roll(triangles, -1, axis=1).ravel()
    count = int(triangles.max(initial=-1)) + 1
    there, back = start * count + end, end * count + start
    known = np.sort(there)
    if (known[1:] == known[:-1]).any():
        return None  # two triangles run through an edge in the same direction
    place = np.minimum(np.searchsorted(known, back), max(len(known) - 1, 0))
    open_ = known[place] != back
    return np.stack([start[open_], end[open_]], axis=1)


def without_unused(points: NDArray, triangles: NDArray[np.integer]) -> Mesh:
    """The same surface without the points that no triangle uses."""
    used = np.zeros(len(points), dtype=bool)
    used[triangles.ravel()] = True
    return points[used], (np.cumsum(used) - 1)[triangles]


def _without_folds(triangles: NDArray[np.integer]) -> Ints:
    """Without pairs of triangles on the same three points, back to back: they enclose nothing."""
    _, same, count = np.unique(np.sort(triangles, axis=1), axis=0, return_inverse=True, return_counts=True)
    return triangles[count[same.reshape(-1)] != 2].astype(np.int64)


def _same_border(a: Mesh, b: Mesh) -> bool:
    edges = []
    for points, triangles in (a, b):
        found = border(triangles)
        if found is None:
            return False
        # VTK keeps the coordinates but not the numbers of the points.
        ends = points[found].reshape(-1, 6)
        edges.append(ends[np.lexsort(ends.T)])
    return np.array_equal(edges[0], edges[1])
