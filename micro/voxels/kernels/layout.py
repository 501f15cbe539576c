"""How nodal fields lie in memory.

A nodal field of one load case is a flat array of three rows, one a component. In a row the nodes of *all*
layers stand in C order of (x, y, z), periodic grids included (their last layers repeat the first), with a
margin of zeros before and behind: neighbours lie at constant distances and loops run over long rows, whatever
the grid's size. What is empty is left out: products run over blocks of :data:`BLOCK` voxels or :data:`NODES`
nodes, each of which begins at a solid one.
"""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from typing import NamedTuple

from micro.voxels.compilation import entry, part

#: Voxels handled at once: 24 rows of them stay in the nearest cache. A constant lets the compiler vectorise.
BLOCK = 64

#: Nodes of a coarse grid handled at once.
NODES = 16


class Layout(NamedTuple):
    """A grid's nodes in the rows of a field.

    Attributes
    ----------
    nx, ny, nz : int
        Elements.
    sx, sy : int
        Distances in a row between neighbours along x and y; along z it is one.
    size : int
        Nodes, all layers counted.
    head : int
        Margin before the first node.
    stride : int
        Length of a row.
    """

    nx: int
    ny: int
    nz: int
    sx: int
    sy: int
    size: int
    head: int
    stride: int

    @staticmethod
    def of(shape: tuple[int, int, int]) -> Layout:
        """That of a grid of (nx, ny, nz) elements."""
        nx, ny, nz = shape
        sy = nz + 1
        sx = (ny + 1) * sy
        head, count = sx + sy + 1, (nx + 1) * sx
        return Layout(nx, ny, nz, sx, sy, count, head, 2 * head + count + BLOCK)

    @property
    def nodes(self) -> tuple[int, int, int]:
        """Nodes along x, y and z."""
        return self.nx + 1, self.ny + 1, self.nz + 1


@entry
def cover(active, size, starts):
    """Starts of blocks of ``size`` over every active place, each beginning at one; returns their number."""
    blocks, next_free = 0, 0
    for q in range(len(active)):
        if active[q] and q >= next_free:
            starts[blocks] = q
            blocks += 1
            next_free = q + size
    return blocks


@part()
def wrap(u, layout):
    """Repeat the first layers of a periodic field as its last."""
    nx, ny, nz, sx, sy = layout.nx, layout.ny, layout.nz, layout.sx, layout.sy
    for component in range(len(u) // layout.stride):
        row = u[component * layout.stride + layout.head :]
        for x in range(nx):
            for y in range(ny):
                row[x * sx + y * sy + nz] = row[x * sx + y * sy]
            for k in range(sy):
                row[x * sx + ny * sy + k] = row[x * sx + k]
        for k in range(sx):
            row[nx * sx + k] = row[k]


@part()
def fold(f, layout):
    """Transpose of :func:`wrap` for any number of rows: what came to the last layers goes to the first."""
    nx, ny, nz, sx, sy = layout.nx, layout.ny, layout.nz, layout.sx, layout.sy
    for component in range(len(f) // layout.stride):
        row = f[component * layout.stride + layout.head :]
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
