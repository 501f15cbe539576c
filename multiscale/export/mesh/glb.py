"""GLB (glTF 2.0): one mesh per unique cell, one node per element, in metres.

Plain nodes rather than EXT_mesh_gpu_instancing: every viewer of glTF 2.0 shows them, and a node costs a
line of JSON. No normals are written: viewers shade flat without them, as the format says.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from typing import Any

import numpy as np

from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path
from micro.runtime.progress import Progress, unheard
from multiscale.export.mesh.cell_mesh import Instanced, MeshOptions, cell_meshes, used_cells
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

BYTES_PER_TRIANGLE = 12  # three 16-bit indices and half a point

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_POINTS, _INDICES = 34962, 34963


def write_glb(
    lattice: Lattice,
    path: PathLike,
    block: Block | None = None,
    *,
    options: MeshOptions,
    progress: Progress = unheard,
) -> Instanced:
    """Write a block of a lattice as GLB, atomically; axes are the lattice's own.

    Parameters
    ----------
    lattice : Lattice
    path : path
    block : Block, optional
        The whole lattice by default.
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
    edge = lattice.cell_size_m
    cells = used_cells(lattice, block)
    volume, triangles = np.zeros(int(lattice.kinds.max()) + 1), 0
    scene: dict[str, Any] = {"meshes": [], "accessors": [], "bufferViews": []}
    number: dict[int, int] = {}
    with atomic_path(path) as temporary, tempfile.TemporaryFile(dir=temporary.parent) as binary:
        for cell, mesh in cell_meshes(lattice, block, options):
            points = (mesh.points * edge).astype("<f4")
            wide = len(points) > np.iinfo(np.uint16).max
            bounds = {"min": points.min(axis=0).tolist(), "max": points.max(axis=0).tolist()}
            a = _accessor(scene, binary, points.tobytes(), _POINTS, _FLOAT, "VEC3", len(points), bounds)
            kind, component = ("<u4", _UINT32) if wide else ("<u2", _UINT16)
            indices = mesh.triangles.astype(kind)
            data = indices.tobytes()
            b = _accessor(scene, binary, data, _INDICES, component, "SCALAR", indices.size)
            number[cell] = len(scene["meshes"])
            scene["meshes"].append(
                {"primitives": [{"attributes": {"POSITION": a}, "indices": b, "material": 0}]}
            )
            volume[cell], triangles = mesh.volume, triangles + len(mesh.triangles)
            progress(len(number), len(cells))
        where = np.argwhere(np.isin(lattice.kinds, cells)[block.slices]) + np.array(block.lower)
        placed = lattice.kinds[tuple(where.T)]
        scene["nodes"] = [
            {"mesh": number[int(cell)], "translation": [x * edge, y * edge, z * edge]}
            for cell, (x, y, z) in zip(placed, where.tolist(), strict=True)
        ]
        scene["nodes"].append({"name": "lattice", "children": list(range(len(where)))})
        size = binary.tell()
        scene |= {
            "asset": {"version": "2.0", "generator": "multiscale"},
            "scene": 0,
            "scenes": [{"nodes": [len(where)]}],
            "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}}],
            "buffers": [{"byteLength": size}],
        }
        text = json.dumps(scene, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        if 28 + len(text) + size > np.iinfo(np.uint32).max:
            raise InputError("a GLB ends at 4 GB; a region or fewer voxels per cell would fit", file=path)
        with open(temporary, "wb") as file:
            file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + size))
            file.write(struct.pack("<I4s", len(text), b"JSON") + text)
            file.write(struct.pack("<I4s", size, b"BIN\0"))
            binary.seek(0)
            shutil.copyfileobj(binary, file, 1 << 20)
    return Instanced(len(cells), len(placed), triangles, float(volume[placed].sum()) * (1e3 * edge) ** 3)


def _accessor(
    scene: dict[str, Any],
    binary: Any,
    data: bytes,
    target: int,
    component: int,
    kind: str,
    count: int,
    more: dict[str, Any] | None = None,
) -> int:
    """Append an array to the binary part; returns the number of its accessor."""
    view = {"buffer": 0, "byteOffset": binary.tell(), "byteLength": len(data), "target": target}
    binary.write(data + b"\0" * (-len(data) % 4))
    scene["bufferViews"].append(view)
    number = len(scene["bufferViews"]) - 1
    scene["accessors"].append(
        {"bufferView": number, "componentType": component, "count": count, "type": kind, **(more or {})}
    )
    return number
