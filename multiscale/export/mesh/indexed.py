"""PLY and OBJ of a lattice's surface: points once each, triangles by their numbers, slab by slab.

The surface is that of :mod:`multiscale.export.mesh.surface`, in millimetres. A slab's points that the slab
before had already are not written again, so that programs find the surface closed without merging points.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Ints, Singles
from micro.runtime.files import PathLike, atomic_path
from micro.runtime.progress import Progress, unheard
from multiscale.export.mesh.stl import Surface, elements_reached
from multiscale.export.mesh.surface import enclosed_volume, surface_meshes, welded
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

PLY_BYTES_PER_TRIANGLE = 19
OBJ_BYTES_PER_TRIANGLE = 35

_AT_ONCE = 1 << 15  # lines of text
_FACE = np.dtype([("count", "u1"), ("points", "<i4", 3)])
_PLY = """ply
format binary_little_endian 1.0
comment multiscale lattice, millimetres
element vertex {points:<12d}
property float x
property float y
property float z
element face {faces:<12d}
property list uchar int vertex_indices
end_header
"""


def write_ply(
    lattice: Lattice, path: PathLike, block: Block, *, progress: Progress = unheard, **options: Any
) -> Surface:
    """Write a block's surface as PLY, atomically.

    Binary; triangles wait in a temporary file, because PLY wants all points first.

    Parameters
    ----------
    lattice : Lattice
    path : path
    block : Block
    progress : Progress, optional
    **options
        Of :func:`multiscale.export.mesh.surface.surface_meshes`.
    """
    tally = _Tally(lattice, block, progress)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_PLY.format(points=0, faces=0).encode())
        with tempfile.TemporaryFile(dir=temporary.parent) as waiting:
            for points, faces in _joined(lattice, block, tally, options):
                file.write(points.astype("<f4").tobytes())
                records = np.empty(len(faces), dtype=_FACE)
                records["count"], records["points"] = 3, faces
                waiting.write(records.tobytes())
            waiting.seek(0)
            shutil.copyfileobj(waiting, file, 1 << 20)
        file.seek(0)
        # As long as the first header, whose numbers were padded.
        file.write(_PLY.format(points=tally.points, faces=tally.triangles).encode())
    return Surface(tally.triangles, tally.volume)


def write_obj(
    lattice: Lattice, path: PathLike, block: Block, *, progress: Progress = unheard, **options: Any
) -> Surface:
    """Write a block's surface as OBJ, atomically.

    Parameters
    ----------
    lattice, path, block, progress, **options
        As :func:`write_ply`.
    """
    tally = _Tally(lattice, block, progress)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(b"# multiscale lattice, millimetres\n")
        for points, faces in _joined(lattice, block, tally, options):
            # Nine digits are float32 to the last bit.
            for record, values in (("v %.9g %.9g %.9g\n", points), ("f %d %d %d\n", faces + 1)):
                for start in range(0, len(values), _AT_ONCE):
                    some = values[start : start + _AT_ONCE]
                    file.write((record * len(some) % tuple(some.ravel().tolist())).encode())
    return Surface(tally.triangles, tally.volume)


class _Tally:
    """What was written so far."""

    def __init__(self, lattice: Lattice, block: Block, progress: Progress):
        self.origin = 1e3 * lattice.cell_size_m * np.array(block.lower)
        self.lattice, self.block, self.progress = lattice, block, progress
        self.points = self.triangles = 0
        self.volume = 0.0

    def numbers(self, count: int) -> Ints:
        """The numbers of so many points more."""
        self.points += count
        return np.arange(self.points - count, self.points)

    def add(self, points: Singles, faces: NDArray[np.integer]) -> None:
        self.triangles += len(faces)
        # Relative to the block's corner: a slab's share of the volume loses fewer digits.
        self.volume += enclosed_volume((points - self.origin)[faces])
        if len(points):
            self.progress(*elements_reached(self.lattice, self.block, points[:, 0].max()))


def _joined(
    lattice: Lattice, block: Block, tally: _Tally, options: dict[str, Any]
) -> Iterator[tuple[Singles, Ints]]:
    """New points of each slab, and its triangles by the numbers of all points so far."""
    shared: dict[tuple[float, ...], int] = {}
    for slab in surface_meshes(lattice, block, **options):
        points, faces = welded(slab.points, slab.faces)
        tally.add(points, faces)
        number = np.full(len(points), -1, dtype=np.int64)
        first = np.flatnonzero(points[:, 0] == points[:, 0].min(initial=np.inf))
        number[first] = [shared.get(tuple(points[i].tolist()), -1) for i in first]
        new = number < 0
        number[new] = tally.numbers(int(np.count_nonzero(new)))
        last = np.flatnonzero(points[:, 0] == points[:, 0].max(initial=-np.inf))
        shared = {tuple(points[i].tolist()): int(number[i]) for i in last}
        yield points[new], number[faces]
