"""The tables of a case file that say what is there: grid, material, regions, objective."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from micro.cell.tensor import BORN, born_margins
from multiscale.case.boundary import Where
from multiscale.case.messages import finding, unknown_name
from multiscale.case.purpose import PURPOSES, Purpose
from multiscale.case.shapes import AnyShape, Axis, Count, Length, Name, Number, Positive, Table, Text

MAX_ELEMENTS = 512**3
# Beyond these a number is in another unit than its key says.
LARGEST_CELL_MM = 1000.0
MISTAKEN_UNIT = 30.0
DIAMOND_MPA = 1.1e6
STIFFEST_MPA = 1.5e6
LIGHTEST_KG_M3, HEAVIEST_KG_M3 = 30.0, 25_000.0
SOLID_NAME = "solid"
PoissonRatio = Annotated[float, Field(strict=True, gt=-1, lt=0.5)]


def _mirror(value: Any) -> Any:
    if value == "auto":
        return value
    listed = isinstance(value, list | tuple) and all(axis in ("x", "y", "z") for axis in value)
    if listed and len(set(value)) == len(value):
        return tuple(sorted(value))
    raise ValueError("must be 'auto' or a list of different axes out of 'x', 'y', 'z' ([] for no mirror)")


Mirror = Annotated[
    Any,
    BeforeValidator(_mirror),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "array", "items": {"enum": ["x", "y", "z"]}, "uniqueItems": True},
            ]
        }
    ),
]


class CaseInfo(Table):
    """What the case is called."""

    name: Name
    """Short name, used for files and titles."""
    description: Text = ""
    """What the case shows, in a sentence or two."""


class Grid(Table):
    """The block of cubic elements; each element becomes one lattice cell."""

    elements: tuple[Count, Count, Count]
    """Number of elements along x, y, z."""
    cell_size_mm: Positive = 1.0
    """Edge length of an element, in millimetres."""
    mirror: Mirror = "auto"
    """Mid-planes at which the model is cut in half, by their normals. "auto" takes every plane about which
    geometry, materials, observed regions and each load are symmetric or antisymmetric; [] takes none. A
    mirrored design is mirror symmetric."""

    def _check(self) -> None:
        nx, ny, nz = self.elements
        if self.cell_size_mm > LARGEST_CELL_MM:
            metres = f"a cell of {self.cell_size_mm / 1e3:g} m"
            reason = (
                f"{metres}: the key is in mm, at most {LARGEST_CELL_MM:g}; in micrometres, divide by 1000"
            )
            raise finding("cell_size_mm", reason, self.cell_size_mm)
        if nx * ny * nz > MAX_ELEMENTS:
            raise finding("elements", f"at most {MAX_ELEMENTS} elements in all (512^3)", list(self.elements))


class BaseMaterial(Table):
    """The isotropic solid the cells are made of. Its Young's modulus E_s is the unit of all stiffness."""

    young_modulus_mpa: Positive
    """Young's modulus E_s, in MPa."""
    poisson: PoissonRatio = 0.3
    """Poisson's ratio nu_s; the packaged cells are homogenised for 0.3, other cells and gamuts say theirs."""
    density_kg_m3: Positive = 1000.0
    """Density, in kg/m^3, for masses."""

    def _check(self) -> None:
        young, density = self.young_modulus_mpa, self.density_kg_m3
        if young > STIFFEST_MPA:
            reason = (
                f"stiffer than diamond, {DIAMOND_MPA:g} MPa: the key is in MPa; in Pa this would be "
                f"{young / 1e6:g}"
            )
            raise finding("young_modulus_mpa", reason, young)
        if not LIGHTEST_KG_M3 <= density <= HEAVIEST_KG_M3:
            likely = "g/cm^3" if density < LIGHTEST_KG_M3 else "another unit"
            reason = f"no solid's, {LIGHTEST_KG_M3:g} to {HEAVIEST_KG_M3:g} kg/m^3: given in {likely}?" + (
                f" That would be {density * 1e3:g}" if density < LIGHTEST_KG_M3 else ""
            )
            raise finding("density_kg_m3", reason, density)


