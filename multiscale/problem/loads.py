"""A load case on the grid: supports, prescribed displacements and consistent nodal forces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from multiscale.case.boundary import Load, Place
from multiscale.case.case import Case
from multiscale.case.shapes import All
from multiscale.case.tables import Target
from multiscale.problem import grid
from multiscale.problem.far_field import far_field_tractions

AXIS_NAMES = "xyz"


@dataclass(frozen=True, eq=False)
class LoadCase:
    """One load on the full grid.

    Supports and prescribed displacements cover every node of their place, those that only void
    elements touch included: there they mean nothing, but they hold when the hole is filled (as in
    the reference). Tractions act on solid elements only.
    """

    name: str
    weight: float
    fixed: Bools
    """(nx+1, ny+1, nz+1, 3): components with a prescribed displacement."""
    value: Floats
    """Same shape: the prescribed displacement, in element edges (0 where not fixed)."""
    force: Floats
    """Same shape: consistent nodal forces, in units of E_s h^2."""

    def __post_init__(self) -> None:
        freeze(self.fixed, self.value, self.force)

    @property
    def free(self) -> bool:
        """Whether nothing holds the body: its forces are in equilibrium, rigid motion means nothing."""
        return not self.fixed.any()


def build_load(
    case: Case, index: int, solid: Bools, refine: int = 1, region: NDArray[np.int16] | None = None
) -> LoadCase:
    """The case's load number ``index`` on a grid ``refine`` times finer than its own.

    Parameters
    ----------
    solid : bool (nx, ny, nz)
        Elements of the case's own grid that are not void.
    region : int (nx, ny, nz), optional
        Number of each element's region; pressures in holes need it.

    Raises
    ------
    InputError
        A place with no nodes or with void only, or values that contradict each other.
    """
    size = case.grid.elements
    load = case.load_cases[index]
    key = f"loads[{index}]"
    fixed = np.zeros((*grid.node_size(size), 3), dtype=bool)
    value = np.zeros(fixed.shape)
    for at, (where, moved) in _prescribed(load, case.grid.cell_size_mm).items():
        here = _nodes(case, where, solid, f"{key}.{at}.where")
        for component, amount in moved.items():
            clash = here & fixed[..., component] & (np.abs(value[..., component] - amount) > 1e-12)
            if clash.any():
                raise case.error(
                    f"{key}.{at}",
                    f"prescribes {AXIS_NAMES[component]} at {int(clash.sum())} nodes where an earlier entry "
                    "prescribes another value: keep the places apart with 'within'",
                )
            fixed[here, component] = True
            value[here, component] = amount
    fixed, value = _refined(fixed, value, refine)
    return LoadCase(load.name, load.weight, fixed, value, _force(case, index, solid, refine, region))


@dataclass(frozen=True, eq=False)
class TargetField:
    """The displacements wanted under one load, on the full grid."""

    mask: Bools
    """(nx+1, ny+1, nz+1, 3): components that are asked for."""
    value: Floats
    """Same shape: what is wanted, in element edges (0 where nothing is asked for)."""

    def __post_init__(self) -> None:
        freeze(self.mask, self.value)


def build_target(case: Case, index: int, solid: Bools, refine: int = 1) -> TargetField:
    """What the case wants of its load number ``index``, on a grid ``refine`` times finer than its own.

    Parameters
    ----------
    case : Case
    index : int
    solid : bool array (nx, ny, nz)
        Of the refined grid.
    refine : int

    Raises
    ------
    InputError
        A place with no nodes or with void only, positions that do not reach as far as the nodes, or a
        target that wants no displacement.
    """
    size = case.grid.elements
    mask = np.zeros((*grid.node_size(size), 3), dtype=bool)
    value = np.zeros(mask.shape)
    for number, target in enumerate(case.objective.targets):
        if target.load != case.load_cases[index].name:
            continue
        key = f"objective.targets[{number}]"
        here = _nodes(case, target.where, solid, f"{key}.where") & grid.nodes_of(solid)
        for component, wanted in enumerate((target.x_mm, target.y_mm, target.z_mm)):
            if wanted is None:
                continue
            mask[here, component] = True
            value[here, component] = _profile(case, target, wanted, here, key) / case.grid.cell_size_mm
    if not value.any():
        raise case.error(
            "objective.targets", "the wanted displacement is zero everywhere: support these nodes instead"
        )
    return TargetField(*_refined(mask, value, refine))


def _refined(mask: Bools, value: Floats, refine: int) -> tuple[Bools, Floats]:
    """Components and displacements in element edges, on a grid ``refine`` times finer."""
    if refine == 1:
        return mask, value
    fine = grid.prolong_mask(mask, refine)
    return fine, np.where(fine, grid.prolong_nodes(value, refine) * refine, 0.0)


def _profile(case: Case, target: Target, wanted: float | tuple[float, ...], here: Bools, key: str) -> Floats:
    """Wanted displacement in mm at the nodes ``here``."""
    if target.along is None or not isinstance(wanted, tuple):
        return np.full(int(here.sum()), wanted)
    position = np.nonzero(here)[AXIS_NAMES.index(target.along)]
    if position.min() < target.at[0] - 1e-9 or position.max() > target.at[-1] + 1e-9:
        raise case.error(
            f"{key}.at",
            f"the nodes reach from {position.min()} to {position.max()} along {target.along}",
            list(target.at),
        )
    from scipy.interpolate import PchipInterpolator

    return np.asarray(PchipInterpolator(target.at, wanted)(position))


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


def _nodes(case: Case, where: Place, solid: Bools, key: str) -> Bools:
    size = case.grid.elements
    mask = np.ones(grid.node_size(size), dtype=bool)
    if where.face is not None:
        mask &= grid.face_nodes(where.face, size)
    if where.within is not None:
        mask &= grid.nodes_in(where.within, size)
    if not mask.any():
        raise case.error(key, "no node lies there")
    if not (mask & grid.nodes_of(solid)).any():
        raise case.error(key, "only void elements are there: nothing to hold or to move")
    return mask


def _force(case: Case, index: int, solid: Bools, refine: int, region: NDArray[np.int16] | None) -> Floats:
    size = case.grid.elements
    fine = (size[0] * refine, size[1] * refine, size[2] * refine)
    unit = case.base_material.young_modulus_mpa
    force = np.zeros((*grid.node_size(fine), 3))
    for _, face, quads, vector in face_loads(case, index, solid):
        force += grid.quad_forces(_split(quads, refine), face, vector, fine)
    for i, pressure in enumerate(case.load_cases[index].pressures):
        if pressure.region is None:
            continue
        assert region is not None
        names = [item.name for item in case.regions]
        hole = region == names.index(str(pressure.region))
        walls = grid.wall_forces(grid.split_elements(hole, refine), grid.split_elements(solid, refine))
        if not walls.any():
            key = f"loads[{index}].pressures[{i}].region"
            raise case.error(key, "the hole has no solid walls")
        force += walls * (pressure.mpa / unit)
    for _, loaded, density in volume_loads(case, index, solid):
        force += grid.spread(grid.split_elements(loaded, refine))[..., None] * (density / refine)
    return force


def face_loads(case: Case, index: int, solid: Bools) -> Iterator[tuple[str, str, NDArray, Floats]]:
    """Tractions, and pressures on faces: key, face, its loaded solid quads (a, b), force per area over E_s.

    Quads are a mask, or the factors by which a traction that varies is multiplied.

    Raises
    ------
    InputError
        If nothing solid is there.
    """
    unit = case.base_material.young_modulus_mpa
    far_field = case.load_cases[index].far_field
    if far_field is not None:
        key = f"loads[{index}].far_field"
        for face, weights, vector in far_field_tractions(far_field, solid, case.file, key):
            yield key, face, weights, vector / unit
    for i, traction in enumerate(case.load_cases[index].tractions):
        key = f"loads[{index}].tractions[{i}]"
        face, quads = _quads(case, traction.where, solid, f"{key}.where")
        yield key, face, quads, np.array(traction.vector_mpa) / unit
    for i, pressure in enumerate(case.load_cases[index].pressures):
        if pressure.where is None:
            continue
        key = f"loads[{index}].pressures[{i}]"
        face, quads = _quads(case, pressure.where, solid, f"{key}.where")
        axis, side = grid.face_axis(face)
        vector = np.zeros(3)
        vector[axis] = (-1 if side else 1) * pressure.mpa / unit
        yield key, face, quads, vector


def volume_loads(case: Case, index: int, solid: Bools) -> Iterator[tuple[str, Bools, Floats]]:
    """Body forces: key, loaded solid elements, and the force of one over its edge's square and E_s.

    Raises
    ------
    InputError
        If nothing solid is there.
    """
    size, unit = case.grid.elements, case.base_material.young_modulus_mpa
    for i, body in enumerate(case.load_cases[index].body_forces):
        key = f"loads[{index}].body_forces[{i}]"
        loaded = solid if body.within is None else solid & grid.elements_in(body.within, size)
        if not loaded.any():
            raise case.error(f"{key}.within", "no solid element lies there")
        # N/mm^3 times an element's volume, over its edge's square and E_s.
        yield key, loaded, np.array(body.vector_n_mm3) * (case.grid.cell_size_mm / unit)


def _quads(case: Case, where: Place, solid: Bools, key: str) -> tuple[str, Bools]:
    """The face of a surface load, and its solid quads (a, b) that are loaded."""
    face = where.face
    assert face is not None
    inside = grid.quads_in(where.within or All(type="all"), face, case.grid.elements)
    if not inside.any():
        raise case.error(key, "no element face lies there")
    quads = inside & grid.on_face(solid, face)
    if not quads.any():
        raise case.error(key, "only void elements are there: the load acts on nothing")
    return face, quads


def _split(quads: NDArray, refine: int) -> NDArray:
    return quads.repeat(refine, axis=0).repeat(refine, axis=1)


def freeze(*arrays: NDArray) -> None:
    """Make arrays read-only: a problem is a value."""
    for array in arrays:
        array.flags.writeable = False
