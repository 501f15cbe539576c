"""The case file: what a user writes, validated.

TOML in, a frozen pydantic model out, JSON schema on request. Every key is
documented where it is defined; the unit stands in the key's name or in its
description. ``extra="forbid"`` everywhere: a key that would be ignored is an
error. ``docs/case-format.md`` tells the same for readers.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError

from micro.runtime.errors import InputError
from micro.runtime.files import content_digest
from multiscale.case.boundary import Load
from multiscale.case.load_space import LoadSpace
from multiscale.case.messages import finding, first_error, unknown_name
from multiscale.case.settings import (
    FILL_SOURCES,
    GAMUT_SOURCES,
    PACKAGED_POISSON,
    PACKAGED_VOXELS,
    DesignSettings,
    ExportSettings,
    FillSettings,
    FilterSettings,
    FullScaleSettings,
    GamutSettings,
    OptimizerSettings,
    SolverSettings,
)
from multiscale.case.shapes import Name, Table, meshes_in
from multiscale.case.tables import (
    SOLID_NAME,
    BaseMaterial,
    CaseInfo,
    Grid,
    Material,
    Objective,
    Region,
    isotropic_tensor,
    stiffer_than_solid,
)
from multiscale.case.toml import toml_text

AFTER_DESIGN = ("fill", "full_scale", "export")
"""Tables on which the design does not depend."""


class Case(Table):
    """A whole case file."""

    case: CaseInfo
    grid: Grid
    base_material: BaseMaterial
    materials: dict[Name, Material] = Field(default_factory=dict)
    """Materials by name; "solid", the base material itself, is always there."""
    regions: Annotated[tuple[Region, ...], Field(min_length=1)]
    """Regions in painting order."""
    loads: tuple[Load, ...] = ()
    """Load cases."""
    load_space: LoadSpace | None = None
    """A basis of loads that need no listing, after the listed ones."""
    objective: Objective
    filter: FilterSettings = FilterSettings()
    gamut: GamutSettings = GamutSettings()
    design: DesignSettings = DesignSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    solver: SolverSettings = SolverSettings()
    fill: FillSettings = FillSettings()
    full_scale: FullScaleSettings = FullScaleSettings()
    export: ExportSettings = ExportSettings()

    _file: Path | None = PrivateAttr(default=None)
    _changes: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def name(self) -> str:
        """Short for ``case.case.name``."""
        return self.case.name

    @property
    def file(self) -> Path | None:
        """The file the case was read from, for messages and relative paths."""
        return self._file

    @property
    def changes(self) -> dict[str, Any]:
        """What is not as the file says it, by key (:func:`changed_case`)."""
        return self._changes

    @property
    def load_cases(self) -> tuple[Load, ...]:
        """Every load: the listed ones, then those of the load space."""
        return (*self.loads, *(self.load_space.loads() if self.load_space else ()))

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
        text += "".join(self.files(without=without).values())
        return hashlib.sha256(text.encode()).hexdigest()

    def files(self, *, without: tuple[str, ...] = ()) -> dict[str, str]:
        """SHA-256 of what the files hold that the case names, by name; ``without`` as in :meth:`digest`."""
        found = {m.file: hashlib.sha256(m.triangles.tobytes()).hexdigest() for m in meshes_in(self)}
        for table, source, known in self._sources():
            if table not in without and source not in known:
                found[source] = content_digest(self.path(source))
        return found

    def stage_digests(self) -> dict[str, str]:
        """For each stage of a run the digest of what it and the stages before it depend on."""
        design, filled = self.digest(without=AFTER_DESIGN), self.digest(without=("full_scale", "export"))
        if self.full_scale.rounds:  # the first design and lattice then stand elsewhere
            design, filled = f"{design}, corrected", f"{filled}, corrected"
        measured = self.digest(without=("export",))
        return {
            "design": design,
            "fill": filled,
            "full_scale": measured,
            "evaluate": measured,
            "export": self.digest(),
        }

    def _sources(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """Tables that name a source, the source, and those that come with the program."""
        known = [("gamut", self.gamut.source, GAMUT_SOURCES), ("fill", self.fill.source, FILL_SOURCES)]
        if self.design.source is not None:
            known.append(("design", self.design.source, ()))
        return tuple(known)

    def error(self, key: str, reason: str, value: object = None) -> InputError:
        """What is wrong at a dotted ``key`` of this case, where that shows on the grid only."""
        return InputError(reason, file=self.file, key=key, value=value)

    def to_toml(self) -> str:
        """The resolved case, all defaults filled in, as TOML that reads back to an equal case."""
        return toml_text(self.model_dump(mode="json", exclude_none=True))

    def _check(self) -> None:
        if SOLID_NAME in self.materials:
            raise finding(
                f"materials.{SOLID_NAME}", "this name is taken by the base material: choose another"
            )
        for kind, names in (
            ("regions", [region.name for region in self.regions]),
            ("loads", [load.name for load in self.load_cases]),
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
        self._check_stiffness()
        if self.design.source is not None and self.full_scale.rounds:
            raise finding(
                "design.source", "rounds of [full_scale] redesign: they need the optimiser's own design"
            )
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

    def _check_stiffness(self) -> None:
        """Raise a finding where cells of the base material are to be stiffer than it is."""
        made = {r.material for r in self.regions if r.role == "fixed" and r.filled}
        made |= {r.initial for r in self.regions} | {self.objective.reference}
        for name, material in self.materials.items():
            base = self.base_material
            trouble = (
                stiffer_than_solid(material.cubic(), base.young_modulus_mpa, base.poisson)
                if name in made
                else None
            )
            if trouble:
                key = "tensor" if material.tensor is not None else "relative_young_modulus"
                raise finding(f"materials.{name}.{key}", trouble, getattr(material, key))

    def _check_objective(self) -> None:
        """Raise a finding where the objective and the loads do not go together."""
        if not self.load_cases:
            raise finding("loads", "needs at least 1 ([[loads]], or a [load_space])", [])
        loads = [load.name for load in self.load_cases]
        if self.optimizer.algorithm == "lbfgs" and self.objective.mass_limit is not None:
            raise finding("optimizer.algorithm", 'keeps no mass limit: leave it out, or take "mma"', "lbfgs")
        for index, target in enumerate(self.objective.targets):
            if target.load not in loads:
                raise unknown_name("load", target.load, loads, f"objective.targets[{index}].load")
        voids = [region.name for region in self.regions if region.role == "void"]
        for index, load in enumerate(self.load_cases):
            for number, pressure in enumerate(load.pressures):
                if pressure.region is not None and pressure.region not in voids:
                    key = f"loads[{index}].pressures[{number}].region"
                    raise unknown_name("void region", pressure.region, voids, key)
            if self.objective.purpose.forces_only and load.displacements:
                reason = f"the objective {self.objective.type} is the work of forces: prescribe none"
                raise finding(f"loads[{index}].displacements", reason)
            if self.objective.targets and not (load.fixed or load.displacements):
                raise finding(
                    f"loads[{index}].fixed", "a target needs supports: without them the body may be anywhere"
                )
            if not self.objective.purpose.weighted and load.weight != 1:
                raise finding(
                    f"loads[{index}].weight", "means nothing where loads may be combined at will", load.weight
                )
            if self.objective.targets and load.name not in [t.load for t in self.objective.targets]:
                raise finding("objective.targets", f"load '{load.name}' has no target")

    def _check_cells(self) -> None:
        """Raise a finding where the cells that are named can't serve."""
        poisson = self.base_material.poisson
        packaged = [f"[{table}] source" for table, source, known in self._sources() if source in known]
        if packaged and abs(poisson - PACKAGED_POISSON) > 1e-9:
            raise finding(
                "base_material.poisson",
                f"the packaged cells are homogenised for {PACKAGED_POISSON}; another ratio needs cells and a "
                f"gamut of its own ({' and '.join(packaged)} must then be files)",
                poisson,
            )
        if abs(poisson - PACKAGED_POISSON) > 1e-9 and self.objective.mass_limit is not None:
            raise finding(
                "base_material.poisson",
                f"the least volume that a mass_limit counts with is known for {PACKAGED_POISSON} alone",
                poisson,
            )
        source = self.fill.source
        generated = "generator" in source if source in FILL_SOURCES else source.endswith(".safetensors")
        if generated and self.objective.mass_limit is not None:
            raise finding(
                "fill.source", "under a mass limit cells come from a set, such as 'dataset'", source
            )
        per_cell = self.full_scale.voxels_per_cell
        if per_cell is not None and source in FILL_SOURCES and (2 * PACKAGED_VOXELS) % per_cell:
            reason = f"must divide the {2 * PACKAGED_VOXELS} voxels along the packaged cells' edge"
            raise finding("full_scale.voxels_per_cell", reason, per_cell)
        if self.full_scale.rounds and not self.objective.purpose.corrected:
            reason = f"the objective {self.objective.type} is not corrected by displacements: only 0"
            raise finding("full_scale.rounds", reason, self.full_scale.rounds)
        voxels = self.export.voxels
        if voxels is not None and source in FILL_SOURCES and PACKAGED_VOXELS % voxels:
            raise finding("export.voxels", f"must divide the {PACKAGED_VOXELS} of the packaged cells", voxels)

    def start_of(self, region: Region) -> tuple[float, float, float]:
        """(C11, C12, C44) from which the design of a region starts."""
        name = region.initial or self.objective.reference
        return DEFAULT_START if name is None else self.tensor_of(name)


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
        text = file.read_bytes().decode("utf-8-sig")  # a byte-order mark is Windows' habit
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
            reason = f"must be {names} or a" if known else "must be a"
            reason += " path that exists, relative to the case file"
            raise InputError(reason, file=file, key=f"{section}.source", value=source)
    return case


