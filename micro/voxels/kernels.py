"""Voxel elasticity compiled for the processor: products, transfers between grids, smoothing, vector updates.

A nodal field of one load case is a flat array of three rows, one a component. In a row the nodes of *all*
layers stand in C order of (x, y, z), periodic grids included (their last layers repeat the first), with a
margin of zeros before and behind: neighbours lie at constant distances and loops run over long rows, whatever
the grid's size. What is empty is left out: products run over blocks of :data:`BLOCK` voxels or :data:`NODES`
nodes, each of which begins at a solid one.

A voxel's product uses the structure of the hexahedron's matrix. With the sums and differences of the corner
values along each axis (a Walsh transform, w = 4 wx + 2 wy + wz marking the differences) it falls apart into
blocks of at most three: 45 numbers instead of 576.

Everything releases Python's lock. Compiled code is kept beside this file and made anew when a kernel changes
(half a minute; :mod:`micro.voxels.compilation`).
"""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.voxels.compilation import njit

#: Voxels handled at once: 24 rows of them stay in the nearest cache. A constant lets the compiler vectorise.
BLOCK = 64

#: Nodes of a coarse grid handled at once.
NODES = 16

# Columns of a grid's description, made by `describe`.
_NX, _NY, _NZ, _SX, _SY, _COUNT, _HEAD, _STRIDE = range(8)

_U = np.uintp

_entry = njit(nogil=True, cache=True, error_model="numpy")

_INNER: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def _part(**options: Any) -> Any:
    """Compile what only other compiled code calls: nothing of it is kept by itself."""
    return njit(**(options | _INNER))


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


@_part(fastmath={"contract"})
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


