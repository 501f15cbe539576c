"""Sums, products and steps of flat arrays."""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

import numpy as np

from micro.voxels.compilation import U, part

#: Numbers for which several operations in turn stay in the nearest cache.
_SHORT = 1024


@part()
def copy(x, y):
    """y = x, of the same length. (An assignment would bring along a message for the case that it isn't.)"""
    for k in range(U(len(y))):
        y[k] = x[k]


@part(fastmath={"reassoc", "contract"})
def _short_dot(a, b, first, count):
    total = a.dtype.type(0)
    for k in range(count):
        total += a[first + k] * b[first + k]
    return total


@part()
def dot(a, b):
    """Inner product: short sums in the fields' precision, float64 between them."""
    total = 0.0
    for begin in range(0, len(a), 256):
        total += _short_dot(a, b, U(begin), U(min(256, len(a) - begin)))
    return total


@part(fastmath={"contract"})
def add(y, factor, x):
    """y += factor x."""
    for k in range(U(len(y))):
        y[k] += factor * x[k]


@part(fastmath={"contract"})
def add_to(x, factor, y):
    """y = x + factor y."""
    for k in range(U(len(y))):
        y[k] = x[k] + factor * y[k]


@part()
def apply_mask(y, mask):
    """Zero y where the mask is."""
    for k in range(U(len(y))):
        y[k] *= mask[k]


@part()
def masked_dots(y, mask, a, b):
    """Inner products y.a and b.a, y being masked first."""
    first, second = 0.0, 0.0
    for begin in range(0, len(y), _SHORT):
        end = min(begin + _SHORT, len(y))
        apply_mask(y[begin:end], mask[begin:end])
        first += dot(y[begin:end], a[begin:end])
        second += dot(b[begin:end], a[begin:end])
    return first, second


@part()
def step_along(x, r, alpha, p, ap):
    """x += alpha p and r -= alpha ap; returns the norm of r."""
    total = 0.0
    for begin in range(0, len(x), _SHORT):
        end = min(begin + _SHORT, len(x))
        add(x[begin:end], alpha, p[begin:end])
        add(r[begin:end], -alpha, ap[begin:end])
        total += dot(r[begin:end], r[begin:end])
    return np.sqrt(total)
