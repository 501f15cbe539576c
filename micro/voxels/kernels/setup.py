"""The hierarchy of one cell: matrices and stencils of coarse grids, node blocks and their inverses."""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro.voxels.compilation import U, entry, part
from micro.voxels.kernels.layout import NODES, Layout, fold
from micro.voxels.kernels.vectors import add, copy


class Assembly(NamedTuple):
    """A coarse grid's operator as it is summed up.

    Attributes
    ----------
    layout : Layout
    filled : bool array, shape (count,)
        Elements that hold something, numbered like their lowest nodes.
    block, lane : int arrays
        Of each node in ``stencil``.
    stencil : array
        As in :class:`micro.voxels.kernels.product.Operator`.
    diagonal : array
        Node blocks 11, 12, 13, 22, 23, 33 in six rows.
    """

    layout: Layout
    filled: NDArray[Any]
    block: NDArray[Any]
    lane: NDArray[Any]
    stencil: NDArray[Any]
    diagonal: NDArray[Any]


@part()
def _rows(m, axis, child):
    """m = P^T m for one child of an element halved along the axis: low (0), high (1) or single (2)."""
    if child == 2:
        return
    half = m.dtype.type(0.5)
    chunk = 288 >> axis  # the rows of one corner along the axis, until that bit of the corner flips
    for base in range(0, 576, 2 * chunk):
        for k in range(U(base), U(base + chunk)):
            low, high = m[k], m[k + U(chunk)]
            if child == 0:
                m[k], m[k + U(chunk)] = low + half * high, half * high
            else:
                m[k], m[k + U(chunk)] = half * low, high + half * low


@part()
def _pass_up(m, places, parent, scratch):
    """Add P^T m P of one child, placed by :func:`_place`, to its parent's matrix; m is lost."""
    for _ in range(len(places) - 1):
        for axis in range(len(places)):
            _rows(m, axis, places[axis])
        for i in range(24):
            for j in range(24):
                scratch[24 * j + i] = m[24 * i + j]
        copy(scratch, m)
    add(parent, m.dtype.type(1), m)


@part()
def _place(i, n):
    """Place of element i of n within its parent: low, high, or single."""
    return 2 if n % 2 == 1 and i == n - 1 else i % 2


@part()
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


@part()
def _add_to_stencil(m, node, assembly, corner, place, base):
    """Add an element's matrix, its lowest node given, to the rows of its corners."""
    layout = assembly.layout
    for a in range(len(base)):
        q = node + a // 4 * layout.sx + a // 2 % 2 * layout.sy + a % 2
        base[a] = assembly.block[q] * 243 * NODES + assembly.lane[q]
    for k in range(U(len(m))):
        assembly.stencil[U(base[U(corner[k])] + place[k])] += m[k]


@part()
def _add_diagonal(m, node, layout, diagonal):
    for a in range(len(m) // 72):
        q = layout.head + node + a // 4 * layout.sx + a // 2 % 2 * layout.sy + a % 2
        at = 72 * a + 3 * a
        diagonal[q] += m[at]
        diagonal[q + layout.stride] += m[at + 1]
        diagonal[q + 2 * layout.stride] += m[at + 2]
        diagonal[q + 3 * layout.stride] += m[at + 25]
        diagonal[q + 4 * layout.stride] += m[at + 26]
        diagonal[q + 5 * layout.stride] += m[at + 50]


@part()
def _invert_blocks(diagonal, free, layout, factor, inverse):
    """Inverses of the 3x3 node blocks on their free degrees of freedom, times ``factor``; zero elsewhere."""
    stride = layout.stride
    for q in range(layout.head, layout.head + layout.size):
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


@part()
def _voxel_matrix(moduli, x, y, z, table, m):
    """Matrix of the element (x, y, z) of twice the voxels' size."""
    nx, ny, nz = moduli.shape
    m[:] = 0
    for i in range(2 * x, min(2 * x + 2, nx)):
        for j in range(2 * y, min(2 * y + 2, ny)):
            for k in range(2 * z, min(2 * z + 2, nz)):
                value = m.dtype.type(moduli[i, j, k])
                if value != 0:
                    add(m, value, table[9 * _place(i, nx) + 3 * _place(j, ny) + _place(k, nz)])


@entry
def galerkin(moduli, table, matrices, assembly, below, parents):
    """Matrices of a coarse grid's elements, summed in its stencil and node blocks, and handed to parents.

    Parameters
    ----------
    moduli : array (nx, ny, nz)
        Of the voxels if they are the grid above, else of size 0.
    table : array (27, 576)
        Contribution of a unit voxel by its place in x, y, z (:func:`_place`).
    matrices : array (elements, 576)
        Numbered like their lowest nodes; filled in here if the grid is the coarsest and above it are voxels.
    assembly : Assembly
    below : Layout
    parents : array
        Like ``matrices``, on the grid below, or of size 0.
    """
    layout = assembly.layout
    m, scratch = np.zeros(576, matrices.dtype), np.zeros(576, matrices.dtype)
    places, base = np.zeros(3, np.int64), np.zeros(8, np.int64)
    corner, place = _stencil_entries()
    for x in range(layout.nx):
        for y in range(layout.ny):
            for z in range(layout.nz):
                q = x * layout.sx + y * layout.sy + z
                if not assembly.filled[q]:
                    continue
                if len(moduli) > 0:
                    _voxel_matrix(moduli, x, y, z, table, m)
                    if len(parents) == 0:
                        copy(m, matrices[q])
                else:
                    copy(matrices[q], m)
                _add_to_stencil(m, q, assembly, corner, place, base)
                _add_diagonal(m, q, layout, assembly.diagonal)
                if len(parents) > 0:
                    places[0], places[1] = _place(x, layout.nx), _place(y, layout.ny)
                    places[2] = _place(z, layout.nz)
                    parent = parents[x // 2 * below.sx + y // 2 * below.sy + z // 2]
                    _pass_up(m, places, parent, scratch)


@entry
def voxel_diagonal(moduli, unit, layout, diagonal):
    """Node blocks of the voxels, six rows; ``moduli`` numbered like their lowest nodes, ``unit`` (576,).

    Parameters
    ----------
    moduli : array
        Numbered like the voxels' lowest nodes.
    unit : array (576,)
        Stiffness of a voxel of unit modulus.
    layout : Layout
    diagonal : array (six rows)
        Added to.
    """
    stride, count = layout.stride, layout.size
    for node in range(8):
        shift = node // 4 * layout.sx + node // 2 % 2 * layout.sy + node % 2
        at = 75 * node
        entries = (unit[at], unit[at + 1], unit[at + 2], unit[at + 25], unit[at + 26], unit[at + 50])
        for row in range(len(diagonal) // stride):
            to = row * stride + layout.head + shift
            add(diagonal[to : to + count - shift], entries[row], moduli)


@entry
def invert_blocks(diagonal, free, layout, periodic, factor, inverse):
    """Smoothers (kinds, six rows) of node blocks (six rows) for each kind of free degrees of freedom.

    Parameters
    ----------
    diagonal : array (six rows)
    free : uint8 array (kinds, three rows)
    layout : Layout
    periodic : bool
    factor : float
        What the inverses are multiplied by.
    inverse : array (kinds, six rows)
        Filled in.
    """
    if periodic:
        fold(diagonal, layout)
    for kind in range(len(free)):
        _invert_blocks(diagonal, free[kind], layout, factor, inverse[kind])
