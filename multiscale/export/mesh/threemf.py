"""3MF (core specification 1.3): one mesh per unique cell, one component per element, in millimetres.

The lattice is a single object made of components, so that a slicer handles it as one part. The model is
written as text straight into the zip: no more than one cell's mesh is in memory.
"""

from __future__ import annotations

import zipfile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from micro.runtime.files import PathLike, atomic_path
from micro.runtime.progress import Progress, unheard
from multiscale.export.mesh.cell_mesh import Instanced, MeshOptions, cell_meshes, used_cells
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

BYTES_PER_TRIANGLE = 10
"""Measured on decimated cells, after compression."""

_DIGITS = 1 << 16  # steps along a cell's edge
_AT_ONCE = 1 << 14  # records of text
_TYPES = """<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">\
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>\
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>
"""
_RELATIONS = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">\
<Relationship Target="/3D/3dmodel.model" Id="rel0" \
Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>
"""
_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<model unit="millimeter" xml:lang="en-US" xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02">
<metadata name="Application">multiscale</metadata>
<resources>
"""


def write_3mf(
    lattice: Lattice,
    path: PathLike,
    block: Block | None = None,
    *,
    options: MeshOptions,
    progress: Progress = unheard,
) -> Instanced:
    """Write a block of a lattice as 3MF, atomically.

    Parameters
    ----------
    lattice : Lattice
    path : path
    block : Block, optional
        The whole lattice by default. Its lowest corner comes to lie at the origin, since slicers
        refuse or move what lies elsewhere.
    options : MeshOptions
    progress : Progress, optional

    Returns
    -------
    Instanced

    Raises
    ------
    InputError
        If the block leaves the lattice or the options do not fit the cells.
    """
    block = Block.of(block, lattice.shape)
    edge = 1e3 * lattice.cell_size_m
    cells = used_cells(lattice, block)
    number = {int(cell): i for i, cell in enumerate(cells, start=1)}  # object 0 is not allowed
    volume = np.zeros(int(lattice.kinds.max()) + 1)
    triangles = 0
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as package,
    ):
        package.writestr("[Content_Types].xml", _TYPES)
        package.writestr("_rels/.rels", _RELATIONS)
        # The model of a large lattice may pass 4 GB before compression.
        with package.open("3D/3dmodel.model", "w", force_zip64=True) as model:
            model.write(_HEAD.encode())
            for cell, mesh in cell_meshes(lattice, block, options):
                points = np.rint(mesh.points * _DIGITS) / _DIGITS * edge
                _write_mesh(model, number[cell], points, mesh.triangles)
                volume[cell] = mesh.volume
                triangles += len(mesh.triangles)
                progress(number[cell], len(cells))
            placed = _write_components(model, len(cells) + 1, lattice.kinds[block.slices], number, edge)
            build = f'<build><item objectid="{len(cells) + 1}"/></build>\n</model>\n'
            model.write(f"</resources>\n{build}".encode())
    return Instanced(len(cells), len(placed), triangles, float(volume[placed].sum()) * edge**3)


def _write_mesh(model: IO[bytes], number: int, points: NDArray, triangles: NDArray) -> None:
    model.write(f'<object id="{number}" type="model"><mesh><vertices>\n'.encode())
    _write_records(model, '<vertex x="%.6g" y="%.6g" z="%.6g"/>', points)
    model.write(b"</vertices><triangles>\n")
    _write_records(model, '<triangle v1="%d" v2="%d" v3="%d"/>', triangles)
    model.write(b"</triangles></mesh></object>\n")


def _write_records(model: IO[bytes], record: str, values: NDArray) -> None:
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        model.write(((record + "\n") * len(some) % tuple(some.ravel().tolist())).encode())


def _write_components(
    model: IO[bytes], number: int, index: NDArray[np.int32], numbers: dict[int, int], edge: float
) -> NDArray[np.int32]:
    """The object that places the cells; returns the cell of each instance."""
    where = np.argwhere(np.isin(index, list(numbers)))
    placed = index[tuple(where.T)]
    model.write(f'<object id="{number}" type="model"><components>\n'.encode())
    record = '<component objectid="%d" transform="1 0 0 0 1 0 0 0 1 %.9g %.9g %.9g"/>\n'
    for start in range(0, len(where), _AT_ONCE):
        lines = [
            record % (numbers[int(cell)], i * edge, j * edge, k * edge)
            for cell, (i, j, k) in zip(
                placed[start : start + _AT_ONCE], where[start : start + _AT_ONCE].tolist(), strict=True
            )
        ]
        model.write("".join(lines).encode())
    model.write(b"</components></object>\n")
    return placed
