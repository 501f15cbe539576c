"""Voxel systems solved by compiled code: one cell after another, so that a cell's numbers stay in the cache.

The counterpart on the processor of :mod:`micro.voxels.torch_multigrid` and :mod:`micro.voxels.torch_system`,
by the same method: exact Galerkin operators, Chebyshev smoothing on node blocks, conjugate gradients in
float32, residuals in float64. What a cell gives depends neither on the cells beside it nor on the number of
threads.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from micro.cell.tensor import isotropic
from micro.runtime import threads as parallel
from micro.voxels import kernels
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
from micro.voxels.replacement import Replacement, Solution
from micro.voxels.torch_operator import Grid


@dataclass(frozen=True)
class _Frame:
    """What the grids of a hierarchy are for any cell of that size.

    ``free`` (kinds, three rows) uint8 by grid. Of the coarsest grid, ``places`` (N,) are the degrees of
    freedom's positions in a field and ``entries`` (elements * 576,) where element matrices go in its (N, N).
    """

    shapes: list[tuple[int, int, int]]
    grids: list[Array]
    free: list[Array]
    places: Array
    entries: Array


@dataclass(frozen=True)
class _Level:
    """One grid of a cell: its operator (moduli or stencil, and the blocks that hold any), its smoother."""

    grid: Array
    starts: Array
    moduli: Array
    stencil: Array
    inverse: Array
    degree: int


@dataclass(frozen=True)
class _Hierarchy:
    moduli: Array  # float64, numbered like the voxels' lowest nodes
    levels: list[_Level]
    dofs: Array
    inverse: Array


class _Space:
    """Work space of solves: fields of some load cases, used for one cell after another."""

    def __init__(self, frame: _Frame, loads: int):
        lengths = [(loads, 3 * grid[7]) for grid in frame.grids]
        self.r, self.u, self.rest, self.step = (
            [np.zeros(length, np.float32) for length in lengths] for _ in range(4)
        )
        self.p, self.ap, self.dx = (np.zeros(lengths[0], np.float32) for _ in range(3))
        self.b, self.x, self.true = (np.zeros(lengths[0]) for _ in range(3))

    def of(self, loads: int) -> _Space:
        """The part of fewer load cases."""
        part = copy(self)
        for name, value in vars(self).items():
            setattr(part, name, [a[:loads] for a in value] if isinstance(value, list) else value[:loads])
        return part

    def clear(self) -> None:
        """Zero everything, margins included, whatever a solve left there."""
        every = (
            *self.r,
            *self.u,
            *self.rest,
            *self.step,
            self.p,
            self.ap,
            self.dx,
            self.b,
            self.x,
            self.true,
        )
        for array in every:
            array.fill(0)


@dataclass
class System:
    """The systems of some cells on the processor.

    Parameters
    ----------
    moduli : Tensor, shape (B, nx, ny, nz), float64
    nu : float
        Poisson's ratio.
    grid : Grid
    free : Tensor of bool, shape (3, K, 1, X, Y, Z)
        Free degrees of freedom of K load cases, or K = 1 if all are fixed alike.
    """

    moduli: Tensor
    nu: float
    grid: Grid
    free: Tensor
    frame: _Frame = field(init=False)

    def __post_init__(self) -> None:
        shapes = [self.grid.shape]
        while max(shapes[-1]) > 2:
            nx, ny, nz = ((n + 1) // 2 for n in shapes[-1])
            shapes.append((nx, ny, nz))
        grids = [kernels.describe(shape) for shape in shapes]
        nodes = self.grid.unfold(self.free)[:, :, 0].transpose(0, 1).to(torch.uint8).numpy()
        free = []
        for shape, grid in zip(shapes, grids, strict=True):
            for axis in range(3):
                n = nodes.shape[2 + axis] - 1
                if n > shape[axis]:  # every other node, and the last
                    index = np.minimum(2 * np.arange(shape[axis] + 1), n)
                    nodes = np.take(nodes, index, axis=2 + axis)
            free.append(_rows(nodes, grid, np.uint8))
        places, index = np.unique(
            _corner_dofs(shapes[-1], grids[-1], self.grid.periodic).ravel(), return_inverse=True
        )
        index = index.reshape(-1, 24)
        entries = (len(places) * index[:, :, None] + index[:, None, :]).ravel()
        self.frame = _Frame(shapes, grids, free, places, entries)
        self._walsh = kernels.walsh_coefficients(isotropic(1.0, self.nu), np.float64)
        self._walsh_work = self._walsh.astype(np.float32)

    def forces(self, u: Tensor) -> Tensor:
        """A u on all layers of nodes (3, L, B, nx + 1, ...), as if the grid were open; u has one cell."""
        grid, loads = self.frame.grids[0], u.shape[1]
        fields = _rows(u[:, :, 0].transpose(0, 1).numpy(), grid, np.float64)
        zero, out = np.zeros_like(fields), np.zeros_like(fields)
        free, every = np.ones((1, fields.shape[1]), np.uint8), np.ones(loads, np.bool_)
        kind = np.zeros(loads, np.int64)
        result = np.empty((3, loads, len(self.moduli), *u.shape[3:]))
        for cell in range(len(self.moduli)):
            moduli, starts = self._numbered(cell)
            kernels.defect(
                zero,
                fields,
                grid,
                starts,
                moduli,
                self._walsh,
                False,
                free,
                kind,
                every,
                out,
                np.zeros(loads),
            )
            for load in range(loads):
                np.negative(_nodes(out[load], grid), out=result[:, load, cell])
        return torch.from_numpy(result)

    def solve(
        self,
        b: Tensor,
        *,
        rtol: float,
        floor: Tensor,
        groups: list[slice],
        threads: int = 1,
        start: Tensor | None = None,
        max_iterations: int = 400,
        progress: Callable[[int], None] | None = None,
    ) -> Solution:
        """Solve A u = b on the free degrees of freedom; see :func:`micro.voxels.torch_system.solve`.

        Load cases of a group are solved together, the groups of a cell one after another. Threads share out
        the cells, or a single cell's groups. ``progress`` is called with the number of load cases done.
        """
        shape = tuple(b.shape[1:3])
        u = np.zeros(b.shape) if start is None else np.array(start.numpy(), order="C")
        results = (
            u,
            np.zeros(b.shape),
            np.zeros(shape),
            np.zeros(shape, np.int64),
            np.zeros(shape, np.bool_),
        )
        known, bounds = b.numpy(), floor.numpy()

        def run(cell: int, hierarchy: _Hierarchy, loads: slice, space: _Space) -> None:
            mine = [array[:, loads, cell] for array in (known, *results[:2])]
            outcome = [array[loads, cell] for array in results[2:]]
            limits = (rtol, bounds[loads, cell], start is not None, max_iterations)
            kind = np.arange(loads.start, loads.stop) if self.free.shape[1] > 1 else None
            self._solve(hierarchy, space, *limits, kind, *mine, *outcome)
            if progress is not None:
                progress(loads.stop - loads.start)

        def whole(cells: range) -> None:
            space = _Space(self.frame, groups[0].stop)
            for cell in cells:
                hierarchy = self._hierarchy(cell)
                for loads in groups:
                    run(cell, hierarchy, loads, space)

        cells = len(self.moduli)
        if cells > 1:
            shares = [range(i, cells, threads) for i in range(min(threads, cells))]
            parallel.run([partial(whole, share) for share in shares], threads)
        else:
            hierarchy = self._hierarchy(0)

            def group(loads: slice) -> None:
                run(0, hierarchy, loads, _Space(self.frame, loads.stop - loads.start))

            parallel.run([partial(group, loads) for loads in groups], threads)
        return Solution(*(torch.from_numpy(array) for array in results))

    def precondition(self, r: Tensor, cell: int) -> Tensor:
        """One V-cycle from zero for the residual r (3, L, X, Y, Z) of a cell's load cases, in float32."""
        hierarchy, loads = self._hierarchy(cell), r.shape[1]
        space, grid = _Space(self.frame, loads), hierarchy.levels[0].grid
        out = np.zeros(r.shape, np.float32)
        box = tuple(slice(n) for n in r.shape[2:])
        kind = np.arange(loads) if self.free.shape[1] > 1 else np.zeros(loads, np.int64)
        for load in range(loads):
            _nodes(space.r[0][load], grid)[(slice(None), *box)] = r[:, load]
        self._cycle(hierarchy, space, kind, np.ones(loads, np.bool_))
        for load in range(loads):
            out[:, load] = _nodes(space.u[0][load], grid)[(slice(None), *box)]
        return torch.from_numpy(out)

    def _numbered(self, cell: int) -> tuple[Array, Array]:
        """Moduli numbered like their lowest nodes, with room for a last block; and where blocks begin."""
        moduli, count = self.moduli[cell].numpy(), self.frame.grids[0][5]
        numbered = np.zeros(count + kernels.BLOCK)
        numbered[:count] = _padded(moduli)
        return numbered, _cover(numbered[:count] > 0, kernels.BLOCK)

    def _hierarchy(self, cell: int) -> _Hierarchy:
        frame, periodic = self.frame, self.grid.periodic
        unit = unit_stiffness(self.nu).numpy()
        radius = element_bound(unit.tobytes())
        fine_factor, factor = (4 / 3 / (s * radius) for s in (FINE_RADIUS, COARSE_RADIUS))
        moduli, starts = self._numbered(cell)
        work, flat = moduli.astype(np.float32), unit.astype(np.float32).ravel()
        none = np.zeros(0, np.float32)

        grid = frame.grids[0]
        diagonal = np.zeros(6 * grid[7], np.float32)
        kernels.voxel_diagonal(work, flat, grid, diagonal)
        inverse = np.zeros((len(frame.free[0]), 6 * grid[7]), np.float32)
        kernels.invert_blocks(diagonal, frame.free[0], grid, periodic, fine_factor, inverse)
        levels = [_Level(grid, starts, work, none, inverse, DEGREES[0])]

        solid = self.moduli[cell].numpy() > 0
        voxels = self.moduli[cell].numpy()
        matrices = np.zeros((0, 576), np.float32)
        if len(frame.grids) == 1:
            matrices = moduli[: grid[5], None].astype(np.float32) * flat
        for depth in range(1, len(frame.grids)):
            grid = frame.grids[depth]
            solid = _halved(solid)
            filled = _padded(solid)
            starts = _cover(_touched(solid).ravel(), kernels.NODES)
            block, lane = _addresses(starts, grid[5])
            last = depth == len(frame.grids) - 1
            if depth == 1:
                matrices = np.zeros((grid[5] if last else 0, 576), np.float32)
            below = frame.grids[depth if last else depth + 1]
            parents = np.zeros((0 if last else below[5], 576), np.float32)
            stencil = np.zeros(len(starts) * 243 * kernels.NODES, np.float32)
            diagonal = np.zeros(6 * grid[7], np.float32)
            above = voxels if depth == 1 else voxels[:0]
            kernels.galerkin(
                above,
                children_stiffness(self.nu),
                matrices,
                filled,
                grid,
                block,
                lane,
                stencil,
                diagonal,
                below,
                parents,
            )
            inverse = np.zeros((len(frame.free[depth]), 6 * grid[7]), np.float32)
            kernels.invert_blocks(diagonal, frame.free[depth], grid, periodic, factor, inverse)
            degree = DEGREES[min(depth, 2)]
            levels.append(_Level(grid, starts, none, stencil, inverse, degree))
            if not last:
                matrices = parents
        elements = _elements(matrices, frame.shapes[-1], frame.grids[-1])
        dofs, dense = _direct(elements, frame, periodic)
        return _Hierarchy(moduli, levels, dofs, dense)

    def _cycle(self, h: _Hierarchy, f: _Space, kind: Array, active: Array) -> None:
        """One V-cycle from zero: f.u[0] for the residual f.r[0]."""
        last = len(h.levels) - 1
        for down in (True, False):
            for k in range(last) if down else range(last - 1, -1, -1):
                level = h.levels[k]
                operator = (level.grid, level.starts, level.moduli, self._walsh_work, level.stencil)
                fields = (f.r[k], f.u[k], f.rest[k], f.step[k], h.levels[k + 1].grid, f.r[k + 1], f.u[k + 1])
                periodic = self.grid.periodic
                kernels.sweep(down, level.degree, *operator, level.inverse, kind, periodic, active, *fields)
            if down:
                grid = h.levels[last].grid
                kernels.coarsest(
                    h.inverse, h.dofs, kind, grid, self.grid.periodic, active, f.r[last], f.u[last]
                )

    def _solve(
        self,
        h: _Hierarchy,
        space: _Space,
        rtol: float,
        floor: Array,
        warm: bool,
        max_iterations: int,
        kind: Array | None,
        b: Array,
        u: Array,
        remainder: Array,
        residual: Array,
        iterations: Array,
        converged: Array,
    ) -> None:
        """Conjugate gradients for load cases of a cell: arrays (3, L, X, Y, Z) and (L,), filled in place."""
        fine, loads, periodic = h.levels[0], b.shape[1], self.grid.periodic
        kind = np.zeros(loads, np.int64) if kind is None else kind
        space = space.of(loads)
        space.clear()
        bb, x, true, p, ap, dx = space.b, space.x, space.true, space.p, space.ap, space.dx
        box = tuple(slice(n) for n in b.shape[2:])
        for load in range(loads):
            _nodes(bb[load], fine.grid)[(slice(None), *box)] = b[:, load]
        norm = np.sqrt((bb * bb).sum(axis=1))
        active = norm > 1e-13 * floor
        trivial, scale = ~active, np.where(active, norm, 1.0)
        bb /= scale[:, None]  # unit right-hand sides: float32 cannot over- or underflow
        if warm:
            for load in np.flatnonzero(active).tolist():
                _nodes(x[load], fine.grid)[:] = _every_layer(u[:, load], self.grid) / scale[load]
        space.r[0][:] = bb
        size = np.zeros(loads)
        norms, curvature, rule = np.ones(loads), np.ones(loads), Replacement(rtol, np.ones(loads))
        fresh = np.ones(loads, np.bool_)
        residual[:], converged[:], iterations[:] = 0.0, ~active, 0

        operator = (fine.grid, fine.starts)
        fixed = (periodic, self.frame.free[0], kind)
        for iteration in range(max_iterations + 1):
            check = active & rule.due(norms)
            if iteration == max_iterations or (warm and iteration == 0):
                check = active.copy()
            if check.any():
                # A stretch that went wrong (overflow, breakdown) is thrown away; the float64 iterate stands.
                usable = np.ones(loads, np.bool_)
                for load in np.flatnonzero(check).tolist():
                    usable[load] = np.isfinite(dx[load]).all()
                    if usable[load]:
                        x[load] += dx[load]
                    dx[load] = 0
                kernels.defect(bb, x, *operator, h.moduli, self._walsh, *fixed, check, true, size)
                for load in np.flatnonzero(check).tolist():
                    space.r[0][load] = true[load]
                worn, good, ended = rule.take(check, size, usable)
                ended |= check & (iteration == max_iterations)
                fresh |= worn
                p[worn] = ap[worn] = 0
                residual[ended], converged[good] = size[ended], True
                active &= ~ended
            if not active.any():
                break
            self._cycle(h, space, kind, active)
            fields = (space.u[0], space.r[0], p, ap, dx)
            state = (fresh, curvature, norms)
            kernels.advance(*operator, fine.moduli, self._walsh_work, *fixed, active, *fields, *state)
            iterations += active
        for load in range(loads):
            rest = bb if trivial[load] else true
            for values, target in ((x, u), (rest, remainder)):
                nodes = _nodes(values[load], fine.grid)[(slice(None), *box)]
                np.multiply(nodes, scale[load], out=target[:, load])


