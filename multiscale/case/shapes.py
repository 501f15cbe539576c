"""Shapes that select elements or nodes: primitives and their boolean combinations.

All lengths are in **element units** (one element edge = 1, the grid's lowest
corner at the origin), so a point is (x, y, z) with 0 <= x <= nx and so on. A
point on the surface belongs to the shape. An element is selected by its
centre, a node by its position.

The same pydantic models read the case file, export its JSON schema and answer
``contains``; a shape is a value and can be used on any grid.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from micro.cell.surface import inside, read_triangles
from micro.runtime.arrays import Bools, Floats
from multiscale.case.messages import finding, unknown_key

# Centres and nodes have half-integer coordinates, while radii such as 40/3 are rounded to the
# decimals somebody typed: the slack keeps the selection independent of the last digit.
SURFACE_SLACK = 1e-9

AXES = {"x": 0, "y": 1, "z": 2}

# Far beyond any grid, and far from overflow when squared.
FARTHEST = 1e6

Length = Annotated[float, Field(strict=True, ge=-FARTHEST, le=FARTHEST)]
PositiveLength = Annotated[float, Field(strict=True, gt=0, le=FARTHEST)]
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
Text = Annotated[str, Field(strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=60)]
Point = tuple[Length, Length, Length]
Vector = tuple[Number, Number, Number]
Axis = Literal["x", "y", "z"]


class Table(BaseModel):
    """A table of the case file: frozen, and every key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    raise unknown_key(str(key), known)
        return data

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self._check()
        return self

    def _check(self) -> None:
        """Raise a finding where keys do not go together; every table says for itself which do."""


class Shape(Table):
    """Base of all shapes."""

    def contains(self, x: Floats, y: Floats, z: Floats) -> Bools:
        """Which points lie inside or on the surface.

        Parameters
        ----------
        x, y, z : float arrays
            Coordinates in element units, of one shape or broadcastable (an open grid).

        Returns
        -------
        bool array of the broadcast shape
        """
        inside = self._inside(x, y, z)
        return np.array(np.broadcast_to(inside, np.broadcast_shapes(x.shape, y.shape, z.shape)))

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        """As :meth:`contains`, of any shape that broadcasts."""
        raise NotImplementedError


class All(Shape):
    """The whole grid."""

    type: Literal["all"]

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        return np.ones(1, dtype=bool)


class Box(Shape):
    """An axis-aligned box; ``min`` may equal ``max`` to select a plane, a line or a point of nodes."""

    type: Literal["box"]
    min: Point
    """Lowest corner [x, y, z], in elements."""
    max: Point
    """Highest corner [x, y, z], in elements."""

    def _check(self) -> None:
        for axis, low, high in zip("xyz", self.min, self.max, strict=True):
            if low > high:
                raise PydanticCustomError(
                    "box", "min is above max along " + axis, {"value": [list(self.min), list(self.max)]}
                )

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        inside = np.ones(1, dtype=bool)
        for points, low, high in zip((x, y, z), self.min, self.max, strict=True):
            inside = inside & (points >= low - SURFACE_SLACK) & (points <= high + SURFACE_SLACK)
        return inside


class Sphere(Shape):
    """A ball."""

    type: Literal["sphere"]
    center: Point
    """Centre [x, y, z], in elements."""
    radius: PositiveLength
    """Radius, in elements."""

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        cx, cy, cz = self.center
        return np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) <= self.radius + SURFACE_SLACK


class Cylinder(Shape):
    """A circular cylinder along a grid axis, through the whole grid unless ``span`` bounds it."""

    type: Literal["cylinder"]
    axis: Axis
    """Direction of the axis."""
    center: tuple[Length, Length]
    """Where the axis stands, in elements: its two coordinates across the axis, in the order x, y, z."""
    radius: PositiveLength
    """Radius, in elements."""
    span: tuple[Length, Length] | None = None
    """From where to where along the axis, in elements; the whole grid if left out."""

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        points = [x, y, z]
        along = points.pop(AXES[self.axis])
        a, b = points
        inside = np.hypot(a - self.center[0], b - self.center[1]) <= self.radius + SURFACE_SLACK
        low, high = self.span or (-np.inf, np.inf)
        return inside & (along >= low - SURFACE_SLACK) & (along <= high + SURFACE_SLACK)


