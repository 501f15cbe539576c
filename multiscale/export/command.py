"""``export``: a run's lattice, or a region of it, in a format for other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape

from micro.runtime.errors import InputError
from micro.runtime.files import PathLike
from micro.runtime.progress import Progress, Reporter
from multiscale.export.cavities import Cavities, CavityOptions, export_without_cavities
from multiscale.export.mesh import glb, threemf
from multiscale.export.mesh.cell_mesh import Instanced, MeshOptions, instanced_triangles, used_cells
from multiscale.export.mesh.decimation import BYTES_PER_TRIANGLE, check_share
from multiscale.export.mesh.glb import write_glb
from multiscale.export.mesh.indexed import (
    OBJ_BYTES_PER_TRIANGLE,
    PLY_BYTES_PER_TRIANGLE,
    write_obj,
    write_ply,
)
from multiscale.export.mesh.stl import TRIANGLE_BYTES, Surface, write_stl
from multiscale.export.mesh.surface import surface_size
from multiscale.export.mesh.threemf import write_3mf
from multiscale.export.pieces import MOST_LOOSE, pieces
from multiscale.export.volume.abaqus import write_abaqus
from multiscale.export.volume.gmsh import write_gmsh
from multiscale.export.volume.png import png
from multiscale.export.volume.printer_slices import (
    PrinterGrid,
    Stack,
    check_stack,
    slice_memory,
    stack_bytes,
    write_printer_slices,
)
from multiscale.export.volume.sl1 import layer_picture, write_sl1
from multiscale.export.volume.slices import MANIFEST, sample_bytes, write_slices
from multiscale.export.volume.svx import density_picture, write_svx
from multiscale.export.volume.vdb import find_openvdb, write_vdb
from multiscale.export.volume.vti import lattice_fields, write_voxels, write_vtu
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice, coarsen, resolutions
from multiscale.rundir.directory import find_lattice

MOST_TRIANGLES = 40_000_000  # a 2 GB STL: more than most slicers open
MOST_BYTES = 1_500_000_000
INSTANCED_BYTES = 100_000_000  # for one cell's surface, and VTK itself


@dataclass(frozen=True)
class Request:
    """What to export: the lattice, where to, and how fine."""

    lattice: Lattice
    out: Path
    block: Block
    per_cell: int
    smooth: float
    decimate: float
    reporter: Reporter
    progress: Progress
    grid: PrinterGrid | None = None

    def say(self, line: str) -> None:
        """Tell the user, as it stands: no markup."""
        self.reporter.say(escape(line))


@dataclass(frozen=True)
class Format:
    """A format: its file suffix ("" is a directory), one line on what it holds, its writer, its defaults.

    ``viewed`` are those that nobody prints: loose pieces in them are said, not refused; ``voxels`` is False
    where one element is one cell.
    """

    suffix: str
    summary: str
    write: Callable[[Request], None]
    most_per_cell: int | None = None  # no finer unless asked
    smooth: float = 0.0
    decimate: float = 0.0
    viewed: bool = False
    voxels: bool = True

    @property
    def printed(self) -> bool:
        """Whether a file of this format holds the voxels that are to be made."""
        return self.voxels and self.most_per_cell is None


def export(
    run_dir: PathLike,
    format: str,
    out: PathLike,
    region: str | None = None,
    *,
    per_cell: int | None = None,
    smooth: float | None = None,
    decimate: float | None = None,
    pixel_mm: tuple[float, float] | None = None,
    layer_mm: float | None = None,
    cavities: Cavities | None = None,
    channel_mm: float | None = None,
    reporter: Reporter | None = None,
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
        Voxels along a cell's edge; the cells' own by default (for glb at most 16).
    smooth : float, optional
        Blur before a surface is taken, in voxels; 0 by default (0.6 for 3mf).
    decimate : float, optional
        Share of a surface's triangles that is removed; 0 by default (0.9 for 3mf, 0.75 for glb).
    pixel_mm, layer_mm : tuple of two floats, float, optional
        A printer's pitch along x and y, and its layer height: slices are resampled from the cells' level
        sets instead of being the voxels' layers. ``sl1`` has the voxels' own by default.
    cavities : {"fill", "drain"}, optional
        Change the geometry: enclosed cavities of the region become solid, or get the finest channels that
        drain them (those smaller than their channels become solid). What was changed is said, and added
        to a run's ``metrics.json`` as ``changes``.
    channel_mm : float, optional
        Width of the channels; 1/32 of a cell's edge by default.
    reporter : Reporter, optional
        Says the size before the work starts, shows how far it is, says what was written; silent by default.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        On an unknown format, a region that is not one or has nothing in it, a missing or damaged
        lattice, more than can sensibly be written at once, or voxels so coarse that more than 5 % of the
        solid would come loose in a file that is to be printed.
    """
    if format not in FORMATS:
        raise InputError(f"the formats are {', '.join(FORMATS)}", key="format", value=format)
    chosen, path = FORMATS[format], Path(out)
    if path.suffix.lower() != chosen.suffix:
        ends = f"ends in {chosen.suffix}" if chosen.suffix else "is a directory, without an ending"
        raise InputError(f"what format {format} writes {ends}", key="out", value=str(out))
    lattice = Lattice.load(find_lattice(run_dir))
    block = Block.parse(region, lattice.shape)
    size = _default_size(lattice, chosen) if per_cell is None else per_cell
    coarsen(lattice.cells.octants(slice(0, 0)), size)  # refuses a size that does not divide the cells
    blur = chosen.smooth if smooth is None else smooth
    if not np.isfinite(blur) or blur < 0:
        raise InputError("the blur is a length in voxels, not negative", key="smooth", value=blur)
    share = chosen.decimate if decimate is None else decimate
    check_share(share)
    if not lattice.densities()[block.slices].any():
        raise InputError("there is nothing solid in this region", key="region", value=str(block))
    if path.is_dir() and chosen.suffix == "" and not (path / MANIFEST).is_file():
        raise InputError("this directory holds something else; it is not replaced", file=path)
    grid = _printer_grid(format, lattice, block, per_cell, pixel_mm, layer_mm)
    reporter = reporter or Reporter(False)
    if cavities is not None:
        options = CavityOptions(cavities, channel_mm)
        if not chosen.printed:
            named = ", ".join(name for name, other in FORMATS.items() if other.printed)
            raise InputError(f"is for what is made of voxels: {named}", key=options.option, value=format)
        options.check(lattice, size)
        lattice = export_without_cavities(run_dir, lattice, block, options, path, reporter)
    elif channel_mm is not None:
        raise InputError("is for --drain", key="--channel", value=channel_mm)
    with reporter.task(f"export {format}", 1) as task:
        request = Request(lattice, path, block, size, blur, share, reporter, task.reach, grid)
        if size < lattice.voxels_per_cell and chosen.voxels:
            _check_pieces(request, chosen)
        chosen.write(request)
    files = path.iterdir() if path.is_dir() else [path]
    request.say(f"{path}: {_bytes(sum(file.stat().st_size for file in files))}")
    return path


