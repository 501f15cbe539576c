"""Voxels as pictures: a stack of 1-bit PNG slices, and the slices themselves for other formats.

A slice is put together from one layer of each unique cell, so that no more than a slice and the
octants are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools
from micro.runtime.files import PathLike, atomic_path, write_json
from micro.runtime.progress import Progress, unheard
from multiscale.export.volume.png import png
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice, coarsen

MANIFEST = "manifest.json"


def planes(
    lattice: Lattice, block: Block, *, per_cell: int, axis: int, lower_halves: bool = False
) -> Iterator[Bools]:
    """Voxel layers of a block normal to ``axis``, lowest first; of every cell the lower half alone if asked.

    Parameters
    ----------
    lattice : Lattice
    block : Block
    per_cell : int
        Voxels along a cell's edge.
    axis : int
        Normal of the layers.
    lower_halves : bool

    Yields
    ------
    bool array, shape (voxels, voxels)
        Indexed by the two other axes in ascending order: ``[x, y]`` for axis 2. The layers stacked along
        ``axis`` are ``lattice.voxels(block, per_cell=per_cell)``.

    Raises
    ------
    InputError
        If ``per_cell`` does not divide the cells.
    """
    used, local = np.unique(lattice.kinds[block.slices], return_inverse=True)
    plain = used[(used >= 0) & (used < len(lattice.cells))]
    octants = coarsen(lattice.cells.octants(plain), per_cell)
    wholes = [
        coarsen(lattice.voxels_of(int(kind))[None], 2 * per_cell)[0]
        for kind in used[used >= len(lattice.cells)]
    ]
    n = per_cell // 2
    # The cells' layer k, by which it makes no difference along which axis: octants are symmetric.
    quarter = np.zeros((len(octants) + 1, n, n), dtype=bool)
    local = np.reshape(local, block.shape) + int(used[0] >= 0)
    for element in range(block.shape[axis]):
        layer = np.take(local, element, axis=axis)
        for k in range(n if lower_halves else per_cell):
            quarter[1:] = octants[:, min(k, per_cell - 1 - k)]
            face = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
            face = np.concatenate([face, face[:, :, ::-1]], axis=2)
            if wholes:
                face = np.concatenate([face, [np.take(whole, k, axis=axis) for whole in wholes]])
            rows, columns = layer.shape
            yield face[layer].transpose(0, 2, 1, 3).reshape(rows * per_cell, columns * per_cell)


def pictures(
    lattice: Lattice, block: Block, *, per_cell: int, axis: int, picture: Callable[[NDArray], bytes]
) -> Iterator[bytes]:
    """``picture`` of each of the :func:`planes`, transposed; made once for both halves of a cell.

    A cell is its own mirror image, so its layers come again in reverse order; not where one was changed.

    Parameters
    ----------
    lattice, block, per_cell, axis
        As :func:`planes`.
    picture : callable
        From a layer to the bytes of its picture.
    """
    if (lattice.kinds[block.slices] >= len(lattice.cells)).any():
        yield from (picture(plane.T) for plane in planes(lattice, block, per_cell=per_cell, axis=axis))
        return
    half: list[bytes] = []
    for plane in planes(lattice, block, per_cell=per_cell, axis=axis, lower_halves=True):
        half.append(picture(plane.T))
        yield half[-1]
        if len(half) == per_cell // 2:
            yield from reversed(half)
            half.clear()


def sample_bytes(lattice: Lattice, block: Block, per_cell: int, picture: Callable[[NDArray], bytes]) -> int:
    """Size that a stack will about have, from one slice of it.

    Parameters
    ----------
    lattice, block, per_cell, picture
        As :func:`pictures`.
    """
    middle = (block.lower[2] + block.upper[2]) // 2
    thin = Block((*block.lower[:2], middle), (*block.upper[:2], middle + 1))
    plane = next(islice(planes(lattice, thin, per_cell=per_cell, axis=2), per_cell // 4, None))
    return len(picture(plane)) * block.shape[2] * per_cell


def write_slices(
    lattice: Lattice,
    path: PathLike,
    block: Block | None = None,
    *,
    per_cell: int | None = None,
    progress: Progress = unheard,
) -> int:
    """Write a directory of slices normal to z: ``slice_00000.png`` is the lowest; with ``manifest.json``.

    White is solid. A picture's column is x; its row is y, the uppermost row the lowest y.

    Parameters
    ----------
    lattice : Lattice
    path : path
        The directory; written atomically.
    block : Block, optional
        The whole lattice by default.
    per_cell : int, optional
        Voxels along a cell's edge; the cells' own by default.
    progress : Progress, optional

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    InputError
        If the block leaves the lattice or ``per_cell`` does not divide the cells.
    """
    block = Block.of(block, lattice.shape)
    per_cell = lattice.voxels_per_cell if per_cell is None else per_cell
    shape = [size * per_cell for size in block.shape]
    written = 0
    with atomic_path(path) as temporary:
        temporary.mkdir()
        stack = pictures(lattice, block, per_cell=per_cell, axis=2, picture=png)
        for k, content in enumerate(stack):
            written += (temporary / f"slice_{k:05d}.png").write_bytes(content)
            progress(k + 1, shape[2])
        pitch = 1e3 * lattice.cell_size_m / per_cell
        write_json(temporary / MANIFEST, manifest(lattice, block, shape, (pitch, pitch), pitch))
        written += (temporary / MANIFEST).stat().st_size
    return written


def manifest(
    lattice: Lattice, block: Block, shape: Sequence[int], pixel_mm: Sequence[float], layer_mm: float
) -> dict[str, Any]:
    """What a stack's ``manifest.json`` says: ``shape`` are the pixels along x and y, and the layers.

    Parameters
    ----------
    lattice : Lattice
    block : Block
    shape : sequence of three int
    pixel_mm : sequence of two floats
    layer_mm : float
    """
    return {
        "format": "multiscale-slices",
        "version": 2,
        "units": "mm",
        "slices": "slice_%05d.png",
        "pixels": [int(shape[0]), int(shape[1])],
        "layers": int(shape[2]),
        "pixel_size_mm": [float(step) for step in pixel_mm],
        "layer_height_mm": float(layer_mm),
        "origin_mm": [1e3 * lattice.cell_size_m * low for low in block.lower],
        "slice_axis": "z",
        "column_axis": "x",
        "row_axis": "y",
        "white": "solid",
        "lattice": lattice.digest(),
    }