class Halfspace(Shape):
    """Everything behind a plane: the side the normal points away from."""

    type: Literal["halfspace"]
    point: Point
    """A point of the plane [x, y, z], in elements."""
    normal: Point
    """Outward normal, of any length: points p with (p - point) . normal <= 0 are inside."""

    def _check(self) -> None:
        if not any(self.normal):
            raise finding("normal", "the normal must not be zero", list(self.normal))

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        normal = np.asarray(self.normal) / np.linalg.norm(self.normal)
        px, py, pz = self.point
        distance = (x - px) * normal[0] + (y - py) * normal[1] + (z - pz) * normal[2]
        return np.asarray(distance <= SURFACE_SLACK)


class Mesh(Shape):
    """What lies inside a closed surface from a mesh file."""

    type: Literal["mesh"]
    file: Text
    """The mesh file, relative to the case file: STL, OBJ, PLY, 3MF, or a mesh of another program (Gmsh .msh,
    Abaqus .inp, .vtu, .vtk, .med, Nastran .bdf, ...). Its surface, or its elements', is closed."""
    group: Text | None = None
    """The physical group, element set or family to take, by name; ARRAY=VALUE for cells by their data. The
    whole mesh if left out."""
    scale: PositiveLength = 1.0
    """Elements per unit of the file: 0.2 for a file in mm and elements of 5 mm."""
    offset: Point = (0.0, 0.0, 0.0)
    """Where the file's origin is put [x, y, z], in elements."""

    _triangles: Floats | None = PrivateAttr(default=None)

    def load(self, path: Path) -> None:
        """Read the file, which is then found at ``path``; once."""
        if self._triangles is None:
            self._triangles = read_triangles(path, self.group) * self.scale + np.array(self.offset)

    @property
    def triangles(self) -> Floats:
        """Corners (t, 3, 3) of the surface, in elements."""
        if self._triangles is None:
            self.load(Path(self.file))
        assert self._triangles is not None
        return self._triangles

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        return inside(self.triangles, x, y, z)


class Union(Shape):
    """What lies in any of the shapes."""

    type: Literal["union"]
    shapes: Annotated[tuple[AnyShape, ...], Field(min_length=1)]
    """The shapes to unite."""

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        return _any(self.shapes, x, y, z)


class Intersection(Shape):
    """What lies in all of the shapes."""

    type: Literal["intersection"]
    shapes: Annotated[tuple[AnyShape, ...], Field(min_length=1)]
    """The shapes to intersect."""

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        return reduce(operator.and_, (shape._inside(x, y, z) for shape in self.shapes))


class Difference(Shape):
    """What lies in the first shape and in none of the others."""

    type: Literal["difference"]
    shape: AnyShape
    """The shape to cut from."""
    minus: Annotated[tuple[AnyShape, ...], Field(min_length=1)]
    """The shapes to cut away."""

    def _inside(self, x: Floats, y: Floats, z: Floats) -> Bools:
        return self.shape._inside(x, y, z) & ~_any(self.minus, x, y, z)


AnyShape = Annotated[
    All | Box | Sphere | Cylinder | Halfspace | Mesh | Union | Intersection | Difference,
    Field(discriminator="type"),
]


def meshes_in(table: Any) -> Iterator[Mesh]:
    """All mesh shapes within a table of the case, however deep."""
    if isinstance(table, Mesh):
        yield table
    elif isinstance(table, BaseModel):
        for name in type(table).model_fields:
            yield from meshes_in(getattr(table, name))
    elif isinstance(table, dict):
        for value in table.values():
            yield from meshes_in(value)
    elif isinstance(table, tuple | list):
        for value in table:
            yield from meshes_in(value)


def _any(shapes: tuple[AnyShape, ...], x: Floats, y: Floats, z: Floats) -> Bools:
    return reduce(operator.or_, (shape._inside(x, y, z) for shape in shapes))


for _model in (Union, Intersection, Difference):
    _model.model_rebuild()
