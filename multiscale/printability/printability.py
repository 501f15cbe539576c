"""Can it be printed? Smallest features, enclosed cavities, overhangs, mass.

What is exact, on the voxels: cavities, contact between cells, mass. What is not: features and overhangs are
those of each cell among its own mirror images, so a step where unlike neighbours meet is not among them
(the least contact area is); a feature is measured by cubes, which reads a slanting wall up to sqrt(3) too
thin; an overhang is measured on a surface blurred by 0.6 voxels, without which voxels have no slopes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.progress import Progress, unheard
from multiscale.export.mesh.cell_mesh import octant_surface
from multiscale.lattice.block import Block
from multiscale.lattice.contact import neighbours
from multiscale.lattice.lattice import Lattice
from multiscale.printability.cavities import Cavities, find_cavities
from multiscale.printability.grid import GridMeasures, along_axis, measure, require_memory, table
from multiscale.printability.printer import LOST, Printable, check_least, printable
from multiscale.rundir.directory import addable_run, find_lattice

STEEP = np.cos(np.pi / 4)
"""A facet overhangs if its normal leans down by more than this: less than 45 degrees to the horizontal."""

_THICKEST = 8  # voxels; beyond it a feature is no problem
_UNASKED = 3e7  # voxels that are measured layer by layer without being asked for: a quarter of a minute
_BLUR = 0.6
_LEVEL = 0.505


@dataclass(frozen=True)
class Features:
    """Thinnest parts of solid or void, over the cells in use.

    Attributes
    ----------
    smallest_voxels : int
        Edge of the largest cube whose opening leaves all but 1 % of every cell's phase; at most 8.
    smallest_mm : float
    cell : int
        The unique cell it is found in; -1 if there is none.
    thinner : dict
        Share of the phase's volume in the lattice that is thinner than 2, 3, ... 8 voxels.
    """

    smallest_voxels: int
    smallest_mm: float
    cell: int
    thinner: dict[str, float]


@dataclass(frozen=True)
class Overhang:
    """Surface that leans out over nothing; the lattice's own bottom and the cells' faces do not count.

    Attributes
    ----------
    direction : tuple of three float
        Unit vector of the build direction.
    share : float
        Area of facets facing down at less than 45 degrees to the horizontal, over all area.
    worst_share : float
        The same of the worst cell in use.
    worst_cell : int
        -1 if no cell has a surface.
    """

    direction: tuple[float, float, float]
    share: float
    worst_share: float
    worst_cell: int


@dataclass(frozen=True)
class Printability:
    """What a printer wants to know of a lattice; see the module for what is exact.

    Attributes
    ----------
    voxel_mm : float
    size_mm : tuple of three float
        Of the whole lattice.
    solid, void : Features
    least_contact_mm2 : float or None
        Least contact area of two neighbouring cells.
    cavities : Cavities
    overhang : Overhang
    solid_mm3 : float
    mass_g : float or None
        None if no density is known.
    printer : Printable or None
        Against a printer's smallest wall and gap, if that was given.
    region : str or None
        The elements that ``grid`` is of.
    grid : GridMeasures or None
        What the voxels are as they are cut and built, layer by layer: of a region, or of a lattice of at most
        3e7 voxels; the build direction is along an axis.
    """

    voxel_mm: float
    size_mm: tuple[float, float, float]
    solid: Features
    void: Features
    least_contact_mm2: float | None
    cavities: Cavities
    overhang: Overhang
    solid_mm3: float
    mass_g: float | None
    printer: Printable | None = None
    region: str | None = None
    grid: GridMeasures | None = None


def assess(
    lattice: Lattice,
    *,
    direction: ArrayLike = (0.0, 0.0, 1.0),
    density_kg_m3: float | None = None,
    least_mm: float | None = None,
    region: str | None = None,
    progress: Progress = unheard,
) -> Printability:
    """Printability of a lattice.

    Parameters
    ----------
    lattice : Lattice
    direction : array, shape (3,)
        Build direction, any length.
    density_kg_m3 : float, optional
        Of the base material, for the mass.
    least_mm : float, optional
        The printer's smallest wall and gap.
    region : str, optional
        ``i0:i1,j0:j1,k0:k1``: elements whose voxels are measured layer by layer.
    progress : Progress, optional

    Raises
    ------
    InputError
        If the direction has no length, the density or ``least_mm`` is not positive, nothing is solid, or the
        region is not one, too large, or built in a direction that is not along an axis.
    """
    vector = np.asarray(direction, dtype=np.float64)
    length = float(np.linalg.norm(vector)) if vector.shape == (3,) else 0.0
    if not np.isfinite(length) or length == 0:
        raise InputError("the build direction is three numbers, not all 0", key="direction", value=direction)
    if density_kg_m3 is not None and not density_kg_m3 > 0:
        raise InputError("must be a positive number", key="density", value=density_kg_m3)
    if not lattice.densities().any():
        raise InputError("there is nothing solid in this lattice", key="lattice")
    if least_mm is not None:
        check_least(least_mm)  # before the work, not after it
    vector = vector / length
    block = _measured(lattice, region, vector)
    used, count = np.unique(lattice.index[lattice.solid], return_counts=True)
    thin = np.zeros((2, len(used), _THICKEST + 1))
    down, area = np.zeros(len(used)), np.zeros(len(used))
    for i, cell in enumerate(used.tolist()):
        octant = lattice.cells.octants(cell)
        thin[0, i], thin[1, i] = thinner_than(octant, _THICKEST), thinner_than(~octant, _THICKEST)
        down[i], area[i] = overhanging_area(octant, vector)
        progress(i + 1, len(used), "features and overhangs")
    cavities = find_cavities(lattice, progress=progress)
    edge = 1e3 * lattice.cell_size_m
    pitch = edge / lattice.voxels_per_cell
    volume = lattice.cells.volume[used]
    share = np.divide(down, area, out=np.zeros_like(down), where=area > 0)
    contact = lattice.contacts(weakest=0).min_area
    nx, ny, nz = lattice.shape
    return Printability(
        voxel_mm=pitch,
        size_mm=(nx * edge, ny * edge, nz * edge),
        solid=_features(thin[0], used, count * volume, pitch),
        void=_features(thin[1], used, count * (1 - volume), pitch),
        least_contact_mm2=contact * edge**2 if np.isfinite(contact) else None,
        cavities=cavities,
        overhang=Overhang(
            (float(vector[0]), float(vector[1]), float(vector[2])),
            float(count @ down) / float(count @ area) if area.any() else 0.0,
            float(share.max()),
            int(used[share.argmax()]) if area.any() else -1,
        ),
        solid_mm3=lattice.solid_volume_m3 * 1e9,
        mass_g=None if density_kg_m3 is None else 1e3 * lattice.solid_volume_m3 * density_kg_m3,
        printer=None if least_mm is None else printable(lattice, least_mm, thin),
        region=None if block is None else str(block),
        grid=None if block is None else measure(lattice.voxels(block), (pitch,) * 3, vector, progress),
    )


def _measured(lattice: Lattice, region: str | None, direction: Floats) -> Block | None:
    """The elements whose voxels are measured layer by layer, if any."""
    block = Block.parse(region, lattice.shape)
    shape = [count * lattice.voxels_per_cell for count in block.shape]
    if region is None and (np.prod(shape) > _UNASKED or not along_axis(direction)):
        return None
    if not along_axis(direction):
        raise InputError("layers are measured along an axis only", key="direction", value=direction)
    require_memory(shape, f"region {block}")
    return block


def thinner_than(octant: Bools, most: int) -> Floats:
    """Share of a cell's true voxels that no cube of k x k x k true voxels covers, for k = 0 ... ``most``.

    The cell, of octant (n, n, n), stands among its mirror images. Opening by a cube (Serra 1982).
    """
    total = int(octant.sum())
    lost = np.zeros(most + 1)
    if not total:
        return lost
    n = len(octant)
    # A cube that covers a voxel of the octant reaches at most k - 1 voxels over its sides.
    margin = most - 1
    eroded = np.pad(octant, margin, mode="symmetric")
    for k in range(2, most + 1):
        eroded = _shifted(eroded, np.logical_and)  # true where a cube of k begins
        if not eroded.any():
            lost[k:] = 1.0
            break
        # Cubes that reach the octant begin at most k - 1 voxels before it.
        opened = eroded[(slice(margin - k + 1, margin + n),) * 3]
        for _ in range(k - 1):
            opened = _shifted(opened, np.logical_or, back=True)
        lost[k] = 1 - np.count_nonzero(opened[k - 1 :, k - 1 :, k - 1 :]) / total
    return lost


def _shifted(array: Bools, join: np.ufunc, *, back: bool = False) -> Bools:
    """``join`` of an array with itself one step along each axis in turn; outside is false."""
    for axis in range(3):
        out = array.copy() if back else np.zeros_like(array)
        join(*neighbours(array, axis), out=neighbours(out, axis)[int(back)])
        array = out
    return array


def overhanging_area(octant: Bools, direction: Floats) -> tuple[float, float]:
    """Area of a cell's overhanging facets, and of all, in square voxels, without those on its faces."""
    field = gaussian_filter(octant.astype(np.float32), _BLUR, mode="reflect", truncate=3.0)
    points, triangles = octant_surface(field, _LEVEL)
    corners = points[triangles]
    corners = corners[~(corners == 0).all(axis=1).any(axis=1)]
    a, b, c = np.moveaxis(corners, 1, 0)
    vectors = np.cross(b - a, c - a) / 2
    areas = np.linalg.norm(vectors, axis=1)
    down = 0.0
    # The eight octants' normals differ in their signs.
    for signs in product((1.0, -1.0), repeat=3):
        lean = vectors @ (np.array(signs) * direction)
        # A facet of exactly 45 degrees stands, whichever way round-off goes.
        down += float(areas[lean < -(STEEP + 1e-6) * areas].sum())
    return down, 8 * float(areas.sum())


