"""Loops over voxels, compiled: products with the stiffness, transfers between grids, vector updates.

A nodal field is a C array ``(X, Y, 3, Z)``: rows along z are what the processor works on at once, planes of
constant x are what threads share out. Every function here works on the planes ``first:last`` and releases
Python's lock; where it adds to its output, it owns those planes, so threads never meet.

A voxel's product is that of :mod:`micro.voxels.kernels.product`, by the structure of the hexahedron's matrix.
"""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

import numpy as np

from micro.voxels.compilation import njit
from micro.voxels.kernels.layout import BLOCK as _BLOCK
from micro.voxels.kernels.product import stiffness_of_rows, walsh_coefficients as walsh_coefficients
from micro.voxels.kernels.rows import gather, scatter


@njit(nogil=True, cache=True)
def _voxel_layer(u0, u1, solid, moduli, low, high, use_low, use_high, c, sign, t, w):
    """Forces of one layer of voxels between two planes of nodes, added to the planes (Y, 3, Z)."""
    ny, nz = solid.shape
    for j in range(ny):
        row = solid[j]
        for first in range(0, nz, _BLOCK):
            stop = min(first + _BLOCK, nz)
            any_solid = False
            for k in range(first, stop):
                any_solid = any_solid or row[k] != 0
            if not any_solid:
                continue
            start, count = np.uintp(first), np.uintp(stop - first)
            for k in range(count):
                w[k] = sign * moduli[row[start + k]]
            for corner in range(4):
                plane = u0 if corner < 2 else u1
                for component in range(3):
                    at = np.uintp((6 * corner + 2 * component) * _BLOCK)
                    gather(plane[j + corner % 2, component], start, count, t, at)
            stiffness_of_rows(t, w, c)
            for corner in range(4):
                if (corner < 2 and not use_low) or (corner >= 2 and not use_high):
                    continue
                plane = low if corner < 2 else high
                for component in range(3):
                    at = np.uintp((6 * corner + 2 * component) * _BLOCK)
                    scatter(plane[j + corner % 2, component], start, count, t, at)


@njit(nogil=True, cache=True)
def voxel_product(u, solid, moduli, c, sign, out, first, last):
    """Add sign * A u to ``out``; a voxel's stiffness is that of ``c`` times ``moduli[solid]``.

    Parameters
    ----------
    u, out : arrays (X, Y, 3, Z)
    solid : uint8 array (nx, ny, nz)
        Materials, 0 the void.
    moduli : array (materials + 1,)
        Relative to ``c``; the first is 0.
    c : array
        Of :func:`walsh_coefficients`.
    sign : float
    first, last : int
        Planes along x.
    """
    t, w = np.zeros(24 * _BLOCK, u.dtype), np.zeros(_BLOCK, u.dtype)
    for i in range(max(first - 1, 0), min(last, solid.shape[0])):
        _voxel_layer(
            u[i], u[i + 1], solid[i], moduli, out[i], out[i + 1], i >= first, i + 1 < last, c, sign, t, w
        )


@njit(nogil=True, cache=True, fastmath={"contract"})
def symmetric_product(table, at, v, f):
    """``f`` = the symmetric 24 x 24 matrix at flat position ``at`` times v, four columns at a time.

    Written so that the rows fill vector registers: 40 ns instead of 110 where each row's sum is a scalar.

    Parameters
    ----------
    table : flat array
    at : int
    v, f : arrays (24,)
    """
    matrix = table[at:]
    one, two, three = np.uintp(24), np.uintp(48), np.uintp(72)
    for a in range(24):
        f[a] = 0
    for b in range(0, 24, 4):
        x0, x1, x2, x3 = v[b], v[b + 1], v[b + 2], v[b + 3]
        start = np.uintp(24 * b)
        for a in range(24):
            k = start + np.uintp(a)
            f[np.uintp(a)] += (
                matrix[k] * x0 + matrix[k + one] * x1 + (matrix[k + two] * x2 + matrix[k + three] * x3)
            )


@njit(nogil=True, cache=True)
def table_product(u, index, table, sign, out, first, last):
    """Add sign * A u to ``out`` on a grid whose elements share matrices.

    ``index`` int32 (nx, ny, nz) points into ``table`` (m, 24, 24); entry 0 is the void.

    Parameters
    ----------
    u, out : arrays (X, Y, 3, Z)
    index : int32 array (nx, ny, nz)
    table : array (m, 24, 24)
    sign : float
    first, last : int
        Planes along x.
    """
    nx, ny, nz = index.shape
    flat = table.reshape(-1)
    v, f = np.zeros(24, u.dtype), np.zeros(24, u.dtype)
    for i in range(max(first - 1, 0), min(last, nx)):
        for j in range(ny):
            for k in range(nz):
                matrix = index[i, j, k]
                if matrix == 0:
                    continue
                for corner in range(4):
                    x, y = i + corner // 2, j + corner % 2
                    for component in range(3):
                        row = u[x, y, component]
                        v[6 * corner + component] = sign * row[k]
                        v[6 * corner + component + 3] = sign * row[k + 1]
                symmetric_product(flat, np.uintp(matrix) * np.uintp(576), v, f)
                for corner in range(4):
                    x, y = i + corner // 2, j + corner % 2
                    if first <= x < last:
                        for component in range(3):
                            row = out[x, y, component]
                            row[k] += f[6 * corner + component]
                            row[k + 1] += f[6 * corner + component + 3]


