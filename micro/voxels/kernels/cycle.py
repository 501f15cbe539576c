"""The solve: half V-cycles, the coarsest layout, residuals and steps of conjugate gradients.

Fields are (L, three rows); load cases that are not active are left alone.
"""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Ints
from micro.voxels.compilation import U, entry, part
from micro.voxels.kernels.layout import fold, wrap
from micro.voxels.kernels.product import Operator, multiply, voxel_product
from micro.voxels.kernels.transfer import prolong, restrict
from micro.voxels.kernels.vectors import add, add_to, apply_mask, copy, dot, masked_dots, step_along


class Loads(NamedTuple):
    """Load cases at work.

    Attributes
    ----------
    active : bool array, shape (L,)
    kind : int array, shape (L,)
        Rows of what differs by the degrees of freedom that are held: masks, smoothers, direct solves.
    periodic : bool
    """

    active: Bools
    kind: Ints
    periodic: bool


class Level(NamedTuple):
    """One grid of a cell: operator, scaled inverses of its node blocks (kinds, six rows), smoothing steps."""

    operator: Operator
    inverse: NDArray[Any]
    degree: int


class Direct(NamedTuple):
    """Inverses (kinds, n, n) on the coarsest grid at positions ``dofs`` (kinds, n), unused ones zero."""

    dofs: Ints
    inverse: NDArray[Any]


class Fields(NamedTuple):
    """Residual, solution, what is left of the residual, and last step on one grid; each (L, three rows)."""

    r: NDArray[Any]
    u: NDArray[Any]
    rest: NDArray[Any]
    step: NDArray[Any]


class Search(NamedTuple):
    """Directions, their products, and the sum of the steps along them; each (L, three rows)."""

    p: NDArray[Any]
    ap: NDArray[Any]
    dx: NDArray[Any]


class Steps(NamedTuple):
    """Whether directions start anew, their p.Ap, norms of the residuals; each (L,)."""

    fresh: Bools
    curvature: NDArray[Any]
    norms: NDArray[Any]


@part(fastmath={"contract"})
def _combine_rows(a, step, to, b, p, q, s, inverse, r, x, y, z, count):
    for k in range(count):
        step[to + k] = a * step[to + k] + b * (
            inverse[p + k] * r[x + k] + inverse[q + k] * r[y + k] + inverse[s + k] * r[z + k]
        )


@part()
def smooth(inverse, layout, a, b, r, step):
    """step = a step + b D^-1 r with the inverted node blocks 11, 12, 13, 22, 23, 33."""
    stride = layout.stride
    for begin in range(0, stride, 1024):
        count = U(min(1024, stride - begin))
        x, y, z = U(begin), U(begin + stride), U(begin + 2 * stride)
        for row in range(len(step) // stride):
            p = U(begin + row * stride)
            q = U(begin + (1 if row == 0 else row + 2) * stride)
            s = U(begin + (2 if row == 0 else row + 3) * stride)
            _combine_rows(a, step, p, b, p, q, s, inverse, r, x, y, z, count)


@entry
def defect(operator, loads, free, b, u, out, norms):
    """out = b - A u on the free degrees of freedom (kinds, three rows), and its norms (L,).

    Parameters
    ----------
    operator : Operator
        The voxels', in float64.
    loads : Loads
    free : uint8 array (kinds, three rows)
    b, u, out : arrays (L, three rows)
    norms : array (L,)
    """
    for load in range(len(loads.active)):
        if loads.active[load]:
            copy(b[load], out[load])
            voxel_product(operator, u[load], u.dtype.type(-1), out[load])
            if loads.periodic:
                fold(out[load], operator.layout)
            apply_mask(out[load], free[loads.kind[load]])
            norms[load] = np.sqrt(dot(out[load], out[load]))


@entry
def sweep(down, level, loads, fields, below, coarse):
    """Half of a V-cycle on one layout, by fourth-kind Chebyshev smoothing (Lottes 2023, eq. 4.3) of A u = r.

    Down: smooth from zero and restrict what is left to the grid of layout ``below``, whose ``coarse`` fields
    get it. Up: add the correction from there and smooth.

    Parameters
    ----------
    down : bool
    level : Level
    loads : Loads
    fields : Fields
    below : Layout
    coarse : Fields
        Of the grid below.
    """
    layout, active, periodic = level.operator.layout, loads.active, loads.periodic
    r, u, rest, step = fields.r, fields.u, fields.rest, fields.step
    for load in range(len(active)):
        if active[load]:
            copy(r[load], rest[load])
            if not down:
                prolong(coarse.u[load], below, u[load], layout)
    minus = r.dtype.type(-1)
    for i in range(level.degree):
        if not down:
            multiply(level.operator, loads, u if i == 0 else step, minus, rest)
        a, b = r.dtype.type((2 * i - 1) / (2 * i + 3)), r.dtype.type(0.75 * (8 * i + 4) / (2 * i + 3))
        for load in range(len(active)):
            if active[load]:
                if i == 0:
                    a, b = r.dtype.type(0), r.dtype.type(1)
                    step[load][:] = 0
                smooth(level.inverse[loads.kind[load]], layout, a, b, rest[load], step[load])
                if periodic:
                    wrap(step[load], layout)
                if down and i == 0:
                    copy(step[load], u[load])
                else:
                    add(u[load], r.dtype.type(1), step[load])
        if down:
            multiply(level.operator, loads, step, minus, rest)
    for load in range(len(active)):
        if down and active[load]:
            restrict(rest[load], layout, coarse.r[load], below)
            if periodic:
                fold(coarse.r[load], below)


@entry
def coarsest(direct, layout, loads, r, u):
    """Solve directly on the coarsest layout.

    Parameters
    ----------
    direct : Direct
    layout : Layout
    loads : Loads
    r, u : arrays (L, three rows)
    """
    for load in range(len(loads.active)):
        if loads.active[load]:
            x, y, k = u[load], r[load], loads.kind[load]
            x[:] = 0
            for p in range(direct.dofs.shape[1]):
                total = 0.0
                for q in range(direct.dofs.shape[1]):
                    total += direct.inverse[k, p, q] * y[direct.dofs[k, q]]
                x[direct.dofs[k, p]] += total
            if loads.periodic:
                wrap(x, layout)


@entry
def advance(operator, loads, free, fields, search, steps):
    """A step of conjugate gradients; ``fields.u`` is the preconditioned residual ``fields.r``.

    Parameters
    ----------
    operator : Operator
        The voxels', in float32.
    loads : Loads
    free : uint8 array (kinds, three rows)
    fields : Fields
        Of the finest grid.
    search : Search
    steps : Steps
    """
    z, r, p, ap = fields.u, fields.r, search.p, search.ap
    for load in range(len(loads.active)):
        if not loads.active[load]:
            continue
        # Conjugacy to the last direction is imposed as such, which survives residual replacement.
        beta = 0.0 if steps.fresh[load] else -dot(z[load], ap[load]) / steps.curvature[load]
        add_to(z[load], r.dtype.type(beta), p[load])
        ap[load][:] = 0
        voxel_product(operator, p[load], r.dtype.type(1), ap[load])
        if loads.periodic:
            fold(ap[load], operator.layout)
        below, gain = masked_dots(ap[load], free[loads.kind[load]], p[load], r[load])
        sound = below > 0 and np.isfinite(gain)
        alpha = r.dtype.type(gain / below) if sound else r.dtype.type(0)
        steps.curvature[load] = below if below > 0 else 1.0
        steps.fresh[load] = not sound
        steps.norms[load] = step_along(search.dx[load], r[load], alpha, p[load], ap[load])
