"""What a printer makes of a solid on a grid of voxels or pixels: walls, pieces, cavities, layers.

The grid is what is built, as it is cut: all around it is open, and the first layer stands on the plate.
Cubes measure walls and gaps (opening, Serra 1982), face neighbours make pieces and cavities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from micro.runtime import memory
from micro.runtime.arrays import Bools, Ints
from micro.runtime.errors import InputError
from micro.runtime.progress import Progress, unheard
from multiscale.printability.printer import LOST, opened

BYTES_PER_VOXEL = 16
"""Labels of solid, void and openings, and what makes them."""

_PROGRAM = 300_000_000
THICKEST = 8
"""Times the grid's coarsest pitch; thicker features are not told apart."""

_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Layers:
    """What the layers of a build lack underneath, bottom first; the first one stands on the plate.

    Attributes
    ----------
    count : int
    islands : int
        Parts of a layer (joined by edges or corners too) without any solid in the layer below.
    island_layer : int
        The lowest of them; -1 if there is none.
    largest_island_mm2 : float
    bridges, overhangs : int
        Parts that lean out over nothing by more than 45 degrees, held at two places or more, and at one.
    longest_bridge_mm, longest_overhang_mm : float
        Twice the farthest that a bridge is from what holds it, and the farthest of an overhang.
    unsupported_share : float
        Area of all these over the area of all layers.
    """

    count: int
    islands: int
    island_layer: int
    largest_island_mm2: float
    bridges: int
    overhangs: int
    longest_bridge_mm: float
    longest_overhang_mm: float
    unsupported_share: float


@dataclass(frozen=True)
class GridMeasures:
    """A solid on a grid.

    Attributes
    ----------
    pitch_mm, size_mm : tuple of three float
    solid_mm3 : float
    least_wall_mm, least_gap_mm : float
        Edge of the largest cube whose opening leaves all but 1 % of the solid, and of the void within the
        grid; steps are the coarsest pitch, at most eight of them.
    pieces : int
        Of the solid, joined by faces.
    loose_share : float
        Share of the solid outside the largest piece.
    cavities : int
        Enclosed ones; nothing leaves them.
    cavities_mm3 : float
    one_opening : int
        Voids with a single opening: they fill, and do not drain, for nothing gets in where it runs out.
    one_opening_mm3 : float
    layers : Layers
    """

    pitch_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]
    solid_mm3: float
    least_wall_mm: float
    least_gap_mm: float
    pieces: int
    loose_share: float
    cavities: int
    cavities_mm3: float
    one_opening: int
    one_opening_mm3: float
    layers: Layers


def measure(
    solid: Bools,
    pitch_mm: tuple[float, float, float],
    direction: ArrayLike = (0.0, 0.0, 1.0),
    progress: Progress = unheard,
) -> GridMeasures:
    """Measures of a solid on a grid.

    Parameters
    ----------
    solid : bool array, shape (nx, ny, nz)
    pitch_mm : tuple of three float
    direction : array, shape (3,)
        Build direction, along an axis.
    progress : Progress, optional

    Raises
    ------
    InputError
        If the build direction is not along an axis.
    """
    if not along_axis(direction):
        raise InputError("layers are measured along an axis only", key="direction", value=direction)
    voxel = float(np.prod(pitch_mm))
    sizes = np.bincount(cc3d.connected_components(solid, connectivity=6).ravel())[1:]
    progress(1, 3, "pieces")
    closed, single = _voids(~solid)
    progress(2, 3, "voids")
    wall, gap = (_least(phase, pitch_mm, around) for phase, around in ((solid, False), (~solid, True)))
    progress(3, 3, "walls and gaps")
    layers = measure_layers(*_upright(solid, pitch_mm, direction), progress)
    return GridMeasures(
        pitch_mm=pitch_mm,
        size_mm=tuple(n * step for n, step in zip(solid.shape, pitch_mm, strict=True)),
        solid_mm3=float(sizes.sum()) * voxel,
        least_wall_mm=wall,
        least_gap_mm=gap,
        pieces=len(sizes),
        loose_share=float(1 - sizes.max() / sizes.sum()) if len(sizes) else 0.0,
        cavities=len(closed),
        cavities_mm3=float(closed.sum()) * voxel,
        one_opening=len(single),
        one_opening_mm3=float(single.sum()) * voxel,
        layers=layers,
    )


