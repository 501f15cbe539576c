"""The surface of a lattice's solid as triangles, slab by slab.

Marching cubes (Lewiner et al. 2003, as in scikit-image) on the voxels'
centres, across cell borders, with void all around the block: the surface is
closed. A slab is a few layers of elements along x; neighbouring slabs share a
plane of samples, on which both compute the same vertices to the last bit, so
their triangles join without cracks and no slab needs the other in memory.

Marching cubes bevels the voxels' edges, which costs thin members much of
their volume (a bar of 2 x 2 voxels one part in eight). The level at which the
surface is cut is therefore moved from 1/2 until the volume is the voxels' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from micro.cell.octant import face
from micro.runtime.arrays import Ints, Singles
from micro.runtime.errors import InputError
from multiscale.export.mesh.decimation import (
    border,
    check_share,
    decimate as decimate_surface,
    without_unused,
)
from multiscale.lattice.block import Block
from multiscale.lattice.contact import find_contacts
from multiscale.lattice.lattice import Lattice, coarsen

Triangles = NDArray[np.float32]

_SLAB_VOXELS = 1 << 23
_SAMPLE_VOXELS = 1 << 21
_AT_ONCE = 1 << 17  # triangles
_TRUNCATE = 3.0  # standard deviations after which the blur ends
_LEVELS = (0.1, 0.9)
# Not 1/2 itself, where two voxels meeting in an edge are neither joined nor parted and the surface pinches.
_MIDDLE = 0.505
_CLEARANCE = 5e-3  # least distance of a sample from the level
_TOLERANCE = 2e-3  # relative volume error left alone


@dataclass(frozen=True)
class SurfaceSize:
    """What a surface will take, said before it is made.

    Attributes
    ----------
    voxels : int
        Voxels of the block.
    triangles : int
        Estimate: two a voxel face between solid and void.
    busiest_triangles : int
        Estimate of those of the slab that has most.
    peak_bytes : int
        Estimate of the memory needed at any one time.
    """

    voxels: int
    triangles: int
    busiest_triangles: int
    peak_bytes: int


@dataclass(frozen=True, eq=False)
class SlabMesh:
    """A slab's surface.

    Attributes
    ----------
    points : float32 array, shape (p, 3)
        In millimetres from the lattice's corner.
    faces : int array, shape (t, 3)
    """

    points: Singles
    faces: NDArray[np.integer]

    @property
    def triangles(self) -> Triangles:
        """Corners (t, 3, 3), anticlockwise seen from outside."""
        return self.points[self.faces]


def surface_size(lattice: Lattice, block: Block, per_cell: int) -> SurfaceSize:
    """Size of a block's surface at ``per_cell`` voxels along a cell's edge, without expanding it."""
    used, local = np.unique(lattice.index[block.slices], return_inverse=True)
    local = np.reshape(local, block.shape) - int(used[0] < 0)
    solid = used[used >= 0]
    octants = coarsen(lattice.cells.octants(solid), per_cell)
    axes = (1, 2, 3)
    # The cell holds eight octants, and its mid-planes part nothing.
    inner = 8 * sum(np.count_nonzero(np.diff(octants, axis=axis), axis=axes) for axis in axes)
    outer = 4 * np.count_nonzero(face(octants), axis=(1, 2))
    count = np.bincount(local[local >= 0], minlength=len(solid))
    exposed = int(count @ (inner + 6 * outer)) if len(solid) else 0
    if len(solid):
        contacts = find_contacts(local.astype(np.int32), face(octants), weakest=0)
        exposed -= 2 * round(sum(float(np.nansum(a, dtype=np.float64)) for a in contacts.areas) * per_cell**2)
    voxels = int(np.prod(block.shape)) * per_cell**3
    layers = _layers_at_once(block, per_cell)
    slab = (layers * per_cell + 2) * int(np.prod(block.shape[1:])) * per_cell**2
    busiest = 2 * exposed * layers // block.shape[0]
    # Measured on blocks of 72 to 1,728 cells: the samples and their copies, a slab's triangles and theirs.
    return SurfaceSize(voxels, 2 * exposed, busiest, 14 * slab + 110 * busiest)


def surface_meshes(
    lattice: Lattice,
    block: Block,
    *,
    per_cell: int,
    smooth: float = 0.0,
    level: float | None = None,
    decimate: float = 0.0,
) -> Iterator[SlabMesh]:
    """Slabs of a block's surface, which follow each other along x; what two slabs share, both have.

    Parameters
    ----------
    lattice : Lattice
    block : Block
    per_cell : int
        Voxels along a cell's edge.
    smooth : float
        Standard deviation in voxels of a Gaussian blur before the surface is taken; 0 for none.
        The block's boundary stays flat.
    level : float, optional
        Where between void (0) and solid (1) the surface is; by default where it keeps the volume.
    decimate : float
        Share of the triangles removed, slab by slab.

    Raises
    ------
    InputError
        If the block is void or leaves the lattice, or an option is out of range.
    """
    if not lattice.densities()[block.slices].any():
        raise InputError("there is nothing solid in this region", key="region", value=str(block))
    if smooth < 0:
        raise InputError("the blur is a length in voxels, not negative", key="smooth", value=smooth)
    check_share(decimate)
    if level is None:
        level = volume_keeping_level(lattice, block, per_cell=per_cell, smooth=smooth)
    pitch = 1e3 * lattice.cell_size_m / per_cell
    layers = _layers_at_once(block, per_cell)
    for start in range(0, block.shape[0], layers):
        stop = min(start + layers, block.shape[0])
        samples = _samples(lattice, block, start, stop, per_cell, smooth)
        # The first sample of a slab is the last of the one before, or the void in front of the block.
        corner = np.array(block.lower) * per_cell + (start * per_cell, 0, 0) - 0.5
        points, faces = _mesh(samples, level, corner, pitch)
        if decimate:
            points, faces = _decimated(points, faces, decimate, last=stop == block.shape[0])
        yield SlabMesh(points, faces)


def _decimated(
    points: Singles, faces: NDArray[np.integer], share: float, *, last: bool
) -> tuple[Singles, NDArray[np.integer]]:
    """A slab's surface with fewer triangles, the same where it meets its neighbours.

    The triangles along the plane that the next slab shares stay: else both slabs might connect the same
    two points of it, and an edge would have four triangles.
    """
    shared = (points[:, 0] == points[:, 0].max(initial=-np.inf)) & (not last)
    strip = shared[faces].any(axis=1)
    fewer, rest = decimate_surface(points, faces[~strip], share)
    # Points are kept or deleted, not moved: they are still what float32 made of them.
    both = np.concatenate([points, fewer.astype(np.float32)])
    joined = np.concatenate([faces[strip], rest + len(points)])
    both, joined = welded(both, joined)
    before, after = border(faces), border(joined)
    if before is None or after is None or len(before) != len(after):
        return points, faces
    return both, joined


def welded(points: Singles, faces: NDArray[np.integer]) -> tuple[Singles, Ints]:
    """A surface whose points of the same coordinates, to the last bit, are one; unused ones are left out."""
    points, faces = without_unused(points, faces)
    order = np.lexsort(points.T)
    new = np.ones(len(points), dtype=bool)
    new[1:] = (points[order[1:]] != points[order[:-1]]).any(axis=1)
    number = np.empty(len(points), dtype=np.int64)
    number[order] = np.cumsum(new) - 1
    return points[order[new]], number[faces]


def volume_keeping_level(lattice: Lattice, block: Block, *, per_cell: int, smooth: float = 0.0) -> float:
    """Level at which the surface encloses the voxels' own volume.

    Found on the whole block if it is small, else on up to eight 2 x 2 x 2 blocks spread over it.

    Parameters
    ----------
    lattice : Lattice
    block : Block
    per_cell : int
        Voxels along a cell's edge.
    smooth : float
        Blur in voxels.
    """
    samples, volume = [], 0
    for part in _sample_blocks(block, per_cell):
        voxels = lattice.voxels(part, per_cell=per_cell)
        if voxels.any():
            volume += int(np.count_nonzero(voxels))
            samples.append(_samples(lattice, part, 0, part.shape[0], per_cell, smooth))

    def error(level: float) -> float:
        meshes = (_mesh(s, level, 0.0, 1.0) for s in samples)
        return sum(enclosed_volume(points[faces]) for points, faces in meshes) / volume - 1

    return find_level(error, _TOLERANCE) if samples else _MIDDLE


def find_level(error: Callable[[float], float], tolerance: float) -> float:
    """Level at which ``error`` (relative, falling with the level) vanishes: the best of seven tries."""
    level, value = _MIDDLE, error(_MIDDLE)
    low, high = _LEVELS
    known = [(level, value)]
    # Volume falls with the level: false position, kept inside the bracket by halving.
    for _ in range(6):
        if abs(value) <= tolerance:
            break
        low, high = (level, high) if value > 0 else (low, level)
        if len(known) > 1 and known[-1][1] != known[-2][1]:
            (a, va), (b, vb) = known[-2:]
            level = b - vb * (b - a) / (vb - va)
        else:
            level = level + 0.5 * float(np.clip(value, -0.3, 0.3))
        if not low < level < high:
            level = (low + high) / 2
        if abs(level - 0.5) < _MIDDLE - 0.5:
            level = 1 - _MIDDLE if level < 0.5 else _MIDDLE
        value = error(level)
        known.append((level, value))
    return min(known, key=lambda pair: abs(pair[1]))[0]


def enclosed_volume(triangles: NDArray) -> float:
    """Volume inside closed surfaces of triangles (t, 3, 3), or a slab's share of it (divergence theorem)."""
    total = 0.0
    for start in range(0, len(triangles), _AT_ONCE):
        a, b, c = np.moveaxis(triangles[start : start + _AT_ONCE].astype(np.float64), 1, 0)
        total += float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)
    return total


