"""Products of fields with the stiffness: of voxels, and of a coarse grid's stencil.

A voxel's product uses the structure of the hexahedron's matrix. With the sums and differences of the corner
values along each axis (a Walsh transform, w = 4 wx + 2 wy + wz marking the differences) it falls apart into
blocks of at most three: 45 numbers instead of 576.
"""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro.voxels.compilation import U, part
from micro.voxels.kernels.layout import BLOCK, NODES, Layout, fold
from micro.voxels.kernels.rows import gather


class Operator(NamedTuple):
    """The stiffness on one grid: of voxels, or where ``stencil`` holds any, of node neighbourhoods.

    Attributes
    ----------
    layout : Layout
    starts : int array
        Where blocks of voxels, or of nodes, begin.
    moduli : array
        Of the voxels, numbered like their lowest nodes, without margin.
    walsh : array, shape (8,)
        :func:`walsh_coefficients` of the solid.
    stencil : array
        Block by block, offset of the neighbour (27), column (3), row (3), node of the block.
    """

    layout: Layout
    starts: NDArray[Any]
    moduli: NDArray[Any]
    walsh: NDArray[Any]
    stencil: NDArray[Any]


def walsh_coefficients(tensor: Any, dtype: Any) -> NDArray[Any]:
    """The eight numbers of a cubic element's stiffness in the Walsh basis, divided by 8.

    Order: C11/2, C12/2, C44/2; C44/3, C44/6; (C11 + C44)/6, C12/6; (C11 + 2 C44)/18 (unit edge).
    """
    c11, c12, c44 = (float(value) for value in tensor)
    values = [
        c11 / 2,
        c12 / 2,
        c44 / 2,
        c44 / 3,
        c44 / 6,
        (c11 + c44) / 6,
        c12 / 6,
        (c11 + 2 * c44) / 18,
    ]
    return np.array(values, dtype=dtype) / np.array(8, dtype=dtype)


@part(fastmath={"contract"})
def stiffness_of_rows(t, w, c):
    """Corner forces of a block of voxels in place of their corner values.

    ``t`` holds 24 rows: corner pair (x, y), component, sum or difference along z. ``w`` are the moduli.
    """
    c0, c1, c2, c3, c4, c5, c6, c7 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    for k in range(BLOCK):
        # Rows: 6 * (2 dx + dy) + 2 * component + wz.
        s = t[k] + t[12 * BLOCK + k]
        d = t[12 * BLOCK + k] - t[k]
        p = t[6 * BLOCK + k] + t[18 * BLOCK + k]
        q = t[18 * BLOCK + k] - t[6 * BLOCK + k]
        x2, x4, x6 = p - s, d + q, q - d
        s = t[1 * BLOCK + k] + t[13 * BLOCK + k]
        d = t[13 * BLOCK + k] - t[1 * BLOCK + k]
        p = t[7 * BLOCK + k] + t[19 * BLOCK + k]
        q = t[19 * BLOCK + k] - t[7 * BLOCK + k]
        x1, x3, x5, x7 = s + p, p - s, d + q, q - d
        s = t[2 * BLOCK + k] + t[14 * BLOCK + k]
        d = t[14 * BLOCK + k] - t[2 * BLOCK + k]
        p = t[8 * BLOCK + k] + t[20 * BLOCK + k]
        q = t[20 * BLOCK + k] - t[8 * BLOCK + k]
        y2, y4, y6 = p - s, d + q, q - d
        s = t[3 * BLOCK + k] + t[15 * BLOCK + k]
        d = t[15 * BLOCK + k] - t[3 * BLOCK + k]
        p = t[9 * BLOCK + k] + t[21 * BLOCK + k]
        q = t[21 * BLOCK + k] - t[9 * BLOCK + k]
        y1, y3, y5, y7 = s + p, p - s, d + q, q - d
        s = t[4 * BLOCK + k] + t[16 * BLOCK + k]
        d = t[16 * BLOCK + k] - t[4 * BLOCK + k]
        p = t[10 * BLOCK + k] + t[22 * BLOCK + k]
        q = t[22 * BLOCK + k] - t[10 * BLOCK + k]
        z2, z4, z6 = p - s, d + q, q - d
        s = t[5 * BLOCK + k] + t[17 * BLOCK + k]
        d = t[17 * BLOCK + k] - t[5 * BLOCK + k]
        p = t[11 * BLOCK + k] + t[23 * BLOCK + k]
        q = t[23 * BLOCK + k] - t[11 * BLOCK + k]
        z1, z3, z5, z7 = s + p, p - s, d + q, q - d

        e = w[k]
        a, b, g = c0 * e, c1 * e, c2 * e
        f, h, m, n, o = c3 * e, c4 * e, c5 * e, c6 * e, c7 * e
        fx4 = a * x4 + b * (y2 + z1)
        fy2 = a * y2 + b * (x4 + z1)
        fz1 = a * z1 + b * (x4 + y2)
        yz, xz, xy = g * (y1 + z2), g * (x1 + z4), g * (x2 + y4)
        fx3 = f * x3 + h * (y5 + z6)
        fy5 = f * y5 + h * (x3 + z6)
        fz6 = f * z6 + h * (x3 + y5)
        fy3, fx5 = m * y3 + n * x5, m * x5 + n * y3
        fz3, fx6 = m * z3 + n * x6, m * x6 + n * z3
        fz5, fy6 = m * z5 + n * y6, m * y6 + n * z5
        fx7, fy7, fz7 = o * x7, o * y7, o * z7

        t[k], t[12 * BLOCK + k] = fx6 - xy - fx4, fx4 - xy - fx6
        t[6 * BLOCK + k], t[18 * BLOCK + k] = xy - fx4 - fx6, xy + fx4 + fx6
        t[1 * BLOCK + k], t[13 * BLOCK + k] = xz - fx3 - fx5 + fx7, xz - fx3 + fx5 - fx7
        t[7 * BLOCK + k], t[19 * BLOCK + k] = xz + fx3 - fx5 - fx7, xz + fx3 + fx5 + fx7
        t[2 * BLOCK + k], t[14 * BLOCK + k] = fy6 - fy2 - xy, xy - fy2 - fy6
        t[8 * BLOCK + k], t[20 * BLOCK + k] = fy2 - xy - fy6, fy2 + xy + fy6
        t[3 * BLOCK + k], t[15 * BLOCK + k] = yz - fy3 - fy5 + fy7, yz - fy3 + fy5 - fy7
        t[9 * BLOCK + k], t[21 * BLOCK + k] = yz + fy3 - fy5 - fy7, yz + fy3 + fy5 + fy7
        t[4 * BLOCK + k], t[16 * BLOCK + k] = fz6 - yz - xz, xz - yz - fz6
        t[10 * BLOCK + k], t[22 * BLOCK + k] = yz - xz - fz6, yz + xz + fz6
        t[5 * BLOCK + k], t[17 * BLOCK + k] = fz1 - fz3 - fz5 + fz7, fz1 - fz3 + fz5 - fz7
        t[11 * BLOCK + k], t[23 * BLOCK + k] = fz1 + fz3 - fz5 - fz7, fz1 + fz3 + fz5 + fz7


