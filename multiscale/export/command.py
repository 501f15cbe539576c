"""``export``: a run's lattice, or a region of it, in a format for other programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from micro.errors import InputError
from multiscale.block import Block
from multiscale.export.stl import HEADER_BYTES, TRIANGLE_BYTES, write_stl
from multiscale.export.surface import surface_size
from multiscale.export.vti import lattice_fields, write_voxels, write_vtu
from multiscale.lattice import Lattice, coarsen

MOST_TRIANGLES = 40_000_000  # a 2 GB STL: more than most slicers open
MOST_BYTES = 1_500_000_000

Say = Callable[[str], None]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Request:
    """What to export: the lattice, where to, and how fine."""

    lattice: Lattice
    out: Path
    block: Block
    per_cell: int
    smooth: float
    say: Say
    progress: Progress | None


@dataclass(frozen=True)
class Format:
    """A format: its file suffix, one line on what it holds, and its writer."""

    suffix: str
    summary: str
    write: Callable[[Request], None]


def export(
    run_dir: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str],
    region: str | None = None,
    *,
    per_cell: int | None = None,
    smooth: float = 0.0,
    say: Say | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a run's lattice in another format.

    Parameters
    ----------
    run_dir : path
        A run directory (with ``lattice.zarr`` in it), or a lattice itself.
    format : str
        A key of :data:`FORMATS`.
    out : path
        The file; its suffix is the format's. Written atomically.
    region : str, optional
        ``i0:i1,j0:j1,k0:k1`` in elements; the whole lattice by default.
    per_cell : int, optional
        Voxels along a cell's edge; the cells' own by default.
    smooth : float
        Blur before a surface is taken, in voxels.
    say : callable, optional
        Gets one line on the size before the work starts, and one on what was written.
    progress : callable, optional
        Gets the fraction done.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        On an unknown format, a region that is not one or has nothing in it, a missing or damaged
        lattice, or more than can sensibly be written at once.
    """
    if format not in FORMATS:
        raise InputError(f"the formats are {', '.join(FORMATS)}", key="format", value=format)
    chosen, path = FORMATS[format], Path(out)
    if path.suffix.lower() != chosen.suffix:
        raise InputError(f"a file of format {format} ends in {chosen.suffix}", key="out", value=str(out))
    lattice = Lattice.load(find_lattice(run_dir))
    block = Block.parse(region, lattice.shape)
    size = lattice.voxels_per_cell if per_cell is None else per_cell
    coarsen(lattice.cells.octants(slice(0, 0)), size)  # refuses a size that does not divide the cells
    if not np.isfinite(smooth) or smooth < 0:
        raise InputError("the blur is a length in voxels, not negative", key="smooth", value=smooth)
    if not lattice.solid[block.slices].any():
        raise InputError("there is nothing solid in this region", key="region", value=str(block))
    tell = say or (lambda line: None)
    chosen.write(Request(lattice, path, block, size, smooth, tell, progress))
    tell(f"{path}: {_bytes(path.stat().st_size)}")
    return path


def find_lattice(run_dir: str | os.PathLike[str]) -> Path:
    """The lattice of a run directory, or the path itself if it is one."""
    path = Path(run_dir)
    if not path.is_dir():
        raise InputError("there is no such run directory", file=run_dir)
    inside = path / "lattice.zarr"
    if inside.is_dir():
        return inside
    if (path / "zarr.json").is_file():
        return path
    raise InputError("this run has no lattice.zarr: was it filled?", file=run_dir)


def _stl(request: Request) -> None:
    block, lattice = request.block, request.lattice
    size = surface_size(lattice, block, request.per_cell)
    edges = " x ".join(f"{1e3 * lattice.cell_size_m * s:.4g}" for s in block.shape)
    disk = HEADER_BYTES + TRIANGLE_BYTES * size.triangles
    request.say(
        f"region {block}, {edges} mm: {size.voxels:,} voxels, about {size.triangles:,} triangles, "
        f"{_bytes(disk)} on disk, {_bytes(size.peak_bytes)} of memory"
    )
    _refuse_if_absurd(request, size.triangles, MOST_TRIANGLES, "triangles", power=2)
    _refuse_if_absurd(request, size.peak_bytes, MOST_BYTES, "bytes of memory", power=3)
    surface = write_stl(
        lattice,
        request.out,
        block,
        per_cell=request.per_cell,
        smooth=request.smooth,
        progress=request.progress,
    )
    solid = 1e9 * lattice.cell_size_m**3 * float(lattice.densities()[block.slices].sum())
    request.say(
        f"{surface.triangles:,} triangles enclose {surface.volume_mm3:.6g} mm³ "
        f"(the cells' own volume: {solid:.6g} mm³)"
    )


def _voxels(request: Request) -> None:
    voxels = int(np.prod(request.block.shape)) * request.per_cell**3
    memory = 4 * voxels  # the voxels, their copies in VTK's order, and the compressor's
    request.say(f"region {request.block}: {voxels:,} voxels, {_bytes(memory)} of memory")
    _refuse_if_absurd(request, memory, MOST_BYTES, "bytes of memory", power=3)
    write_voxels(request.lattice, request.out, request.block, per_cell=request.per_cell)


def _elements(request: Request) -> None:
    lattice, block = request.lattice, request.block
    elements = int(np.count_nonzero(lattice.solid[block.slices]))
    request.say(f"region {block}: {elements:,} elements")
    fields = {name: values[block.slices] for name, values in lattice_fields(lattice).items()}
    edge = lattice.cell_size_m
    i, j, k = block.lower
    write_vtu(
        request.out,
        lattice.solid[block.slices],
        (edge, edge, edge),
        origin=(i * edge, j * edge, k * edge),
        cell_data=fields,
    )


FORMATS: dict[str, Format] = {
    "stl": Format(".stl", "the surface of a region's solid, watertight, in millimetres", _stl),
    "vti": Format(".vti", "the voxels of a region, for ParaView, in metres", _voxels),
    "vtu": Format(".vtu", "one hexahedron a solid element with its cell's tensor (Pa), in metres", _elements),
}


def _refuse_if_absurd(request: Request, amount: int, most: int, unit: str, *, power: int) -> None:
    """Refuse an export beyond ``most``, saying what would fit.

    ``amount`` grows with the number of elements, and with the voxels per cell to ``power``.
    """
    if amount <= most:
        return
    elements = max(1, int(np.prod(request.block.shape) * most / amount))
    fitting = f"a region of about {elements:,} elements (--region)"
    n = request.lattice.cells.n
    coarser = [
        2 * k for k in range(1, n) if n % k == 0 and amount * (2 * k / request.per_cell) ** power <= most
    ]
    if coarser and coarser[-1] < request.per_cell:
        fitting += f" or {coarser[-1]} voxels per cell"
    raise InputError(
        f"{amount:,} {unit} are more than the {most:,} allowed at once; {fitting} would fit",
        key="region",
        value=str(request.block),
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
