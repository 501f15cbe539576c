"""Printability of what ships: an exported file measured again, beside the voxels that it was made from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from micro.cell.surface import edge_faults, read_faces, winding
from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.errors import InputError
from micro.runtime.progress import Progress, unheard
from multiscale.export.volume.slices import MANIFEST
from multiscale.lattice.block import Block, Triple
from multiscale.lattice.components import joined
from multiscale.lattice.lattice import Lattice
from multiscale.printability.grid import THICKEST, GridMeasures, measure, require_memory, table
from multiscale.rundir.directory import addable_run, find_lattice

MESHES = (".stl", ".ply", ".obj", ".3mf")
_PLANES = 16  # of a mesh's grid at once
_WHOLE = 0.05  # of an element: how far a file's ends may lie from elements' faces


@dataclass(frozen=True)
class SurfaceFacts:
    """A surface of triangles.

    Attributes
    ----------
    triangles : int
    watertight : bool
        Every edge joins an even number of triangles, half of them either way round.
    open_edges : int
    crowded_edges : int
        Edges of more than two triangles: 0 for a manifold.
    bodies, inner_shells : int
        Closed surfaces around solid, and those turned inside out, around enclosed void.
    enclosed_mm3 : float
    """

    triangles: int
    watertight: bool
    open_edges: int
    crowded_edges: int
    bodies: int
    inner_shells: int
    enclosed_mm3: float


@dataclass(frozen=True)
class Exported:
    """A file beside the voxels that it was made from.

    Attributes
    ----------
    name, region : str
        The file's name, and the elements that it holds.
    surface : SurfaceFacts or None
        Of a mesh.
    file, voxels : GridMeasures
        The file on its pixels, or a mesh on the voxels' grid; and the voxels.
    """

    name: str
    region: str
    surface: SurfaceFacts | None
    file: GridMeasures
    voxels: GridMeasures


def assess_file(
    lattice: Lattice,
    path: str | Path,
    region: str | None = None,
    *,
    direction: ArrayLike = (0.0, 0.0, 1.0),
    progress: Progress = unheard,
) -> Exported:
    """Measure an exported file, and the voxels of the elements that it holds.

    Parameters
    ----------
    lattice : Lattice
        That it was made from.
    path : path
        STL, PLY, OBJ or 3MF in mm, or a directory of slices with its ``manifest.json``.
    region : str, optional
        ``i0:i1,j0:j1,k0:k1``; by default what the file's place in the lattice says.
    direction : array, shape (3,)
        Build direction, along an axis.
    progress : Progress, optional

    Raises
    ------
    InputError
        If the file can't be read, is not of this lattice, or needs more memory than there is.
    """
    path = Path(path)
    if path.is_dir():
        solid, pitch, origin = read_slices(path)
        block = _region(lattice, region, origin, origin + np.array(solid.shape) * pitch, path)
        facts = None
    else:
        points, faces = _read_mesh(path)
        low, high = points.min(axis=0), points.max(axis=0)
        block = _region(lattice, region, low, high, path)
        facts = surface_facts(points, faces)
        step = 1e3 * lattice.cell_size_m / lattice.voxels_per_cell
        pitch = (step, step, step)
        # A 3MF lies at the origin, wherever its region is.
        corner = np.round(low / step) * step
        counts = np.maximum(np.round((high - corner) / step).astype(int), 1)
        require_memory(counts, path.name)
        solid = _voxelised(points[faces], corner, step, counts, progress)
    found = measure(solid, pitch, direction, progress)
    del solid
    size = lattice.voxels_per_cell
    require_memory([n * size for n in block.shape], path.name)
    step = 1e3 * lattice.cell_size_m / size
    own = measure(lattice.voxels(block), (step, step, step), direction, progress)
    return Exported(path.name, str(block), facts, found, own)


def assess_exported(
    run_dir: str | Path, path: str | Path, region: str | None = None, **options: Any
) -> Exported:
    """:func:`assess_file` for a run, added to its ``metrics.json`` as ``exported``."""
    run = addable_run(run_dir)
    lattice = Lattice.load(find_lattice(run_dir)) if run is None else run.lattice
    report = assess_file(lattice, path, region, **options)
    if run is not None:
        run.add("exported", asdict(report), reads=("lattice.zarr",))
    return report


def read_slices(path: Path) -> tuple[Bools, tuple[float, float, float], Floats]:
    """A stack of slices: solid pixels [x, y, z], their pitch and the stack's corner in mm.

    Raises
    ------
    InputError
        If the directory holds none, or it is damaged.
    """
    file = path / MANIFEST
    try:
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        (nx, ny), nz = said["pixels"], said["layers"]
        dx, dy = said["pixel_size_mm"]
        pitch = (float(dx), float(dy), float(said["layer_height_mm"]))
        origin, name = np.array(said["origin_mm"], dtype=np.float64), str(said["slices"])
    except FileNotFoundError:
        raise InputError("this directory holds no slices", file=file) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"is not the manifest of slices ({error})", file=file) from None
    require_memory((nx, ny, nz), path.name)
    solid = np.empty((nx, ny, nz), dtype=bool)
    for k in range(nz):
        try:
            with Image.open(path / (name % k)) as picture:
                image = np.asarray(picture.convert("1"))
        except (OSError, SyntaxError) as error:
            raise InputError(f"can't be read ({error})", file=path / (name % k)) from None
        if image.shape != (ny, nx):
            raise InputError("has other pixels than the manifest", file=path / (name % k), value=image.shape)
        solid[:, :, k] = image.T
    return solid, pitch, origin


def surface_facts(points: Floats, faces: NDArray[np.integer]) -> SurfaceFacts:
    """What a surface of triangles (t, 3) into points (p, 3) is."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    _, label = joined([(start, end)], len(points))
    a, b, c = np.moveaxis(points[faces] - points.mean(axis=0), 1, 0)
    volume = np.bincount(label[faces[:, 0]], np.einsum("ij,ij->i", a, np.cross(b, c)) / 6)
    holes, turned, crowded = edge_faults(faces)
    return SurfaceFacts(
        triangles=len(faces),
        watertight=holes == 0 and turned == 0,
        open_edges=holes,
        crowded_edges=crowded,
        bodies=int(np.count_nonzero(volume > 0)),
        inner_shells=int(np.count_nonzero(volume < 0)),
        enclosed_mm3=float(volume.sum()),
    )


