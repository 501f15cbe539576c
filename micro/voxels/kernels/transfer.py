"""Transfers between a grid and the next coarser one.

Every other node is a coarse one; in a direction with an odd number n of elements the last element stays
single: fine node n is the last coarse node, and n - 1 the one before.
"""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

import numpy as np

from micro.voxels.compilation import U, part


@part()
def _add_row(line, weight, u, at, count):
    for k in range(count):
        line[k + U(1)] += weight * u[at + k]


@part()
def restrict(fine, above, coarse, below):
    """Coarse forces: the transpose of linear interpolation."""
    nx, ny, nz, mz = above.nx, above.ny, above.nz, below.nz
    line = np.zeros(nz + 4, fine.dtype)
    half, one = fine.dtype.type(0.5), fine.dtype.type(1)
    for component in range(len(fine) // above.stride):
        source = component * above.stride + above.head
        for i in range(below.nx + 1):
            for j in range(below.ny + 1):
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
                        at = U(source + x * above.sx + y * above.sy)
                        _add_row(line, weight, fine, at, U(nz + 1))
                to = component * below.stride + below.head + i * below.sx + j * below.sy
                row = coarse[to : to + mz + 1]
                if nz % 2 == 1:
                    row[mz] = line[nz + 1]
                    line[nz + 1] = 0
                for k in range(U(mz + 1 - nz % 2)):
                    q = U(2) * k
                    row[k] = line[q + U(1)] + half * (line[q] + line[q + U(2)])


@part()
def _mean_of_four(u, a, b, c, d, quarter, line, count):
    for k in range(count):
        line[k] = quarter * ((u[a + k] + u[b + k]) + (u[c + k] + u[d + k]))


@part()
def _interpolate(line, half, row, count):
    for k in range(count):
        row[U(2) * k] += line[k]
        row[U(2) * k + U(1)] += half * (line[k] + line[k + U(1)])


@part()
def prolong(coarse, below, fine, above):
    """Add the linear interpolation of a coarse field to a fine one."""
    nx, ny, nz = above.nx, above.ny, above.nz
    mx, my, mz = below.nx, below.ny, below.nz
    sx, sy = below.sx, below.sy
    line = np.zeros(mz + 1, fine.dtype)
    half, quarter = fine.dtype.type(0.5), fine.dtype.type(0.25)
    for component in range(len(fine) // above.stride):
        source = component * below.stride + below.head
        for i in range(nx + 1):
            last = nx % 2 == 1 and i == nx
            x0, x1 = (mx, mx) if last else (i // 2, (i + 1) // 2)
            for j in range(ny + 1):
                last = ny % 2 == 1 and j == ny
                y0, y1 = (my, my) if last else (j // 2, (j + 1) // 2)
                a, b = U(source + x0 * sx + y0 * sy), U(source + x0 * sx + y1 * sy)
                c, d = U(source + x1 * sx + y0 * sy), U(source + x1 * sx + y1 * sy)
                _mean_of_four(coarse, a, b, c, d, quarter, line, U(mz + 1))
                to = component * above.stride + above.head + i * above.sx + j * above.sy
                row = fine[to : to + nz + 1]
                _interpolate(line, half, row, U(nz // 2))
                row[nz] += line[mz]
                if nz % 2 == 1:
                    row[nz - 1] += line[mz - 1]