def _nodes(rows: Array, grid: Array) -> Array:
    """View (3, nx + 1, ny + 1, nz + 1) of a field's nodes."""
    inner = rows.reshape(3, -1)[:, grid[6] : grid[6] + grid[5]]
    return inner.reshape(3, *(grid[:3] + 1))


def _rows(nodes: Array, grid: Array, dtype: Any) -> Array:
    """Fields (L, 3, nx + 1, ny + 1, nz + 1) as three rows with margins each: (L, length)."""
    rows = np.zeros((len(nodes), 3, grid[7]), dtype)
    rows[:, :, grid[6] : grid[6] + grid[5]] = nodes.reshape(len(nodes), 3, -1)
    return rows.reshape(len(nodes), -1)


def _every_layer(u: Array, grid: Grid) -> Array:
    """A field (..., X, Y, Z) with its last layers, which repeat the first on periodic grids."""
    if not grid.periodic:
        return u
    return np.pad(u, [(0, 0)] * (u.ndim - 3) + [(0, 1)] * 3, mode="wrap")


def _padded(elements: Array) -> Array:
    """Values of elements in the numbering of their lowest nodes, zero for those that don't exist."""
    nx, ny, nz = elements.shape
    out = np.zeros((nx + 1, ny + 1, nz + 1), elements.dtype)
    out[:nx, :ny, :nz] = elements
    return out.ravel()


