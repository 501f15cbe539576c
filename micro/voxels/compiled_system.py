"""Voxel systems solved by compiled code: one cell after another, so that a cell's numbers stay in the cache.

The counterpart on the processor of :mod:`micro.voxels.torch_multigrid` and :mod:`micro.voxels.torch_system`,
by the same method: exact Galerkin operators, Chebyshev smoothing on node blocks, conjugate gradients in
float32, residuals in float64. What a cell gives depends neither on the cells beside it nor on the number of
threads.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from micro.runtime import threads as parallel
from micro.voxels.compilation import fixed
from micro.voxels.compiled_hierarchy import Frame, Hierarchy, build, nodes_of, rows_of, voxel_operator
from micro.voxels.galerkin import Array
from micro.voxels.kernels.cycle import Fields, Loads, Search, Steps, advance, coarsest, defect, sweep
from micro.voxels.replacement import Replacement, Solution
from micro.voxels.system import System, Task
from micro.voxels.torch_operator import Grid

_sweep, _coarsest, _advance = fixed(sweep), fixed(coarsest), fixed(advance)
"""On a cell's own grids, whose fields are all alike."""


class _Space:
    """Work space of solves: fields of some load cases, used for one cell after another."""

    def __init__(self, frame: Frame, loads: int):
        lengths = [(loads, 3 * layout.stride) for layout in frame.layouts]
        self.grids = [Fields(*(np.zeros(length, np.float32) for _ in range(4))) for length in lengths]
        self.search = Search(*(np.zeros(lengths[0], np.float32) for _ in range(3)))
        self.b, self.x, self.true = (np.zeros(lengths[0]) for _ in range(3))

    def of(self, loads: int) -> _Space:
        """The part of fewer load cases."""
        part = copy(self)
        part.grids = [Fields(*(a[:loads] for a in fields)) for fields in self.grids]
        part.search = Search(*(a[:loads] for a in self.search))
        part.b, part.x, part.true = self.b[:loads], self.x[:loads], self.true[:loads]
        return part

    def clear(self) -> None:
        """Zero everything, margins included, whatever a solve left there."""
        for arrays in (*self.grids, self.search, (self.b, self.x, self.true)):
            for array in arrays:
                array.fill(0)


class _Outcome(NamedTuple):
    """What a solve fills in: fields (3, L, X, Y, Z), ``u`` with the first guess in it, and numbers (L,)."""

    u: Array
    defect: Array
    residual: Array
    iterations: Array
    converged: Array


