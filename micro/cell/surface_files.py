"""Triangles out of surface files: STL, PLY, OBJ, and 3MF (core specification 1.3).

They are read here rather than by VTK, which takes the process down over a binary PLY that is cut short, takes
the zeros it reads past the end of a text PLY for points, and prints what it finds in an STL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError

STL_HEAD = 84
STL_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX = re.compile(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)")
_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"


def read_3mf(path: Path) -> tuple[Floats, NDArray]:
    """Points (p, 3) and triangles (t, 3) of the objects that a 3MF model builds, placed as it says.

    Raises
    ------
    InputError
        If it is no archive with a sound model.
    """
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
            indices = np.array(corners, dtype=np.int64).reshape(-1, 3)
            if len(indices) and (indices.min() < 0 or indices.max() >= len(vertices)):
                raise ValueError("a triangle without its vertices")
            # A placement that mirrors turns a body inside out.
            faces.append((indices[:, ::-1] if np.linalg.det(matrix) < 0 else indices) + start)

    try:
        for item in model.iter(f"{_CORE}item"):
            place(item, np.eye(4))
        joined, vertices = np.concatenate(faces), np.concatenate(points)
        if not np.isfinite(vertices).all():
            raise ValueError("a vertex that is nowhere")
    except (ValueError, KeyError, RecursionError, OverflowError) as error:
        raise InputError(f"holds no sound model: {error}", file=path) from None
    return vertices, joined


def read_stl(path: Path) -> tuple[Floats, NDArray]:
    """Points (3t, 3) and triangles (t, 3) of an STL, binary or text; corners are not joined.

    Raises
    ------
    InputError
        If it is none, or cut short.
    """
    data = path.read_bytes()
    count = int.from_bytes(data[STL_HEAD - 4 : STL_HEAD], "little")
    size = STL_HEAD + STL_RECORD.itemsize * count
    if (
        len(data) != size
        and data.lstrip()[:5].lower() == b"solid"
        and re.search(rb"facet|endsolid", data[:1000])
    ):
        if b"endsolid" not in data[-1000:]:
            raise InputError("is cut short: it has no end of its solid", file=path)
        corners = _numbers(_VERTEX.findall(data), path)
    elif len(data) < max(size, STL_HEAD):
        there = max(0, len(data) - STL_HEAD) // STL_RECORD.itemsize
        raise InputError(f"is cut short or no STL: it names {count} triangles and holds {there}", file=path)
    else:
        with np.errstate(invalid="ignore"):  # what is no number is refused where surfaces are read
            corners = np.frombuffer(data, STL_RECORD, count, STL_HEAD)["corners"].astype(float).reshape(-1, 3)
    if not len(corners) or len(corners) % 3:
        raise InputError("holds no surface", file=path)
    return corners, np.arange(len(corners)).reshape(-1, 3)


def read_obj(path: Path) -> tuple[Floats, NDArray]:
    """Points (p, 3) and triangles (t, 3) of a Wavefront OBJ, polygons as fans.

    Raises
    ------
    InputError
        If a line of it is none.
    """
    points: list[list[str]] = []
    polygons: list[list[int]] = []
    text = path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), start=1):
        kind, *words = line.split() or [""]
        if kind == "v":
            points.append(words[:3])
        elif kind == "f":
            try:
                corners = [int(word.split("/")[0]) for word in words]
            except ValueError:
                raise InputError(f"line {number} is no face", file=path, value=line.strip()) from None
            polygons.append([c - 1 if c > 0 else len(points) + c for c in corners])
    return _surface(_numbers(points, path), _fans(polygons), path)


@dataclass(frozen=True)
class _Element:
    """A part of a PLY: its properties are pairs of a name and types, (count's, item's) for a list."""

    name: str
    count: int
    properties: list[tuple[str, tuple[str, ...]]]

    @property
    def has_lists(self) -> bool:
        return any(len(types) == 2 for _, types in self.properties)


def read_ply(path: Path) -> tuple[Floats, NDArray]:
    """Points (p, 3) and triangles (t, 3) of a PLY, binary or text, polygons as fans.

    Raises
    ------
    InputError
        If it is none, or cut short.
    """
    data = path.read_bytes()
    head, end, rest = data.partition(b"end_header")
    lines = [line.split() for line in head.decode("ascii", errors="replace").splitlines()]
    order = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
    try:
        if not end or lines[0] != ["ply"]:
            raise ValueError("no header")
        byte_order = order[next(words[1] for words in lines if words[:1] == ["format"])]
        elements = _ply_elements(lines)
        if byte_order:
            found = dict(_ply_binary(elements, rest[rest.index(b"\n") + 1 :], byte_order))
        else:
            found = dict(_ply_text(elements, rest.split()))
        points = np.stack([np.asarray(found["vertex"][axis], dtype=float) for axis in "xyz"], axis=-1)
        faces = found["face"]
        polygons = faces.get("vertex_indices", faces.get("vertex_index"))
    except (ValueError, KeyError, IndexError, StopIteration, OverflowError) as error:
        raise InputError(f"is cut short, or no PLY ({error or 'no format'})", file=path) from None
    return _surface(points, _fans(polygons), path)


def _ply_elements(lines: list[list[str]]) -> list[_Element]:
    elements: list[_Element] = []
    for words in lines:
        if words[:1] == ["element"]:
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[:2] == ["property", "list"]:
            elements[-1].properties.append((words[4], (_PLY_TYPES[words[2]], _PLY_TYPES[words[3]])))
        elif words[:1] == ["property"]:
            elements[-1].properties.append((words[2], (_PLY_TYPES[words[1]],)))
    return elements


def _ply_text(elements: list[_Element], words: list[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every element's properties; lists as lists."""
    at = 0

    def some(count: int) -> NDArray:
        nonlocal at
        at += count
        if at > len(words):
            raise ValueError("fewer numbers than it names")
        return np.array(words[at - count : at]).astype(float)

    for element in elements:
        names = [name for name, _ in element.properties]
        if not element.has_lists:
            table = some(element.count * len(names)).reshape(element.count, len(names))
            yield element.name, dict(zip(names, table.T, strict=True))
            continue
        rows: list[list[Any]] = [[] for _ in names]
        for _ in range(element.count):
            for row, (_, types) in zip(rows, element.properties, strict=True):
                row.append(some(int(some(1)[0])).astype(int) if len(types) == 2 else some(1)[0])
        yield element.name, dict(zip(names, rows, strict=True))