@njit(nogil=True, cache=True)
def restrict(fine, coarse, first, last):
    """Coarse forces (planes ``first:last``): the transpose of linear interpolation.

    Parameters
    ----------
    fine, coarse : arrays (X, Y, 3, Z)
        ``coarse`` is written to.
    first, last : int
        Planes along x.
    """
    nx, ny, nz = fine.shape[0], fine.shape[1], fine.shape[3]
    line = np.zeros(nz + 2, fine.dtype)
    half, quarter = fine.dtype.type(0.5), fine.dtype.type(0.25)
    one = fine.dtype.type(1)
    for i in range(first, last):
        for j in range(coarse.shape[1]):
            for component in range(3):
                line[:] = 0
                for x in range(max(2 * i - 1, 0), min(2 * i + 2, nx)):
                    for y in range(max(2 * j - 1, 0), min(2 * j + 2, ny)):
                        weight = one if x == 2 * i else half
                        if y != 2 * j:
                            weight = half if x == 2 * i else quarter
                        row = fine[x, y, component]
                        for k in range(nz):
                            line[k + 1] += weight * row[k]
                for k in range(coarse.shape[3]):
                    middle = line[2 * k + 1] if 2 * k < nz else line[0]
                    after = line[2 * k + 2] if 2 * k < nz else line[0]
                    before = line[2 * k] if 2 * k < nz + 1 else line[0]
                    coarse[i, j, component, k] = middle + half * (before + after)


@njit(nogil=True, cache=True)
def prolong(coarse, fine, first, last):
    """Add the linear interpolation of a coarse field to the fine planes ``first:last``.

    Parameters
    ----------
    coarse, fine : arrays (X, Y, 3, Z)
        ``fine`` is added to.
    first, last : int
        Planes along x.
    """
    ny, nz = fine.shape[1], fine.shape[3]
    line = np.zeros(coarse.shape[3] + 1, fine.dtype)
    half, quarter = fine.dtype.type(0.5), fine.dtype.type(0.25)
    for i in range(first, last):
        for j in range(ny):
            x0, x1, y0, y1 = i // 2, (i + 1) // 2, j // 2, (j + 1) // 2
            for component in range(3):
                a, b = coarse[x0, y0, component], coarse[x0, y1, component]
                c, d = coarse[x1, y0, component], coarse[x1, y1, component]
                for k in range(coarse.shape[3]):
                    line[k] = quarter * ((a[k] + b[k]) + (c[k] + d[k]))
                row = fine[i, j, component]
                for k in range((nz + 1) // 2):
                    row[2 * k] += line[k]
                for k in range(nz // 2):
                    row[2 * k + 1] += half * (line[k] + line[k + 1])


@njit(nogil=True, cache=True)
def smooth(residual, inverse, a, b, step, u, fresh, first, last):
    """One Chebyshev step: step = a step + b D^-1 residual; u += step (``fresh``: both start from zero).

    ``inverse`` is (X, Y, 1 or 3, Z): the components of a node may share a diagonal.

    Parameters
    ----------
    residual, step, u : arrays (X, Y, 3, Z)
    inverse : array (X, Y, 1 or 3, Z)
        D^-1.
    a, b : float
    fresh : bool
    first, last : int
        Planes along x.
    """
    shared = inverse.shape[2] == 1
    for i in range(first, last):
        for j in range(u.shape[1]):
            for component in range(3):
                d = inverse[i, j, 0 if shared else component]
                r, s, v = residual[i, j, component], step[i, j, component], u[i, j, component]
                if fresh:
                    for k in range(len(v)):
                        s[k] = b * (d[k] * r[k])
                    for k in range(len(v)):
                        v[k] = s[k]
                else:
                    for k in range(len(v)):
                        s[k] = a * s[k] + b * (d[k] * r[k])
                    for k in range(len(v)):
                        v[k] += s[k]


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def dot(a, b, first, last):
    """Inner product over planes: short sums in the fields' precision, float64 between rows.

    Parameters
    ----------
    a, b : arrays (X, Y, 3, Z)
    first, last : int
        Planes along x.
    """
    total = 0.0
    for i in range(first, last):
        for j in range(a.shape[1]):
            for component in range(3):
                p, q = a[i, j, component], b[i, j, component]
                part = p.dtype.type(0)
                for k in range(len(p)):
                    part += p[k] * q[k]
                total += part
    return total


@njit(nogil=True, cache=True)
def combine(x, factor, y, scale, first, last):
    """y = scale y + factor x over planes.

    Parameters
    ----------
    x, y : arrays (X, Y, 3, Z)
        ``y`` is written to.
    factor, scale : float
    first, last : int
        Planes along x.
    """
    for i in range(first, last):
        for j in range(y.shape[1]):
            for component in range(3):
                p, q = x[i, j, component], y[i, j, component]
                for k in range(len(q)):
                    q[k] = scale * q[k] + factor * p[k]