@dataclass
class CompiledSystem(System):
    """The systems of some cells on the processor: one cell after another, shared out among threads."""

    frame: Frame = field(init=False)

    def __post_init__(self) -> None:
        self.frame = Frame.of(self.grid, self.free)

    def forces(self, u: Tensor) -> Tensor:
        """A u on all layers of nodes, as if the grid were open."""
        layout, loads = self.frame.layouts[0], u.shape[1]
        fields = rows_of(u[:, :, 0].transpose(0, 1).numpy(), layout, np.float64)
        zero, out = np.zeros_like(fields), np.zeros_like(fields)
        free = np.ones((1, fields.shape[1]), np.uint8)
        every = Loads(np.ones(loads, np.bool_), np.zeros(loads, np.int64), False)
        result = np.empty((3, loads, len(self.moduli), *u.shape[3:]))
        for cell, moduli in enumerate(self.moduli.numpy()):
            operator = voxel_operator(moduli, self.nu, layout)
            defect(operator, every, free, zero, fields, out, np.zeros(loads))
            for load in range(loads):
                np.negative(nodes_of(out[load], layout), out=result[:, load, cell])
        return torch.from_numpy(result)

    def _solve(self, b: Tensor, task: Task) -> Solution:
        """Load cases of a group together, the groups of a cell one after another.

        Threads share out the cells, or a single cell's groups.
        """
        shape, warm, groups = tuple(b.shape[1:3]), task.start is not None, task.groups
        u = np.zeros(b.shape) if task.start is None else np.array(task.start.numpy(), order="C")
        numbers = (np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.bool_))
        results = _Outcome(u, np.zeros(b.shape), *numbers)
        known, floor = b.numpy(), task.floor.numpy()

        def run(cell: int, hierarchy: Hierarchy, loads: slice, space: _Space) -> None:
            mine = _Outcome(*(a[:, loads, cell] for a in results[:2]), *(a[loads, cell] for a in results[2:]))
            own = replace(task, floor=floor[loads, cell])
            size = loads.stop - loads.start
            kind = np.arange(loads.start, loads.stop) if self.free.shape[1] > 1 else np.zeros(size, np.int64)
            self._iterate(hierarchy, space.of(size), own, warm, kind, known[:, loads, cell], mine)
            task.count(size)

        def whole(cells: range) -> None:
            space = _Space(self.frame, groups[0].stop)
            for cell in cells:
                hierarchy = self._hierarchy(cell)
                for loads in groups:
                    run(cell, hierarchy, loads, space)

        cells = len(self.moduli)
        if cells > 1:
            shares = [range(i, cells, task.threads) for i in range(min(task.threads, cells))]
            parallel.run([partial(whole, share) for share in shares], task.threads)
        else:
            hierarchy = self._hierarchy(0)

            def group(loads: slice) -> None:
                run(0, hierarchy, loads, _Space(self.frame, loads.stop - loads.start))

            parallel.run([partial(group, loads) for loads in groups], task.threads)
        return Solution(*(torch.from_numpy(array) for array in results))

    def precondition(self, r: Tensor, cell: int) -> Tensor:
        """One V-cycle from zero for the residual r (3, L, X, Y, Z) of a cell's load cases, in float32."""
        hierarchy, loads = self._hierarchy(cell), r.shape[1]
        space, layout = _Space(self.frame, loads), self.frame.layouts[0]
        out = np.zeros(r.shape, np.float32)
        box = tuple(slice(n) for n in r.shape[2:])
        kind = np.arange(loads) if self.free.shape[1] > 1 else np.zeros(loads, np.int64)
        for load in range(loads):
            nodes_of(space.grids[0].r[load], layout)[(slice(None), *box)] = r[:, load]
        _cycle(hierarchy, space.grids, Loads(np.ones(loads, np.bool_), kind, self.grid.periodic))
        for load in range(loads):
            out[:, load] = nodes_of(space.grids[0].u[load], layout)[(slice(None), *box)]
        return torch.from_numpy(out)

    def _hierarchy(self, cell: int) -> Hierarchy:
        return build(self.frame, self.moduli[cell].numpy(), self.nu)

    def _iterate(
        self, h: Hierarchy, space: _Space, task: Task, warm: bool, kind: Array, b: Array, result: _Outcome
    ) -> None:
        """Conjugate gradients for load cases of a cell, b (3, L, X, Y, Z), whose results are filled in."""
        layout, loads, free = h.exact.layout, b.shape[1], self.frame.free[0]
        space.clear()
        bb, x, true, search, fields = space.b, space.x, space.true, space.search, space.grids[0]
        box = tuple(slice(n) for n in b.shape[2:])
        for load in range(loads):
            nodes_of(bb[load], layout)[(slice(None), *box)] = b[:, load]
        norm = np.sqrt((bb * bb).sum(axis=1))
        active = norm > 1e-13 * task.floor
        trivial, scale = ~active, np.where(active, norm, 1.0)
        bb /= scale[:, None]  # unit right-hand sides: float32 cannot over- or underflow
        if warm:
            for load in np.flatnonzero(active).tolist():
                nodes_of(x[load], layout)[:] = _every_layer(result.u[:, load], self.grid) / scale[load]
        fields.r[:] = bb
        size = np.zeros(loads)
        steps = Steps(np.ones(loads, np.bool_), np.ones(loads), np.ones(loads))
        rule = Replacement(task.rtol, np.ones(loads))
        result.residual[:], result.converged[:], result.iterations[:] = 0.0, ~active, 0

        for iteration in range(task.max_iterations + 1):
            check = active & rule.due(steps.norms)
            if iteration == task.max_iterations or (warm and iteration == 0):
                check = active.copy()
            if check.any():
                # A stretch that went wrong (overflow, breakdown) is thrown away; the float64 iterate stands.
                usable = np.ones(loads, np.bool_)
                for load in np.flatnonzero(check).tolist():
                    usable[load] = np.isfinite(search.dx[load]).all()
                    if usable[load]:
                        x[load] += search.dx[load]
                    search.dx[load] = 0
                defect(h.exact, Loads(check, kind, self.grid.periodic), free, bb, x, true, size)
                for load in np.flatnonzero(check).tolist():
                    fields.r[load] = true[load]
                worn, good, ended = rule.take(check, size, usable)
                ended |= check & (iteration == task.max_iterations)
                steps.fresh[worn] = True
                search.p[worn] = search.ap[worn] = 0
                result.residual[ended], result.converged[good] = size[ended], True
                active &= ~ended
            if not active.any():
                break
            at_work = Loads(active, kind, self.grid.periodic)
            _cycle(h, space.grids, at_work)
            _advance(h.levels[0].operator, at_work, free, fields, search, steps)
            result.iterations[:] += active
        for load in range(loads):
            rest = bb if trivial[load] else true
            for values, target in ((x, result.u), (rest, result.defect)):
                nodes = nodes_of(values[load], layout)[(slice(None), *box)]
                np.multiply(nodes, scale[load], out=target[:, load])


def _cycle(h: Hierarchy, grids: list[Fields], loads: Loads) -> None:
    """One V-cycle from zero: ``grids[0].u`` for the residual ``grids[0].r``."""
    last = len(h.levels) - 1
    for down in (True, False):
        for k in range(last) if down else range(last - 1, -1, -1):
            _sweep(down, h.levels[k], loads, grids[k], h.levels[k + 1].operator.layout, grids[k + 1])
        if down:
            _coarsest(h.direct, h.levels[last].operator.layout, loads, grids[last].r, grids[last].u)


def _every_layer(u: Array, grid: Grid) -> Array:
    """A field (..., X, Y, Z) with its last layers, which repeat the first on periodic grids."""
    if not grid.periodic:
        return u
    return np.pad(u, [(0, 0)] * (u.ndim - 3) + [(0, 1)] * 3, mode="wrap")
