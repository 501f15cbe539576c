"""How the solid of a periodic voxel cell hangs together: pieces, what carries, and what meets in edges alone.

Hexahedra of two voxels that share an edge or a corner share its nodes, and a model passes load through them.
No body does: solid that is joined by edges and corners falls apart when it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Ints
from micro.runtime.errors import InputError


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of a periodic cell's solid.

    Attributes
    ----------
    label : int array, shape (nx, ny, nz)
        Piece of each voxel from 1 on, 0 in voids.
    count : int
    carries : bool array, shape (count + 1,)
        Whether a piece goes on through the cell's periodic images without end, and so can carry a load.
    """

    label: NDArray[np.integer]
    count: int
    carries: Bools


@dataclass(frozen=True)
class Contacts:
    """What a cell's solid hangs by.

    Attributes
    ----------
    pieces : int
        Pieces joined by voxel faces.
    joined : int
        Pieces joined by faces, edges or corners, as the model has it.
    floating : float
        Share of the solid in pieces (joined by anything) that carry no load.
    hangs : bool
        Whether load may pass through edges or corners: a carrying piece falls apart without them.
    """

    pieces: int
    joined: int
    floating: float
    hangs: bool


def pieces(solid: Bools, by: Literal["faces", "corners"] = "faces") -> Pieces:
    """Pieces of a periodic cell (nx, ny, nz), joined by voxel faces, or by faces, edges and corners.

    Raises
    ------
    InputError
        If the cell is no array (nx, ny, nz).
    """
    array = np.asarray(solid, dtype=bool)
    if array.ndim != 3 or array.size == 0:
        raise InputError("a cell is an array (nx, ny, nz)", value=array.shape)
    parts, count = cc3d.connected_components(array, connectivity=6 if by == "faces" else 26, return_N=True)
    pairs = np.unique(np.concatenate(_across(parts, by == "corners")), axis=0)
    piece, carries = _joined(count, pairs)
    return Pieces(piece[parts], int(piece.max()), carries)


def contacts(solid: Bools) -> Contacts:
    """What the solid of a periodic cell (nx, ny, nz) hangs by."""
    array = np.asarray(solid, dtype=bool)
    whole, apart = pieces(array, "corners"), pieces(array)
    volume = np.bincount(whole.label.ravel(), minlength=whole.count + 1)
    floating = volume[1:][~whole.carries[1:]].sum() / max(1, volume[1:].sum())
    # Pieces by faces within those that carry: more of them than of these means that edges join some.
    within = np.unique(apart.label[whole.carries[whole.label]])
    return Contacts(
        apart.count, whole.count, float(floating), len(within) > int(np.count_nonzero(whole.carries))
    )


def _across(parts: NDArray[np.integer], corners: bool) -> list[Ints]:
    """Parts that meet across the cell's faces: rows (a, b, x, y, z), b in the image at that offset."""
    steps: list[tuple[int, ...]] = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    if corners:
        every = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        steps = [tuple(int(v) for v in step) for step in every if tuple(step) > (0, 0, 0)]
    rows = [np.zeros((0, 5), dtype=np.int64)]
    for step in steps:
        for axis, move in enumerate(step):
            if move == 0:
                continue
            # Voxels of the layer from which this step leaves the cell, with their neighbours.
            layer = np.take(parts, [-1 if move > 0 else 0], axis=axis)
            place = [np.arange(n) for n in layer.shape]
            place[axis] = np.array([parts.shape[axis] - 1 if move > 0 else 0])
            moved = [p + s for p, s in zip(place, step, strict=True)]
            wrapped = [m % n for m, n in zip(moved, parts.shape, strict=True)]
            offset = np.meshgrid(*[m // n for m, n in zip(moved, parts.shape, strict=True)], indexing="ij")
            other = parts[np.ix_(*wrapped)]
            met = (layer > 0) & (other > 0)
            columns = [layer[met], other[met], *(o[met] for o in offset)]
            rows.append(np.unique(np.stack(columns, axis=-1).astype(np.int64), axis=0))
    return rows


def _joined(count: int, pairs: Ints) -> tuple[Ints, Bools]:
    """Pieces of the parts 0 to ``count``, from 1 on in their order, and whether each goes on without end.

    A piece goes on without end if a walk through it comes back to the same part in another image of the cell.
    """
    neighbours: list[list[tuple[int, Ints]]] = [[] for _ in range(count + 1)]
    for a, b, *offset in pairs:
        shift = np.array(offset)
        neighbours[a].append((int(b), shift))
        neighbours[b].append((int(a), -shift))
    piece = np.zeros(count + 1, dtype=np.int64)
    image = np.zeros((count + 1, 3), dtype=np.int64)
    carries = [False]
    for start in range(1, count + 1):
        if piece[start]:
            continue
        piece[start] = len(carries)
        endless, stack = False, [start]
        while stack:
            here = stack.pop()
            for there, shift in neighbours[here]:
                if not piece[there]:
                    piece[there] = piece[start]
                    image[there] = image[here] + shift
                    stack.append(there)
                elif (image[there] != image[here] + shift).any():
                    endless = True
        carries.append(endless)
    return piece, np.array(carries)
