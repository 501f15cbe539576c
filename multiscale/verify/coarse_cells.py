"""Cells at fewer voxels: the octants that a full-scale model of coarse voxels is built from.

Thresholding the coarse voxels' solid fractions would make cells tens of percent stiffer or softer, in pieces,
and without contact to their neighbours, and the full-scale result would be about that. So a coarse cell is
chosen that does what the fine one does:

- it is one piece that meets its faces, as cells have to;
- neighbours that touch still do: of every pair a coarse voxel of the face where both are most solid is kept
  (:func:`kept_contacts`); cells that fill a large part of the lattice are chosen first, by themselves, and
  the others meet them where they are solid;
- among the cells that remain it has the tensor nearest to the fine cell's, at little change of shape: level
  sets of the solid fractions, or the half-solid voxels bridged along paths of least added void
  (:func:`bridge`), then orbits of voxels flipped one by one, in a beam search (:func:`fitted`), a wider one
  for cells that fill a large part of the lattice.

What differs from the original is measured, not hidden: the coarse cells have tensors of their own, and a
full-scale result is compared with the prediction from *them*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from micro.cell.cellset import CellSet
from micro.cell.chamber import fundamental_domain
from micro.cell.octant import connectivity
from micro.cell.tensor import tensor_error
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.errors import NotConverged
from micro.runtime.progress import Progress, unheard
from multiscale.lattice.contact import meeting_pairs
from multiscale.lattice.lattice import Lattice, solid_fractions

#: What a change of shape (mean |octant - fraction|) of one costs, as tensor error: it decides between equals.
_SHAPE = 0.02
#: Cost at which a cell is left as it is.
_NEAR = 0.006
#: Level sets tried, those nearest in volume; orbits flipped one after the other; flips tried each time.
_LEVELS, _FLIPS, _TRIED = 8, 6, 12
#: Octants kept after each flip at 8 voxels a cell, and of a cell that fills a large part of the lattice.
_BEAM, _WIDE = 3, 24
#: Share of the lattice from which a cell is chosen before the others.
_LEADING = 1 / 20
#: Residual tolerance of a coarse cell's solve; the error of C is of the order of its square.
_RTOL = 3e-3
#: Coarse cells homogenised at once, which bounds the memory.
_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class CoarseLattice:
    """A lattice of fewer voxels per cell.

    Attributes
    ----------
    lattice : Lattice
        The coarse cells with their own tensors and volumes.
    rethresholded : int
        Unique cells that the plain threshold of one half would have left disconnected.
    volume_change : float
        Mean over the solid elements of |coarse volume fraction - original|.
    error_mean, error_max : float
        Tensor error (Eq. 4) of the coarse cells against the originals, over the solid elements.
    """

    lattice: Lattice
    rethresholded: int
    volume_change: float
    error_mean: float
    error_max: float


def coarse_lattice(
    lattice: Lattice, per_cell: int, progress: Progress = unheard, tensors: Tensors | None = None
) -> CoarseLattice:
    """The lattice at ``per_cell`` voxels along a cell's edge, its coarse cells homogenised.

    ``tensors`` remembers from one lattice to the next.

    Parameters
    ----------
    lattice : Lattice
    per_cell : int
    progress : Progress, optional
    tensors : Tensors, optional
        Homogenised before.

    Raises
    ------
    InputError
        If ``per_cell`` is not an even divisor of the cells' own resolution.
    NotConverged
        If a coarse cell's homogenisation fails.
    """
    lattice = lattice.compact()
    cells = lattice.cells
    if per_cell == lattice.voxels_per_cell:
        return CoarseLattice(lattice, 0, 0.0, 0.0, 0.0)
    fractions = solid_fractions(cells.octants(), per_cell)
    share = np.bincount(lattice.index[lattice.solid], minlength=len(cells)) / lattice.solid.sum()
    # More voxels, finer steps: a narrower beam does.
    wide, narrow = max(1, _WIDE * 8 // per_cell), max(1, _BEAM * 8 // per_cell)
    leading = np.flatnonzero(share > _LEADING)
    leading = leading[np.argsort(-share[leading], kind="stable")]
    following = np.setdiff1d(np.arange(len(cells)), leading)
    tensors = tensors or Tensors(lattice.poisson)
    octants, C = np.zeros(fractions.shape, dtype=bool), np.zeros((len(cells), 3))
    given: dict[int, Bools] = {}
    # The first of them is the same whatever else the lattice holds, so a reference solved with it is too.
    for rows in [*leading[:, None], *([following] if len(following) else [])]:
        kept = kept_contacts(lattice, per_cell, given, rows)
        beam = wide if rows is not following else narrow
        octants[rows], C[rows] = fitted(fractions[rows], kept, cells.C[rows], beam, tensors, progress)
        given |= {int(row): octants[row, 0] for row in rows}
    changed = sum(not connectivity(f >= 0.5).connected for f in fractions)
    coarse = CellSet.from_octants(
        octants, C, family=[str(name) for name in cells.family], poisson=cells.poisson
    )
    new = replace(lattice, cells=coarse)
    used = lattice.index[lattice.solid]
    change = float(np.abs(coarse.volume - cells.volume)[used].mean())
    error = np.asarray(tensor_error(C, cells.C))[used]
    return CoarseLattice(new, changed, change, float(error.mean()), float(error.max()))


def kept_contacts(lattice: Lattice, per_cell: int, given: dict[int, Bools], rows: Ints) -> Bools:
    """Voxels of some coarse octants that keep neighbours in touch; bool (rows, k, k, k), symmetric.

    Every pair of unlike cells of ``rows`` that meet and touch is given one coarse voxel of the face, unless
    it has one already: the voxel where the less solid of the two is most solid. Pairs that meet often choose
    first. ``given`` are coarse faces (k, k) of cells chosen before, which the others meet as they are.

    Parameters
    ----------
    lattice : Lattice
    per_cell : int
    given : dict of int to bool array (k, k)
    rows : int array
        Unique cells.
    """
    faces = lattice.cells.faces()
    m, n = len(faces), lattice.cells.n
    k = per_cell // 2
    keys, counts = meeting_pairs(lattice.index, m)
    solid = solid_fractions(lattice.cells.octants(), per_cell)[:, 0]
    kept = np.zeros((m, k, k), dtype=bool)
    for cell, face in given.items():
        kept[cell], solid[cell] = face, face
    open_ = np.isin(np.arange(m), rows)
    for key in keys[np.argsort(-counts, kind="stable")]:
        a, b = divmod(int(key), m)
        if not (open_[a] or open_[b]) or not all(open_[c] or c in given for c in (a, b)):
            continue
        both = (faces[a] & faces[b]).reshape(k, n // k, k, n // k).any(axis=(1, 3))
        if not both.any() or (kept[a] & kept[b]).any():
            continue
        worth = np.minimum(solid[a], solid[b]) + np.where(both, 1.0, 0.0)
        for cell in (a, b):  # a cell chosen before does not move: the other comes to where it is solid
            if not open_[cell]:
                worth[~kept[cell]] = -1.0
        i, j = np.unravel_index(int(worth.argmax()), worth.shape)
        for cell in (a, b):
            if open_[cell]:
                kept[cell, i, j] = kept[cell, j, i] = True
    out = np.zeros((len(rows), k, k, k), dtype=bool)
    for axis in range(3):
        np.moveaxis(out, axis + 1, 1)[:, 0] |= kept[rows]
    return out


def fitted(
    fractions: NDArray[np.floating],
    kept: Bools,
    targets: Floats,
    beam: int,
    tensors: Tensors,
    progress: Progress = unheard,
) -> tuple[Bools, Floats]:
    """Connected coarse octants whose tensors are nearest to the targets.

    Minimises the tensor error plus a small price on the change of shape, the mean of |octant - fraction|.

    Parameters
    ----------
    fractions : array, shape (m, k, k, k)
        Solid fractions, invariant under permutation of the axes.
    kept : bool array, shape (m, k, k, k)
        Voxels that have to be solid.
    targets : array, shape (m, 3)
    beam : int
        Octants of each cell that are kept after every flip.
    tensors : Tensors
    progress : Progress, optional

    Returns
    -------
    octants : bool array, shape (m, k, k, k)
    C : array, shape (m, 3)

    Raises
    ------
    NotConverged
        If no candidate of a cell can be homogenised.
    """
    filled = [np.where(q, 1.0, f) for f, q in zip(fractions, kept, strict=True)]
    offered = [_level_sets(f, float(v.mean())) for f, v in zip(filled, fractions, strict=True)]
    ranked: list[list[tuple[float, bytes]]] = [[] for _ in offered]
    seen = [{octant.tobytes() for octant in some} for some in offered]
    shape = fractions.shape[1:]
    for number in range(_FLIPS + 1):
        progress(number, _FLIPS + 1)
        tensors.learn([octant for some in offered for octant in some])
        for i, some in enumerate(offered):
            front = {entry[1] for entry in ranked[i]}
            for octant in some:
                change = float(np.abs(octant - fractions[i]).mean())
                # NaN, of a failed solve, is no candidate.
                cost = float(np.nan_to_num(tensor_error(tensors.of(octant), targets[i]), nan=np.inf))
                ranked[i].append((cost + _SHAPE * change, octant.tobytes()))
            ranked[i] = sorted(ranked[i])[:beam]
            done = ranked[i][0][0] < _NEAR
            fresh = [] if done else [entry[1] for entry in ranked[i] if entry[1] not in front]
            around = [
                other
                for key in fresh
                for other in _flips(np.frombuffer(key, dtype=bool).reshape(shape), fractions[i], kept[i])
            ]
            new = {octant.tobytes(): octant for octant in around if octant.tobytes() not in seen[i]}
            seen[i] |= set(new)
            offered[i] = list(new.values())
        if not any(offered):
            break
    best = [np.frombuffer(entries[0][1], dtype=bool).reshape(shape) for entries in ranked]
    C = np.array([tensors.of(octant) for octant in best])
    lost = ~np.isfinite(C).all(axis=1)
    if lost.any():
        raise NotConverged(
            f"{int(lost.sum())} cells could not be homogenised at {2 * fractions.shape[1]} voxels an edge: "
            "take more --voxels-per-cell"
        )
    return np.stack(best), C


class Tensors:
    """Tensors of coarse octants, each worked out once.

    Parameters
    ----------
    nu : float
        Poisson's ratio of the base material.
    """

    def __init__(self, nu: float):
        self._nu = nu
        self._known: dict[bytes, Floats] = {}

    def learn(self, octants: list[Bools]) -> None:
        """Homogenise those that are not known yet."""
        fresh = {octant.tobytes(): octant for octant in octants if octant.tobytes() not in self._known}
        if not fresh:
            return
        stack = np.stack(list(fresh.values()))
        parts = []
        for start in range(0, len(stack), _AT_ONCE):
            result = homogenize_octants(stack[start : start + _AT_ONCE], nu=self._nu, rtol=_RTOL)
            parts.append(np.where((result.status == Status.OK)[:, None], result.C, np.nan))
        self._known.update(zip(fresh, np.concatenate(parts), strict=True))

    def of(self, octant: Bools) -> Floats:
        """(3,); NaN if its solve failed."""
        return self._known[octant.tobytes()]


def _level_sets(fraction: NDArray[np.floating], volume: float) -> list[Bools]:
    """Connected level sets of about the volume, and bridges; the whole cell if there is none."""
    found = [fraction >= threshold for threshold in np.unique(fraction[fraction > 0])]
    found = [octant for octant in found if connectivity(octant).connected]
    if not connectivity(fraction >= 0.5).connected:
        bridged = bridge(fraction)
        found += [bridged] if (bridged >= (fraction >= 1.0)).all() else []
    found.sort(key=lambda octant: abs(float(octant.mean()) - volume))
    return found[:_LEVELS] or [np.ones(fraction.shape, dtype=bool)]


def _flips(octant: Bools, fraction: NDArray[np.floating], kept: Bools) -> list[Bools]:
    """Connected octants that differ by one orbit, those first whose shape changes least."""
    inside, _ = fundamental_domain(len(octant))
    price = np.where(octant, 2 * fraction - 1, 1 - 2 * fraction).reshape(-1)[inside]
    found: list[Bools] = []
    for at in inside[np.argsort(price, kind="stable")]:
        voxel = np.unravel_index(int(at), octant.shape)
        if kept[voxel]:
            continue
        other = octant.copy()
        for image in set(permutations(int(v) for v in voxel)):
            other[image] = not octant[image]
        if connectivity(other).connected:
            found.append(other)
            if len(found) == _TRIED:
                break
    return found


def bridge(fraction: NDArray[np.floating]) -> Bools:
    """The voxels of at least half solid (or the most solid ones), made one piece from face to mid-plane.

    Pieces and ends are joined along the paths that add least void; a piece that would cost more void than it
    holds solid is left out. Every path comes with its images under permutation of the axes.
    """
    void = 1.0 - fraction
    octant = fraction >= min(0.5, fraction.max())
    while True:
        labels, count = ndimage.label(octant)
        main = _largest(labels, fraction)
        distance, parent = _paths(void, labels == main)
        faces = np.zeros(octant.shape, dtype=bool)
        faces[0] = faces[:, 0] = faces[:, :, 0] = True
        goals = [faces, np.flip(faces)]
        goals = [goal for goal in goals if not (goal & (labels == main)).any()]
        pieces = [labels == label for label in range(1, count + 1) if label != main]
        images = _orbit(labels == main)
        pieces = [piece for piece in pieces if not (piece & images).any()] or pieces
        worth = []
        for piece in pieces:
            cost = distance[piece].min()
            if cost > fraction[piece].sum() and not (piece & images).any():
                octant = octant & ~_orbit(piece)
            else:
                worth.append(piece)
        targets = goals or worth
        if not targets:
            if len(worth) == len(pieces):
                return octant
            continue
        nearest = min(targets, key=lambda target: float(distance[target].min()))
        at = int(np.argmin(np.where(nearest, distance, np.inf)))
        path = np.zeros(octant.shape, dtype=bool)
        while at >= 0:
            path.reshape(-1)[at] = True
            at = int(parent[at])
        octant = octant | _orbit(path)


def _largest(labels: NDArray[np.integer], fraction: NDArray[np.floating]) -> int:
    """The piece of most solid."""
    return 1 + int(np.argmax(ndimage.sum_labels(fraction, labels, range(1, int(labels.max()) + 1))))


def _orbit(octant: Bools) -> Bools:
    """The union with its images under permutation of the axes."""
    out = octant.copy()
    for axes in permutations(range(3)):
        out |= octant.transpose(axes)
    return out


def _paths(cost: NDArray[np.floating], start: Bools) -> tuple[Floats, Ints]:
    """Least cost of entering voxels from ``start`` to each one, and the voxel before it (-1 at the start)."""
    number = np.arange(cost.size, dtype=np.int32).reshape(cost.shape)  # as dijkstra wants them
    rows, columns = [], []
    for axis in range(3):
        a, b = (np.moveaxis(number, axis, 0)[part].reshape(-1) for part in (slice(0, -1), slice(1, None)))
        rows += [a, b]
        columns += [b, a]
    row, column = np.concatenate(rows), np.concatenate(columns)
    # Of two paths that add no void the shorter one.
    weight = cost.reshape(-1)[column] + 1e-6
    graph = coo_array((weight, (row, column)), shape=(cost.size, cost.size)).tocsr()
    distance, parent, _ = dijkstra(
        graph, indices=np.flatnonzero(start), min_only=True, return_predecessors=True
    )
    return distance.reshape(cost.shape), np.where(parent < 0, -1, parent).astype(np.int64)