def _layers_at_once(block: Block, per_cell: int) -> int:
    layer = block.shape[1] * block.shape[2] * per_cell**3
    return max(1, min(block.shape[0], _SLAB_VOXELS // layer))


def _sample_blocks(block: Block, per_cell: int) -> list[Block]:
    if np.prod(block.shape) * per_cell**3 <= _SAMPLE_VOXELS:
        return [block]
    ranges = []
    for low, high in zip(block.lower, block.upper, strict=True):
        third = (high - low) / 3
        starts = {min(int(low + third * k), max(high - 2, low)) for k in (1, 2)}
        ranges.append([(a, min(a + 2, high)) for a in sorted(starts)])
    return [
        Block((x[0], y[0], z[0]), (x[1], y[1], z[1])) for x in ranges[0] for y in ranges[1] for z in ranges[2]
    ]


def _samples(lattice: Lattice, block: Block, start: int, stop: int, per_cell: int, smooth: float) -> Singles:
    """Samples between element layers ``start`` and ``stop`` of a block, with void around the block.

    Shape along x: the layers' voxels, one plane in front (the last of the layer before, or void),
    and, behind the block's last layer, one of void.
    """
    halo = int(_TRUNCATE * smooth + 0.5) if smooth else 0
    first, last = start * per_cell - 1, stop * per_cell  # planes wanted, the last excluded
    reach = max(0, first - halo), min(block.shape[0] * per_cell, last + halo)
    lower, upper = reach[0] // per_cell, -(-reach[1] // per_cell)
    (i, j, k), (_, y, z) = block.lower, block.upper
    voxels = lattice.voxels(Block((i + lower, j, k), (i + upper, y, z)), per_cell=per_cell)
    offset = lower * per_cell
    values = voxels[reach[0] - offset : reach[1] - offset].astype(np.float32)
    if smooth:
        values = gaussian_filter(values, smooth, mode="nearest", truncate=_TRUNCATE)
    kept = values[max(0, first) - reach[0] : last - reach[0]]
    return np.pad(kept, ((int(start == 0), int(stop == block.shape[0])), (1, 1), (1, 1)))


def _mesh(
    samples: Singles, level: float, origin: ArrayLike, pitch: float
) -> tuple[Singles, NDArray[np.integer]]:
    if samples.max() <= level or samples.min() >= level:
        return np.empty((0, 3), dtype=np.float32), np.empty((0, 3), dtype=np.int32)
    # The gradient ascends from void into the solid: corners then run anticlockwise seen from outside.
    corners, faces, _, _ = marching_cubes(clear_of_level(samples, level), level, gradient_direction="ascent")
    # In double until the last, so that both slabs round a shared corner alike.
    return ((corners + np.asarray(origin, dtype=np.float64)) * pitch).astype(np.float32), faces


def clear_of_level(samples: Singles, level: float) -> Singles:
    """Samples moved away from the level, to the side they are on.

    A sample at the level itself would collapse the corners around it into one point and pinch the surface.
    """
    near = np.abs(samples - level) < _CLEARANCE
    if not near.any():
        return samples
    moved = np.where(samples >= level, level + _CLEARANCE, level - _CLEARANCE)
    return np.where(near, moved, samples).astype(np.float32)
