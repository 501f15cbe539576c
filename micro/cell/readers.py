"""Voxel cells from files: numpy arrays, VTK images, OpenVDB grids, closed surfaces."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from micro.runtime.errors import InputError

_MOST_VOXELS = 1 << 30


def read_voxels(path: str | Path, *, array: str | None = None, resolution: int | None = None) -> NDArray:
    """Voxels of a file, indexed [x, y, z]: bool for solid and void, numbers for Young's moduli.

    Integers that are all 0 or 1 are read as bool, because most formats have no bool.

    Parameters
    ----------
    path : path
        ``.npy``, ``.npz``, ``.vti``, ``.vdb`` (with the ``openvdb`` module), or a closed surface:
        ``.stl``, ``.obj``, ``.ply``, ``.3mf``.
    array : str, optional
        Name of the array, where the file holds several.
    resolution : int, optional
        Voxels along the longest edge of a surface's bounding box, which is taken as the cell.

    Raises
    ------
    InputError
        If the file can't be read, holds several arrays, or its surface is not closed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", file=path)
    kind = path.suffix.lower()
    if kind in _SURFACES:
        voxels = _voxelise(_SURFACES[kind](path), resolution or 64, path)
    elif kind in _ARRAYS:
        if resolution is not None:
            raise InputError("is for surfaces; voxels have their own", file=path, key="--resolution")
        voxels = _ARRAYS[kind](path, array)
    else:
        known = ", ".join((*_ARRAYS, *_SURFACES))
        raise InputError(f"is of no known kind ({known})", file=path, value=kind)
    if voxels.dtype.kind not in "biuf" or voxels.ndim not in (3, 4) or voxels.size == 0:
        raise InputError(
            "voxels are a three-dimensional array of bool or real numbers",
            file=path,
            value=(voxels.dtype.name, voxels.shape),
        )
    if voxels.dtype.kind in "iu" and ((voxels == 0) | (voxels == 1)).all():
        return voxels.astype(bool)
    return voxels


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


def _read_npy(path: Path, array: str | None) -> NDArray:
    try:
        voxels = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"can't be read as a numpy array: {error}", file=path) from None
    if not isinstance(voxels, np.ndarray):
        voxels.close()
        raise InputError("is an archive; name it .npz", file=path)
    return voxels


def _read_npz(path: Path, array: str | None) -> NDArray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[_one(list(archive.files), array, path)]
    except (ValueError, OSError, EOFError, BadZipFile, AttributeError) as error:
        raise InputError(f"can't be read as a numpy archive: {error}", file=path) from None


def _read_vti(path: Path, array: str | None) -> NDArray:
    import pyvista

    image: Any = pyvista.read(path)
    if not isinstance(image, pyvista.ImageData) or image.n_points == 0:
        raise InputError("holds no VTK image", file=path)
    on_cells = len(image.cell_data.keys()) > 0
    data = image.cell_data if on_cells else image.point_data
    shape = tuple(max(1, d - 1) if on_cells else d for d in image.dimensions)
    values = np.asarray(data[_one(list(data.keys()), array, path)])
    if values.ndim != 1:
        raise InputError("needs one number per voxel", file=path, value=values.shape)
    return values.reshape(shape, order="F")  # VTK counts x fastest


def _read_vdb(path: Path, array: str | None) -> NDArray:
    vdb = _optional("openvdb", "reading OpenVDB grids", path)
    grids = {grid.name or f"grid{i}": grid for i, grid in enumerate(vdb.readAll(str(path))[0])}
    grid = grids[_one(list(grids), array, path)]
    low, high = grid.evalActiveVoxelBoundingBox()
    voxels = np.zeros(tuple(b - a + 1 for a, b in zip(low, high, strict=True)), dtype=np.float64)
    grid.copyToArray(voxels, ijk=low)
    return voxels


def _optional(module: str, purpose: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"{purpose} needs the Python module {module}, which is not here", file=path
        ) from None


def _surface(path: Path) -> Any:
    """Triangles of a mesh file that VTK reads."""
    import pyvista

    mesh: Any = pyvista.read(path)
    if mesh.n_cells == 0:
        raise InputError("holds no surface", file=path)
    return mesh.extract_surface(algorithm="dataset_surface").triangulate().clean()


_CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"