def _printer_grid(
    format: str,
    lattice: Lattice,
    block: Block,
    per_cell: int | None,
    pixel_mm: tuple[float, float] | None,
    layer_mm: float | None,
) -> PrinterGrid | None:
    if pixel_mm is None and layer_mm is None:
        if format != "sl1":
            return None
        # At the voxels' centres the level sets' sign is their own.
        pitch = 1e3 * lattice.cell_size_m / lattice.voxels_per_cell
        pixel_mm, layer_mm = (pitch, pitch), pitch
    if format not in ("slices", "sl1"):
        raise InputError("a printer's grid is for slices and sl1", key="--pixel, --layer", value=format)
    if pixel_mm is None or layer_mm is None:
        missing = "--pixel" if pixel_mm is None else "--layer"
        raise InputError("a printer's grid has a pixel size and a layer height: give both", key=missing)
    if per_cell is not None:
        raise InputError("excludes a printer's pixels and layers", key="--voxels-per-cell", value=per_cell)
    return PrinterGrid.of(lattice, block, pixel_mm, layer_mm)


def _check_pieces(request: Request, chosen: Format) -> None:
    """Say into how many pieces the coarser voxels fall; refuse what would come loose in a print."""
    lattice, block = request.lattice, request.block
    own, coarse = pieces(lattice, block, lattice.voxels_per_cell), pieces(lattice, block, request.per_cell)
    if coarse.count <= own.count:
        return
    said = (
        f"{request.per_cell} voxels per cell break the region into {coarse.count:,} pieces instead of "
        f"{own.count:,}; {coarse.loose:.1%} of the solid is loose instead of {own.loose:.1%}"
    )
    if coarse.loose - own.loose > MOST_LOOSE and not chosen.viewed:
        raise InputError(
            f"{said}: take more, the cells' own are {lattice.voxels_per_cell}", key="--voxels-per-cell"
        )
    request.say(said)


def _default_size(lattice: Lattice, chosen: Format) -> int:
    most = chosen.most_per_cell or lattice.voxels_per_cell
    return max(size for size in resolutions(lattice.cells.n) if size <= most or size == 2)


