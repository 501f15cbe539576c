"""The problem: a case on its grid, as plain arrays in internal units (E_s = 1, h = 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from multiscale.case.case import DEFAULT_START, Case
from multiscale.case.settings import Kind
from multiscale.problem import grid
from multiscale.problem.loads import LoadCase, TargetField, build_load, build_target, freeze
from multiscale.problem.mesh_fit import check_meshes
from multiscale.problem.supports import check_supported
from multiscale.problem.symmetry import AXIS_NAMES, mirror_obstacle, parity

__all__ = ["LoadCase", "Problem", "Role", "build_problem", "parity"]


class Role(IntEnum):
    """What an element is."""

    VOID = 0
    FIXED = 1
    DESIGN = 2


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
    tensor: Floats
    """(nx, ny, nz, 3): C11, C12, C44 in units of E_s; fixed: the material, design: the start, void: 0."""
    reference: Floats
    """(nx, ny, nz, 3): the reference material everywhere, or that of the start if there is none."""
    observed: Bools
    """(nx, ny, nz): elements whose nodes are observed."""
    loads: tuple[LoadCase, ...]
    mirror_axes: tuple[int, ...]
    """Axes whose mid-plane halves the model."""
    density_kg_m3: float = 1000.0
    """Density of the base material."""
    observed_names: tuple[str, ...] = field(default=())
    combine: Kind = "mean_square"
    """How the loads make up the objective."""
    unfilled: tuple[str, ...] = ()
    """Names of regions of a given material that no cells fill."""
    targets: tuple[TargetField, ...] = ()
    """Wanted displacements, one field a load, if the objective is a target."""

    def __post_init__(self) -> None:
        freeze(self.role, self.region, self.tensor, self.reference, self.observed)

    @property
    def design(self) -> Bools:
        """(nx, ny, nz): design elements."""
        return self.role == Role.DESIGN

    @property
    def solid(self) -> Bools:
        """(nx, ny, nz): elements that are not void."""
        return self.role != Role.VOID

    @property
    def filled(self) -> Bools:
        """(nx, ny, nz): elements that are to hold a cell; voids count as filled."""
        given = [i for i, name in enumerate(self.region_names) if name in self.unfilled]
        return ~np.isin(self.region, given)

    @property
    def observed_nodes(self) -> Bools:
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
    check_meshes(case)
    region = _paint(case)
    role, tensor = _materials(case, region)
    observed_index = [i for i, r in enumerate(case.regions) if r.name in case.objective.observe]
    observed = np.isin(region, observed_index)
    name = case.objective.reference
    reference_tensor = case.tensor_of(name) if name else DEFAULT_START
    reference = np.broadcast_to(np.array(reference_tensor), tensor.shape)

    solid = role != Role.VOID
    box = case.export.stl_box
    if box is not None and not solid[tuple(slice(a, b) for a, b in zip(*box, strict=True))].any():
        raise case.error("export.stl_box", "there are only voids in it", [list(corner) for corner in box])
    loads = [build_load(case, index, solid, 1, region) for index in range(len(case.load_cases))]
    for index, load in enumerate(loads):
        check_supported(load, solid, case.file, f"loads[{index}].fixed")
    targets = _targets(case, solid)
    mirror = _mirror_axes(case, role, tensor, observed, loads, targets)
    if refine > 1:
        loads = [build_load(case, index, solid, refine, region) for index in range(len(case.load_cases))]
        targets = _targets(case, solid, refine)
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
        observed_names=case.objective.observe,
        combine=case.objective.combine,
        targets=targets,
        unfilled=tuple(r.name for r in case.regions if not r.filled),
    )


def _targets(case: Case, solid: Bools, refine: int = 1) -> tuple[TargetField, ...]:
    if not case.objective.targets:
        return ()
    return tuple(build_target(case, index, solid, refine) for index in range(len(case.load_cases)))


def _paint(case: Case) -> NDArray[np.int16]:
    """Region index of each element; later regions over earlier ones."""
    size = case.grid.elements
    region = np.full(size, -1, dtype=np.int16)
    for index, item in enumerate(case.regions):
        inside = grid.elements_in(item.shape, size)
        if not inside.any():
            raise case.error(
                f"regions[{index}].shape",
                "the region catches no element (an element belongs to a shape by its centre)",
                item.name,
            )
        region[inside] = index
    left = int((region < 0).sum())
    if left:
        raise case.error(
            "regions", f'{left} elements belong to no region: begin with one of shape {{ type = "all" }}'
        )
    for index, item in enumerate(case.regions):
        if not (region == index).any():
            raise case.error(
                f"regions[{index}].shape",
                "later regions cover this one entirely: change the order or the shapes",
                item.name,
            )
    return region


def _materials(case: Case, region: NDArray[np.int16]) -> tuple[NDArray[np.int8], Floats]:
    roles = np.array([Role[item.role.upper()] for item in case.regions], dtype=np.int8)
    tensors = np.zeros((len(case.regions), 3))
    for index, item in enumerate(case.regions):
        if item.role == "fixed":
            assert item.material is not None
            tensors[index] = case.tensor_of(item.material)
        elif item.role == "design":
            tensors[index] = case.start_of(item)
    return roles[region], tensors[region]


def _mirror_axes(
    case: Case,
    role: NDArray[np.int8],
    tensor: Floats,
    observed: Bools,
    loads: list[LoadCase],
    targets: tuple[TargetField, ...],
) -> tuple[int, ...]:
    asked = case.grid.mirror
    axes = range(3) if asked == "auto" else [AXIS_NAMES.index(name) for name in asked]
    found = []
    for axis in axes:
        obstacle = mirror_obstacle(axis, role, tensor, observed, loads, targets)
        if obstacle is None:
            found.append(axis)
        elif asked != "auto":
            raise case.error(
                "grid.mirror", f"{AXIS_NAMES[axis]} is no mirror plane of this case: {obstacle}", list(asked)
            )
    return tuple(found)
