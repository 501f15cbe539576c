"""A lattice as a voxel model: the solid, its supports and loads, and what its cells' corners do.

The grid is the problem's reduced one (mirror planes used), ``per_cell`` voxels along a cell's edge; lengths
are in voxel edges. Where ranks share the voxels, each makes and keeps its slab of them only; the functions
here are then called by all ranks at once. Solid that no support holds (joined to it by no voxel faces) is
taken out and counted: floating pieces, and pieces that hang on an edge or a corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Bytes, Floats, Ints
from micro.runtime.errors import InputError
from micro.voxels.corners import CORNERS
from multiscale.case.case import Case
from multiscale.problem import grid
from multiscale.problem.loads import face_loads, volume_loads
from multiscale.problem.problem import Problem
from multiscale.problem.reduction import ReducedLoad, Reduction
from multiscale.solve.voxels.multigrid import coarse_masks, refine_mask, touching
from multiscale.solve.voxels.team import Sparse, Team
from multiscale.verify.materials import VoxelLattice


@dataclass(frozen=True, eq=False)
class VoxelModel:
    """Voxels of a lattice on the reduced grid.

    Attributes
    ----------
    solid : uint8 (nx, ny, nz)
        Those that ``team`` holds here: 0 for the void, 1 for the base material, others for multiples of it.
    moduli : array (materials + 1,)
        Stiffness of each by the base material's (:mod:`multiscale.verify.materials`).
    per_cell : int
    team : Team
    removed : int
        Solid voxels of the reduced grid that were taken out because nothing holds them.
    unknowns : int
        Degrees of freedom at nodes that touch solid, before supports.
    """

    solid: Bytes
    moduli: Floats
    per_cell: int
    team: Team
    removed: int
    unknowns: int


def voxel_model(lattice: VoxelLattice, reduction: Reduction, team: Team) -> VoxelModel:
    """The part of a lattice that the reduction keeps and the team holds, without unheld pieces.

    Parameters
    ----------
    lattice : VoxelLattice
    reduction : Reduction
    team : Team
    """
    per_cell = lattice.per_cell
    cells = _cells(reduction.shape[0], per_cell, team)
    index = reduction.elements(lattice.index)[cells]
    solid = lattice.materials(index)
    labels = cc3d.connected_components(solid > 0, connectivity=6)
    piece, count = team.pieces(labels)
    held = np.ones(count, dtype=bool)
    if any(load.free for load in reduction.problem.loads):
        sizes = np.bincount(piece, weights=np.bincount(labels.reshape(-1)), minlength=count)
        team.summed(sizes)
        sizes[0] = 0
        held = np.arange(count) == sizes.argmax()  # nothing holds a free body: its one large piece is it
    for load in reduction.problem.loads:
        if load.free:
            continue
        some = np.any(reduction.nodes(load.fixed), axis=-1, keepdims=True)
        supported = refine_mask(_corners(some, cells), per_cell)[..., 0]
        near = np.zeros(count)
        nx, ny, nz = solid.shape
        for dx, dy, dz in CORNERS:
            near[piece[labels[supported[dx : dx + nx, dy : dy + ny, dz : dz + nz]]]] = 1.0
        team.summed(near)
        held &= near > 0
    held[0] = True
    removed = 0
    if not held.all():
        loose = ~held[piece][labels]
        removed = int(team.total(float(loose.sum())))
        solid[loose] = 0
    touched = touching(solid, team)
    unknowns = 3 * int(team.total(float(np.count_nonzero(touched[: team.owned(len(touched))]))))
    return VoxelModel(solid, lattice.moduli, per_cell, team, removed, unknowns)


def _cells(count: int, per_cell: int, team: Team) -> slice:
    """Which of ``count`` cells along x the team holds here."""
    own = team.layers(count * per_cell)
    return slice(own.start // per_cell, own.stop // per_cell)


def _corners(field: NDArray[Any], cells: slice) -> NDArray[Any]:
    """The part of a field of the cells' corners that lies on some cells along x."""
    return field[cells.start : cells.stop + 1]