def _features(thin: Floats, used: NDArray[np.int32], weight: Floats, pitch: float) -> Features:
    # The smallest cube that does not fit into all but 1 % of a cell; a phase that a cell lacks is no feature.
    fits = np.where(thin > LOST, np.arange(thin.shape[1]), thin.shape[1]).min(axis=1) - 1
    worst = int(np.where(weight > 0, fits, _THICKEST).argmin())
    total = float(weight.sum())
    thinner = {str(k): float(weight @ thin[:, k] / total) if total else 0.0 for k in range(2, thin.shape[1])}
    found = bool(weight[worst] > 0)
    size = int(fits[worst]) if found else _THICKEST
    return Features(size, size * pitch, int(used[worst]) if found else -1, thinner)


def assess_run(run_dir: str | Path, *, density_kg_m3: float | None = None, **options: Any) -> Printability:
    """Printability of a run's lattice, added to its ``metrics.json`` as ``printability``.

    The density is the case's unless given. A lattice by itself (Zarr) is assessed without writing anything.

    Parameters
    ----------
    run_dir : path
        A run directory, or a lattice.
    density_kg_m3, **options
        As :func:`assess`.

    Raises
    ------
    InputError
        If there is no lattice, it is damaged, or the run can't be added to.
    """
    run = addable_run(run_dir)
    lattice = Lattice.load(find_lattice(run_dir)) if run is None else run.lattice
    if run is not None and density_kg_m3 is None:
        density_kg_m3 = run.settings["base_material"].get("density_kg_m3")
    report = assess(lattice, density_kg_m3=density_kg_m3, **options)
    if run is not None:
        run.add("printability", asdict(report), reads=("lattice.zarr",))
    return report


