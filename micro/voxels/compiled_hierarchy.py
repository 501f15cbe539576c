"""A cell's hierarchy for the compiled solver: layouts, Galerkin operators, smoothers, direct solve."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from micro.cell.tensor import isotropic
from micro.voxels.corners import nodes_of as nodes_of_elements
from micro.voxels.galerkin import (
    COARSE_RADIUS,
    DEGREES,
    FINE_RADIUS,
    Array,
    children_stiffness,
    element_bound,
    shifted_inverse,
)
from micro.voxels.hexahedron import unit_stiffness
from micro.voxels.kernels.cycle import Direct, Level
from micro.voxels.kernels.layout import BLOCK, NODES, Layout, cover
from micro.voxels.kernels.product import Operator, walsh_coefficients
from micro.voxels.kernels.setup import Assembly, galerkin, invert_blocks, voxel_diagonal
from micro.voxels.torch_operator import Grid


@dataclass(frozen=True)
class Frame:
    """What the grids of a hierarchy are for any cell of that size.

    Attributes
    ----------
    grid : Grid
        Of the voxels.
    shapes, layouts : list
        Elements, and rows of fields, grid by grid.
    free : list of uint8 arrays, shape (kinds, three rows)
        Which degrees of freedom are not held.
    places : int array, shape (N,)
        Of the coarsest grid, the degrees of freedom's positions in a field.
    entries : int array, shape (elements * 576,)
        Where element matrices go in its (N, N).
    """

    grid: Grid
    shapes: list[tuple[int, int, int]]
    layouts: list[Layout]
    free: list[Array]
    places: Array
    entries: Array

    @staticmethod
    def of(grid: Grid, free: Tensor) -> Frame:
        """Of a grid of voxels whose free degrees of freedom are bool (3, K, 1, X, Y, Z)."""
        shapes = [grid.shape]
        while max(shapes[-1]) > 2:
            nx, ny, nz = ((n + 1) // 2 for n in shapes[-1])
            shapes.append((nx, ny, nz))
        layouts = [Layout.of(shape) for shape in shapes]
        nodes = grid.unfold(free)[:, :, 0].transpose(0, 1).to(torch.uint8).numpy()
        masks = []
        for shape, layout in zip(shapes, layouts, strict=True):
            for axis in range(3):
                n = nodes.shape[2 + axis] - 1
                if n > shape[axis]:  # every other node, and the last
                    index = np.minimum(2 * np.arange(shape[axis] + 1), n)
                    nodes = np.take(nodes, index, axis=2 + axis)
            masks.append(rows_of(nodes, layout, np.uint8))
        places, index = np.unique(
            _corner_dofs(shapes[-1], layouts[-1], grid.periodic).ravel(), return_inverse=True
        )
        index = index.reshape(-1, 24)
        entries = (len(places) * index[:, :, None] + index[:, None, :]).ravel()
        return Frame(grid, shapes, layouts, masks, places, entries)


@dataclass(frozen=True)
class Hierarchy:
    """One cell's: its operator in float64; in float32 the levels, finest first; the last one's inverse."""

    exact: Operator
    levels: list[Level]
    direct: Direct


def voxel_operator(moduli: Array, nu: float, layout: Layout) -> Operator:
    """Of moduli (nx, ny, nz), in float64."""
    # Room for a last block, whatever its first voxel.
    numbered = np.zeros(layout.size + BLOCK)
    numbered[: layout.size] = _padded(moduli)
    starts = _cover(numbered[: layout.size] > 0, BLOCK)
    return Operator(layout, starts, numbered, walsh_coefficients(isotropic(1.0, nu), np.float64), np.zeros(0))


def build(frame: Frame, moduli: Array, nu: float) -> Hierarchy:
    """The hierarchy of one cell's moduli (nx, ny, nz), float64."""
    periodic = frame.grid.periodic
    unit = unit_stiffness(nu).numpy()
    radius = element_bound(unit.tobytes())
    fine_factor, factor = (4 / 3 / (s * radius) for s in (FINE_RADIUS, COARSE_RADIUS))
    layout = frame.layouts[0]
    exact = voxel_operator(moduli, nu, layout)
    flat, none = unit.astype(np.float32).ravel(), np.zeros(0, np.float32)
    walsh = exact.walsh.astype(np.float32)
    work = exact._replace(moduli=exact.moduli.astype(np.float32), walsh=walsh, stencil=none)
    diagonal = np.zeros(6 * layout.stride, np.float32)
    voxel_diagonal(work.moduli, flat, layout, diagonal)
    inverse = np.zeros((len(frame.free[0]), 6 * layout.stride), np.float32)
    invert_blocks(diagonal, frame.free[0], layout, periodic, fine_factor, inverse)
    levels = [Level(work, inverse, DEGREES[0])]

    solid = moduli > 0
    matrices = np.zeros((0, 576), np.float32)
    if len(frame.layouts) == 1:
        matrices = exact.moduli[: layout.size, None].astype(np.float32) * flat
    for depth in range(1, len(frame.layouts)):
        layout = frame.layouts[depth]
        solid = _halved(solid)
        starts = _cover(nodes_of_elements(solid).ravel(), NODES)
        last = depth == len(frame.layouts) - 1
        if depth == 1:
            matrices = np.zeros((layout.size if last else 0, 576), np.float32)
        below = frame.layouts[depth if last else depth + 1]
        parents = np.zeros((0 if last else below.size, 576), np.float32)
        stencil = np.zeros(len(starts) * 243 * NODES, np.float32)
        diagonal = np.zeros(6 * layout.stride, np.float32)
        assembly = Assembly(layout, _padded(solid), *_addresses(starts, layout.size), stencil, diagonal)
        above = moduli if depth == 1 else moduli[:0]
        galerkin(above, children_stiffness(nu), matrices, assembly, below, parents)
        inverse = np.zeros((len(frame.free[depth]), 6 * layout.stride), np.float32)
        invert_blocks(diagonal, frame.free[depth], layout, periodic, factor, inverse)
        levels.append(Level(Operator(layout, starts, none, walsh, stencil), inverse, DEGREES[min(depth, 2)]))
        if not last:
            matrices = parents
    elements = _elements(matrices, frame.shapes[-1], frame.layouts[-1])
    return Hierarchy(exact, levels, _direct(elements, frame))


