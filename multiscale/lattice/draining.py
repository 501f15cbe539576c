"""Cavities of a whole lattice filled, or drained by the finest channels; nothing else changes.

A channel is the straight way from a cavity to the nearest void that is open, as wide as those that open a
single cell (:mod:`micro.shape.channels`); a second one, far from the first, lets air in.
What a channel would cut off is not cut: the next nearest way is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from micro.runtime.arrays import Bools, Ints
from micro.runtime.progress import Progress, unheard
from micro.shape.channels import FILLED, RADIUS
from multiscale.lattice.block import Block, Triple
from multiscale.lattice.changed import ChangedLattice
from multiscale.lattice.lattice import VOID, Lattice
from multiscale.lattice.piece_graph import PieceGraph, piece_graph, pieces_of, whole_cell

_MARGIN = 8  # voxels around a cavity in which open void is looked for first
_TRIES = 12
_MOST_VOXELS = 6e7  # of a window: twenty bytes each
_FAR = 0.5  # share of a cavity's width that its second opening lies from the first


@dataclass(frozen=True)
class Changes:
    """What was changed in a lattice's voxels.

    Attributes
    ----------
    cavities : int
        That there were.
    filled, drained : int
        Cavities that are solid now, and that have channels.
    one_opening : int
        Of the drained ones, those with place for one channel only.
    left : int
        That stay: voids of the case itself that are only filled, and what no channel of a few cells' length
        opens without cutting solid off.
    channels : int
    added_mm3, removed_mm3 : float
        Void that became solid, and solid that the channels took.
    drained_mm3 : float
        Volume of the cavities that were drained.
    elements : int
        Elements whose voxels changed.
    pieces_before, pieces : int
        Pieces of the solid.
    """

    cavities: int
    filled: int
    drained: int
    one_opening: int
    left: int
    channels: int
    added_mm3: float
    removed_mm3: float
    drained_mm3: float
    elements: int
    pieces_before: int
    pieces: int


def without_cavities(
    lattice: Lattice,
    block: Block | None = None,
    *,
    drain: bool = False,
    radius_mm: float | None = None,
    progress: Progress = unheard,
) -> tuple[Lattice, Changes]:
    """A lattice whose block has no enclosed void, as far as that can be had.

    Parameters
    ----------
    lattice : Lattice
    block : Block, optional
        The part that is built, around which all is open; the whole lattice by default.
    drain : bool
        Channels to each cavity that is larger than they are; all cavities are filled otherwise. A void of the
        case (elements without a cell) is never filled.
    radius_mm : float, optional
        Of the channels; 1/64 of a cell's edge by default. At least a voxel.
    progress : Progress, optional

    Returns
    -------
    Lattice
        The same object if there is nothing to change.
    Changes
    """
    block = Block.whole(lattice.shape) if block is None else block
    kept = np.full(lattice.shape, VOID, dtype=np.int32)
    kept[block.slices] = lattice.index[block.slices]
    part = replace(lattice, index=kept)
    graph = piece_graph(part, void=True, progress=progress)
    before = piece_graph(part, void=False).components
    pitch = 1e3 * lattice.cell_size_m / lattice.voxels_per_cell
    radius = RADIUS * lattice.voxels_per_cell if radius_mm is None else radius_mm / pitch
    work = _Work(part, graph, max(1.0, radius))
    for number, cavity in enumerate(work.cavities(), start=1):
        work.treat(cavity, drain)
        progress(number, graph.components - 1, "changed")
    result = ChangedLattice.of(lattice, work.changed) if work.changed else lattice
    after = before
    if work.changed:
        after = piece_graph(ChangedLattice.of(part, work.changed), void=False).components
    added, removed = work.difference()
    changes = Changes(
        cavities=graph.components - 1,
        filled=work.filled,
        drained=work.drained,
        one_opening=work.one_opening,
        left=work.left,
        channels=work.channels,
        added_mm3=added * pitch**3,
        removed_mm3=removed * pitch**3,
        drained_mm3=work.drained_voxels * pitch**3,
        elements=len(work.changed),
        pieces_before=before,
        pieces=after,
    )
    return result, changes


def described(changes: Changes) -> str:
    """The changes in one line for a reader."""
    if not changes.cavities:
        return "no enclosed cavities: nothing changed"
    parts = [f"{changes.cavities:,} enclosed cavities"]
    if changes.filled:
        parts.append(f"{changes.filled:,} filled with {changes.added_mm3:.4g} mm³")
    if changes.drained:
        single = f", {changes.one_opening:,} by one opening only" if changes.one_opening else ""
        parts.append(
            f"{changes.drained:,} of {changes.drained_mm3:.4g} mm³ drained by {changes.channels:,} channels, "
            f"which take {changes.removed_mm3:.4g} mm³ of the solid{single}"
        )
    if changes.left:
        parts.append(
            f"{changes.left:,} left closed: voids of the case, or none opens without cutting solid off"
        )
    parts.append(
        f"{changes.elements:,} elements changed; pieces of the solid: {changes.pieces_before:,} before, "
        f"{changes.pieces:,} after"
    )
    return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class _Cavity:
    """One cavity: its elements with their void pieces, its volume in voxels, whether it is of cells alone."""

    parts: tuple[tuple[Triple, Ints], ...]
    volume: int
    of_cells: bool


class _Work:
    """The changes as they are made, element by element."""

    def __init__(self, lattice: Lattice, graph: PieceGraph, radius: float):
        self.lattice, self.graph, self.radius = lattice, graph, radius
        self.size = lattice.voxels_per_cell
        self.changed: dict[Triple, Bools] = {}
        self.closed: dict[Triple, Bools] = {}  # what is still enclosed
        self.filled = self.drained = self.one_opening = self.left = self.channels = 0
        self.drained_voxels = 0
        self._labels: dict[int, NDArray[np.integer]] = {}
        self._cavities = self._found()
        for cavity in self._cavities:
            for where, pieces in cavity.parts:
                mask = self._mask(where, pieces)
                self.closed[where] = self.closed.get(where, np.zeros_like(mask)) | mask

    def cavities(self) -> Iterator[_Cavity]:
        """The cavities, the smallest first."""
        return iter(sorted(self._cavities, key=lambda cavity: cavity.volume))

    def treat(self, cavity: _Cavity, drain: bool) -> None:
        """Fill or drain one of them."""
        if not self._is_closed(cavity):  # another one's channel passes through it
            self.drained += 1
            self.drained_voxels += cavity.volume
            return
        if not drain:
            self._fill(cavity)
            return
        channels = self._ways(cavity)
        carved = sum(int(np.count_nonzero(channel.solid)) for channel in channels)
        small = cavity.volume < min(carved, FILLED * self.size**3)
        if cavity.of_cells and (small or not channels):
            self._fill(cavity)
            return
        if not channels:
            self.left += 1
            return
        for channel in channels:
            self._carve(channel)
        self.channels += len(channels)
        self.drained += 1
        self.one_opening += len(channels) == 1
        self.drained_voxels += cavity.volume
        for where, pieces in cavity.parts:
            self.closed[where] &= ~self._mask(where, pieces)

    def difference(self) -> tuple[int, int]:
        """Voxels that became solid, and void."""
        added = removed = 0
        for where, voxels in self.changed.items():
            before = self._original(where)
            added += int(np.count_nonzero(voxels & ~before))
            removed += int(np.count_nonzero(before & ~voxels))
        return added, removed

    def _found(self) -> list[_Cavity]:
        graph, shape = self.graph, self.graph.index.shape
        closed = np.flatnonzero(graph.label != graph.label[0])
        order = closed[np.argsort(graph.label[closed], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(graph.label[order])) + 1) if len(order) else []
        out = []
        for nodes in groups:
            parts: dict[Triple, list[int]] = {}
            for node in nodes.tolist():
                i, j, k = (int(v) - 1 for v in np.unravel_index(graph.element[node], shape))
                parts.setdefault((i, j, k), []).append(int(graph.piece[node]))
            of_cells = all(self.lattice.index[where] != VOID for where in parts)
            named = tuple((where, np.array(pieces)) for where, pieces in parts.items())
            out.append(_Cavity(named, int(graph.volume[nodes].sum()), of_cells))
        return out

    def _mask(self, where: Triple, pieces: Ints) -> Bools:
        kind = int(self.lattice.kinds[where])
        if kind == VOID:
            return np.ones((self.size,) * 3, dtype=bool)
        if kind not in self._labels:
            self._labels[kind] = pieces_of(self.lattice, kind, void=True)
        return np.isin(self._labels[kind], pieces)

    def _cell(self, where: Triple) -> Bools:
        return self.changed[where] if where in self.changed else self._original(where)

    def _original(self, where: Triple) -> Bools:
        kind = int(self.lattice.kinds[where])
        return np.zeros((self.size,) * 3, dtype=bool) if kind == VOID else whole_cell(self.lattice, kind)

    def _is_closed(self, cavity: _Cavity) -> bool:
        return all(self.closed[where][self._mask(where, pieces)].all() for where, pieces in cavity.parts)

    def _fill(self, cavity: _Cavity) -> None:
        if not cavity.of_cells:
            self.left += 1
            return
        for where, pieces in cavity.parts:
            mask = self._mask(where, pieces)
            self.changed[where] = self._cell(where) | mask
            self.closed[where] &= ~mask
        self.filled += 1

    # ---------------------------------------------------------------- windows of voxels
    def _window(self, low: Ints, high: Ints) -> tuple[Bools, Bools]:
        """Solid and still enclosed voxels from ``low`` to ``high``; beyond the lattice all is open void."""
        solid = np.zeros(high - low, dtype=bool)
        closed = np.zeros_like(solid)
        for where, inside, out in self._overlaps(low, high):
            solid[out] = self._cell(where)[inside]
            if where in self.closed:
                closed[out] = self.closed[where][inside]
        return solid, closed

    def _overlaps(
        self, low: Ints, high: Ints
    ) -> Iterator[tuple[Triple, tuple[slice, ...], tuple[slice, ...]]]:
        first = np.maximum(low // self.size, 0)
        last = np.minimum(-(-high // self.size), self.lattice.shape)
        for i, j, k in np.ndindex(*np.maximum(last - first, 0)):
            where = (int(first[0] + i), int(first[1] + j), int(first[2] + k))
            corner = np.array(where) * self.size
            a, b = np.maximum(corner, low), np.minimum(corner + self.size, high)
            inside = tuple(slice(x, y) for x, y in zip(a - corner, b - corner, strict=True))
            out = tuple(slice(x, y) for x, y in zip(a - low, b - low, strict=True))
            yield where, inside, out

    # ------------------------------------------------------------------------- channels
    def _ways(self, cavity: _Cavity) -> list[_Channel]:
        """Two channels of a cavity, or one, or none that cuts nothing off."""
        low, high = self._bounds(cavity)
        margin = int(np.ceil(_MARGIN + 2 * self.radius))
        while True:
            start, stop = low - margin, high + margin
            if float(np.prod((stop - start).astype(float))) > _MOST_VOXELS:
                return []
            solid, closed = self._window(start, stop)
            own = self._own(cavity, start, stop)
            free = ~solid & ~closed
            if free.any():
                distance, nearest = ndimage.distance_transform_edt(~free, return_indices=True)
                if distance[own].min() + self.radius + 1 < margin:
                    break
            margin *= 2
        at = np.argwhere(own)
        at = at[np.argsort(distance[own], kind="stable")]
        first = self._way(at, nearest, solid, start)
        if first is None:
            return []
        width = float(np.ptp(at, axis=0).max())
        apart = max(_FAR * width, 2 * self.radius + 2)
        far = at[np.linalg.norm(at - first.begin, axis=1) >= apart]
        solid = solid & ~first.solid
        second = self._way(far, nearest, solid, start, away=(first.end, 2 * self.radius + 2))
        return [first] if second is None else [first, second]

    def _bounds(self, cavity: _Cavity) -> tuple[Ints, Ints]:
        lows, highs = [], []
        for where, pieces in cavity.parts:
            at = np.argwhere(self._mask(where, pieces))
            corner = np.array(where) * self.size
            lows.append(at.min(axis=0) + corner)
            highs.append(at.max(axis=0) + 1 + corner)
        return np.min(lows, axis=0), np.max(highs, axis=0)

    def _own(self, cavity: _Cavity, start: Ints, stop: Ints) -> Bools:
        own = np.zeros(stop - start, dtype=bool)
        parts = dict(cavity.parts)
        for where, inside, out in self._overlaps(start, stop):
            if where in parts:
                own[out] = self._mask(where, parts[where])[inside]
        return own

    def _way(
        self,
        candidates: Ints,
        nearest: NDArray,
        solid: Bools,
        start: Ints,
        away: tuple[Ints, float] | None = None,
    ) -> _Channel | None:
        """The first of the candidates, nearest to open void first, whose channel cuts nothing off."""
        tried: list[Ints] = []
        for begin in candidates:
            end = nearest[(slice(None), *begin)]
            if away is not None and np.linalg.norm(end - away[0]) < away[1]:
                continue
            if any(np.linalg.norm(begin - other) < self.radius + 1 for other in tried):
                continue
            tried.append(begin)
            carved = _capsule(solid.shape, begin, end, self.radius) & solid
            if not _cuts(solid, carved):
                return _Channel(begin, end, start, carved)
            if len(tried) == _TRIES:
                break
        return None

    def _carve(self, channel: _Channel) -> None:
        """Take a channel's solid away; other cavities that it meets are open from now on."""
        start, shape = channel.start, channel.solid.shape
        met = ndimage.binary_dilation(_capsule(shape, channel.begin, channel.end, self.radius))
        for where, inside, out in self._overlaps(start, start + np.array(shape)):
            if channel.solid[out].any():
                cell = self._cell(where).copy()
                cell[inside] &= ~channel.solid[out]
                self.changed[where] = cell
            if where in self.closed:
                self.closed[where][inside] &= ~met[out]