def _ply_binary(elements: list[_Element], body: bytes, order: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every element's properties; lists as an array (count, n) if all are as long as the first."""
    at = 0

    def some(dtype: Any, count: int = 1) -> NDArray:
        nonlocal at
        table = np.frombuffer(body, dtype, count, at)  # a ValueError if there is too little
        at += table.nbytes
        return table

    for element in elements:
        start, fields = at, []
        for name, types in element.properties:
            if len(types) == 2:
                # As long as the first row's list: what is not is read row by row.
                first = int(np.frombuffer(body, order + types[0], 1, at)[0]) if element.count else 0
                fields += [(f"{name} count", order + types[0]), (name, order + types[1], first)]
                at += np.dtype(order + types[0]).itemsize + first * np.dtype(order + types[1]).itemsize
            else:
                fields.append((name, order + types[0]))
                at += np.dtype(order + types[0]).itemsize
        at, dtype = start, np.dtype(fields)
        whole = len(body) - at >= element.count * dtype.itemsize
        if whole or not element.has_lists:
            table = some(dtype, element.count)
            same = all(
                (table[f"{name} count"] == dtype[name].shape[0]).all()
                for name, types in element.properties
                if len(types) == 2
            )
            if same:
                yield element.name, {name: table[name] for name, _ in element.properties}
                continue
            at = start
        rows: dict[str, list[Any]] = {name: [] for name, _ in element.properties}
        for _ in range(element.count):
            for name, types in element.properties:
                if len(types) == 2:
                    rows[name].append(some(order + types[1], int(some(order + types[0])[0])))
                else:
                    rows[name].append(some(order + types[0])[0])
        yield element.name, rows


def _fans(polygons: Any) -> NDArray:
    """Triangles (t, 3) of polygons: an array (p, n), or a list of arrays of any lengths."""
    if isinstance(polygons, np.ndarray):
        groups = [polygons]
    else:
        by_length: dict[int, list[Any]] = {}
        for polygon in polygons:
            by_length.setdefault(len(polygon), []).append(polygon)
        groups = [np.array(some) for some in by_length.values()]
    fans = [
        np.stack([group[:, 0], group[:, k], group[:, k + 1]], axis=-1)
        for group in groups
        for k in range(1, group.shape[1] - 1)
    ]
    return np.concatenate([np.zeros((0, 3), np.int64), *fans]).astype(np.int64)


def _numbers(rows: list[Any], path: Path) -> Floats:
    try:
        return np.array(rows).astype(float).reshape(-1, 3)
    except ValueError as error:
        raise InputError(f"a point is not three numbers ({error})", file=path) from None


def _surface(points: Floats, faces: NDArray, path: Path) -> tuple[Floats, NDArray]:
    if not len(faces):
        raise InputError("holds no surface", file=path)
    if faces.min() < 0 or faces.max() >= len(points):
        raise InputError("a triangle is without its points: cut short?", file=path)
    return points, faces
