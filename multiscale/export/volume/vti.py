"""Fields on the macro grid as VTK files for ParaView: VTI (image data) and VTU (solid elements only).

Arrays here are indexed ``[x, y, z]`` with x slowest; VTK runs x fastest. The
one place that turns one into the other is this module.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyvista
from numpy.typing import ArrayLike, NDArray
from vtkmodules.vtkIOXML import vtkXMLImageDataWriter, vtkXMLUnstructuredGridWriter

from micro.runtime.arrays import Bools
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path
from micro.runtime.vtk_files import read_vtk
from multiscale.export.volume.macro_model import hexahedra
from multiscale.lattice.block import Block, Triple
from multiscale.lattice.lattice import Lattice

Vector = tuple[float, float, float]
Fields = Mapping[str, ArrayLike]


@dataclass(frozen=True, eq=False)
class GridFields:
    """Fields on a regular grid, as read back by :func:`read_vti`.

    Attributes
    ----------
    shape : tuple of three int
        Elements along each axis.
    spacing, origin : tuple of three float
        Edge of an element, and the grid's lowest corner, in metres.
    cell_data : dict of arrays, shape (nx, ny, nz) or (nx, ny, nz, c)
    point_data : dict of arrays, shape (nx+1, ny+1, nz+1) or (nx+1, ny+1, nz+1, c)
    """

    shape: Triple
    spacing: Vector
    origin: Vector = (0.0, 0.0, 0.0)
    cell_data: dict[str, NDArray] = field(default_factory=dict)
    point_data: dict[str, NDArray] = field(default_factory=dict)


def write_vti(
    path: PathLike,
    shape: Triple,
    spacing: Vector,
    *,
    origin: Vector = (0.0, 0.0, 0.0),
    cell_data: Fields | None = None,
    point_data: Fields | None = None,
) -> None:
    """Write element and node fields of a grid as compressed VTI, atomically.

    Parameters
    ----------
    path : path
        Ends in ``.vti``.
    shape : tuple of three int
        Elements along each axis.
    spacing, origin : tuple of three float
        Edge of an element and lowest corner, in metres.
    cell_data : mapping of arrays, shape (nx, ny, nz) or (nx, ny, nz, c)
        Bool is written as uint8.
    point_data : mapping of arrays, shape (nx+1, ny+1, nz+1) or (nx+1, ny+1, nz+1, c)

    Raises
    ------
    InputError
        If a field's shape does not fit the grid.
    """
    grid = pyvista.ImageData(dimensions=tuple(s + 1 for s in shape), spacing=spacing, origin=origin)
    for name, values in (cell_data or {}).items():
        grid.cell_data[name] = _vtk_order(name, values, shape)
    for name, values in (point_data or {}).items():
        grid.point_data[name] = _vtk_order(name, values, tuple(s + 1 for s in shape))
    with atomic_path(path) as temporary:
        _save(grid, temporary)


def _save(grid: pyvista.DataSet, path: Path) -> None:
    """Write a grid as compressed XML, by Python: VTK's own writing dies, or says nothing, on a full disk."""
    image = isinstance(grid, pyvista.ImageData)
    writer: Any = vtkXMLImageDataWriter() if image else vtkXMLUnstructuredGridWriter()
    writer.SetInputData(grid)
    writer.SetDataModeToBinary()
    writer.WriteToOutputStringOn()
    if not writer.Write():
        raise OSError(errno.EIO, "VTK made no file of this grid", str(path))
    path.write_text(writer.GetOutputString(), encoding="utf-8")


def read_vti(path: PathLike) -> GridFields:
    """Read a VTI file back into arrays ``[x, y, z]``.

    Raises
    ------
    InputError
        If there is no such file, or it is not a VTI file.
    """
    grid = read_vtk(Path(path))
    if not isinstance(grid, pyvista.ImageData):
        raise InputError("not a VTI file", file=path)
    nodes = tuple(int(d) for d in grid.dimensions)
    shape = (nodes[0] - 1, nodes[1] - 1, nodes[2] - 1)
    return GridFields(
        shape,
        _vector(grid.spacing),
        _vector(grid.origin),
        {name: _array_order(grid.cell_data[name], shape) for name in grid.cell_data.keys()},  # noqa: SIM118
        {name: _array_order(grid.point_data[name], nodes) for name in grid.point_data.keys()},  # noqa: SIM118
    )