def describe(shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """A grid's size, distances in a row along x and y, number of nodes, margin, and length of a row."""
    nx, ny, nz = shape
    sy = nz + 1
    sx = (ny + 1) * sy
    head, count = sx + sy + 1, (nx + 1) * sx
    return np.array([nx, ny, nz, sx, sy, count, head, 2 * head + count + BLOCK])


@_part()
def _copy(x, y):
    """y = x, of the same length. (An assignment would bring along a message for the case that it isn't.)"""
    for k in range(_U(len(y))):
        y[k] = x[k]


# Rows. Unsigned positions can't be meant from the end, which lets the compiler vectorise; the lengths of
# blocks come as arguments, because loops of constant length are unrolled before they could be vectorised.


@_part()
def _gather(u, at, count, t, to):
    """Sums (t[to : ]) and differences (one block later) of a row's neighbours along z."""
    one, block = _U(1), _U(BLOCK)
    for k in range(count):
        a, b = u[at + k], u[at + k + one]
        t[to + k] = a + b
        t[to + block + k] = b - a


@_part()
def _scatter(u, at, count, t, to):
    """Transpose of :func:`_gather`, added to the row."""
    one, block = _U(1), _U(BLOCK)
    u[at] += t[to] - t[to + block]
    for k in range(count - one):
        u[at + k + one] += (t[to + k + one] - t[to + block + k + one]) + (t[to + k] + t[to + block + k])
    last = count - one
    u[at + count] += t[to + last] + t[to + block + last]


@_part()
def voxel_product(u, moduli, starts, grid, c, sign, out):
    """Add sign * A u to ``out``: one load case on the voxels.

    ``moduli`` are numbered like the voxels' lowest nodes, without margin; ``starts`` are the blocks' first.
    """
    t, w = np.zeros(24 * BLOCK, u.dtype), np.zeros(BLOCK, u.dtype)
    rows = np.zeros(12, np.uintp)
    for corner in range(4):
        for component in range(3):
            shift = grid[_HEAD] + corner // 2 * grid[_SX] + corner % 2 * grid[_SY]
            rows[3 * corner + component] = shift + component * grid[_STRIDE]
    count = _U(len(w))
    for i in range(len(starts)):
        first = _U(starts[i])
        for k in range(count):
            w[k] = sign * moduli[first + k]
        for row in range(len(rows)):
            _gather(u, rows[row] + first, count, t, _U(row * 2 * BLOCK))
        stiffness_of_rows(t, w, c)
        for row in range(len(rows)):
            _scatter(out, rows[row] + first, count, t, _U(row * 2 * BLOCK))


@_part(fastmath={"contract"})
def _nine(stencil, at, u, first, stride, total, count):
    """Add the product with one neighbour: 3x3 blocks of some nodes times the components of a shifted row."""
    n = _U(NODES)
    for k in range(count):
        a, b, c = u[first + k], u[first + stride + k], u[first + _U(2) * stride + k]
        q = at + k
        total[k] += stencil[q] * a + stencil[q + _U(3) * n] * b + stencil[q + _U(6) * n] * c
        total[n + k] += stencil[q + n] * a + stencil[q + _U(4) * n] * b + stencil[q + _U(7) * n] * c
        total[_U(2) * n + k] += (
            stencil[q + _U(2) * n] * a + stencil[q + _U(5) * n] * b + stencil[q + _U(8) * n] * c
        )


@_part()
def _stencil_product(u, stencil, starts, grid, sign, out, active):
    """Add sign * A u to ``out`` on a coarse grid, for the active load cases together.

    ``stencil`` holds, block by block, offset of the neighbour (27), column (3), row (3), node of the block.
    """
    total, shifts = np.zeros(3 * NODES, u.dtype), np.zeros(27, np.int64)
    for x in range(3):
        for y in range(3):
            for z in range(3):
                shifts[9 * x + 3 * y + z] = (x - 1) * grid[_SX] + (y - 1) * grid[_SY] + z - 1
    count, stride = _U(NODES), _U(grid[_STRIDE])
    for i in range(len(starts)):
        first = grid[_HEAD] + starts[i]
        for load in range(len(active)):
            if not active[load]:
                continue
            total[:] = 0
            field, target = u[load], out[load]
            at = _U(i * 243 * NODES)
            for shift in shifts:
                _nine(stencil, at, field, _U(first + shift), stride, total, count)
                at += _U(9 * NODES)
            begin, part = _U(first), _U(0)
            while part < _U(len(total)):
                for k in range(count):
                    target[begin + k] += sign * total[part + k]
                begin += stride
                part += _U(NODES)


@_part()
def _wrap(u, grid):
    """Repeat the first layers of a periodic field as its last."""
    nx, ny, nz, sx, sy = grid[_NX], grid[_NY], grid[_NZ], grid[_SX], grid[_SY]
    for component in range(len(u) // grid[_STRIDE]):
        row = u[component * grid[_STRIDE] + grid[_HEAD] :]
        for x in range(nx):
            for y in range(ny):
                row[x * sx + y * sy + nz] = row[x * sx + y * sy]
            for k in range(sy):
                row[x * sx + ny * sy + k] = row[x * sx + k]
        for k in range(sx):
            row[nx * sx + k] = row[k]


@_part()
def _fold(f, grid):
    """Transpose of :func:`_wrap` for any number of rows: what came to the last layers goes to the first."""
    nx, ny, nz, sx, sy = grid[_NX], grid[_NY], grid[_NZ], grid[_SX], grid[_SY]
    for component in range(len(f) // grid[_STRIDE]):
        row = f[component * grid[_STRIDE] + grid[_HEAD] :]
        for k in range(sx):
            row[k] += row[nx * sx + k]
            row[nx * sx + k] = 0
        for x in range(nx):
            for k in range(sy):
                row[x * sx + k] += row[x * sx + ny * sy + k]
                row[x * sx + ny * sy + k] = 0
            for y in range(ny):
                row[x * sx + y * sy] += row[x * sx + y * sy + nz]
                row[x * sx + y * sy + nz] = 0


# Transfers. Every other node is a coarse one; in a direction with an odd number n of elements the last
# element stays single: fine node n is the last coarse node, and n - 1 the one before.


@_part()
def _add_row(line, weight, u, at, count):
    for k in range(count):
        line[k + _U(1)] += weight * u[at + k]


@_part()
def restrict(fine, above, coarse, below):
    """Coarse forces: the transpose of linear interpolation."""
    nx, ny, nz, mz = above[_NX], above[_NY], above[_NZ], below[_NZ]
    line = np.zeros(nz + 4, fine.dtype)
    half, one = fine.dtype.type(0.5), fine.dtype.type(1)
    for component in range(len(fine) // above[_STRIDE]):
        source = component * above[_STRIDE] + above[_HEAD]
        for i in range(below[_NX] + 1):
            for j in range(below[_NY] + 1):
                line[:] = 0
                for dx in range(-1, 2):
                    x = min(2 * i, nx) if dx == 0 else 2 * i + dx
                    if dx != 0 and not 0 < x < nx:
                        continue
                    for dy in range(-1, 2):
                        y = min(2 * j, ny) if dy == 0 else 2 * j + dy
                        if dy != 0 and not 0 < y < ny:
                            continue
                        weight = (one if dx == 0 else half) * (one if dy == 0 else half)
                        at = _U(source + x * above[_SX] + y * above[_SY])
                        _add_row(line, weight, fine, at, _U(nz + 1))
                to = component * below[_STRIDE] + below[_HEAD] + i * below[_SX] + j * below[_SY]
                row = coarse[to : to + mz + 1]
                if nz % 2 == 1:
                    row[mz] = line[nz + 1]
                    line[nz + 1] = 0
                for k in range(_U(mz + 1 - nz % 2)):
                    q = _U(2) * k
                    row[k] = line[q + _U(1)] + half * (line[q] + line[q + _U(2)])


@_part()
def _mean_of_four(u, a, b, c, d, quarter, line, count):
    for k in range(count):
        line[k] = quarter * ((u[a + k] + u[b + k]) + (u[c + k] + u[d + k]))


@_part()
def _interpolate(line, half, row, count):
    for k in range(count):
        row[_U(2) * k] += line[k]
        row[_U(2) * k + _U(1)] += half * (line[k] + line[k + _U(1)])


@_part()
def prolong(coarse, below, fine, above):
    """Add the linear interpolation of a coarse field to a fine one."""
    nx, ny, nz = above[_NX], above[_NY], above[_NZ]
    mx, my, mz = below[_NX], below[_NY], below[_NZ]
    sx, sy = below[_SX], below[_SY]
    line = np.zeros(mz + 1, fine.dtype)
    half, quarter = fine.dtype.type(0.5), fine.dtype.type(0.25)
    for component in range(len(fine) // above[_STRIDE]):
        source = component * below[_STRIDE] + below[_HEAD]
        for i in range(nx + 1):
            last = nx % 2 == 1 and i == nx
            x0, x1 = (mx, mx) if last else (i // 2, (i + 1) // 2)
            for j in range(ny + 1):
                last = ny % 2 == 1 and j == ny
                y0, y1 = (my, my) if last else (j // 2, (j + 1) // 2)
                a, b = _U(source + x0 * sx + y0 * sy), _U(source + x0 * sx + y1 * sy)
                c, d = _U(source + x1 * sx + y0 * sy), _U(source + x1 * sx + y1 * sy)
                _mean_of_four(coarse, a, b, c, d, quarter, line, _U(mz + 1))
                to = component * above[_STRIDE] + above[_HEAD] + i * above[_SX] + j * above[_SY]
                row = fine[to : to + nz + 1]
                _interpolate(line, half, row, _U(nz // 2))
                row[nz] += line[mz]
                if nz % 2 == 1:
                    row[nz - 1] += line[mz - 1]


# Smoothing and vectors.


@_part(fastmath={"contract"})
def _combine_rows(a, step, to, b, p, q, s, inverse, r, x, y, z, count):
    for k in range(count):
        step[to + k] = a * step[to + k] + b * (
            inverse[p + k] * r[x + k] + inverse[q + k] * r[y + k] + inverse[s + k] * r[z + k]
        )


@_part()
def _smooth(inverse, grid, a, b, r, step):
    """step = a step + b D^-1 r with the inverted node blocks 11, 12, 13, 22, 23, 33."""
    stride = grid[_STRIDE]
    for begin in range(0, stride, 1024):
        count = _U(min(1024, stride - begin))
        x, y, z = _U(begin), _U(begin + stride), _U(begin + 2 * stride)
        for row in range(len(step) // stride):
            p = _U(begin + row * stride)
            q = _U(begin + (1 if row == 0 else row + 2) * stride)
            s = _U(begin + (2 if row == 0 else row + 3) * stride)
            _combine_rows(a, step, p, b, p, q, s, inverse, r, x, y, z, count)


#: Numbers for which several operations in turn stay in the nearest cache.
_SHORT = 1024


@_part(fastmath={"reassoc", "contract"})
def _short_dot(a, b, first, count):
    total = a.dtype.type(0)
    for k in range(count):
        total += a[first + k] * b[first + k]
    return total


@_part()
def _dot(a, b):
    """Inner product: short sums in the fields' precision, float64 between them."""
    total = 0.0
    for begin in range(0, len(a), 256):
        total += _short_dot(a, b, _U(begin), _U(min(256, len(a) - begin)))
    return total


@_part(fastmath={"contract"})
def _add(y, factor, x):
    """y += factor x."""
    for k in range(_U(len(y))):
        y[k] += factor * x[k]


@_part(fastmath={"contract"})
def _add_to(x, factor, y):
    """y = x + factor y."""
    for k in range(_U(len(y))):
        y[k] = x[k] + factor * y[k]


@_part()
def _mask(y, mask):
    for k in range(_U(len(y))):
        y[k] *= mask[k]


@_part()
def _masked_dots(y, mask, a, b):
    """Inner products y.a and b.a, y being masked first."""
    first, second = 0.0, 0.0
    for begin in range(0, len(y), _SHORT):
        end = min(begin + _SHORT, len(y))
        _mask(y[begin:end], mask[begin:end])
        first += _dot(y[begin:end], a[begin:end])
        second += _dot(b[begin:end], a[begin:end])
    return first, second


@_part()
def _step(x, r, alpha, p, ap):
    """x += alpha p and r -= alpha ap; returns the norm of r."""
    total = 0.0
    for begin in range(0, len(x), _SHORT):
        end = min(begin + _SHORT, len(x))
        _add(x[begin:end], alpha, p[begin:end])
        _add(r[begin:end], -alpha, ap[begin:end])
        total += _dot(r[begin:end], r[begin:end])
    return np.sqrt(total)


# The hierarchy of one cell.


@_entry
def cover(active, size, starts):
    """Starts of blocks of ``size`` over every active place, each beginning at one; returns their number."""
    blocks, next_free = 0, 0
    for q in range(len(active)):
        if active[q] and q >= next_free:
            starts[blocks] = q
            blocks += 1
            next_free = q + size
    return blocks


@_part()
def _rows(m, axis, child):
    """m = P^T m for one child of an element halved along the axis: low (0), high (1) or single (2)."""
    if child == 2:
        return
    half = m.dtype.type(0.5)
    chunk = 288 >> axis  # the rows of one corner along the axis, until that bit of the corner flips
    for base in range(0, 576, 2 * chunk):
        for k in range(_U(base), _U(base + chunk)):
            low, high = m[k], m[k + _U(chunk)]
            if child == 0:
                m[k], m[k + _U(chunk)] = low + half * high, half * high
            else:
                m[k], m[k + _U(chunk)] = half * low, high + half * low


@_part()
def _pass_up(m, places, parent, scratch):
    """Add P^T m P of one child, placed by :func:`_place`, to its parent's matrix; m is lost."""
    for _ in range(len(places) - 1):
        for axis in range(len(places)):
            _rows(m, axis, places[axis])
        for i in range(24):
            for j in range(24):
                scratch[24 * j + i] = m[24 * i + j]
        _copy(scratch, m)
    _add(parent, m.dtype.type(1), m)


@_part()
def _place(i, n):
    """Place of element i of n within its parent: low, high, or single."""
    return 2 if n % 2 == 1 and i == n - 1 else i % 2


@_part()
def _stencil_entries():
    """Where an element matrix's entries go in a stencil: the corner whose row it is, the place in the row."""
    corner, entry = np.zeros(576, np.int64), np.zeros(576, np.int64)
    for i in range(24):
        a = i // 3
        for j in range(24):
            b = j // 3
            offset = 9 * (b // 4 - a // 4 + 1) + 3 * (b // 2 % 2 - a // 2 % 2 + 1) + b % 2 - a % 2 + 1
            corner[24 * i + j] = a
            entry[24 * i + j] = (9 * offset + 3 * (j % 3) + i % 3) * NODES
    return corner, entry


@_part()
def _add_to_stencil(m, node, grid, block, lane, corner, entry, base, stencil):
    """Add an element's matrix, its lowest node given, to the rows of its corners."""
    for a in range(len(base)):
        q = node + a // 4 * grid[_SX] + a // 2 % 2 * grid[_SY] + a % 2
        base[a] = block[q] * 243 * NODES + lane[q]
    for k in range(_U(len(m))):
        stencil[_U(base[_U(corner[k])] + entry[k])] += m[k]


@_part()
def _add_diagonal(m, node, grid, diagonal):
    for a in range(len(m) // 72):
        q = grid[_HEAD] + node + a // 4 * grid[_SX] + a // 2 % 2 * grid[_SY] + a % 2
        at = 72 * a + 3 * a
        diagonal[q] += m[at]
        diagonal[q + grid[_STRIDE]] += m[at + 1]
        diagonal[q + 2 * grid[_STRIDE]] += m[at + 2]
        diagonal[q + 3 * grid[_STRIDE]] += m[at + 25]
        diagonal[q + 4 * grid[_STRIDE]] += m[at + 26]
        diagonal[q + 5 * grid[_STRIDE]] += m[at + 50]


@_part()
def _invert_blocks(diagonal, free, grid, factor, inverse):
    """Inverses of the 3x3 node blocks on their free degrees of freedom, times ``factor``; zero elsewhere."""
    stride = grid[_STRIDE]
    for q in range(grid[_HEAD], grid[_HEAD] + grid[_COUNT]):
        x, y, z = float(free[q]), float(free[q + stride]), float(free[q + 2 * stride])
        a, b, c = diagonal[q] * x, diagonal[q + 3 * stride] * y, diagonal[q + 5 * stride] * z
        scale = (a + b + c) / 3
        if not scale > 0:
            continue
        d = diagonal[q + stride] * x * y / scale
        e = diagonal[q + 2 * stride] * x * z / scale
        f = diagonal[q + 4 * stride] * y * z / scale
        a, b, c = a / scale + (1 - x) + 1e-6, b / scale + (1 - y) + 1e-6, c / scale + (1 - z) + 1e-6
        p, r, s = b * c - f * f, e * f - d * c, d * f - e * b
        scale = factor / (scale * (a * p + d * r + e * s))
        inverse[q] = p * scale * x
        inverse[q + stride] = r * scale * x * y
        inverse[q + 2 * stride] = s * scale * x * z
        inverse[q + 3 * stride] = (a * c - e * e) * scale * y
        inverse[q + 4 * stride] = (d * e - a * f) * scale * y * z
        inverse[q + 5 * stride] = (a * b - d * d) * scale * z


@_part()
def _voxel_matrix(moduli, x, y, z, table, m):
    """Matrix of the element (x, y, z) of twice the voxels' size."""
    nx, ny, nz = moduli.shape
    m[:] = 0
    for i in range(2 * x, min(2 * x + 2, nx)):
        for j in range(2 * y, min(2 * y + 2, ny)):
            for k in range(2 * z, min(2 * z + 2, nz)):
                value = m.dtype.type(moduli[i, j, k])
                if value != 0:
                    _add(m, value, table[9 * _place(i, nx) + 3 * _place(j, ny) + _place(k, nz)])


@_entry
def galerkin(moduli, table, matrices, filled, grid, block, lane, stencil, diagonal, below, parents):
    """Matrices of a coarse grid's elements, summed in its stencil and node blocks, and handed to parents.

    Parameters: ``moduli`` (nx, ny, nz) of the voxels if they are the grid above, else of size 0, and
    ``table`` (27, 576) the contribution of a unit voxel by its place in x, y, z (:func:`_place`);
    ``matrices`` (elements, 576), numbered like their lowest nodes, which are filled in here if the grid is
    the coarsest and above it are voxels; ``filled`` (elements) bool; ``block`` and ``lane`` of each node in
    ``stencil``; ``diagonal`` six rows; ``parents`` like ``matrices``, on the grid ``below``, or of size 0.
    """
    m, scratch = np.zeros(576, matrices.dtype), np.zeros(576, matrices.dtype)
    places, base = np.zeros(3, np.int64), np.zeros(8, np.int64)
    corner, entry = _stencil_entries()
    for x in range(grid[_NX]):
        for y in range(grid[_NY]):
            for z in range(grid[_NZ]):
                q = x * grid[_SX] + y * grid[_SY] + z
                if not filled[q]:
                    continue
                if len(moduli) > 0:
                    _voxel_matrix(moduli, x, y, z, table, m)
                    if len(parents) == 0:
                        _copy(m, matrices[q])
                else:
                    _copy(matrices[q], m)
                _add_to_stencil(m, q, grid, block, lane, corner, entry, base, stencil)
                _add_diagonal(m, q, grid, diagonal)
                if len(parents) > 0:
                    places[0], places[1] = _place(x, grid[_NX]), _place(y, grid[_NY])
                    places[2] = _place(z, grid[_NZ])
                    parent = parents[x // 2 * below[_SX] + y // 2 * below[_SY] + z // 2]
                    _pass_up(m, places, parent, scratch)


@_entry
def voxel_diagonal(moduli, unit, grid, diagonal):
    """Node blocks of the voxels, six rows; ``moduli`` numbered like their lowest nodes, ``unit`` (576,)."""
    stride, count = grid[_STRIDE], grid[_COUNT]
    for node in range(8):
        shift = node // 4 * grid[_SX] + node // 2 % 2 * grid[_SY] + node % 2
        at = 75 * node
        entries = (unit[at], unit[at + 1], unit[at + 2], unit[at + 25], unit[at + 26], unit[at + 50])
        for row in range(len(diagonal) // stride):
            to = row * stride + grid[_HEAD] + shift
            _add(diagonal[to : to + count - shift], entries[row], moduli)


@_entry
def invert_blocks(diagonal, free, grid, periodic, factor, inverse):
    """Smoothers (kinds, six rows) of node blocks (six rows) for each kind of free degrees of freedom."""
    if periodic:
        _fold(diagonal, grid)
    for kind in range(len(free)):
        _invert_blocks(diagonal, free[kind], grid, factor, inverse[kind])


# The solve: fields are (L, three rows), and load cases that are not active are left alone.


@_part()
def _multiply(u, grid, starts, moduli, c, stencil, sign, periodic, out, active):
    """Add sign * A u to ``out``: by the stencil, or by the voxels where there is none."""
    if len(stencil) > 0:
        _stencil_product(u, stencil, starts, grid, sign, out, active)
    for load in range(len(active)):
        if active[load]:
            if len(stencil) == 0:
                voxel_product(u[load], moduli, starts, grid, c, sign, out[load])
            if periodic:
                _fold(out[load], grid)


@_entry
def defect(b, u, grid, starts, moduli, c, periodic, free, kind, active, out, norms):
    """out = b - A u on the free degrees of freedom, and its norms (L,)."""
    for load in range(len(active)):
        if active[load]:
            _copy(b[load], out[load])
            voxel_product(u[load], moduli, starts, grid, c, u.dtype.type(-1), out[load])
            if periodic:
                _fold(out[load], grid)
            _mask(out[load], free[kind[load]])
            norms[load] = np.sqrt(_dot(out[load], out[load]))


@_entry
def sweep(
    down,
    degree,
    grid,
    starts,
    moduli,
    c,
    stencil,
    inverse,
    kind,
    periodic,
    active,
    r,
    u,
    res,
    step,
    below,
    rb,
    ub,
):
    """Half of a V-cycle on one grid, by fourth-kind Chebyshev smoothing (Lottes 2023, eq. 4.3) of A u = r.

    Down: smooth from zero and restrict what is left to ``rb`` on the grid ``below``. Up: add the correction
    ``ub`` from there and smooth. ``inverse`` (kinds, six rows) are the scaled inverses of the node blocks.
    """
    for load in range(len(active)):
        if active[load]:
            _copy(r[load], res[load])
            if not down:
                prolong(ub[load], below, u[load], grid)
    minus = r.dtype.type(-1)
    for i in range(degree):
        if not down:
            _multiply(u if i == 0 else step, grid, starts, moduli, c, stencil, minus, periodic, res, active)
        a, b = r.dtype.type((2 * i - 1) / (2 * i + 3)), r.dtype.type(0.75 * (8 * i + 4) / (2 * i + 3))
        for load in range(len(active)):
            if active[load]:
                if i == 0:
                    a, b = r.dtype.type(0), r.dtype.type(1)
                    step[load][:] = 0
                _smooth(inverse[kind[load]], grid, a, b, res[load], step[load])
                if periodic:
                    _wrap(step[load], grid)
                if down and i == 0:
                    _copy(step[load], u[load])
                else:
                    _add(u[load], r.dtype.type(1), step[load])
        if down:
            _multiply(step, grid, starts, moduli, c, stencil, minus, periodic, res, active)
    for load in range(len(active)):
        if down and active[load]:
            restrict(res[load], grid, rb[load], below)
            if periodic:
                _fold(rb[load], below)


@_entry
def coarsest(inverse, dofs, kind, grid, periodic, active, r, u):
    """Solve directly: ``inverse`` (kinds, n, n) at positions ``dofs`` (kinds, n), unused ones being zero."""
    for load in range(len(active)):
        if active[load]:
            x, y, k = u[load], r[load], kind[load]
            x[:] = 0
            for p in range(dofs.shape[1]):
                total = 0.0
                for q in range(dofs.shape[1]):
                    total += inverse[k, p, q] * y[dofs[k, q]]
                x[dofs[k, p]] += total
            if periodic:
                _wrap(x, grid)


@_entry
def advance(grid, starts, moduli, c, periodic, free, kind, active, z, r, p, ap, dx, fresh, curvature, norms):
    """A step of conjugate gradients, z the preconditioned residual; ``norms`` (L,) of the new residual."""
    for load in range(len(active)):
        if not active[load]:
            continue
        # Conjugacy to the last direction is imposed as such, which survives residual replacement.
        beta = 0.0 if fresh[load] else -_dot(z[load], ap[load]) / curvature[load]
        _add_to(z[load], r.dtype.type(beta), p[load])
        ap[load][:] = 0
        voxel_product(p[load], moduli, starts, grid, c, r.dtype.type(1), ap[load])
        if periodic:
            _fold(ap[load], grid)
        below, gain = _masked_dots(ap[load], free[kind[load]], p[load], r[load])
        sound = below > 0 and np.isfinite(gain)
        alpha = r.dtype.type(gain / below) if sound else r.dtype.type(0)
        curvature[load] = below if below > 0 else 1.0
        fresh[load] = not sound
        norms[load] = _step(dx[load], r[load], alpha, p[load], ap[load])
