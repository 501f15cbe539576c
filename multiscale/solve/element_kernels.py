"""Products with the stiffness of a grid whose elements have tensors of their own, compiled."""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

import numpy as np

from micro.voxels.compilation import njit
from micro.voxels.kernels.layout import BLOCK
from micro.voxels.kernels.product import stiffness_of_rows
from micro.voxels.kernels.rows import gather, scatter


@njit(nogil=True, cache=True)
def tensor_product(u, tensors, units, out):
    """Add A u to ``out`` on a grid whose elements have tensors of their own.

    The stiffness is linear in the tensor: one product for each of its three numbers, on rows that stay in the
    nearest cache.

    Parameters
    ----------
    u, out : arrays (X, Y, 3, Z)
    tensors : array (3, nx, ny, nz)
        C11, C12 and C44 of positive definite tensors; zero in the void.
    units : array (3, 8)
        :func:`micro.voxels.kernels.product.walsh_coefficients` of the three unit tensors.
    """
    _, nx, ny, nz = tensors.shape
    t, w = np.zeros(24 * BLOCK, u.dtype), np.zeros(BLOCK, u.dtype)
    part, f = np.zeros_like(t), np.zeros_like(t)
    for i in range(nx):
        for j in range(ny):
            for first in range(0, nz, BLOCK):
                start, count = np.uintp(first), np.uintp(min(first + BLOCK, nz) - first)
                some = False
                for k in range(count):
                    some = some or tensors[2, i, j, start + k] != 0
                if not some:
                    continue
                for corner in range(4):
                    for component in range(3):
                        at = np.uintp((6 * corner + 2 * component) * BLOCK)
                        gather(u[i + corner // 2, j + corner % 2, component], start, count, t, at)
                f[:] = 0
                for number in range(3):
                    row = tensors[number, i, j]
                    for k in range(count):
                        w[k] = row[start + k]
                    part[:] = t
                    stiffness_of_rows(part, w, units[number])
                    for k in range(len(f)):
                        f[k] += part[k]
                for corner in range(4):
                    for component in range(3):
                        at = np.uintp((6 * corner + 2 * component) * BLOCK)
                        scatter(out[i + corner // 2, j + corner % 2, component], start, count, f, at)