def fixed_masks(load: ReducedLoad, per_cell: int, team: Team) -> list[Bools]:
    """Constrained degrees of freedom of the voxel grid and its halvings (see :func:`coarse_masks`).

    Of grids that the team holds in slabs, this rank's part.

    A pin of a free body may lie in the void, where it holds nothing. The coarse grids are held there all the
    same, so that the preconditioner is definite, and conjugate gradients solve the consistent singular
    system; what is left of rigid motion is taken out of the corners' displacements.
    """
    if team.size == 1:
        return coarse_masks(load.constrained, per_cell)
    cells = _cells(len(load.constrained) - 1, per_cell, team)
    slab = coarse_masks(_corners(load.constrained, cells), per_cell)
    return [*slab[: team.shared_levels], refine_mask(load.constrained, per_cell >> team.shared_levels)]


def prescribed(load: ReducedLoad, model: VoxelModel) -> Sparse:
    """Displacements other than zero at the constrained nodes, in voxel edges."""
    if not np.any(load.prescribed):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    cells = _cells(len(load.constrained) - 1, model.per_cell, model.team)
    constrained, displacement = (_corners(a, cells) for a in (load.constrained, load.prescribed))
    mask = refine_mask(constrained, model.per_cell) & (touching(model.solid, model.team) > 0)[..., None]
    values = grid.prolong_nodes(displacement, model.per_cell) * model.per_cell
    where = np.flatnonzero(np.ascontiguousarray((mask & (values != 0)).transpose(0, 1, 3, 2)))
    flat = np.ascontiguousarray(values.transpose(0, 1, 3, 2)).reshape(-1)
    return where, flat[where]