@dataclass(frozen=True, eq=False)
class _Channel:
    """A straight way: ends and solid voxels to be taken, in a window that starts at ``start``."""

    begin: Ints
    end: Ints
    start: Ints
    solid: Bools


def _capsule(shape: tuple[int, ...], begin: Ints, end: Ints, radius: float) -> Bools:
    """Voxels whose centres lie within ``radius`` of the line between two voxels' centres."""
    out = np.zeros(shape, dtype=bool)
    reach = int(np.ceil(radius))
    low = np.maximum(np.minimum(begin, end) - reach, 0)
    high = np.minimum(np.maximum(begin, end) + reach + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    at = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
    line = (end - begin).astype(float)
    along = np.clip(((at - begin) @ line) / max(float(line @ line), 1e-12), 0, 1)
    out[box] = ((at - begin - along[..., None] * line) ** 2).sum(axis=-1) <= radius**2 + 1e-9
    return out


def _cuts(solid: Bools, carved: Bools) -> bool:
    """Whether taking ``carved`` away leaves more pieces of the solid around it."""
    at = np.argwhere(carved)
    if not len(at):
        return False
    low = np.maximum(at.min(axis=0) - _MARGIN, 0)
    box = tuple(slice(a, b) for a, b in zip(low, at.max(axis=0) + _MARGIN + 1, strict=True))
    around, taken = solid[box], carved[box]
    return int(ndimage.label(around & ~taken)[1]) > int(ndimage.label(around)[1])