def _surface_3mf(path: Path) -> Any:
    """Triangles of the objects a 3MF model builds, placed as it says (3MF core specification 1.3)."""
    import pyvista

    try:
        with ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.lower().endswith(".model"))
            model = ElementTree.fromstring(archive.read(name))
    except (BadZipFile, StopIteration, ElementTree.ParseError, OSError) as error:
        raise InputError(f"can't be read as 3MF: {error or 'it holds no model'}", file=path) from None
    objects = {o.get("id"): o for o in model.iter(f"{_CORE}object")}
    points: list[NDArray] = []
    faces: list[NDArray] = []

    def place(item: ElementTree.Element, outer: NDArray) -> None:
        rows = np.array((item.get("transform") or "1 0 0 0 1 0 0 0 1 0 0 0").split(), dtype=float)
        matrix = np.eye(4)
        matrix[:, :3] = rows.reshape(4, 3)  # a point is a row vector, multiplied from the left
        matrix = matrix @ outer
        part = objects[item.get("objectid")]
        for component in part.iter(f"{_CORE}component"):
            place(component, matrix)
        vertices = [[float(v.get(c, "nan")) for c in "xyz"] for v in part.iter(f"{_CORE}vertex")]
        if vertices:
            start = sum(map(len, points))
            points.append((np.column_stack([vertices, np.ones(len(vertices))]) @ matrix)[:, :3])
            corners = [
                [int(t.get(c, "-1")) for c in ("v1", "v2", "v3")] for t in part.iter(f"{_CORE}triangle")
            ]
            faces.append(np.array(corners).reshape(-1, 3) + start)

    try:
        for item in model.iter(f"{_CORE}item"):
            place(item, np.eye(4))
        indices, vertices = np.concatenate(faces), np.concatenate(points)
        if not np.isfinite(vertices).all() or indices.min() < 0 or indices.max() >= len(vertices):
            raise ValueError("a triangle without its vertices")
    except (ValueError, KeyError, RecursionError) as error:
        raise InputError(f"holds no sound model: {error}", file=path) from None
    cells = np.column_stack([np.full(len(indices), 3), indices])
    return pyvista.PolyData(vertices, cells.ravel()).clean()


def _voxelise(surface: Any, resolution: int, path: Path) -> NDArray[np.bool_]:
    """Voxels whose centres lie inside a closed surface; the cell is its bounding box."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    if surface.n_open_edges:
        raise InputError("needs a closed surface; open edges", file=path, value=int(surface.n_open_edges))
    x0, x1, y0, y1, z0, z1 = surface.bounds
    size = np.array([x1 - x0, y1 - y0, z1 - z0])
    if resolution < 2 or (size <= 0).any():
        raise InputError("a surface needs a volume and at least two voxels an edge", file=path)
    edge = float(size.max()) / resolution
    shape = tuple(int(v) for v in np.maximum(1, np.round(size / edge)))
    if int(np.prod(shape)) > _MOST_VOXELS:
        raise InputError("asks for too many voxels", file=path, key="--resolution", value=resolution)
    spacing = size / shape
    image = vtk.vtkImageData()
    image.SetDimensions(*shape)
    image.SetSpacing(*spacing)
    # Points of the image are the voxels' centres.
    image.SetOrigin(x0 + spacing[0] / 2, y0 + spacing[1] / 2, z0 + spacing[2] / 2)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.GetPointData().GetScalars().Fill(1)
    stencil = vtk.vtkPolyDataToImageStencil()
    stencil.SetInputData(surface)
    stencil.SetTolerance(0.0)
    stencil.SetOutputOrigin(image.GetOrigin())
    stencil.SetOutputSpacing(image.GetSpacing())
    stencil.SetOutputWholeExtent(image.GetExtent())
    mask = vtk.vtkImageStencil()
    mask.SetInputData(image)
    mask.SetStencilConnection(stencil.GetOutputPort())
    mask.ReverseStencilOff()
    mask.SetBackgroundValue(0)
    mask.Update()
    values = vtk_to_numpy(mask.GetOutput().GetPointData().GetScalars())
    return values.reshape(shape, order="F").astype(bool)


_ARRAYS: dict[str, Callable[[Path, str | None], NDArray]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".vti": _read_vti,
    ".vdb": _read_vdb,
}
_SURFACES: dict[str, Callable[[Path], Any]] = {
    ".stl": _surface,
    ".obj": _surface,
    ".ply": _surface,
    ".3mf": _surface_3mf,
}
