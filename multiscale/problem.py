"""The problem: a case on its grid, as plain arrays in internal units (E_s = 1, h = 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from micro.errors import InputError
from multiscale import grid
from multiscale.case import Case, Load, Place
from multiscale.shapes import All
from multiscale.supports import check_supported
from multiscale.symmetry import AXIS_NAMES, mirror_obstacle, parity

__all__ = ["LoadCase", "Problem", "Role", "build_problem", "parity"]


class Role(IntEnum):
    """What an element is."""

    VOID = 0
    FIXED = 1
    DESIGN = 2


@dataclass(frozen=True, eq=False)
class LoadCase:
    """One load on the full grid.

    Supports and prescribed displacements cover every node of their place, those that only void
    elements touch included: there they mean nothing, but they hold when the hole is filled (as in
    the reference). Tractions act on solid elements only.
    """

    name: str
    weight: float
    fixed: NDArray[np.bool_]
    """(nx+1, ny+1, nz+1, 3): components with a prescribed displacement."""
    value: NDArray[np.float64]
    """Same shape: the prescribed displacement, in element edges (0 where not fixed)."""
    force: NDArray[np.float64]
    """Same shape: consistent nodal forces, in units of E_s h^2."""

    def __post_init__(self) -> None:
        _freeze(self.fixed, self.value, self.force)


@dataclass(frozen=True, eq=False)
class Problem:
    """A case on its grid. Arrays are indexed [x, y, z], full grid, and read-only."""

    name: str
    shape: tuple[int, int, int]
    """Elements along x, y, z."""
    cell_size_m: float
    """Element edge, in metres."""
    young_pa: float
    """E_s, in pascals."""
    poisson: float
    """nu_s."""
    role: NDArray[np.int8]
    """(nx, ny, nz): a :class:`Role` per element."""
    region: NDArray[np.int16]
    """(nx, ny, nz): index into ``region_names``."""
    region_names: tuple[str, ...]
    tensor: NDArray[np.float64]
    """(nx, ny, nz, 3): C11, C12, C44 in units of E_s; fixed: the material, design: the start, void: 0."""
    reference: NDArray[np.float64]
    """(nx, ny, nz, 3): the reference material everywhere."""
    observed: NDArray[np.bool_]
    """(nx, ny, nz): elements whose nodes are observed."""
    loads: tuple[LoadCase, ...]
    mirror_axes: tuple[int, ...]
    """Axes whose mid-plane halves the model."""
    density_kg_m3: float = 1000.0
    """Density of the base material."""
    refine: int = 1
    """How many times finer than the case's own grid."""
    observed_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        _freeze(self.role, self.region, self.tensor, self.reference, self.observed)

    @property
    def design(self) -> NDArray[np.bool_]:
        """(nx, ny, nz): design elements."""
        return self.role == Role.DESIGN

    @property
    def solid(self) -> NDArray[np.bool_]:
        """(nx, ny, nz): elements that are not void."""
        return self.role != Role.VOID

    @property
    def observed_nodes(self) -> NDArray[np.bool_]:
        """(nx+1, ny+1, nz+1): all nodes of the observed elements."""
        return grid.nodes_of(self.observed)

    @property
    def solved_shape(self) -> tuple[int, int, int]:
        """Elements of the model that is left after cutting at the mirror planes."""
        nx, ny, nz = (n // 2 if axis in self.mirror_axes else n for axis, n in enumerate(self.shape))
        return nx, ny, nz


def build_problem(case: Case, refine: int = 1) -> Problem:
    """Rasterise a case.

    Parameters
    ----------
    case : Case
    refine : int
        Split each element's edges into this many. Roles, materials and supports are inherited from
        the case's own grid (shapes are not rasterised anew): the same structure on a finer mesh.
        Displacements are then in the finer element edges.

    Raises
    ------
    InputError
        What only shows on the grid: regions that catch nothing, supports that leave the structure
        free to move, loads on void, mirror planes that are none.
    """
    if refine < 1:
        raise InputError("must be at least 1", key="refine", value=refine)
    size = case.grid.elements
    region = _paint(case)
    role, tensor = _materials(case, region)
    observed_index = [i for i, r in enumerate(case.regions) if r.name in case.objective.observe]
    observed = np.isin(region, observed_index)
    reference = np.broadcast_to(np.array(case.tensor_of(case.objective.reference)), tensor.shape)

    loads = [_load(case, index, role != Role.VOID, refine) for index in range(len(case.loads))]
    coarse = [_load(case, index, role != Role.VOID, 1) for index in range(len(case.loads))] if refine > 1 else loads
    for index, load in enumerate(coarse):
        check_supported(load.fixed, role != Role.VOID, case.file, f"loads[{index}].fixed")
    mirror = _mirror_axes(case, role, tensor, observed, coarse)
    fine = tuple(n * refine for n in size)
    return Problem(
        name=case.name,
        shape=(fine[0], fine[1], fine[2]),
        cell_size_m=case.grid.cell_size_mm * 1e-3 / refine,
        young_pa=case.base_material.young_modulus_mpa * 1e6,
        poisson=case.base_material.poisson,
        role=grid.split_elements(role, refine),
        region=grid.split_elements(region, refine),
        region_names=tuple(r.name for r in case.regions),
        tensor=grid.split_elements(tensor, refine),
        reference=grid.split_elements(np.array(reference), refine),
        observed=grid.split_elements(observed, refine),
        loads=tuple(loads),
        mirror_axes=mirror,
        density_kg_m3=case.base_material.density_kg_m3,
        refine=refine,
        observed_names=case.objective.observe,
    )


def _paint(case: Case) -> NDArray[np.int16]:
    """Region index of each element; later regions over earlier ones."""
    size = case.grid.elements
    region = np.full(size, -1, dtype=np.int16)
    for index, item in enumerate(case.regions):
        inside = grid.elements_in(item.shape, size)
        if not inside.any():
            raise InputError("the region catches no element (an element belongs to a shape by its centre)",
                             file=case.file, key=f"regions[{index}].shape", value=item.name)
        region[inside] = index
    left = int((region < 0).sum())
    if left:
        raise InputError(f"{left} elements belong to no region: begin with one of shape {{ type = \"all\" }}",
                         file=case.file, key="regions")
    for index, item in enumerate(case.regions):
        if not (region == index).any():
            raise InputError("later regions cover this one entirely: change the order or the shapes",
                             file=case.file, key=f"regions[{index}].shape", value=item.name)
    return region


def _materials(case: Case, region: NDArray[np.int16]) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    roles = np.array([Role[item.role.upper()] for item in case.regions], dtype=np.int8)
    tensors = np.zeros((len(case.regions), 3))
    for index, item in enumerate(case.regions):
        if item.role == "fixed":
            assert item.material is not None
            tensors[index] = case.tensor_of(item.material)
        elif item.role == "design":
            tensors[index] = case.tensor_of(item.initial or case.objective.reference)
    return roles[region], tensors[region]


def _load(case: Case, index: int, solid: NDArray[np.bool_], refine: int) -> LoadCase:
    size = case.grid.elements
    load = case.loads[index]
    key = f"loads[{index}]"
    fixed = np.zeros((*grid.node_size(size), 3), dtype=bool)
    value = np.zeros(fixed.shape)
    for at, (where, moved) in _prescribed(load, case.grid.cell_size_mm).items():
        here = _nodes(case, where, solid, f"{key}.{at}.where")
        for component, amount in moved.items():
            clash = here & fixed[..., component] & (np.abs(value[..., component] - amount) > 1e-12)
            if clash.any():
                raise InputError(
                    f"prescribes {AXIS_NAMES[component]} at {int(clash.sum())} nodes where another entry already "
                    "prescribes a different value: keep the places apart with 'within'",
                    file=case.file, key=f"{key}.{at}")
            fixed[here, component] = True
            value[here, component] = amount
    if refine > 1:
        fine = grid.prolong_mask(fixed, refine)
        value = np.where(fine, grid.prolong_nodes(value, refine) * refine, 0.0)
        fixed = fine
    return LoadCase(load.name, load.weight, fixed, value, _force(case, index, solid, refine))


def _prescribed(load: Load, cell_size_mm: float) -> dict[str, tuple[Place, dict[int, float]]]:
    """Supports and displacements by key: where, and the value in element edges by component."""
    entries: dict[str, tuple[Place, dict[int, float]]] = {}
    for i, support in enumerate(load.fixed):
        entries[f"fixed[{i}]"] = (support.where, {AXIS_NAMES.index(c): 0.0 for c in support.components})
    for i, item in enumerate(load.displacements):
        given = {0: item.x_mm, 1: item.y_mm, 2: item.z_mm}
        moved = {c: mm / cell_size_mm for c, mm in given.items() if mm is not None}
        entries[f"displacements[{i}]"] = (item.where, moved)
    return entries


def _nodes(case: Case, where: Place, solid: NDArray[np.bool_], key: str) -> NDArray[np.bool_]:
    size = case.grid.elements
    mask = np.ones(grid.node_size(size), dtype=bool)
    if where.face is not None:
        mask &= grid.face_nodes(where.face, size)
    if where.within is not None:
        mask &= grid.nodes_in(where.within, size)
    if not mask.any():
        raise InputError("no node lies there", file=case.file, key=key)
    if not (mask & grid.nodes_of(solid)).any():
        raise InputError("only void elements are there: nothing to hold or to move", file=case.file, key=key)
    return mask


def _force(case: Case, index: int, solid: NDArray[np.bool_], refine: int) -> NDArray[np.float64]:
    size = case.grid.elements
    fine = (size[0] * refine, size[1] * refine, size[2] * refine)
    force = np.zeros((*grid.node_size(fine), 3))
    for i, traction in enumerate(case.loads[index].tractions):
        key = f"loads[{index}].tractions[{i}].where"
        face = traction.where.face
        assert face is not None
        inside = grid.quads_in(traction.where.within or All(type="all"), face, size)
        if not inside.any():
            raise InputError("no element face lies there", file=case.file, key=key)
        quads = inside & grid.on_face(solid, face)
        if not quads.any():
            raise InputError("only void elements are there: the traction acts on nothing", file=case.file, key=key)
        vector = np.array(traction.vector_mpa) / case.base_material.young_modulus_mpa
        quads = quads.repeat(refine, axis=0).repeat(refine, axis=1)
        force += grid.quad_forces(quads, face, vector, fine)
    return force


def _mirror_axes(
    case: Case,
    role: NDArray[np.int8],
    tensor: NDArray[np.float64],
    observed: NDArray[np.bool_],
    loads: list[LoadCase],
) -> tuple[int, ...]:
    asked = case.grid.mirror
    axes = range(3) if asked == "auto" else [AXIS_NAMES.index(name) for name in asked]
    found = []
    for axis in axes:
        obstacle = mirror_obstacle(axis, role, tensor, observed, loads)
        if obstacle is None:
            found.append(axis)
        elif asked != "auto":
            raise InputError(f"{AXIS_NAMES[axis]} is no mirror plane of this case: {obstacle}",
                             file=case.file, key="grid.mirror", value=list(asked))
    return tuple(found)


def _freeze(*arrays: NDArray) -> None:
    for array in arrays:
        array.flags.writeable = False
