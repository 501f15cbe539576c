"""Binary STL of a lattice's surface, in millimetres, written slab by slab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micro.cell.surface_files import STL_HEAD, STL_RECORD
from micro.runtime.arrays import Singles
from micro.runtime.files import PathLike, atomic_path
from micro.runtime.progress import Progress, unheard
from multiscale.export.mesh.surface import enclosed_volume, surface_meshes
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

TRIANGLE_BYTES = STL_RECORD.itemsize

_AT_ONCE = 1 << 17  # triangles
_TITLE = b"multiscale lattice, millimetres"  # must not begin with 'solid', which means a text STL


@dataclass(frozen=True)
class Surface:
    """What was written.

    Attributes
    ----------
    triangles : int
    volume_mm3 : float
        Volume that the surface encloses.
    """

    triangles: int
    volume_mm3: float


def write_stl(
    lattice: Lattice,
    path: PathLike,
    block: Block | None = None,
    *,
    per_cell: int | None = None,
    smooth: float = 0.0,
    decimate: float = 0.0,
    progress: Progress = unheard,
) -> Surface:
    """Write the surface of a block of the lattice as a closed binary STL.

    Parameters
    ----------
    lattice : Lattice
    path : path
        Written atomically.
    block : Block, optional
        The whole lattice by default.
    per_cell : int, optional
        Voxels along a cell's edge, by default the cells' own; see :meth:`Lattice.layers`.
    smooth : float
        Blur before the surface is taken, in voxels. Either way the volume is kept.
    decimate : float
        Share of the triangles removed.
    progress : Progress, optional

    Returns
    -------
    Surface

    Raises
    ------
    InputError
        If the block is void or leaves the lattice, or ``per_cell`` does not divide the cells.
    """
    block = Block.of(block, lattice.shape)
    per_cell = lattice.voxels_per_cell if per_cell is None else per_cell
    origin = 1e3 * lattice.cell_size_m * np.array(block.lower)
    count, volume = 0, 0.0
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_TITLE.ljust(STL_HEAD, b"\0"))
        for slab in surface_meshes(lattice, block, per_cell=per_cell, smooth=smooth, decimate=decimate):
            triangles = slab.triangles
            for start in range(0, len(triangles), _AT_ONCE):
                some = triangles[start : start + _AT_ONCE]
                file.write(_records(some).tobytes())
                # Relative to the block's corner: a slab's share of the volume loses fewer digits.
                volume += enclosed_volume(some - origin)
            count += len(triangles)
            if len(triangles):
                progress(*elements_reached(lattice, block, triangles[..., 0].max()))
        file.seek(STL_HEAD - 4)
        file.write(np.uint32(count).astype("<u4").tobytes())
    return Surface(count, volume)


def elements_reached(lattice: Lattice, block: Block, x: float) -> tuple[int, int]:
    """Elements along x that a surface written up to ``x`` (mm) has passed, and all of the block."""
    passed = x / (1e3 * lattice.cell_size_m) - block.lower[0]
    return min(block.shape[0], round(float(passed))), block.shape[0]


def _records(triangles: Singles) -> NDArray:
    """The file's records of triangles (t, 3, 3)."""
    record = np.zeros(len(triangles), dtype=STL_RECORD)
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    record["normal"] = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    record["corners"] = triangles
    return record
