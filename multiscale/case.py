"""The case file: what a user writes, validated.

TOML in, a frozen pydantic model out, JSON schema on request. Every key is
documented where it is defined; the unit stands in the key's name or in its
description. ``extra="forbid"`` everywhere: a key that would be ignored is an
error. ``docs/case-format.md`` tells the same for readers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, WithJsonSchema, model_validator

from micro.errors import InputError
from multiscale.boundary import Load, Where
from multiscale.messages import finding, first_error, unknown_name
from multiscale.settings import (
    FILL_SOURCES,
    GAMUT_SOURCES,
    PACKAGED_POISSON,
    PACKAGED_VOXELS,
    ExportSettings,
    FillSettings,
    FilterSettings,
    GamutSettings,
    OptimizerSettings,
    SolverSettings,
)
from multiscale.shapes import AnyShape, Axis, Length, Name, Number, Table, meshes_in
from multiscale.toml import toml_text

MAX_ELEMENTS = 512**3
SOLID_NAME = "solid"

Text = Annotated[str, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
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

    @model_validator(mode="after")
    def _size(self) -> Grid:
        nx, ny, nz = self.elements
        if nx * ny * nz > MAX_ELEMENTS:
            raise finding("elements", f"at most {MAX_ELEMENTS} elements in all (512^3)", list(self.elements))
        return self


class BaseMaterial(Table):
    """The isotropic solid the cells are made of. Its Young's modulus E_s is the unit of all stiffness."""

    young_modulus_mpa: Positive
    """Young's modulus E_s, in MPa."""
    poisson: PoissonRatio = 0.3
    """Poisson's ratio nu_s; the packaged cell library is homogenised for 0.3."""
    density_kg_m3: Positive = 1000.0
    """Density, in kg/m^3, for masses."""


class Material(Table):
    """An effective (homogenised) material: either ``tensor``, or the two isotropic constants."""

    tensor: tuple[Number, Number, Number] | None = None
    """Cubic elasticity tensor [C11, C12, C44], in units of E_s (the base material's Young's modulus)."""
    relative_young_modulus: Positive | None = None
    """Isotropic: Young's modulus, in units of E_s."""
    poisson: PoissonRatio | None = None
    """Isotropic: Poisson's ratio."""

    @model_validator(mode="after")
    def _one_way(self) -> Material:
        isotropic = (self.relative_young_modulus, self.poisson)
        if (self.tensor is None) == (isotropic == (None, None)):
            raise finding("tensor", "give either tensor, or relative_young_modulus and poisson")
        if self.tensor is None:
            if None in isotropic:
                missing = "poisson" if self.poisson is None else "relative_young_modulus"
                raise finding(missing, "an isotropic material needs relative_young_modulus and poisson")
            return self
        c11, c12, c44 = self.tensor
        for stable, what in (
            (c11 - c12 > 0, "C11 > C12"),
            (c11 + 2 * c12 > 0, "C11 + 2 C12 > 0"),
            (c44 > 0, "C44 > 0"),
        ):
            if not stable:
                reason = f"the tensor is not positive definite (unstable material): it must have {what}"
                raise finding("tensor", reason, list(self.tensor))
        return self

    def cubic(self) -> tuple[float, float, float]:
        """(C11, C12, C44) in units of E_s."""
        if self.tensor is not None:
            return self.tensor
        assert self.relative_young_modulus is not None  # _one_way has seen to both
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

    @model_validator(mode="after")
    def _role_keys(self) -> Region:
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
        return self


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

    @model_validator(mode="after")
    def _profile(self) -> Target:
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
        return self


class Objective(Table):
    """What the design is for."""

    type: Literal["displacement_distortion", "compliance", "target_displacement"] = "displacement_distortion"
    """"displacement_distortion": ||u - u_ref|| / ||u_ref|| over the observed nodes, where u_ref is the
    displacement of the same grid and loads with the reference material everywhere (holes filled);
    "compliance": the work of the loads, under a mass_limit; "target_displacement": ||u - u*|| / ||u*||
    over the targets."""
    observe: tuple[Name, ...] = ()
    """displacement_distortion: names of the regions of which all nodes are observed."""
    reference: Name | None = None
    """displacement_distortion: name of the reference material."""
    targets: tuple[Target, ...] = ()
    """target_displacement: what is wanted; every load needs at least one."""
    mass_limit: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    """Largest mean volume fraction of the design regions; compliance needs one."""
    combine: Literal["mean_square", "sum", "worst"] = "mean_square"
    """How the loads' values, with their weights w, make one number: "mean_square" (sum w v^2 / sum w)^(1/2),
    "sum" sum w v / sum w, "worst" the smooth maximum (sum (w v)^12)^(1/12), w relative to the largest."""

    @model_validator(mode="after")
    def _keys_of_the_type(self) -> Objective:
        needs = {
            "displacement_distortion": ("observe", "reference"),
            "compliance": ("mass_limit",),
            "target_displacement": ("targets",),
        }
        given = {key: getattr(self, key) for key in ("observe", "reference", "targets", "mass_limit")}
        for key in needs[self.type]:
            if given[key] is None:
                raise finding(key, f"the objective {self.type} needs it")
            if given[key] == ():
                raise finding(key, f"the objective {self.type} needs at least 1", [])
        for key, value in given.items():
            if key not in needs[self.type] and key != "mass_limit" and value not in (None, ()):
                raise finding(key, f"means nothing for the objective {self.type}")
        return self