def _surface(write: Callable[..., Surface], bytes_per_triangle: int) -> Callable[[Request], None]:
    def work(request: Request) -> None:
        block, lattice = request.block, request.lattice
        size = surface_size(lattice, block, request.per_cell)
        triangles = round(size.triangles * (1 - request.decimate))
        memory = size.peak_bytes
        if request.decimate:
            memory += BYTES_PER_TRIANGLE * size.busiest_triangles
        edges = " x ".join(f"{1e3 * lattice.cell_size_m * s:.4g}" for s in block.shape)
        request.say(
            f"region {block}, {edges} mm: {size.voxels:,} voxels, about {triangles:,} triangles, "
            f"{_bytes(bytes_per_triangle * triangles)} on disk, {_bytes(memory)} of memory"
        )
        _refuse_if_absurd(request, triangles, MOST_TRIANGLES, "triangles", power=2)
        _refuse_if_absurd(request, memory, MOST_BYTES, "bytes of memory", power=3)
        surface = write(
            lattice,
            request.out,
            block,
            per_cell=request.per_cell,
            smooth=request.smooth,
            decimate=request.decimate,
            progress=request.progress,
        )
        request.say(
            f"{surface.triangles:,} triangles enclose {surface.volume_mm3:.6g} mm³ "
            f"(the cells' own volume: {_solid_mm3(request):.6g} mm³)"
        )

    return work


def _instanced(
    write: Callable[..., Instanced], bytes_per_triangle: int, bytes_per_instance: int
) -> Callable[[Request], None]:
    def work(request: Request) -> None:
        lattice, block = request.lattice, request.block
        options = MeshOptions(request.per_cell, request.smooth, request.decimate)
        cells = used_cells(lattice, block)
        instances = int(np.isin(lattice.kinds[block.slices], cells).sum())
        triangles = instanced_triangles(lattice, block, options)
        disk = bytes_per_triangle * triangles + bytes_per_instance * instances
        memory = INSTANCED_BYTES + 1000 * instances
        request.say(
            f"region {block}: {instances:,} cells, {len(cells):,} different ones of about {triangles:,} "
            f"triangles in all, about {_bytes(disk)} on disk, {_bytes(memory)} of memory"
        )
        written = write(lattice, request.out, block, options=options, progress=request.progress)
        request.say(
            f"{written.instances:,} instances of {written.cells:,} meshes ({written.triangles:,} triangles) "
            f"enclose {written.volume_mm3:.6g} mm³ (the cells' own volume: {_solid_mm3(request):.6g} mm³)"
        )

    return work


def _stack(
    write: Callable[..., object], axis: int, picture: Callable[[NDArray], bytes]
) -> Callable[[Request], None]:
    def work(request: Request) -> None:
        lattice, block, per_cell = request.lattice, request.block, request.per_cell
        size = [count * per_cell for count in block.shape]
        disk = sample_bytes(lattice, block, per_cell, picture)
        request.say(
            f"region {block}: {size[0]:,} x {size[1]:,} x {size[2]:,} voxels of "
            f"{1e3 * lattice.cell_size_m / per_cell:.4g} mm, {size[axis]:,} slices, "
            f"about {_bytes(disk)} on disk"
        )
        write(lattice, request.out, block, per_cell=per_cell, progress=request.progress)

    return work


def _slices(request: Request) -> None:
    if request.grid is None:
        _stack(write_slices, 2, png)(request)
    else:
        _printed(write_printer_slices, png)(request)


def _printed(write: Callable[..., Stack], picture: Callable[[NDArray], bytes]) -> Callable[[Request], None]:
    def work(request: Request) -> None:
        lattice, block, grid = request.lattice, request.block, request.grid
        assert grid is not None
        check_stack(grid, 0, request.out)
        nx, ny, nz = grid.shape
        disk = stack_bytes(lattice, block, grid, picture)
        request.say(
            f"region {block}: {nz:,} slices of {nx:,} x {ny:,} pixels, {grid.pixel_mm[0]:.5g} x "
            f"{grid.pixel_mm[1]:.5g} x {grid.layer_mm:.5g} mm each, about {_bytes(disk)} on disk, "
            f"{_bytes(slice_memory(lattice, block, grid))} of memory"
        )
        check_stack(grid, disk, request.out)
        stack = write(lattice, request.out, block, grid, progress=request.progress)
        own = _solid_mm3(request)
        request.say(
            f"solid pixels: {stack.volume_mm3:.6g} mm³ (the cells' own volume: {own:.6g} mm³, "
            f"{stack.volume_mm3 / own - 1:+.2%})"
        )

    return work