def forces(case: Case, number: int, problem: Problem, reduction: Reduction, model: VoxelModel) -> Sparse:
    """Nodal forces of the case's load ``number``.

    A traction or pressure on a cell's outer face is carried by that face's solid voxels, a body force by all
    solid voxels of the cell, in shares like their moduli: every cell receives what the homogenised model
    gives it.

    Parameters
    ----------
    case : Case
    number : int
    problem : Problem
    reduction : Reduction
    model : VoxelModel

    Raises
    ------
    InputError
        If a loaded cell has no solid where it is loaded.
    """
    v, shape, team = model.per_cell, model.solid.shape, model.team
    cells = _cells(reduction.shape[0], v, team)
    found: list[Sparse] = []
    for key, face, quads, vector in face_loads(case, number, problem.solid):
        axis, side = grid.face_axis(face)
        if axis in reduction.axes and side == 0:
            continue  # the other half's face; ours is loaded by the mirror image
        for a, other in enumerate(b for b in range(3) if b != axis):
            if other in reduction.axes:
                quads = np.take(quads, range(quads.shape[a] // 2, quads.shape[a]), axis=a)
        if axis:
            quads = quads[cells]
        elif side * shape[0] in team.ends(shape[0] + 1):
            quads = np.zeros_like(quads)  # another rank's face
        share = _shares(grid.on_face(model.solid, face), quads, model, case, key)
        nodal = np.zeros([n + 1 for n in share.shape])
        for da, db in product((0, 1), repeat=2):
            nodal[da : da + share.shape[0], db : db + share.shape[1]] += share / 4
        if axis:
            team.add_shared(nodal)
        place = np.argwhere(nodal)
        node = np.insert(place, axis, shape[axis] * side, axis=1)
        found += _by_component(node, nodal[tuple(place.T)], vector, shape)
    for key, loaded, density in volume_loads(case, number, problem.solid):
        nodal = grid.spread(_shares(model.solid, reduction.elements(loaded)[cells], model, case, key))
        team.add_shared(nodal)
        node = np.argwhere(nodal)
        found += _by_component(node, nodal[tuple(node.T)], density / v, shape)
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    return np.concatenate([index for index, _ in found]), np.concatenate([value for _, value in found])


def _shares(solid: Bytes, loaded: NDArray, model: VoxelModel, case: Case, key: str) -> Floats:
    """What each solid voxel carries of a load of ``loaded`` a voxel on its whole cell; two or three axes."""
    v = model.per_cell
    blocks = [size for count in loaded.shape for size in (count, v)]
    within = tuple(range(1, 2 * loaded.ndim, 2))
    weight = model.moduli[solid]
    total = weight.reshape(blocks).sum(axis=within)
    empty = int(model.team.total(float(np.count_nonzero((loaded != 0) & (total == 0)))))
    if empty:  # on any rank
        raise case.error(
            key,
            f"{empty} loaded cells have no solid where they are loaded at {v} voxels an edge: "
            "take more --voxels-per-cell",
        )
    share = loaded * (v**loaded.ndim / np.where(total > 0, total, 1.0))
    for axis in range(loaded.ndim):
        share = share.repeat(v, axis=axis)
    return share * weight


def _by_component(node: Ints, values: Floats, vector: Floats, shape: tuple[int, ...]) -> list[Sparse]:
    """Values (q,) at nodes (q, 3) times a vector."""
    return [(_flat(node, int(c), shape), values * vector[c]) for c in np.flatnonzero(vector)]


def _flat(node: Ints, component: int, shape: tuple[int, ...]) -> Ints:
    return ((node[:, 0] * (shape[1] + 1) + node[:, 1]) * 3 + component) * (shape[2] + 1) + node[:, 2]


def corner_displacements(
    u: Floats, model: VoxelModel, load: ReducedLoad, wanted: Bools
) -> tuple[Floats, int]:
    """Displacements of the cells' corners, in cell edges.

    A corner that lies in the void takes the mean over the nearest cube around it that has solid, which the
    symmetry of cubic cells makes exact for the smooth part of the field; rigid motion of a free body is taken
    out before, at the means' own positions, or a turn would move corners that see one side only. Constrained
    components take their prescribed values.

    Parameters
    ----------
    u : float64 (X, Y, 3, Z)
        Solution in voxel edges, on the nodes that the model's team holds.
    model : VoxelModel
    load : ReducedLoad
    wanted : bool (mx+1, my+1, mz+1)
        Corners that are needed; elsewhere zero is returned.

    Returns
    -------
    displacements : (mx+1, my+1, mz+1, 3)
    averaged : int
        How many wanted corners lie in the void.

    Raises
    ------
    InputError
        If there is no solid within half a cell of a wanted corner.
    """
    v, team = model.per_cell, model.team
    active = touching(model.solid, team)[: team.owned(len(u))] > 0  # a node counts on one rank only
    corner = np.argwhere(wanted)
    values, place = np.zeros((len(corner), 3)), np.zeros((len(corner), 3))
    open_ = np.arange(len(corner))
    averaged = 0
    for radius in range(v // 2 + 1):
        sums = np.zeros((len(open_), 7))  # of displacements, of positions, and their number
        at = corner[open_] * v
        for offset in np.ndindex(*[2 * radius + 1] * 3):
            node = at + np.array(offset) - radius
            own = node - [team.first, 0, 0]
            inside = ((own >= 0) & (own < active.shape)).all(axis=1)
            x, y, z = np.where(inside[:, None], own, 0).T
            here = inside & active[x, y, z]
            sums[here, :3] += u[x[here], y[here], :, z[here]]
            sums[here, 3:6] += node[here]
            sums[:, 6] += here
        team.summed(sums)
        total, position, count = sums[:, :3], sums[:, 3:6], sums[:, 6]
        done = count > 0
        values[open_[done]] = total[done] / count[done, None]
        place[open_[done]] = position[done] / count[done, None] / v
        if radius == 0:
            averaged = int((~done).sum())
        open_ = open_[~done]
        if not len(open_):
            break
    if len(open_):
        raise InputError(
            f"{len(open_)} observed cell corners have no solid within half a cell: take more "
            "--voxels-per-cell",
            key="--voxels-per-cell",
            value=v,
        )
    out = np.zeros((*wanted.shape, 3))
    out[wanted] = _without_motion(values / v, place, load.motions)
    constrained = load.constrained & ~load.pins & wanted[..., None]
    out[constrained] = load.prescribed[constrained]
    return out, averaged


def _without_motion(values: Floats, place: Floats, motions: Floats) -> Floats:
    """Displacements (q, 3) at positions (q, 3) in cells, without the given rigid motions."""
    if not len(motions):
        return values
    origin = motions[:, 0, 0, 0]
    slopes = [motions[:, 1, 0, 0] - origin, motions[:, 0, 1, 0] - origin, motions[:, 0, 0, 1] - origin]
    moved = origin[:, None] + sum(s[:, None] * place[None, :, [a]] for a, s in enumerate(slopes))
    flat = moved.reshape(len(motions), -1)
    share = np.linalg.lstsq(flat.T, values.reshape(-1), rcond=None)[0]
    return np.asarray(values - np.tensordot(share, moved, axes=1))
