"""The closed surface of one cell, for formats that draw a cell once and place it many times.

Marching cubes on the octant's voxels, mirrored seven times. The surface ends flat on the cell's six
faces: it is closed by itself, and neighbours touch where both their faces are solid. Between the voxels'
centres and the faces the field is continued unchanged, as mirroring would, so that equal neighbours
join smoothly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from micro.runtime.arrays import Bools, Floats, Ints, Singles
from multiscale.export.mesh.decimation import border, decimate, without_unused
from multiscale.export.mesh.surface import clear_of_level, find_level
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice, coarsen, resolutions, solid_fractions

_THIN = 0.12  # of the way from void to solid
_NEAR = 0.02  # relative volume error that an offset may make up: about a twentieth of a voxel
_LOST = 0.1  # a coarse surface farther off is no picture of the cell: it is taken finer
_NEWTON_STEPS = 3
_OUTSIDE = -1e6  # far below any level: the surface ends within 1e-6 of the face, and is moved onto it
_CELLS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class CellMesh:
    """The surface of one cell.

    Attributes
    ----------
    points : float array, shape (p, 3)
        In cell edges, 0 to 1.
    triangles : int array, shape (t, 3)
        Anticlockwise seen from outside; every edge belongs to two triangles.
    volume : float
        Enclosed volume, in cells.
    """

    points: Floats
    triangles: Ints
    volume: float


@dataclass(frozen=True)
class MeshOptions:
    """How a cell's surface is made.

    Attributes
    ----------
    per_cell : int
        Voxels along a cell's edge.
    smooth : float
        Standard deviation in voxels of a blur before the surface is taken.
    decimate : float
        Share of the triangles removed.
    """

    per_cell: int
    smooth: float
    decimate: float


@dataclass(frozen=True)
class Instanced:
    """What was written.

    Attributes
    ----------
    cells : int
        Meshes: unique cells.
    instances : int
    triangles : int
        Of all meshes, each once.
    volume_mm3 : float
        Of all instances.
    """

    cells: int
    instances: int
    triangles: int
    volume_mm3: float


def instanced_triangles(lattice: Lattice, block: Block, options: MeshOptions) -> int:
    """Estimate of the triangles of all unique cells of a block: two a voxel face between solid and void.

    Cells that were changed (:mod:`multiscale.lattice.changed`) count as the mean of the others.
    """
    cells, faces = used_cells(lattice, block), 0
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        some = cells[start : start + _CELLS_AT_ONCE]
        octants = coarsen(lattice.cells.octants(some[some < len(lattice.cells)]), options.per_cell)
        # The cell holds eight octants, and its mid-planes part nothing.
        faces += 8 * sum(int(np.count_nonzero(np.diff(octants, axis=axis))) for axis in (1, 2, 3))
        faces += 24 * int(np.count_nonzero(octants[:, 0]))
    plain = int(np.count_nonzero(cells < len(lattice.cells)))
    return round(2 * faces * len(cells) / max(plain, 1) * (1 - options.decimate))


def cell_meshes(lattice: Lattice, block: Block, options: MeshOptions) -> Iterator[tuple[int, CellMesh]]:
    """Number and surface of every unique cell of a block, ascending.

    Cells that a coarse resolution would lose are taken finer. Raises InputError if ``per_cell`` does
    not divide the cells.
    """
    solid_fractions(lattice.cells.octants(slice(0, 0)), options.per_cell)
    for cell in used_cells(lattice, block):
        voxels = lattice.voxels_of(int(cell))
        yield int(cell), cell_mesh(voxels, options, whole=len(voxels) == lattice.voxels_per_cell)


def used_cells(lattice: Lattice, block: Block) -> NDArray[np.int32]:
    """Numbers of the kinds of cells in a block that are not empty, ascending."""
    used = np.unique(lattice.kinds[block.slices])
    return used[[kind >= 0 and bool(lattice.voxels_of(int(kind)).any()) for kind in used]]


def cell_mesh(voxels: Bools, options: MeshOptions, *, whole: bool = False) -> CellMesh:
    """Closed surface of the cell of an octant (n, n, n), or of a whole cell, of exactly its voxels' volume.

    The level of the surface is the one that keeps the volume roughly; the rest, and what decimation
    changes, is made up by moving the surface along its normals, by a small part of a voxel.
    """
    wanted = float(voxels.mean())
    mesh = CellMesh(np.empty((0, 3)), np.empty((0, 3), dtype=np.int64), 0.0)
    for size in resolutions(len(voxels) // 2 if whole else len(voxels)):
        if size >= options.per_cell and mesh.volume == 0:
            mesh = _mesh_at(voxels, size, wanted, options, whole)
    return mesh


def _mesh_at(voxels: Bools, size: int, wanted: float, options: MeshOptions, whole: bool) -> CellMesh:
    """The surface at one resolution; empty if the cell is lost at it."""
    # A whole cell is an octant of twice the size, without mirror images.
    field = solid_fractions(voxels[None], 2 * size if whole else size)[0]
    solid = field >= 0.5
    if options.smooth:
        # Mirroring is what continues an octant on all its sides.
        field = gaussian_filter(field, options.smooth, mode="reflect", truncate=3.0)
    n = size // 2
    shown = 8 if whole else 1  # octants

    def surface_at(level: float) -> tuple[NDArray, NDArray]:
        # Where the blur alone would wipe out a wall or a gap of a voxel, the voxel keeps its side.
        low, high = np.float32(level - _THIN), np.float32(level + _THIN)
        kept = np.where(solid & (field <= level), high, np.where(~solid & (field > level), low, field))
        return octant_surface(kept, level, closed=whole)

    def error(level: float) -> float:
        return _volume(*surface_at(level), n) / shown / wanted - 1

    def completed(points: NDArray, triangles: NDArray) -> tuple[NDArray, NDArray]:
        return (points, triangles) if whole else _mirrored(points, triangles, n)

    surface = surface_at(find_level(error, _NEAR))
    points, triangles = completed(*decimate(*surface, options.decimate))
    if not _closed(triangles):
        points, triangles = completed(*surface)
    finest = len(field) == len(voxels)
    if not finest and abs(_volume(points, triangles, n) / 8 / wanted - 1) > _LOST:
        triangles = triangles[:0]
    if not len(triangles):
        return CellMesh(points[:0], triangles, 0.0)
    points = _offset(points, triangles, n, 8 * wanted)
    return CellMesh(points / (2 * n), triangles, _volume(points, triangles, n) / 8)


def _offset(points: NDArray, triangles: NDArray, n: int, wanted: float) -> NDArray:
    """Points of a closed surface moved along its normals until it encloses ``wanted`` octants.

    Points on the cell's faces stay on them.
    """
    on_face = (points == 0) | (points == 2 * n)
    for _ in range(_NEWTON_STEPS):
        a, b, c = np.moveaxis(points[triangles], 1, 0)
        area = np.cross(b - a, c - a) / 6
        # The volume's derivative by each point: a third of the area around it.
        slope = np.stack(
            [
                np.bincount(triangles.ravel(), np.repeat(area[:, axis], 3), minlength=len(points))
                for axis in range(3)
            ],
            axis=1,
        )
        free = np.where(on_face, 0.0, slope)
        length = np.linalg.norm(free, axis=1, keepdims=True)
        direction = np.divide(free, length, out=np.zeros_like(free), where=length > 0)
        gain = float(np.einsum("ij,ij->", slope, direction))
        if gain <= 0:
            break
        points = points + (wanted - _volume(points, triangles, n)) * n**3 / gain * direction
    return points


def _closed(triangles: NDArray) -> bool:
    found = border(triangles)
    return found is not None and len(found) == 0


def octant_surface(field: Singles, level: float, *, closed: bool = False) -> tuple[NDArray, NDArray]:
    """Surface of an octant's field (n, n, n), capped on the three outer faces, open on the mid-planes.

    Points are in voxels from the cell's corner. Samples: one layer outside, one on the outer face, the
    voxels' centres, one on the mid-plane. A whole cell's field is ``closed``: capped on all faces.
    """
    n = len(field)
    samples = clear_of_level(np.pad(field, 1, mode="edge"), level)
    if samples.max() <= level:
        return np.empty((0, 3)), np.empty((0, 3), dtype=np.int64)
    samples = np.pad(samples, ((1, int(closed)),) * 3, constant_values=_OUTSIDE)
    points, triangles, _, _ = marching_cubes(samples, level, gradient_direction="ascent")
    # Outside and face have the same place: what lies between them ends on the face.
    place = np.concatenate([[0.0, 0.0], np.arange(n) + 0.5, [n] * (1 + closed)])
    points = np.interp(points, np.arange(len(place)), place)
    # Points of the outside and of the face that fell together are one.
    moved = np.flatnonzero((points == 0).any(axis=1) | (closed & (points == n).any(axis=1)))
    _, first, same = np.unique(points[moved], axis=0, return_index=True, return_inverse=True)
    one = np.arange(len(points))
    one[moved] = moved[first][same.reshape(-1)]
    triangles = one[triangles]
    flat = (triangles == np.roll(triangles, 1, axis=1)).any(axis=1)
    return without_unused(points, triangles[~flat])


def _mirrored(points: NDArray, triangles: NDArray, n: int) -> tuple[NDArray, NDArray]:
    """The whole cell's surface from an octant's; points on a mid-plane are shared."""
    # Decimation may leave triangles within a mid-plane; their mirror images cancel them.
    within = (points[triangles] == n).all(axis=1).any(axis=1)
    points, triangles = without_unused(points, triangles[~within])
    for axis in range(3):
        own = points[:, axis] != n
        image = np.where(own, len(points) + np.cumsum(own) - 1, np.arange(len(points)))
        reflected = points[own].copy()
        reflected[:, axis] = 2 * n - reflected[:, axis]
        triangles = np.concatenate([triangles, image[triangles][:, ::-1]])
        points = np.concatenate([points, reflected])
    return points, triangles


def _volume(points: NDArray, triangles: NDArray, n: int) -> float:
    """Volume of an octant or a cell in octants: seen from the centre, mid-planes enclose nothing."""
    if not len(triangles):
        return 0.0
    a, b, c = np.moveaxis(points[triangles] - n, 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / (6 * n**3))
