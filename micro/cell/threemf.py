"""Triangles of 3MF models (3MF core specification 1.3)."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError

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
