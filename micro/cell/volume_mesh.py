"""Meshes of other programs, through meshio: the outer faces of their solid elements, or of a named group."""

from __future__ import annotations

import importlib
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Floats, Ints
from micro.runtime.errors import InputError

#: By ending the module of meshio that reads it.
_MODULES = {
    ".msh": "gmsh",
    ".inp": "abaqus",
    ".vtu": "vtu",
    ".vtk": "vtk",
    ".med": "med",
    ".mesh": "medit",
    ".bdf": "nastran",
    ".nas": "nastran",
    ".off": "off",
    ".su2": "su2",
}
MESH_FORMATS = tuple(_MODULES)
"""Endings of the files that :func:`read_mesh` reads."""

# The corner nodes of elements' faces, in the node order of VTK, which is meshio's. Elements with nodes on
# their edges list the corners first.
_TETRA = ((0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2))
_HEXAHEDRON = ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))
_WEDGE = ((0, 2, 1), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5))
_PYRAMID = ((0, 3, 2, 1), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4))
_SOLIDS = {
    "tetra": (4, _TETRA),
    "hexahedron": (8, _HEXAHEDRON),
    "wedge": (6, _WEDGE),
    "pyramid": (5, _PYRAMID),
}
_PLANES = {"triangle": 3, "quad": 4}
#: What meshio says of a file that it read only in part.
_LOST = ("could not parse line", "not closed by")