def changed_case(case: Case, changes: Mapping[str, Any]) -> Case:
    """A case with other values for some keys.

    Parameters
    ----------
    case : Case
    changes : mapping
        Values by key, a key as messages name it: ``{"fill.source": "dataset"}``; None takes the key away.
        Tables that are missing are made; what stands in an array of tables can't be changed so.

    Raises
    ------
    InputError
        If there is no such key, or its value is not allowed.
    """
    if not changes:
        return case
    data = case.model_dump(mode="json", exclude_none=True)
    for key, value in changes.items():
        if "[" in key:
            raise InputError("what stands in an array of tables can't be set", file=case.file, key=key)
        table: Any = data
        *tables, last = key.split(".")
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise InputError(f"'{name}' is no table whose keys can be set", file=case.file, key=key)
        if value is None:
            table.pop(last, None)
        else:
            table[last] = value
    changed = parse_case(data, case.file)
    changed._changes = case.changes | dict(changes)
    return changed


def change_of(text: str) -> tuple[str, Any]:
    """Key and value of ``KEY=VALUE``, the value as in a case file; a word needs no quotes.

    Raises
    ------
    InputError
        If there is no key.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals and value):
        raise InputError("is written TABLE.KEY=VALUE", key="--set", value=text)
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def case_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the case file."""
    return Case.model_json_schema(mode="validation")


def schema_text() -> str:
    """The JSON schema as indented text, ending in a newline."""
    return json.dumps(case_schema(), indent=2, ensure_ascii=False) + "\n"