def described(report: Exported, least_mm: float | None = None) -> list[str]:
    """The report in lines for a reader: a column for the file, one for its voxels.

    ``least_mm`` is a printer's smallest wall and gap, which the file is held against.
    """
    lines = [f"{report.name}, elements {report.region}"]
    if report.surface is not None:
        s = report.surface
        tight = "watertight" if s.watertight else f"not watertight: {s.open_edges:,} open edges"
        crowded = (
            "manifold" if not s.crowded_edges else f"{s.crowded_edges:,} edges of more than two triangles"
        )
        lines.append(
            f"surface: {s.triangles:,} triangles, {tight}, {crowded}; {s.bodies:,} bodies, "
            f"{s.inner_shells:,} inner shells, {s.enclosed_mm3:.6g} mm³ enclosed"
        )
    lines += table({"file": report.file, "voxels": report.voxels})
    if least_mm is not None:
        lines.append(_verdict(report.file, least_mm))
    return lines


def _verdict(found: GridMeasures, least_mm: float) -> str:
    """A file against a printer's smallest wall and gap."""
    most = THICKEST * max(found.pitch_mm)
    thin: list[str] = []
    unknown: list[str] = []
    for name, value in (("walls", found.least_wall_mm), ("gaps", found.least_gap_mm)):
        if value < least_mm * (1 - 1e-9):
            (thin if value < most * (1 - 1e-9) else unknown).append(f"{name} of {value:.3g} mm")
    said = f"too thin: {' and '.join(thin)}" if thin else "passes"
    if unknown and not thin:
        said = f"at least {' and '.join(unknown)}; thicker ones are not measured at this pitch"
    return f"against a printer's smallest wall and gap of {least_mm:g} mm: {said}"


def _read_mesh(path: Path) -> tuple[Floats, NDArray[np.integer]]:
    if path.suffix.lower() not in MESHES:
        raise InputError(
            f"is no file that is measured: {', '.join(MESHES)}, or a directory of slices", file=path
        )
    return read_faces(path)


def _region(lattice: Lattice, region: str | None, low: Floats, high: Floats, path: Path) -> Block:
    if region is not None:
        return Block.parse(region, lattice.shape)
    edge = 1e3 * lattice.cell_size_m
    ends = np.array([low, high]) / edge
    near = np.round(ends).astype(int)
    fits = np.abs(ends - near).max() <= _WHOLE and (near[0] >= 0).all() and (near[1] <= lattice.shape).all()
    at_origin = path.suffix.lower() == ".3mf" and tuple(near[1]) != lattice.shape
    if not fits or at_origin or not (near[0] < near[1]).all():
        sizes = " x ".join(f"{v:.4g}" for v in high - low)
        raise InputError(
            f"holds {sizes} mm from {', '.join(f'{v:.4g}' for v in low)}: say which elements "
            "of the lattice that is, --region I0:I1,J0:J1,K0:K1",
            file=path,
            key="--region",
        )
    lower: Triple = (int(near[0][0]), int(near[0][1]), int(near[0][2]))
    upper: Triple = (int(near[1][0]), int(near[1][1]), int(near[1][2]))
    return Block(lower, upper)


def _voxelised(triangles: Floats, corner: Floats, step: float, counts: Ints, progress: Progress) -> Bools:
    """Which voxels' centres lie inside a surface, some planes of constant x at a time."""
    x, y, z = (corner[axis] + step * (np.arange(counts[axis]) + 0.5) for axis in range(3))
    solid = np.empty(tuple(counts), dtype=bool)
    low, high = triangles[:, :, 0].min(axis=1), triangles[:, :, 0].max(axis=1)
    for first in range(0, counts[0], _PLANES):
        planes = x[first : first + _PLANES]
        near = (low <= planes[-1] + step) & (high >= planes[0] - step)
        solid[first : first + _PLANES] = (
            winding(triangles[near], planes[:, None, None], y[:, None], z) != 0 if near.any() else False
        )
        progress(first, int(counts[0]), "inside of the surface")
    return solid