class Material(Table):
    """An effective (homogenised) material: either ``tensor``, or the two isotropic constants."""

    tensor: tuple[Number, Number, Number] | None = None
    """Cubic elasticity tensor [C11, C12, C44], in units of E_s (the base material's Young's modulus)."""
    relative_young_modulus: Positive | None = None
    """Isotropic: Young's modulus, in units of E_s."""
    poisson: PoissonRatio | None = None
    """Isotropic: Poisson's ratio."""

    def _check(self) -> None:
        isotropic = (self.relative_young_modulus, self.poisson)
        if (self.tensor is None) == (isotropic == (None, None)):
            raise finding("tensor", "give either tensor, or relative_young_modulus and poisson")
        if self.tensor is None:
            if None in isotropic:
                missing = "poisson" if self.poisson is None else "relative_young_modulus"
                raise finding(missing, "an isotropic material needs relative_young_modulus and poisson")
            return
        for margin, what in zip(born_margins(self.tensor), BORN, strict=True):
            if not margin > 0:
                reason = f"the tensor is not positive definite (unstable material): it must have {what}"
                raise finding("tensor", reason, list(self.tensor))

    def cubic(self) -> tuple[float, float, float]:
        """(C11, C12, C44) in units of E_s."""
        if self.tensor is not None:
            return self.tensor
        assert self.relative_young_modulus is not None  # _check has seen to both
        assert self.poisson is not None
        return isotropic_tensor(self.relative_young_modulus, self.poisson)


class Region(Table):
    """A named set of elements. Regions are painted in order: later ones override earlier ones."""

    name: Name
    """Name of the region, unique in the case."""
    role: Literal["void", "design", "fixed"]
    """"void": removed; "fixed": filled with ``material``; "design": its tensors are optimised."""
    shape: AnyShape
    """Which elements: those whose centre lies in the shape (element units)."""
    material: Name | None = None
    """Fixed regions: name of the material ("solid" is the base material)."""
    filled: Annotated[bool, Field(strict=True)] = True
    """Fixed regions: false for what is there already and is not built of cells, such as bone or a wall."""
    initial: Name | None = None
    """Design regions: name of the material the optimisation starts from; objective.reference if left out,
    or else an isotropic one of E = 0.2 E_s."""

    def _check(self) -> None:
        if self.role == "fixed" and self.material is None:
            raise finding("material", "a fixed region needs a material")
        if self.role != "fixed" and self.material is not None:
            hint = "; name its starting material with 'initial'" if self.role == "design" else ""
            raise finding("material", f"a {self.role} region takes no material{hint}", self.material)
        if self.role != "fixed" and not self.filled:
            raise finding("filled", f"a {self.role} region can't be left unfilled", self.filled)
        if self.role != "design" and self.initial is not None:
            raise finding(
                "initial", f"only a design region takes 'initial', not a {self.role} one", self.initial
            )


class Target(Table):
    """Where some nodes shall be when a load acts; components that are left out do not matter."""

    load: Name
    """Name of the load."""
    where: Where
    """A face ("y+") or a table { face = "y+", within = SHAPE }."""
    along: Axis | None = None
    """Axis along which the wanted displacement varies."""
    at: tuple[Length, ...] = ()
    """With along: ascending positions on that axis, in elements; between them values are interpolated by a
    monotone cubic."""
    x_mm: Number | tuple[Number, ...] | None = None
    """Wanted displacement along x, mm: one number, or with along one for each position."""
    y_mm: Number | tuple[Number, ...] | None = None
    """Wanted displacement along y, mm: one number, or with along one for each position."""
    z_mm: Number | tuple[Number, ...] | None = None
    """Wanted displacement along z, mm: one number, or with along one for each position."""

    def _check(self) -> None:
        given = {key: getattr(self, key) for key in ("x_mm", "y_mm", "z_mm")}
        if all(value is None for value in given.values()):
            raise finding("x_mm", "give at least one of x_mm, y_mm, z_mm")
        if (self.along is None) != (not self.at):
            raise finding("at", "along and at go together")
        if self.at and (len(self.at) < 2 or any(a >= b for a, b in itertools.pairwise(self.at))):
            raise finding("at", "must be two positions or more, ascending", list(self.at))
        for key, value in given.items():
            if isinstance(value, tuple) and len(value) != len(self.at):
                raise finding(key, f"must be one number or {len(self.at)}, one for each of 'at'", list(value))


