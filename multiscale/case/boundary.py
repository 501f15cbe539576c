"""Supports and loads of the case file; :mod:`multiscale.problem.loads` puts them on the grid."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from micro.runtime.arrays import Floats
from multiscale.case.messages import finding
from multiscale.case.shapes import AnyShape, Axis, Name, Number, Positive, Table, Vector

Face = Literal["x-", "x+", "y-", "y+", "z-", "z+"]


class Place(Table):
    """Where a support or a load acts: a face of the grid, a shape, or the part of a face inside a shape."""

    face: Face | None = None
    """Grid face: "x-" is the plane x = 0, "x+" the plane x = nx, and so on."""
    within: AnyShape | None = None
    """Keep what lies in this shape: nodes by their position, pieces of a loaded surface by their centre."""

    def _check(self) -> None:
        if self.face is None and self.within is None:
            raise finding("face", "give a face, a shape (within), or both")


FACES = ("x-", "x+", "y-", "y+", "z-", "z+")


def _place(value: Any) -> Any:
    if isinstance(value, str):
        if value not in FACES:
            raise ValueError(f"must be a face ({', '.join(FACES)}) or a table with face and/or within")
        return {"face": value}
    return value


Where = Annotated[Place, BeforeValidator(_place, json_schema_input_type=Face | Place)]


class Support(Table):
    """Nodes held in place."""

    where: Where
    """A face ("y-") or a table { face = "y-", within = SHAPE }, both optional but one needed."""
    components: Literal["x", "y", "z", "xy", "xz", "yz", "xyz"] = "xyz"
    """Which displacement components are zero."""


class Traction(Table):
    """A uniform force per area on the solid elements of a grid face."""

    where: Where
    """A face ("y+") or the part of a face within a shape { face = "y+", within = SHAPE }."""
    vector_mpa: Vector
    """Force per area [x, y, z], in MPa."""

    def _check(self) -> None:
        if self.where.face is None:
            raise finding("where.face", "a traction acts on a grid face: give one")
        if not any(self.vector_mpa):
            raise finding("vector_mpa", "the traction must not be zero", list(self.vector_mpa))


class Pressure(Table):
    """A pressure on solid elements, normal to their surface: on a grid face, or inside a hole."""

    where: Where | None = None
    """A face ("y+") or the part of a face within a shape; pushed into the grid."""
    region: Name | None = None
    """Instead: a void region, on whose walls the pressure acts, out of the hole."""
    mpa: Number
    """Pressure, MPa; negative pulls."""

    def _check(self) -> None:
        if (self.where is None) == (self.region is None):
            raise finding("where", "give either where or region")
        if self.where is not None and self.where.face is None:
            raise finding("where.face", "a pressure acts on a grid face, or in a void region: give one")
        if self.mpa == 0:
            raise finding("mpa", "the pressure must not be zero", self.mpa)


class BodyForce(Table):
    """A uniform force per volume on solid elements, whatever they are filled with."""

    within: AnyShape | None = None
    """Keep the elements in this shape; all if left out."""
    vector_n_mm3: Vector
    """Force per volume [x, y, z], in N/mm^3."""

    def _check(self) -> None:
        if not any(self.vector_n_mm3):
            raise finding("vector_n_mm3", "the force must not be zero", list(self.vector_n_mm3))


class Displacement(Table):
    """Nodes moved by a given amount; components that are left out stay free."""

    where: Where
    """A face ("y+") or a table { face = "y+", within = SHAPE }."""
    x_mm: Number | None = None
    """Prescribed displacement along x, in millimetres."""
    y_mm: Number | None = None
    """Prescribed displacement along y, in millimetres."""
    z_mm: Number | None = None
    """Prescribed displacement along z, in millimetres."""

    def _check(self) -> None:
        if self.x_mm is None and self.y_mm is None and self.z_mm is None:
            raise finding("x_mm", "give at least one of x_mm, y_mm, z_mm")


class FarField(Table):
    """The tractions of a stress field on all six faces of the block: what it feels far from its ends.

    The load is in equilibrium by itself and takes no supports.
    """

    stress_mpa: tuple[Number, Number, Number, Number, Number, Number]
    """Stress [xx, yy, zz, yz, xz, xy] (Voigt order), in MPa."""
    along: Axis | None = None
    """Axis along which the stress grows linearly, from minus this at the low face to this at the high one
    (bending, torsion); uniform if left out."""

    def _check(self) -> None:
        stress = self.matrix()
        if not np.any(stress):
            raise finding("stress_mpa", "the stress must not be zero", list(self.stress_mpa))
        if self.along is not None and np.any(stress["xyz".index(self.along)]):
            raise finding(
                "along",
                "a stress on planes across this axis can't grow along it without body forces",
                self.along,
            )

    def matrix(self) -> Floats:
        """The stress as a symmetric matrix (3, 3), MPa."""
        xx, yy, zz, yz, xz, xy = self.stress_mpa
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


class Load(Table):
    """One load case: its own supports, tractions and prescribed displacements."""

    name: Name
    """Name of the load, unique in the case."""
    weight: Positive = 1.0
    """Weight in the objective, relative to the other loads."""
    fixed: tuple[Support, ...] = ()
    """Supports; none for forces that are in equilibrium by themselves: rigid motion is then taken out."""
    far_field: FarField | None = None
    """Instead of what follows: tractions of a stress field { stress_mpa = [...] } on all six faces."""
    tractions: tuple[Traction, ...] = ()
    """Surface loads."""
    pressures: tuple[Pressure, ...] = ()
    """Pressures on faces and in holes."""
    body_forces: tuple[BodyForce, ...] = ()
    """Forces per volume."""
    displacements: tuple[Displacement, ...] = ()
    """Prescribed displacements."""

    def _check(self) -> None:
        moved = any(d.x_mm or d.y_mm or d.z_mm for d in self.displacements)
        if self.far_field is not None:
            for key in ("fixed", "tractions", "pressures", "body_forces", "displacements"):
                if getattr(self, key):
                    raise finding(key, "a far field acts alone, and without supports: leave it out")
            return
        if not (self.tractions or self.pressures or self.body_forces or moved):
            raise finding(
                "tractions", "the load does nothing: give a force or a displacement other than zero"
            )