# Rows. Unsigned positions can't be meant from the end, which lets the compiler vectorise; the lengths of
# blocks come as arguments, because loops of constant length are unrolled before they could be vectorised.


@part()
def _scatter(u, at, count, t, to):
    """Transpose of :func:`micro.voxels.kernels.rows.gather`, added to the row."""
    one, block = U(1), U(BLOCK)
    u[at] += t[to] - t[to + block]
    for k in range(count - one):
        u[at + k + one] += (t[to + k + one] - t[to + block + k + one]) + (t[to + k] + t[to + block + k])
    last = count - one
    u[at + count] += t[to + last] + t[to + block + last]


@part()
def voxel_product(operator, u, sign, out):
    """Add sign * A u to ``out``: one load case on the voxels."""
    layout, moduli = operator.layout, operator.moduli
    t, w = np.zeros(24 * BLOCK, u.dtype), np.zeros(BLOCK, u.dtype)
    rows = np.zeros(12, np.uintp)
    for corner in range(4):
        for component in range(3):
            shift = layout.head + corner // 2 * layout.sx + corner % 2 * layout.sy
            rows[3 * corner + component] = shift + component * layout.stride
    count = U(len(w))
    for i in range(len(operator.starts)):
        first = U(operator.starts[i])
        for k in range(count):
            w[k] = sign * moduli[first + k]
        for row in range(len(rows)):
            gather(u, rows[row] + first, count, t, U(row * 2 * BLOCK))
        stiffness_of_rows(t, w, operator.walsh)
        for row in range(len(rows)):
            _scatter(out, rows[row] + first, count, t, U(row * 2 * BLOCK))


@part(fastmath={"contract"})
def _nine(stencil, at, u, first, stride, total, count):
    """Add the product with one neighbour: 3x3 blocks of some nodes times the components of a shifted row."""
    n = U(NODES)
    for k in range(count):
        a, b, c = u[first + k], u[first + stride + k], u[first + U(2) * stride + k]
        q = at + k
        total[k] += stencil[q] * a + stencil[q + U(3) * n] * b + stencil[q + U(6) * n] * c
        total[n + k] += stencil[q + n] * a + stencil[q + U(4) * n] * b + stencil[q + U(7) * n] * c
        total[U(2) * n + k] += (
            stencil[q + U(2) * n] * a + stencil[q + U(5) * n] * b + stencil[q + U(8) * n] * c
        )


@part()
def stencil_product(operator, u, sign, out, active):
    """Add sign * A u to ``out`` on a coarse grid, for the active load cases together."""
    layout = operator.layout
    total, shifts = np.zeros(3 * NODES, u.dtype), np.zeros(27, np.int64)
    for x in range(3):
        for y in range(3):
            for z in range(3):
                shifts[9 * x + 3 * y + z] = (x - 1) * layout.sx + (y - 1) * layout.sy + z - 1
    count, stride = U(NODES), U(layout.stride)
    for i in range(len(operator.starts)):
        first = layout.head + operator.starts[i]
        for load in range(len(active)):
            if not active[load]:
                continue
            total[:] = 0
            field, target = u[load], out[load]
            at = U(i * 243 * NODES)
            for shift in shifts:
                _nine(operator.stencil, at, field, U(first + shift), stride, total, count)
                at += U(9 * NODES)
            begin, row = U(first), U(0)
            while row < U(len(total)):
                for k in range(count):
                    target[begin + k] += sign * total[row + k]
                begin += stride
                row += U(NODES)


@part()
def multiply(operator, loads, u, sign, out):
    """Add sign * A u to ``out`` for load cases (L, three rows): by the stencil, or the voxels without one."""
    if len(operator.stencil) > 0:
        stencil_product(operator, u, sign, out, loads.active)
    for load in range(len(loads.active)):
        if loads.active[load]:
            if len(operator.stencil) == 0:
                voxel_product(operator, u[load], sign, out[load])
            if loads.periodic:
                fold(out[load], operator.layout)