def read_mesh(path: Path, group: str | None = None) -> tuple[Floats, NDArray]:
    """Points (p, 3) and triangles (t, 3) of the surface of a mesh, or of one of its groups.

    Of solid elements (tetrahedra, hexahedra, wedges, pyramids, of any order) the faces that belong to one
    element alone; where there are none, the triangles and quadrilaterals themselves.

    Parameters
    ----------
    path : Path
    group : str, optional
        A physical group, element set or family by its name, or ``ARRAY=VALUE`` for the cells on which the
        array of that name has that value.

    Raises
    ------
    InputError
        If meshio can't read the file, or it has no such group.
    """
    mesh = _read(path)
    points = np.asarray(mesh.points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not len(points):
        raise InputError("holds no points in space", file=path)
    if points.shape[1] == 2:
        points = np.pad(points, ((0, 0), (0, 1)))
    rows = None if group is None else _rows(mesh, group, path)
    solids: list[tuple[str, NDArray]] = []
    planes: list[NDArray] = []
    for number, block in enumerate(mesh.cells):
        cells = np.asarray(block.data)
        if rows is not None:
            cells = cells[rows[number]]
        name = block.type.rstrip("0123456789")
        if cells.ndim != 2 or not len(cells):
            continue
        if cells.min() < 0 or cells.max() >= len(points):
            raise InputError(f"a {block.type} names a point that is not there", file=path)
        if name in _SOLIDS:
            solids.append((name, cells[:, : _SOLIDS[name][0]]))
        elif name in _PLANES:
            planes.append(cells[:, : _PLANES[name]])
    if solids:
        return points, _boundary(points, solids)
    if planes:
        return points, np.concatenate([_split(faces) for faces in planes])
    where = "" if group is None else f" in group '{group}'"
    raise InputError(f"holds neither solid elements nor a surface{where}", file=path)


def group_names(mesh: Any) -> list[str]:
    """Names of a meshio mesh's groups."""
    tags = getattr(mesh, "cell_tags", {}) or {}
    named = [*mesh.cell_sets, *mesh.field_data, *(name for names in tags.values() for name in names)]
    return list(dict.fromkeys(name for name in named if not name.startswith("gmsh:")))


def _read(path: Path) -> Any:
    name = _MODULES[path.suffix.lower()]
    reader = importlib.import_module(f"meshio.{name}")
    said = StringIO()  # meshio goes on with what it understood, and says so there
    try:
        with redirect_stderr(said):
            mesh = reader.read(str(path))
    except ImportError as error:  # MED files need h5py
        module = error.name
        raise InputError(f"needs the Python module {module}: pip install {module}", file=path) from None
    except (Exception, SystemExit) as error:  # whatever meshio makes of a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        if "gmsh:physical" in reason:
            reason = (
                "some of its elements are in a physical group and some are not: save it without 'Save all "
                "elements' (Mesh.SaveAll = 0), or put every volume in a group"
            )
        raise InputError(f"can't be read as a mesh ({name}): {reason}", file=path) from None
    lost = [phrase for phrase in _LOST if phrase in said.getvalue()]
    if lost:
        what = " ".join(said.getvalue().split("Warning:")[1].split())
        raise InputError(f"is damaged, or not as {name} files are: {what}", file=path)
    return mesh


def _rows(mesh: Any, group: str, path: Path) -> list[Ints]:
    """Rows of a group's cells, block by block."""
    if any(rows is not None and len(rows) for rows in mesh.cell_sets.get(group, [])):
        return [
            np.asarray(rows if rows is not None else [], dtype=np.int64) for rows in mesh.cell_sets[group]
        ]
    if group in mesh.field_data and "gmsh:physical" in mesh.cell_data:
        number, dimension = (int(v) for v in np.ravel(mesh.field_data[group])[:2])
        return [
            np.flatnonzero((np.asarray(values) == number) & (block.dim == dimension))
            for block, values in zip(mesh.cells, mesh.cell_data["gmsh:physical"], strict=True)
        ]
    tags = getattr(mesh, "cell_tags", {}) or {}
    families = [number for number, names in tags.items() if group in names]
    if families:
        return [np.flatnonzero(np.isin(values, families)) for values in mesh.cell_data["cell_tags"]]
    array, equals, value = group.rpartition("=")
    if equals and array in mesh.cell_data:
        try:
            wanted = float(value)
        except ValueError:
            raise InputError("must be ARRAY=NUMBER", file=path, key="group", value=group) from None
        found = [np.flatnonzero(np.asarray(values) == wanted) for values in mesh.cell_data[array]]
        if any(len(rows) for rows in found):
            return found
    known = group_names(mesh) + [f"{name}=NUMBER" for name in mesh.cell_data]
    raise InputError(
        f"is no group of the mesh; it has {', '.join(known) or 'none'}", file=path, key="group", value=group
    )


def _boundary(points: Floats, solids: list[tuple[str, NDArray]]) -> NDArray:
    """Triangles of the faces that one element alone has, turned outwards."""
    triples, quads, centres = [], [], {3: [], 4: []}  # type: ignore[var-annotated]
    for name, cells in solids:
        centre = points[cells].mean(axis=1)
        for face in _SOLIDS[name][1]:
            (triples if len(face) == 3 else quads).append(cells[:, face])
            centres[len(face)].append(centre)
    out = []
    for size, parts in ((3, triples), (4, quads)):
        if not parts:
            continue
        faces, centre = np.concatenate(parts), np.concatenate(centres[size])
        _, index, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
        outer = count[index.reshape(-1)] == 1
        faces, centre = faces[outer], centre[outer]
        corners = points[faces]
        normal = np.cross(corners[:, 2] - corners[:, 0], corners[:, -1] - corners[:, 1])
        if size == 3:
            normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        turned = ((corners.mean(axis=1) - centre) * normal).sum(axis=1) < 0
        faces[turned] = faces[turned, ::-1]
        out.append(_split(faces))
    return np.concatenate(out)


def _split(faces: NDArray) -> NDArray:
    """Triangles (t, 3) of triangles or quadrilaterals, cut from the corner of the lowest number."""
    if faces.shape[1] == 3:
        return faces
    first = np.argmin(faces, axis=1)
    turned = np.take_along_axis(faces, (np.arange(4) + first[:, None]) % 4, axis=1)
    return np.concatenate([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]])
