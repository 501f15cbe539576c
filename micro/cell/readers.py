"""Voxel cells from files: numpy arrays, VTK images, OpenVDB grids, closed surfaces."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.cell.surface import FORMATS, inside, read_triangles
from micro.runtime.errors import InputError
from micro.runtime.npz import read_arrays
from micro.runtime.vtk_files import read_vtk

_MOST_VOXELS = 1 << 30

Edges = tuple[float, float, float]
Box = tuple[tuple[float, float, float], tuple[float, float, float]]
_CUBE: Edges = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Voxels:
    """What a file holds.

    Attributes
    ----------
    values : array, shape (nx, ny, nz) or (m, n, n, n)
        Bool for solid and void, numbers for Young's moduli; indexed [x, y, z].
    edges : tuple of three floats
        A voxel's edges along x, y and z, in the file's units; only their ratios count.
    taken : str
        What the file's values were taken for, in words.
    """

    values: NDArray
    edges: Edges
    taken: str


def read_voxels(
    path: str | Path,
    *,
    array: str | None = None,
    resolution: int | None = None,
    box: Box | None = None,
    solid: int | None = None,
    moduli: bool = False,
) -> Voxels:
    """Voxels of a file.

    Whole numbers of one or two values are a mask, the larger one solid (0 and 1, 0 and 255, -1 and 1, two
    labels); of more values they are labels, of which ``solid`` names the solid one, or moduli if said so.

    Parameters
    ----------
    path : path
        ``.npy``, ``.npz``, ``.vti``, ``.vdb`` (with the ``openvdb`` module), or a closed surface: any file
        that :func:`micro.cell.surface.read_triangles` reads.
    array : str, optional
        Name of the array, where the file holds several.
    resolution : int, optional
        Voxels along the longest edge of a surface's cell; 64 by default.
    box : pair of points, optional
        Lowest and highest corner of a surface's cell, in the file's units; its bounding box by default.
    solid : int, optional
        The value that is solid; every other one is void.
    moduli : bool
        Whether whole numbers are Young's moduli.

    Raises
    ------
    InputError
        If the file can't be read, holds several arrays, its surface is not closed, or it does not say
        which of its values is solid.
    """
    path = Path(path)
    if not path.is_file():
        reason = "is a directory; give the file in it" if path.is_dir() else "no such file"
        raise InputError(reason, file=path)
    kind = path.suffix.lower()
    if kind in FORMATS:
        if solid is not None or moduli:
            raise InputError(
                "is for voxels; what a surface encloses is solid",
                file=path,
                key="--moduli" if moduli else "--solid",
            )
        return _fill(path, resolution or 64, box)
    if kind not in _ARRAYS:
        known = ", ".join((*_ARRAYS, *FORMATS))
        raise InputError(f"is of no known kind ({known})", file=path, value=kind)
    for key, given in (("--resolution", resolution), ("--box", box)):
        if given is not None:
            raise InputError("is for surfaces; voxels have their own", file=path, key=key)
    voxels, edges = _ARRAYS[kind](path, array)
    if voxels.dtype.kind not in "biuf" or voxels.ndim not in (3, 4) or voxels.size == 0:
        raise InputError(
            "voxels are a three-dimensional array of bool or real numbers",
            file=path,
            value=(voxels.dtype.name, voxels.shape),
        )
    if not (np.isfinite(edges).all() and min(edges) > 0):
        raise InputError("the voxels need positive edges", file=path, key="spacing", value=edges)
    values, taken = _meaning(voxels, solid, moduli, path)
    return Voxels(values, edges, taken)


def _meaning(voxels: NDArray, solid: int | None, moduli: bool, path: Path) -> tuple[NDArray, str]:
    """Voxels as bool or moduli, and what they were taken for."""
    if solid is not None and moduli:
        raise InputError("excludes --solid", file=path, key="--moduli")
    if solid is not None:
        if not (voxels == solid).any():
            raise InputError("no voxel has this value", file=path, key="--solid", value=solid)
        return voxels == solid, f"a mask: {solid} is solid, all else void"
    if voxels.dtype == bool:
        return voxels, "a mask: true is solid"
    if voxels.dtype.kind == "f" or moduli:
        return voxels, f"Young's moduli from {voxels.min():g} to {voxels.max():g}"
    least, most = int(voxels.min()), int(voxels.max())
    if ((voxels == least) | (voxels == most)).all():
        if least == most:
            return voxels != 0, f"a mask: {most} is {'void' if most == 0 else 'solid'}, all of it"
        return voxels == most, f"a mask: {most} is solid, {least} void"
    known = np.unique(voxels)
    some = ", ".join(str(v) for v in known[:6]) + (", ..." if len(known) > 6 else "")
    raise InputError(
        f"holds {len(known)} different whole numbers ({some}): --solid VALUE says which is solid, --moduli "
        "that they are Young's moduli",
        file=path,
    )


def _one(names: list[str], wanted: str | None, path: Path) -> str:
    """The array to read of those a file holds."""
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"is not among its arrays ({', '.join(names)})", file=path, key=wanted)
        return wanted
    if len(names) != 1:
        which = ", ".join(names) if names else "none"
        raise InputError(f"needs one array or a choice with --array; it holds {which}", file=path)
    return names[0]


def _read_npy(path: Path, array: str | None) -> tuple[NDArray, Edges]:
    try:
        voxels = np.load(path, allow_pickle=False)
    except Exception as error:  # whatever numpy makes of a damaged file
        raise InputError(f"can't be read as a numpy array: {error}", file=path) from None
    if not isinstance(voxels, np.ndarray):
        voxels.close()
        raise InputError("is an archive; name it .npz", file=path)
    return voxels, _CUBE


def _read_npz(path: Path, array: str | None) -> tuple[NDArray, Edges]:
    archive = read_arrays(path)
    return archive[_one(list(archive), array, path)], _CUBE


def _read_vti(path: Path, array: str | None) -> tuple[NDArray, Edges]:
    import pyvista

    image = read_vtk(path)
    if not isinstance(image, pyvista.ImageData):
        raise InputError("holds no VTK image", file=path)
    on_cells = len(image.cell_data.keys()) > 0
    data = image.cell_data if on_cells else image.point_data
    shape = tuple(max(1, d - 1) if on_cells else d for d in image.dimensions)
    values = np.asarray(data[_one(list(data.keys()), array, path)])
    if values.ndim != 1:
        raise InputError("needs one number per voxel", file=path, value=values.shape)
    dx, dy, dz = (float(v) for v in image.spacing)
    return values.reshape(shape, order="F"), (dx, dy, dz)  # VTK counts x fastest


def _read_vdb(path: Path, array: str | None) -> tuple[NDArray, Edges]:
    vdb = _optional("openvdb", "reading OpenVDB grids", path)
    grids = {grid.name or f"grid{i}": grid for i, grid in enumerate(vdb.readAll(str(path))[0])}
    grid = grids[_one(list(grids), array, path)]
    low, high = grid.evalActiveVoxelBoundingBox()
    voxels = np.zeros(tuple(b - a + 1 for a, b in zip(low, high, strict=True)), dtype=np.float64)
    grid.copyToArray(voxels, ijk=low)
    dx, dy, dz = (float(v) for v in grid.transform.voxelSize())
    return voxels, (dx, dy, dz)


def _optional(module: str, purpose: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"{purpose} needs the Python module {module}, which is not here", file=path
        ) from None


def _fill(path: Path, resolution: int, box: Box | None) -> Voxels:
    """Voxels whose centres lie inside a closed surface; the cell is ``box``, or its bounding box."""
    triangles = read_triangles(path)
    corners = triangles.reshape(-1, 3)
    low, high = (corners.min(axis=0), corners.max(axis=0)) if box is None else map(np.array, box)
    size = high - low
    if resolution < 2 or (size <= 0).any():
        raise InputError("a surface needs a volume and at least two voxels an edge", file=path)
    shape = tuple(int(v) for v in np.maximum(1, np.round(size / (float(size.max()) / resolution))))
    if int(np.prod(shape)) > _MOST_VOXELS:
        raise InputError("asks for too many voxels", file=path, key="--resolution", value=resolution)
    edges = size / shape
    x, y, z = (low[a] + (np.arange(shape[a]) + 0.5) * edges[a] for a in range(3))
    values = inside(triangles, x[:, None, None], y[None, :, None], z[None, None, :])
    span = " x ".join(f"{v:.5g}" for v in size)
    own = "" if box is None else f", of a surface that spans {_span(corners)}"
    return Voxels(
        values,
        (float(edges[0]), float(edges[1]), float(edges[2])),
        f"the inside of a surface of {len(triangles):,} triangles; cell {span} from "
        f"({', '.join(f'{v:.5g}' for v in low)}){own}, in the file's units",
    )


def _span(corners: NDArray) -> str:
    return ", ".join(
        f"{a:.5g}..{b:.5g}" for a, b in zip(corners.min(axis=0), corners.max(axis=0), strict=True)
    )


_ARRAYS: dict[str, Callable[[Path, str | None], tuple[NDArray, Edges]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".vti": _read_vti,
    ".vdb": _read_vdb,
}