def along_axis(direction: ArrayLike) -> bool:
    """Whether a build direction is along an axis, so that the grid has its layers."""
    return np.count_nonzero(np.asarray(direction)) == 1


def _upright(
    solid: Bools, pitch: tuple[float, float, float], direction: ArrayLike
) -> tuple[Bools, tuple[float, float, float]]:
    """The grid turned so that it is built along z."""
    vector = np.asarray(direction, dtype=np.float64)
    axis = int(np.abs(vector).argmax())
    a, b = (other for other in range(3) if other != axis)
    turned = solid.transpose(a, b, axis)
    return turned if vector[axis] > 0 else turned[:, :, ::-1], (pitch[a], pitch[b], pitch[axis])


def _voids(void: Bools) -> tuple[Ints, Ints]:
    """Voxels of each void without an opening, and of each with a single one."""
    labels = cc3d.connected_components(void, connectivity=6)
    sizes = np.bincount(labels.ravel())
    surface = void.copy()
    surface[1:-1, 1:-1, 1:-1] = False
    patches = cc3d.connected_components(surface, connectivity=6)
    at = patches > 0
    pairs = np.unique(np.stack([patches[at], labels[at]]), axis=1)
    openings = np.bincount(pairs[1], minlength=len(sizes))
    openings[0] = -1
    return sizes[openings == 0], sizes[openings == 1]


def _least(phase: Bools, pitch: tuple[float, float, float], around: bool) -> float:
    total, coarsest = int(np.count_nonzero(phase)), max(pitch)
    if not total:
        return THICKEST * coarsest
    for k in range(2, THICKEST + 1):
        size = tuple(max(1, round(k * coarsest / step)) for step in pitch)
        if 1 - np.count_nonzero(opened(phase, size, outside=around)) / total > LOST:
            return (k - 1) * coarsest
    return THICKEST * coarsest


def measure_layers(
    solid: Bools, pitch_mm: tuple[float, float, float], progress: Progress = unheard
) -> Layers:
    """What the layers (nx, ny) of a build along z lack underneath."""
    islands, lowest, largest = 0, -1, 0.0
    counts, longest = [0, 0], [0.0, 0.0]  # of bridges, of overhangs
    unsupported = 0
    across = pitch_mm[:2]
    # 45 degrees: a layer may lean out by its height.
    lean = [max(1, round(pitch_mm[2] / step)) for step in across]
    reach = np.ones([2 * r + 1 for r in lean], dtype=bool)
    area = float(np.prod(across))
    planes = (np.ascontiguousarray(solid[:, :, k]) for k in range(solid.shape[2]))
    for k, (below, layer) in enumerate(pairwise(planes), start=1):
        progress(k, solid.shape[2] - 1, "layers")
        if not (layer & ~below).any():
            continue
        parts = cc3d.connected_components(layer, connectivity=8)
        stands = np.zeros(int(parts.max()) + 1, dtype=bool)
        stands[parts[layer & below]] = True
        stands[0] = True
        size = np.bincount(parts.ravel())
        if not stands.all():
            islands += int(np.count_nonzero(~stands))
            lowest = k if lowest < 0 else lowest
            largest = max(largest, float(size[~stands].max()) * area)
            unsupported += int(size[~stands].sum())
        hanging = layer & ~ndimage.binary_dilation(below, reach) & stands[parts]
        if hanging.any():
            unsupported += int(np.count_nonzero(hanging))
            for held, distance in _hanging(layer & stands[parts] & ~hanging, hanging, across):
                kind, length = (0, 2 * distance) if held > 1 else (1, distance)
                counts[kind] += 1
                longest[kind] = max(longest[kind], length)
    total = int(np.count_nonzero(solid))
    share = unsupported / total if total else 0.0
    bridges, overhangs = counts
    bridge, overhang = longest
    return Layers(solid.shape[2], islands, lowest, largest, bridges, overhangs, bridge, overhang, share)