def _solid_mm3(request: Request) -> float:
    densities = request.lattice.densities()[request.block.slices]
    return 1e9 * request.lattice.cell_size_m**3 * float(densities.sum())


def _announce_voxels(request: Request, bytes_each: int, bound: str = "") -> None:
    """Say how many voxels there are and what memory they take; refuse what is absurd."""
    voxels = int(np.prod(request.block.shape)) * request.per_cell**3
    memory = bytes_each * voxels
    request.say(f"region {request.block}: {voxels:,} voxels, {_bytes(memory)} of memory{bound}")
    _refuse_if_absurd(request, memory, MOST_BYTES, "bytes of memory", power=3)


def _voxels(request: Request) -> None:
    _announce_voxels(request, 4)  # the voxels, their copies in VTK's order, and the compressor's
    write_voxels(request.lattice, request.out, request.block, per_cell=request.per_cell)


def _vdb(request: Request) -> None:
    library = find_openvdb()
    # 4 bytes a voxel where anything is solid, and the layer being copied.
    _announce_voxels(request, 8, " at most")
    write_vdb(
        library,
        request.lattice,
        request.out,
        request.block,
        per_cell=request.per_cell,
        progress=request.progress,
    )


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


def _model(write: Callable[..., int]) -> Callable[[Request], None]:
    def work(request: Request) -> None:
        elements = int(np.count_nonzero(request.lattice.solid[request.block.slices]))
        request.say(f"region {request.block}: {elements:,} elements")
        write(request.lattice, request.out, request.block)

    return work


FORMATS: dict[str, Format] = {
    "stl": Format(
        ".stl",
        "the surface of a region's solid, watertight, in millimetres",
        _surface(write_stl, TRIANGLE_BYTES),
    ),
    "ply": Format(
        ".ply", "the same with every point once, binary", _surface(write_ply, PLY_BYTES_PER_TRIANGLE)
    ),
    "obj": Format(".obj", "the same as text", _surface(write_obj, OBJ_BYTES_PER_TRIANGLE)),
    "3mf": Format(
        ".3mf",
        "the whole lattice for a slicer: one mesh a unique cell, placed many times, in millimetres",
        _instanced(write_3mf, threemf.BYTES_PER_TRIANGLE, 12),
        smooth=0.6,
        decimate=0.9,
    ),
    "glb": Format(
        ".glb",
        "the same for viewers, coarse unless told otherwise, in metres",
        _instanced(write_glb, glb.BYTES_PER_TRIANGLE, 75),
        most_per_cell=16,
        decimate=0.75,
        viewed=True,
    ),
    "slices": Format("", "a directory of 1-bit PNG slices normal to z, with manifest.json", _slices),
    "sl1": Format(
        ".sl1",
        "the slices of a printer's grid in one file, for PrusaSlicer, UVtools and resin printers",
        _printed(write_sl1, layer_picture),
    ),
    "svx": Format(
        ".svx", "density slices in one file (Simple Voxels)", _stack(write_svx, 1, density_picture)
    ),
    "vti": Format(".vti", "the voxels of a region, for ParaView, in metres", _voxels, viewed=True),
    "vtu": Format(
        ".vtu",
        "one hexahedron a solid element with its cell's tensor (Pa), in metres",
        _elements,
        voxels=False,
    ),
    "inp": Format(
        ".inp",
        "one C3D8 a solid element, a cubic material a unique cell (Abaqus), in millimetres and MPa",
        _model(write_abaqus),
        voxels=False,
    ),
    "msh": Format(
        ".msh",
        "one hexahedron a solid element, a physical group a unique cell (Gmsh 4.1), in millimetres and MPa",
        _model(write_gmsh),
        voxels=False,
    ),
    "vdb": Format(
        ".vdb", "the voxels of a region, if OpenVDB's Python module is installed", _vdb, viewed=True
    ),
}


def _refuse_if_absurd(request: Request, amount: int, most: int, unit: str, *, power: int) -> None:
    """Refuse an export beyond ``most``, saying what would fit.

    ``amount`` grows with the number of elements, and with the voxels per cell to ``power``.
    """
    if amount <= most:
        return
    elements = max(1, int(np.prod(request.block.shape) * most / amount))
    fitting = f"a region of about {elements:,} elements (--region)"
    sizes = resolutions(request.lattice.cells.n)[:-1]
    coarser = [size for size in sizes if amount * (size / request.per_cell) ** power <= most]
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