def write_vtu(
    path: PathLike,
    solid: Bools,
    spacing: Vector,
    *,
    origin: Vector = (0.0, 0.0, 0.0),
    cell_data: Fields | None = None,
    point_data: Fields | None = None,
) -> None:
    """Write the elements where ``solid`` is true as hexahedra, with their nodes only, atomically.

    Unlike in a VTI file the void is absent, so a warp by displacement shows the deformed body.

    Parameters
    ----------
    path : path
        Ends in ``.vtu``.
    solid : bool array, shape (nx, ny, nz)
    spacing, origin : tuple of three float
        In metres.
    cell_data, point_data : mapping of arrays
        On the whole grid, as for :func:`write_vti`.

    Raises
    ------
    InputError
        If a field's shape does not fit the grid, or nothing is solid.
    """
    if not solid.any():
        raise InputError("there is nothing solid to write", file=path)
    nodes, elements = hexahedra(solid)
    points = nodes * np.array(spacing) + np.array(origin)
    grid = pyvista.UnstructuredGrid({pyvista.CellType.HEXAHEDRON: elements}, np.ascontiguousarray(points))
    for name, values in (cell_data or {}).items():
        grid.cell_data[name] = _fitting(name, values, solid.shape)[solid]
    for name, values in (point_data or {}).items():
        grid.point_data[name] = _fitting(name, values, tuple(s + 1 for s in solid.shape))[tuple(nodes.T)]
    with atomic_path(path) as temporary:
        _save(grid, temporary)


def lattice_fields(lattice: Lattice) -> dict[str, NDArray]:
    """What a lattice knows of its elements: C11, C12, C44 (Pa), density and cell (-1 is void)."""
    tensors = lattice.tensors() * lattice.young_pa
    return {
        "C11": tensors[..., 0],
        "C12": tensors[..., 1],
        "C44": tensors[..., 2],
        "density": lattice.densities(),
        "cell": lattice.index,
    }


def write_voxels(lattice: Lattice, path: PathLike, block: Block, *, per_cell: int | None = None) -> None:
    """Write a block's voxels as a VTI of uint8 ``solid`` (1) and void (0), in place in the lattice.

    Parameters
    ----------
    lattice : Lattice
    path : path
    block : Block
    per_cell : int, optional
        Voxels along a cell's edge; the cells' own by default.
    """
    voxels = lattice.voxels(block, per_cell=per_cell)
    edge = lattice.cell_size_m
    pitch = edge * block.shape[0] / voxels.shape[0]
    nx, ny, nz = voxels.shape
    x, y, z = (edge * low for low in block.lower)
    write_vti(path, (nx, ny, nz), (pitch, pitch, pitch), origin=(x, y, z), cell_data={"solid": voxels})


def _vector(values: ArrayLike) -> Vector:
    x, y, z = (float(v) for v in np.asarray(values))
    return (x, y, z)


def _fitting(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    array = np.asarray(values)
    if array.shape[:3] != tuple(shape) or array.ndim > 4:
        raise InputError(
            f"the field should be {tuple(shape)} or {(*shape, 'c')}", key=name, value=array.shape
        )
    return array.astype(np.uint8) if array.dtype == bool else array


def _vtk_order(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    array = _fitting(name, values, shape)
    return np.ascontiguousarray(array.transpose(2, 1, 0, *range(3, array.ndim))).reshape(-1, *array.shape[3:])


def _array_order(values: NDArray, shape: tuple[int, ...]) -> NDArray:
    array = np.asarray(values)
    array = array.reshape(*reversed(shape), *array.shape[1:])
    return np.ascontiguousarray(array.transpose(2, 1, 0, *range(3, array.ndim)))
