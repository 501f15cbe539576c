"""Compiled loops of :mod:`multiscale.solve.local_solves`: sparse factors applied, region by region."""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from micro.voxels.compilation import njit
from multiscale.solve.voxel_kernels import symmetric_product


class Factor(NamedTuple):
    """L D L^T of a sparse matrix, L unit lower triangular in dense panels of columns.

    Columns ``first[s]`` to ``first[s + 1]`` make up panel s; ``below[row_start[s]:row_start[s + 1]]`` are
    its rows under them. ``values`` from ``value_start[s]`` hold, column after column, the rest of the panel's
    own rows, then the rows under it. ``pivot`` is one over D.
    """

    first: Any
    row_start: Any
    value_start: Any
    below: Any
    values: Any
    pivot: Any


@njit(nogil=True, cache=True)
def panels(indptr, rows, data, limit):
    """Columns of a unit lower triangle gathered into dense panels.

    Consecutive columns share a panel when each one's rows are those of the one before without its own.
    ``indptr``, ``rows`` (sorted), ``data`` are the triangle's columns with the diagonal; a panel has at most
    ``limit`` columns.

    Returns the arrays of a :class:`Factor` without its pivots.

    Parameters
    ----------
    indptr, rows, data : arrays
        Of the triangle, by columns.
    limit : int
    """
    n = len(indptr) - 1
    first, row_start, value_start = (
        np.zeros(n + 1, np.int64),
        np.zeros(n + 1, np.int64),
        np.zeros(n + 1, np.int64),
    )
    below, values = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.float32)
    count = column = rows_used = values_used = 0
    while column < n:
        last = column
        while last + 1 < n and last + 1 - column < limit:
            a, b = indptr[last], indptr[last + 1]
            size = b - a - 1
            if indptr[last + 2] - b != size:
                break
            same = True
            for k in range(size):
                if rows[a + 1 + k] != rows[b + k]:
                    same = False
                    break
            if not same:
                break
            last += 1
        first[count], row_start[count], value_start[count] = column, rows_used, values_used
        for k in range(indptr[last] + 1, indptr[last + 1]):
            below[rows_used] = rows[k]
            rows_used += 1
        for c in range(column, last + 1):
            for k in range(indptr[c] + 1, indptr[c + 1]):
                values[values_used] = data[k]
                values_used += 1
        count += 1
        column = last + 1
    first[count], row_start[count], value_start[count] = n, rows_used, values_used
    return (
        first[: count + 1].copy(),
        row_start[: count + 1].copy(),
        value_start[: count + 1].copy(),
        below[:rows_used].copy(),
        values[:values_used].copy(),
    )


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def solve_factored(factor, b, room):
    """``b`` = (L D L^T)^-1 b in place; ``room`` is as long."""
    first, row_start, value_start, below, values, pivot = factor
    count = len(first) - 1
    for s in range(count):
        low, high = first[s], first[s + 1]
        start, size = row_start[s], row_start[s + 1] - row_start[s]
        at = value_start[s]
        total = room[:size]
        total[:] = 0
        for c in range(low, high):
            x = b[c]
            for k in range(c + 1, high):
                b[k] -= values[at] * x
                at += 1
            column = values[at : at + size]
            for k in range(size):
                total[k] += column[k] * x
            at += size
        for k in range(size):
            b[below[start + k]] -= total[k]
    for p in range(len(pivot)):
        b[p] *= pivot[p]
    for s in range(count - 1, -1, -1):
        low, high = first[s], first[s + 1]
        start, size = row_start[s], row_start[s + 1] - row_start[s]
        at = value_start[s + 1]
        known = room[:size]
        for k in range(size):
            known[k] = b[below[start + k]]
        for c in range(high - 1, low - 1, -1):
            at -= size
            column = values[at : at + size]
            total_c = b.dtype.type(0)
            for k in range(size):
                total_c += column[k] * known[k]
            at -= high - 1 - c
            for k in range(c + 1, high):
                total_c += values[at + k - c - 1] * b[k]
            b[c] -= total_c


@njit(nogil=True, cache=True)
def finish(r, z, origin, dofs, bases, places, moduli, corners, stiffness, factor, subtract, b, room):
    """z += A_RR^-1 (r - A z)_R on one region R; ``subtract`` false: A z is taken as zero.

    ``r``, ``z`` are flat fields, ``origin`` the region's place in them; ``dofs`` (n,) the offsets of its
    unknowns in the factor's order, ``bases`` (e,) those of its elements' first corners, ``places`` (e, 24)
    the unknowns of an element (-1: none), ``moduli`` (e,) what its stiffness is multiplied by, ``corners``
    (24,) an element's offsets, ``stiffness`` (576,). ``b`` and ``room`` are working space, n float64.

    Parameters
    ----------
    r, z : float32 arrays
        Flat fields.
    origin : int
    dofs : int array (n,)
    bases : int array (e,)
    places : int array (e, 24)
    moduli : array (e,)
    corners : int array (24,)
    stiffness : array (576,)
    factor : Factor
    subtract : bool
    b, room : float64 arrays (n,)
    """
    n = len(dofs)
    for p in range(n):
        b[p] = r[origin + dofs[p]]
    if subtract:
        v, f = np.zeros(24, b.dtype), np.zeros(24, b.dtype)
        for e in range(len(bases)):
            base = origin + bases[e]
            for q in range(24):
                v[q] = z[base + corners[q]]
            symmetric_product(stiffness, np.uintp(0), v, f)
            for q in range(24):
                p = places[e, q]
                if p >= 0:
                    b[p] -= moduli[e] * f[q]
    solve_factored(factor, b[:n], room)
    for p in range(n):
        z[origin + dofs[p]] += b[p]


@njit(nogil=True, cache=True)
def block_motion(u, solid, moduli, stiffness, edge, energy, motion, first, last):
    """Strain energy (twice) of blocks of ``edge`` voxels, and the mean square of what a voxel's corners move.

    Blocks ``first:last`` along x. The energy is that of displacements relative to a voxel's first corner:
    pieces that swing move far and strain little.

    Parameters
    ----------
    u : array (X, Y, 3, Z)
        Displacements of the nodes.
    solid : uint8 array (nx, ny, nz)
        Voxels by material.
    moduli : array (materials + 1,)
        Of each material.
    stiffness : array (24, 24)
    edge : int
        Voxels.
    energy, motion : arrays, one value a block
        Written to.
    first, last : int
    """
    v = np.zeros(24)
    count = np.zeros((last - first, energy.shape[1], energy.shape[2]), np.int64)
    for i in range(first * edge, min(last * edge, solid.shape[0])):
        for j in range(solid.shape[1]):
            for k in range(solid.shape[2]):
                if solid[i, j, k] == 0:
                    continue
                moved = 0.0
                for corner in range(8):
                    x, y, z = i + corner // 4, j + corner // 2 % 2, k + corner % 2
                    for component in range(3):
                        moved += u[x, y, component, z] * u[x, y, component, z]
                        v[3 * corner + component] = u[x, y, component, z] - u[i, j, component, k]
                total = 0.0
                for a in range(24):
                    row = 0.0
                    for b in range(24):
                        row += stiffness[a, b] * v[b]
                    total += row * v[a]
                block = i // edge, j // edge, k // edge
                energy[block] += moduli[solid[i, j, k]] * total
                motion[block] += moved
                count[block[0] - first, block[1], block[2]] += 1
    for i in range(first, last):
        for j in range(energy.shape[1]):
            for k in range(energy.shape[2]):
                motion[i, j, k] /= max(count[i - first, j, k], 1)