class Objective(Table):
    """What the design is for."""

    type: Annotated[Text, Field(json_schema_extra=lambda schema: schema.update(enum=list(PURPOSES)))] = (
        "displacement_distortion"
    )
    """"displacement_distortion": ||u - u_ref|| / ||u_ref|| over the observed nodes, where u_ref is the
    displacement of the same grid and loads with the reference material everywhere (holes filled);
    "any_load": the same over all linear combinations of the loads, which then are a basis;
    "compliance": the work of the loads, under a mass_limit; "target_displacement": ||u - u*|| / ||u*||
    over the targets."""
    observe: tuple[Name, ...] = ()
    """displacement_distortion, any_load: names of the regions of which all nodes are observed."""
    reference: Name | None = None
    """displacement_distortion, any_load: name of the reference material."""
    targets: tuple[Target, ...] = ()
    """target_displacement: what is wanted; every load needs at least one."""
    mass_limit: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    """Largest mean volume fraction of the design regions; compliance needs one."""
    combine: Literal["mean_square", "sum", "worst"] = "mean_square"
    """How the loads' values, with their weights w, make one number: "mean_square" (sum w v^2 / sum w)^(1/2),
    "sum" sum w v / sum w, "worst" the smooth maximum (sum (w v)^36)^(1/36), w relative to the largest.
    any_load: "worst" the worst combination of all, "mean_square" the root mean square over them."""

    def _check(self) -> None:
        if self.type not in PURPOSES:
            raise unknown_name("objective", self.type, PURPOSES, "type")
        needs = self.purpose.needs
        given = {key: getattr(self, key) for key in ("observe", "reference", "targets", "mass_limit")}
        for key in needs:
            if given[key] is None:
                raise finding(key, f"the objective {self.type} needs it")
            if given[key] == ():
                raise finding(key, f"the objective {self.type} needs at least 1", [])
        for key, value in given.items():
            if key not in needs and key != "mass_limit" and value not in (None, ()):
                raise finding(key, f"means nothing for the objective {self.type}")
        if self.combine not in self.purpose.combinations:
            known = " or ".join(f'"{name}"' for name in self.purpose.combinations)
            raise finding("combine", f"must be {known} for the objective {self.type}", self.combine)

    @property
    def purpose(self) -> Purpose:
        """All that follows from the type."""
        return PURPOSES[self.type]


def stiffer_than_solid(tensor: tuple[float, float, float], young_mpa: float, poisson: float) -> str | None:
    """Why no cell of the base material has a tensor (C11, C12, C44), in units of E_s; None if one may.

    A cell's bulk modulus and shear moduli are at most the solid's (Voigt's bound); a tenth of a percent is
    left to rounding.
    """
    c11, c12, c44 = tensor
    s11, s12, s44 = isotropic_tensor(1.0, poisson)
    most = max((c11 + 2 * c12) / (s11 + 2 * s12), (c11 - c12) / (s11 - s12), c44 / s44)
    if most <= 1.001:
        return None
    likely = ""
    if most > MISTAKEN_UNIT:
        unit = "Pa" if c11 > s11 * young_mpa * MISTAKEN_UNIT else "MPa"
        likely = f"; in {unit}, divide by {young_mpa * (1e6 if unit == 'Pa' else 1):g}"
    return (
        f"{most:.4g} times as stiff as the solid, whose C11 is {s11:.4g} (this one's {c11:.4g}): tensors are "
        f"in units of E_s = {young_mpa:g} MPa{likely}"
    )


def isotropic_tensor(young: float, poisson: float) -> tuple[float, float, float]:
    """(C11, C12, C44) of an isotropic material, in the unit of ``young``."""
    scale = young / ((1 + poisson) * (1 - 2 * poisson))
    return scale * (1 - poisson), scale * poisson, young / (2 * (1 + poisson))