def _hanging(held: Bools, hanging: Bools, pitch: tuple[float, ...]) -> list[tuple[int, float]]:
    """Of each hanging part of a layer the number of places that hold it, and how far it is from them."""
    rows, columns = (np.flatnonzero(hanging.any(axis=axis)) for axis in (1, 0))
    box = slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
    held, hanging = held[box], hanging[box]
    parts = cc3d.connected_components(np.ascontiguousarray(hanging), connectivity=8)
    ring = cc3d.connected_components(
        np.ascontiguousarray(held & ndimage.binary_dilation(hanging, _EIGHT)), connectivity=8
    )
    pairs = []
    padded = np.pad(ring, 1)
    for i, j in np.ndindex(3, 3):
        beside = padded[i : i + parts.shape[0], j : j + parts.shape[1]]
        met = (parts > 0) & (beside > 0)
        pairs.append(np.stack([parts[met], beside[met]]))
    holders = np.bincount(np.unique(np.concatenate(pairs, axis=1), axis=1)[0], minlength=int(parts.max()) + 1)
    # A part is a pixel's centre from what holds it, at least.
    distance = ndimage.distance_transform_edt(~held, sampling=pitch)
    far = ndimage.maximum(distance, parts, np.arange(1, int(parts.max()) + 1))
    return list(zip(holders[1:].tolist(), np.atleast_1d(far).tolist(), strict=True))


def require_memory(shape: Sequence[int] | NDArray[np.integer], what: str) -> None:
    """Raise InputError where a grid is too large to be measured."""
    voxels = float(np.prod(np.asarray(shape, dtype=np.float64)))
    need = _PROGRAM + BYTES_PER_VOXEL * voxels
    memory.require(need, f"measuring {voxels:.3g} voxels of {what}", "a part of it fits", key="--region")


_ROWS: tuple[tuple[str, Callable[[GridMeasures], Any], str], ...] = (
    ("coarsest pitch, mm", lambda m: max(m.pitch_mm), ".4g"),
    ("solid, mm³", lambda m: m.solid_mm3, ".6g"),
    ("pieces", lambda m: m.pieces, ","),
    ("solid outside the largest", lambda m: m.loose_share, ".2%"),
    ("least wall, mm", lambda m: m.least_wall_mm, ".3g"),
    ("least gap, mm", lambda m: m.least_gap_mm, ".3g"),
    ("enclosed cavities", lambda m: m.cavities, ","),
    ("  their volume, mm³", lambda m: m.cavities_mm3, ".4g"),
    ("voids with a single opening", lambda m: m.one_opening, ","),
    ("layers", lambda m: m.layers.count, ","),
    ("islands (nothing below)", lambda m: m.layers.islands, ","),
    ("  the largest, mm²", lambda m: m.layers.largest_island_mm2, ".3g"),
    ("bridges", lambda m: m.layers.bridges, ","),
    ("  the longest, mm", lambda m: m.layers.longest_bridge_mm, ".3g"),
    ("overhangs beyond 45°", lambda m: m.layers.overhangs, ","),
    ("  the longest, mm", lambda m: m.layers.longest_overhang_mm, ".3g"),
    ("area that nothing holds up", lambda m: m.layers.unsupported_share, ".2%"),
)


def table(several: Mapping[str, GridMeasures]) -> list[str]:
    """Lines for a reader: a column for each of several grids, by its name."""
    lines = [f"{'':30}" + "  ".join(f"{name:>14}" for name in several)]
    for label, value, show in _ROWS:
        cells = (f"{format(value(m), show):>{max(14, len(name))}}" for name, m in several.items())
        lines.append(f"{label:30}" + "  ".join(cells))
    return lines
