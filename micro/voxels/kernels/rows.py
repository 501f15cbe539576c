"""Rows of nodes along z, to and from the blocks of elements that a product works on.

Adding to flat fields, whose rows follow one another, is :mod:`micro.voxels.kernels.product`'s.
"""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from micro.voxels.compilation import U, part
from micro.voxels.kernels.layout import BLOCK


@part()
def gather(row, start, count, t, to):
    """Sums (t[to : ]) and differences (one block later) of a row's neighbours along z.

    Parameters
    ----------
    row : array
        A component at the nodes of a line, or of several.
    start, count : unsigned int
        The elements that begin at these nodes.
    t : array
    to : unsigned int
    """
    # Unsigned indices can't be meant from the end, which lets the compiler vectorise.
    one, block = U(1), U(BLOCK)
    for k in range(count):
        a, b = row[start + k], row[start + k + one]
        t[to + k] = a + b
        t[to + block + k] = b - a


@part()
def scatter(row, start, count, t, at):
    """Transpose of :func:`gather`, added to the row.

    Parameters
    ----------
    row : array
    start, count : unsigned int
    t : array
    at : unsigned int
    """
    one, block = U(1), U(BLOCK)
    for k in range(count):
        row[start + k] += t[at + k] - t[at + block + k]
    for k in range(count):
        row[start + k + one] += t[at + k] + t[at + block + k]