def _cover(active: Array, size: int) -> Array:
    starts = np.zeros(len(active) // size + 1, np.int64)
    return starts[: kernels.cover(active, size, starts)]


def _halved(solid: Array) -> Array:
    """Which elements of twice the size hold something."""
    for axis in range(3):
        n = solid.shape[axis]
        pairs = np.moveaxis(solid, axis, 0)
        halved = pairs[0:n:2].copy()
        halved[: n // 2] |= pairs[1:n:2]
        solid = np.moveaxis(halved, 0, axis)
    return solid


def _touched(solid: Array) -> Array:
    """Nodes (nx + 1, ...) of the elements that hold something."""
    nx, ny, nz = solid.shape
    nodes = np.zeros((nx + 1, ny + 1, nz + 1), np.bool_)
    for x, y, z in product((0, 1), repeat=3):
        nodes[x : x + nx, y : y + ny, z : z + nz] |= solid
    return nodes


def _addresses(starts: Array, count: int) -> tuple[Array, Array]:
    """Block of every covered node, and its place in the block."""
    block, lane = np.zeros(count + kernels.NODES, np.int64), np.zeros(count + kernels.NODES, np.int64)
    for k in range(kernels.NODES):
        block[starts + k], lane[starts + k] = np.arange(len(starts)), k
    return block, lane


def _elements(matrices: Array, shape: tuple[int, int, int], grid: Array) -> Array:
    """Matrices (elements, 24, 24) without those of the padding."""
    boxed = matrices.reshape(*(grid[:3] + 1), 24, 24)
    return boxed[: shape[0], : shape[1], : shape[2]].reshape(-1, 24, 24).astype(np.float64)


def _corner_dofs(shape: tuple[int, int, int], grid: Array, periodic: bool) -> Array:
    """Positions (elements, 24) of elements' degrees of freedom in a field; repeated nodes are the first."""
    element = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    node = element + np.array(list(product((0, 1), repeat=3)))
    if periodic:
        node = node % np.array(shape)
    at = grid[6] + node @ np.array([grid[3], grid[4], 1])
    return (at[:, :, None] + grid[7] * np.arange(3)).reshape(len(at), 24)


def _direct(elements: Array, frame: _Frame, periodic: bool) -> tuple[Array, Array]:
    """Positions (kinds, n) and inverses (kinds, n, n) of the coarsest operator.

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
        if periodic:
            # Nothing holds a periodic cell: translations, which rounding would feed, are taken out.
            component = (places[kept] // frame.grids[-1][7])[:, None] == np.arange(3)
            mean = component / np.maximum(component.sum(axis=0), 1)
            project = np.eye(len(inverse)) - mean @ component.T
            inverse = project @ inverse @ project
        parts.append((places[kept], inverse))
    size = max(len(places) for places, _ in parts)
    dofs, inverses = np.zeros((len(parts), size), np.int64), np.zeros((len(parts), size, size))
    for i, (at, inverse) in enumerate(parts):
        dofs[i, : len(at)], inverses[i, : len(at), : len(at)] = at, inverse
    return dofs, inverses
