"""Compiled loops: regions solved (:mod:`multiscale.solve.voxels.local_solves`), blocks of voxels judged."""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

import numpy as np

from micro.voxels.compilation import njit
from multiscale.solve.voxels.cholesky_kernels import solve_factored
from multiscale.solve.voxels.kernels import symmetric_product

#: Offset of a degree of freedom that stands on another rank.
ABSENT = np.iinfo(np.int64).min


@njit(nogil=True, cache=True)
def residual(r, z, origin, dofs, bases, places, moduli, corners, stiffness, subtract, b):
    """``b`` = (r - A z)_R on one region R; ``subtract`` false: A z is taken as zero.

    ``r``, ``z`` are flat fields, ``origin`` the region's place in them; ``dofs`` (n,) the offsets of its
    degrees of freedom in the factor's order, ``bases`` (e,) those of its elements' first corners,
    ``places`` (e, 24) which of them are an element's (-1: held, or none of these), ``moduli`` (e,) what its
    stiffness is multiplied by, ``corners`` (24,) an element's offsets, ``stiffness`` (576,). Where ``dofs``
    is :data:`ABSENT` another rank tells the residual, and r counts as zero; elements are this rank's.

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
    subtract : bool
    b : float64 array (n,)
        Written to.
    """
    for p in range(len(dofs)):
        b[p] = r[origin + dofs[p]] if dofs[p] != ABSENT else 0.0
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


@njit(nogil=True, cache=True)
def add(x, z, origin, dofs):
    """Add a region's values to a field, where they stand on this rank.

    Parameters
    ----------
    x : float64 array (n,)
    z : float32 array
        A flat field.
    origin : int
    dofs : int array (n,)
        As for :func:`residual`.
    """
    for p in range(len(dofs)):
        if dofs[p] != ABSENT:
            z[origin + dofs[p]] += x[p]


@njit(nogil=True, cache=True)
def finish(r, z, origin, dofs, bases, places, moduli, corners, stiffness, factor, subtract, b, room):
    """z += A_RR^-1 (r - A z)_R on one region R, as in :func:`residual`; ``b``, ``room`` are working space.

    Parameters
    ----------
    r, z, origin, dofs, bases, places, moduli, corners, stiffness, subtract
        As for :func:`residual`.
    factor : Factor
    b, room : float64 arrays
    """
    b = b[: len(dofs)]
    residual(r, z, origin, dofs, bases, places, moduli, corners, stiffness, subtract, b)
    solve_factored(factor, b, room)
    add(b, z, origin, dofs)


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