class Case(Table):
    """A whole case file."""

    case: CaseInfo
    grid: Grid
    base_material: BaseMaterial
    materials: dict[Name, Material] = Field(default_factory=dict)
    """Materials by name; "solid", the base material itself, is always there."""
    regions: Annotated[tuple[Region, ...], Field(min_length=1)]
    """Regions in painting order."""
    loads: Annotated[tuple[Load, ...], Field(min_length=1)]
    """Load cases."""
    objective: Objective
    filter: FilterSettings = FilterSettings()
    gamut: GamutSettings = GamutSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    solver: SolverSettings = SolverSettings()
    fill: FillSettings = FillSettings()
    export: ExportSettings = ExportSettings()

    _file: Path | None = PrivateAttr(default=None)

    @property
    def name(self) -> str:
        """Short for ``case.case.name``."""
        return self.case.name

    @property
    def file(self) -> Path | None:
        """The file the case was read from, for messages and relative paths."""
        return self._file

    def tensor_of(self, material: str) -> tuple[float, float, float]:
        """(C11, C12, C44) of a material by name, in units of E_s."""
        if material == SOLID_NAME:
            return isotropic_tensor(1.0, self.base_material.poisson)
        return self.materials[material].cubic()

    def path(self, source: str) -> Path:
        """A path named in the case, relative to the case file."""
        base = self._file.parent if self._file else Path.cwd()
        return base / source

    def digest(self, *, without: tuple[str, ...] = ()) -> str:
        """SHA-256 of the resolved case (all defaults filled in); name and description do not count.

        ``without`` names tables that do not count either. Of files, what they hold counts.
        """
        text = json.dumps(self.model_dump(mode="json", exclude={"case", *without}), sort_keys=True)
        for mesh in meshes_in(self):
            text += hashlib.sha256(mesh.triangles.tobytes()).hexdigest()
        for table, source, known in self._sources():
            if table not in without and source not in known:
                text += file_digest(self.path(source))
        return hashlib.sha256(text.encode()).hexdigest()

    def stage_digests(self) -> dict[str, str]:
        """For each stage of a run the digest of what it and the stages before it depend on."""
        design, filled = self.digest(without=("fill", "export")), self.digest(without=("export",))
        return {"design": design, "fill": filled, "evaluate": filled, "export": self.digest()}

    def _sources(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """Tables that name a source, the source, and those that come with the program."""
        return (("gamut", self.gamut.source, GAMUT_SOURCES), ("fill", self.fill.source, FILL_SOURCES))

    def to_toml(self) -> str:
        """The resolved case, all defaults filled in, as TOML that reads back to an equal case."""
        return toml_text(self.model_dump(mode="json", exclude_none=True))

    @model_validator(mode="after")
    def _names(self) -> Case:
        if SOLID_NAME in self.materials:
            raise finding(
                f"materials.{SOLID_NAME}", "this name is taken by the base material: choose another"
            )
        for kind, names in (
            ("regions", [region.name for region in self.regions]),
            ("loads", [load.name for load in self.loads]),
        ):
            for index, name in enumerate(names):
                if name in names[:index]:
                    raise finding(f"{kind}[{index}].name", "this name is used twice", name)
        known = [*self.materials, SOLID_NAME]
        uses = [("objective.reference", self.objective.reference)] if self.objective.reference else []
        for index, region in enumerate(self.regions):
            uses += [
                (f"regions[{index}].{key}", name)
                for key, name in (("material", region.material), ("initial", region.initial))
                if name
            ]
        for key, name in uses:
            if name not in known:
                raise unknown_name("material", name, known, key)
        regions = {region.name: region for region in self.regions}
        for index, name in enumerate(self.objective.observe):
            key = f"objective.observe[{index}]"
            if name not in regions:
                raise unknown_name("region", name, regions, key)
            if regions[name].role == "void":
                raise finding(key, "a void region has no nodes to observe", name)
        self._check_objective()
        self._check_cells()
        if not any(region.role == "design" for region in self.regions):
            raise finding("regions", 'at least one region needs role = "design"')
        box = self.export.stl_box
        if box is not None and any(b > n for b, n in zip(box[1], self.grid.elements, strict=True)):
            reason = f"reaches beyond the grid {list(self.grid.elements)}"
            raise finding("export.stl_box", reason, [list(corner) for corner in box])
        return self

    def _check_objective(self) -> None:
        """Raise a finding where the objective and the loads do not go together."""
        loads = [load.name for load in self.loads]
        if self.optimizer.algorithm == "lbfgs" and self.objective.mass_limit is not None:
            raise finding("optimizer.algorithm", 'keeps no mass limit: leave it out, or take "mma"', "lbfgs")
        for index, target in enumerate(self.objective.targets):
            if target.load not in loads:
                raise unknown_name("load", target.load, loads, f"objective.targets[{index}].load")
        voids = [region.name for region in self.regions if region.role == "void"]
        for index, load in enumerate(self.loads):
            for number, pressure in enumerate(load.pressures):
                if pressure.region is not None and pressure.region not in voids:
                    key = f"loads[{index}].pressures[{number}].region"
                    raise unknown_name("void region", pressure.region, voids, key)
            if self.objective.type == "compliance" and load.displacements:
                raise finding(
                    f"loads[{index}].displacements", "compliance is the work of forces: prescribe none"
                )
            if self.objective.targets and load.name not in [t.load for t in self.objective.targets]:
                raise finding("objective.targets", f"load '{load.name}' has no target")

    def _check_cells(self) -> None:
        """Raise a finding where the cells that are named can't serve."""
        poisson = self.base_material.poisson
        packaged = [f"[{table}] source" for table, source, known in self._sources() if source in known]
        if packaged and abs(poisson - PACKAGED_POISSON) > 1e-3:
            raise finding(
                "base_material.poisson",
                f"the packaged cells are homogenised for {PACKAGED_POISSON}; another ratio needs cells and a "
                f"gamut of its own ({' and '.join(packaged)} must then be files)",
                poisson,
            )
        source = self.fill.source
        generated = "generator" in source if source in FILL_SOURCES else source.endswith(".safetensors")
        if generated and self.objective.mass_limit is not None:
            raise finding(
                "fill.source", "under a mass limit cells come from a set, such as 'dataset'", source
            )
        voxels = self.export.voxels
        if voxels is not None and source in FILL_SOURCES and PACKAGED_VOXELS % voxels:
            raise finding("export.voxels", f"must divide the {PACKAGED_VOXELS} of the packaged cells", voxels)

    def start_of(self, region: Region) -> tuple[float, float, float]:
        """(C11, C12, C44) from which the design of a region starts."""
        name = region.initial or self.objective.reference
        return DEFAULT_START if name is None else self.tensor_of(name)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the files below a directory (a Zarr store) and their names; "" if missing."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    parts = [f"{p.relative_to(path)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else ""


def isotropic_tensor(young: float, poisson: float) -> tuple[float, float, float]:
    """(C11, C12, C44) of an isotropic material, in the unit of ``young``."""
    scale = young / ((1 + poisson) * (1 - 2 * poisson))
    return scale * (1 - poisson), scale * poisson, young / (2 * (1 + poisson))


DEFAULT_START = isotropic_tensor(0.2, 0.3)
"""Start of designs without a reference: soft, isotropic, and well within the gamut."""


def load_case(path: str | Path) -> Case:
    """Read and validate a case file.

    Raises
    ------
    InputError
        The file can't be read, is not TOML, or its contents are wrong: one line that names the
        file, the key, the reason and the value.
    """
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError("there is no such file", file=file) from None
    except IsADirectoryError:
        raise InputError("this is a directory; give the case file in it", file=file) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not a text file in UTF-8 (byte {error.start})", file=file) from None
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", file=file) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", file=file) from None
    return parse_case(data, file)


def parse_case(data: dict[str, Any], file: str | Path | None = None) -> Case:
    """Validate the parsed contents of a case file; ``file`` is named in messages.

    Raises
    ------
    InputError
        As :func:`load_case`.
    """
    try:
        case = Case.model_validate(data)
    except ValidationError as error:
        raise first_error(error, data, file) from None
    case._file = None if file is None else Path(file)
    for mesh in meshes_in(case):
        mesh.load(case.path(mesh.file))
    for section, source, known in case._sources():
        if source not in known and not case.path(source).exists():
            names = " or ".join(f"'{name}'" for name in known)
            reason = f"must be {names} or a path that exists, relative to the case file"
            raise InputError(reason, file=file, key=f"{section}.source", value=source)
    return case


def case_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the case file."""
    return Case.model_json_schema(mode="validation")


def schema_text() -> str:
    """The JSON schema as indented text, ending in a newline."""
    return json.dumps(case_schema(), indent=2, ensure_ascii=False) + "\n"
