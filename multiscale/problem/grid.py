"""The voxel grid: where elements, nodes and face quads are, and how they meet.

Array and corner order as in ``docs/architecture.md``: everything is indexed
[x, y, z]; element (i, j, k) has the nodes (i..i+1, j..j+1, k..k+1). Positions
are in element units.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from micro.voxels.corners import nodes_of as nodes_of
from multiscale.case.shapes import Shape
from multiscale.lattice.contact import neighbours

Size = tuple[int, int, int]


def centres(size: Size) -> tuple[Floats, Floats, Floats]:
    """Element centres as an open grid: arrays (nx,1,1), (1,ny,1), (1,1,nz)."""
    x, y, z = np.ogrid[: size[0], : size[1], : size[2]]
    return x + 0.5, y + 0.5, z + 0.5


def nodes(size: Size) -> tuple[Floats, Floats, Floats]:
    """Node positions as an open grid: arrays (nx+1,1,1), (1,ny+1,1), (1,1,nz+1)."""
    x, y, z = np.ogrid[: size[0] + 1, : size[1] + 1, : size[2] + 1]
    return x.astype(float), y.astype(float), z.astype(float)


def elements_in(shape: Shape, size: Size) -> Bools:
    """Elements whose centre lies in the shape: bool (nx, ny, nz)."""
    return shape.contains(*centres(size))


def nodes_in(shape: Shape, size: Size) -> Bools:
    """Nodes that lie in the shape: bool (nx+1, ny+1, nz+1)."""
    return shape.contains(*nodes(size))


def node_size(size: Size) -> Size:
    """Numbers of nodes along x, y, z."""
    return size[0] + 1, size[1] + 1, size[2] + 1


def element_size(nodal: NDArray) -> Size:
    """Numbers of elements along x, y, z of a node field (nx+1, ny+1, nz+1, ...)."""
    return nodal.shape[0] - 1, nodal.shape[1] - 1, nodal.shape[2] - 1


def face_axis(face: str) -> tuple[int, int]:
    """(axis, side) of a face name: ``"y+"`` is (1, 1), ``"x-"`` is (0, 0)."""
    return "xyz".index(face[0]), int(face[1] == "+")


def face_nodes(face: str, size: Size) -> Bools:
    """Nodes of a grid face: bool (nx+1, ny+1, nz+1)."""
    mask = np.zeros(node_size(size), dtype=bool)
    axis, side = face_axis(face)
    mask[_at(axis, -1 if side else 0)] = True
    return mask


def on_face(values: NDArray, face: str) -> NDArray:
    """The layer of elements (or nodes) at a face, the face's axis removed: (a, b, ...)."""
    axis, side = face_axis(face)
    return values[_at(axis, -1 if side else 0)]


def quads_in(shape: Shape, face: str, size: Size) -> Bools:
    """Element quads of a grid face whose centre lies in the shape: bool (a, b), the face's axis removed."""
    axis, side = face_axis(face)
    points = list(centres(size))
    points[axis] = np.full((1, 1, 1), float(size[axis] if side else 0))
    return np.asarray(shape.contains(*points)[_at(axis, 0)])


def quad_forces(quads: Bools | Floats, face: str, vector: Floats, size: Size) -> Floats:
    """Consistent nodal forces of a uniform traction on unit quads of a face.

    A quad of area 1 gives a quarter of the traction to each of its four nodes (the integral of a
    bilinear shape function over the unit square).

    Parameters
    ----------
    quads : bool or float (a, b)
        Loaded quads of the face, as from :func:`quads_in`, or factors of the traction on each.
    vector : float (3,)
        Force per area, in units of E_s.

    Returns
    -------
    float (nx+1, ny+1, nz+1, 3)
        Nodal forces in units of E_s h^2, with h = 1 the element edge.
    """
    share = np.zeros((quads.shape[0] + 1, quads.shape[1] + 1))
    a, b = quads.shape
    for da, db in product((0, 1), repeat=2):
        share[da : da + a, db : db + b] += quads / 4
    force = np.zeros((*node_size(size), 3))
    axis, side = face_axis(face)
    force[_at(axis, -1 if side else 0)] = share[..., None] * np.asarray(vector, dtype=float)
    return force


def spread(elements: Bools | Floats) -> Floats:
    """Nodal values (nx+1, ny+1, nz+1) of one (or the given value) an element, an eighth to each node."""
    nx, ny, nz = elements.shape
    out = np.zeros((nx + 1, ny + 1, nz + 1))
    for dx, dy, dz in product((0, 1), repeat=3):
        out[dx : dx + nx, dy : dy + ny, dz : dz + nz] += elements / 8
    return out


def wall_forces(hole: Bools, solid: Bools) -> Floats:
    """Nodal forces (nx+1, ny+1, nz+1, 3) of a unit pressure in a hole on the solid elements around it.

    Each quad between an element of the hole and a solid one carries 1 from the hole into the solid. The
    steps of the walls add up to the pressure on the hole's projection, as on a smooth wall.
    """
    force = np.zeros((*(n + 1 for n in hole.shape), 3))
    for axis in range(3):
        (hole_below, hole_above), (below, above) = neighbours(hole, axis), neighbours(solid, axis)
        # +1 where the hole is below the wall, -1 where it is above.
        push = (hole_below & above) * 1.0 - (below & hole_above)
        others = [a for a in range(3) if a != axis]
        for da, db in product((0, 1), repeat=2):
            place: list[slice] = [slice(None)] * 3
            place[axis] = slice(1, -1)
            for a, d in zip(others, (da, db), strict=True):
                place[a] = slice(d, d + hole.shape[a])
            force[..., axis][tuple(place)] += push / 4
    return force


def split_elements(values: NDArray, factor: int) -> NDArray:
    """Element values on a grid ``factor`` times finer: each element's value on all its parts."""
    for axis in range(3):
        values = values.repeat(factor, axis=axis)
    return values


def join_elements(values: Floats, factor: int) -> Floats:
    """Sums (nx / factor, ny / factor, nz / factor, c) over the parts; transposed :func:`split_elements`."""
    nx, ny, nz, c = values.shape
    blocks = nx // factor, factor, ny // factor, factor, nz // factor, factor, c
    return np.asarray(values.reshape(blocks).sum(axis=(1, 3, 5)))


def prolong_mask(mask: Bools, factor: int) -> Bools:
    """A node mask (nx+1, ny+1, nz+1, ...) on the finer grid.

    A new node is in the mask when all coarse nodes of the edge, face or element it lies on are: a
    fixed face stays a fixed face, a fixed line a line, a single node a single node.
    """
    return prolong_nodes(mask.astype(float), factor) > 1 - 1e-9


def prolong_nodes(values: Floats, factor: int) -> Floats:
    """Trilinear interpolation of a node field (nx+1, ny+1, nz+1, ...) onto the finer grid."""
    for axis in range(3):
        fine = np.arange((values.shape[axis] - 1) * factor + 1)
        low = fine // factor
        high = np.minimum(low + 1, values.shape[axis] - 1)
        weight = (fine % factor) / factor
        weight = weight.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        values = values.take(low, axis=axis) * (1 - weight) + values.take(high, axis=axis) * weight
    return values


def _at(axis: int, index: int) -> tuple[int | slice, ...]:
    place: list[int | slice] = [slice(None)] * 3
    place[axis] = index
    return tuple(place)