def nodes_of(rows: Array, layout: Layout) -> Array:
    """View (3, nx + 1, ny + 1, nz + 1) of a field's nodes."""
    inner = rows.reshape(3, -1)[:, layout.head : layout.head + layout.size]
    return inner.reshape(3, *layout.nodes)


def rows_of(nodes: Array, layout: Layout, dtype: Any) -> Array:
    """Fields (L, 3, nx + 1, ny + 1, nz + 1) as three rows with margins each: (L, length)."""
    rows = np.zeros((len(nodes), 3, layout.stride), dtype)
    rows[:, :, layout.head : layout.head + layout.size] = nodes.reshape(len(nodes), 3, -1)
    return rows.reshape(len(nodes), -1)


def _padded(elements: Array) -> Array:
    """Values of elements in the numbering of their lowest nodes, zero for those that don't exist."""
    nx, ny, nz = elements.shape
    out = np.zeros((nx + 1, ny + 1, nz + 1), elements.dtype)
    out[:nx, :ny, :nz] = elements
    return out.ravel()


def _cover(active: Array, size: int) -> Array:
    starts = np.zeros(len(active) // size + 1, np.int64)
    return starts[: cover(active, size, starts)]


def _halved(solid: Array) -> Array:
    """Which elements of twice the size hold something."""
    for axis in range(3):
        n = solid.shape[axis]
        pairs = np.moveaxis(solid, axis, 0)
        halved = pairs[0:n:2].copy()
        halved[: n // 2] |= pairs[1:n:2]
        solid = np.moveaxis(halved, 0, axis)
    return solid


def _addresses(starts: Array, count: int) -> tuple[Array, Array]:
    """Block of every covered node, and its place in the block."""
    block, lane = np.zeros(count + NODES, np.int64), np.zeros(count + NODES, np.int64)
    for k in range(NODES):
        block[starts + k], lane[starts + k] = np.arange(len(starts)), k
    return block, lane


def _elements(matrices: Array, shape: tuple[int, int, int], layout: Layout) -> Array:
    """Matrices (elements, 24, 24) without those of the padding."""
    boxed = matrices.reshape(*layout.nodes, 24, 24)
    return boxed[: shape[0], : shape[1], : shape[2]].reshape(-1, 24, 24).astype(np.float64)


def _corner_dofs(shape: tuple[int, int, int], layout: Layout, periodic: bool) -> Array:
    """Positions (elements, 24) of elements' degrees of freedom in a field; repeated nodes are the first."""
    element = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    node = element + np.array(list(product((0, 1), repeat=3)))
    if periodic:
        node = node % np.array(shape)
    at = layout.head + node @ np.array([layout.sx, layout.sy, 1])
    return (at[:, :, None] + layout.stride * np.arange(3)).reshape(len(at), 24)


def _direct(elements: Array, frame: Frame) -> Direct:
    """The inverse of the coarsest operator.

    Fixed and unsupported degrees of freedom are left out; shorter ones are filled up with zeros.
    """
    places, count = frame.places, len(frame.places)
    full = np.bincount(frame.entries, elements.ravel(), minlength=count * count).reshape(count, count)
    diagonal = full.diagonal()
    parts = []
    for mask in frame.free[-1]:
        kept = (mask[places] > 0) & (diagonal > 0)
        kept &= diagonal > 1e-12 * diagonal[kept].max(initial=0)
        scale = 1 / np.sqrt(diagonal[kept])
        scaled = full[np.ix_(kept, kept)] * scale * scale[:, None]
        inverse = shifted_inverse(scaled) * scale * scale[:, None]
        if frame.grid.periodic:
            # Nothing holds a periodic cell: translations, which rounding would feed, are taken out.
            component = (places[kept] // frame.layouts[-1].stride)[:, None] == np.arange(3)
            mean = component / np.maximum(component.sum(axis=0), 1)
            project = np.eye(len(inverse)) - mean @ component.T
            inverse = project @ inverse @ project
        parts.append((places[kept], inverse))
    size = max(len(places) for places, _ in parts)
    dofs, inverses = np.zeros((len(parts), size), np.int64), np.zeros((len(parts), size, size))
    for i, (at, inverse) in enumerate(parts):
        dofs[i, : len(at)], inverses[i, : len(at), : len(at)] = at, inverse
    return Direct(dofs, inverses)