def described(report: Printability) -> list[str]:
    """The report in lines for a reader."""
    x, y, z = report.size_mm
    mass = "mass unknown without a density" if report.mass_g is None else f"mass {report.mass_g:.4g} g"
    lines = [f"size {x:.4g} x {y:.4g} x {z:.4g} mm, solid {report.solid_mm3:.6g} mm³, {mass}"]
    for name, found in (("solid", report.solid), ("void", report.void)):
        least = "at least " if found.smallest_voxels >= _THICKEST else ""
        lines.append(
            f"smallest {name} feature: {least}{found.smallest_voxels} voxels = {found.smallest_mm:.3g} mm "
            f"(cell {found.cell}); {found.thinner['2']:.2%} of it thinner than 2 voxels, "
            f"{found.thinner['4']:.2%} than 4"
        )
    if report.printer is not None:
        lines.append(_verdict(report.printer))
    if report.least_contact_mm2 is not None:
        lines.append(f"least contact of two cells: {report.least_contact_mm2:.3g} mm²")
    c = report.cavities
    lines.append(
        f"enclosed cavities: {c.count:,} of {c.volume_mm3:.4g} mm³ in all "
        f"(largest {c.largest_mm3:.3g}, median {c.median_mm3:.2g}), in {c.elements:,} elements; "
        f"{c.cells:,} unique cells enclose one by themselves, in {c.elements_by_themselves:,} elements"
    )
    o = report.overhang
    direction = ", ".join(f"{v:.3g}" for v in o.direction)
    lines.append(
        f"overhanging below 45° (build direction {direction}): {o.share:.1%} of the inner surface, "
        f"at most {o.worst_share:.1%} (cell {o.worst_cell})"
    )
    if report.grid is None:
        lines.append("walls as cut, openings, islands and bridges by layer: of a part, with --region")
    else:
        lines += table({f"voxels {report.region}": report.grid})
    return lines


def _verdict(printer: Printable) -> str:
    verdict = "passes" if printer.passes else "too thin: at most 1 % of any cell may be"
    enough = math.ceil(1e3 * printer.cell_size_mm * (1 - 1e-9)) / 1e3  # rounded up, so that it still passes
    return (
        f"walls and gaps of {printer.least_mm:g} mm: {printer.solid_thinner:.2%} of the solid and "
        f"{printer.void_thinner:.2%} of the void are thinner, {verdict}; "
        f"these cells suit from cell_size_mm = {enough:g} on"
    )
