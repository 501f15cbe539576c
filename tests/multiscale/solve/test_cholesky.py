"""Sparse factors against dense ones: numbers, how many, supports, contrast, and loose solid."""

from __future__ import annotations

import numpy as np
import pytest

from micro.cell.tensor import SOLID
from micro.runtime.errors import NotConverged
from micro.voxels.corners import CORNERS, nodes_of
from micro.voxels.hexahedron import element_matrices
from multiscale.solve import cholesky_kernels as kernels
from multiscale.solve.cholesky import Elimination

#: With a little on the diagonal: random voxels are loose.
STIFFNESS = np.tensordot(np.asarray(SOLID), element_matrices(), axes=1) + 1e-6 * np.eye(24)


def model(solid):
    """Nodes of some voxels, and the voxels' corners among them."""
    mask = nodes_of(np.pad(solid, 1) > 0)[1:-1, 1:-1, 1:-1]
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(np.count_nonzero(mask))
    return np.argwhere(mask), number[tuple((np.argwhere(solid)[:, None] + CORNERS).transpose(2, 0, 1))]


def dense(n, unknowns, moduli, held):
    """The voxels' stiffness in the factor's order, with rows of the identity where there is no equation."""
    a = np.diag(np.where(held, 1.0, 0.0))
    for place, modulus in zip(unknowns, moduli, strict=True):
        inside = place >= 0
        a[np.ix_(place[inside], place[inside])] += modulus * STIFFNESS[np.ix_(inside, inside)]
    return a


def lower(factor, n):
    """L, unit, and D of a factor."""
    out = np.eye(n)
    for s in range(len(factor.first) - 1):
        below = factor.below[factor.row_start[s] : factor.row_start[s + 1]]
        at = factor.value_start[s]
        for c in range(factor.first[s], factor.first[s + 1]):
            rows = np.append(np.arange(c + 1, factor.first[s + 1]), below).astype(int)
            out[rows, c] = factor.values[at : at + len(rows)]
            at += len(rows)
        assert at <= factor.value_start[s + 1]
    return out, 1 / factor.pivot.astype(np.float64)


@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 1, 1), (5, 4, 6), (2, 11, 7), (8, 7, 8)])
def test_factor_times_its_transpose_is_the_stiffness(shape):
    """Random voxels with moduli from 0.01 to 1, some unknowns held; it is kept in float32."""
    rng = np.random.default_rng(5)
    solid = rng.random(shape) < (1 if min(shape) == 1 else 0.7)
    points, corners = model(solid)
    held = rng.random((len(points), 3)) < 0.2
    moduli = 10 ** rng.uniform(-2, 0, len(corners))
    elimination = Elimination.of(points, corners)
    assert np.array_equal(np.sort(elimination.position), np.arange(len(points)))
    unknowns = elimination.unknowns(corners, held)
    factor = elimination.factor(unknowns, moduli, STIFFNESS, held)
    absent = np.empty_like(held)
    absent[elimination.position] = held
    a = dense(len(points), unknowns, moduli, absent.reshape(-1))
    low, d = lower(factor, len(a))
    assert np.abs(low * d @ low.T - a).max() < 1e-6 * a.max()
    assert shape != (8, 7, 8) or (np.diff(factor.first) == kernels.PANEL).any()  # a front of several panels
    assert factor.values.nbytes == elimination.nbytes
    b = rng.standard_normal(len(a))
    x = b.copy()
    kernels.solve_factored(factor, x, np.zeros(len(b)))
    assert np.abs(low * d @ (low.T @ x) - b).max() < 1e-5 * np.abs(b).max()


def test_dissection_fills_little():
    """A cube of 12^3 voxels, against what an elimination fills node by node, and plane by plane."""
    points, corners = model(np.ones((12, 12, 12), dtype=bool))
    elimination = Elimination.of(points, corners)
    n = len(points)
    near = np.zeros((n, n), dtype=bool)
    for some in elimination.position[corners]:
        near[np.ix_(some, some)] = True
    filled = 0
    for k in range(n):
        rows = np.flatnonzero(near[k, k + 1 :]) + k + 1
        filled += 9 * len(rows) + 3
        near[np.ix_(rows, rows)] = True
    band = 9 * n * 13 * 13
    assert filled <= elimination.nbytes / 4 < 1.15 * filled
    assert filled < 0.75 * band


def test_loose_solid_is_told():
    points, corners = model(np.ones((3, 1, 1), dtype=bool))
    held = np.zeros((len(points), 3), dtype=bool)
    elimination = Elimination.of(points, corners)
    unknowns = elimination.unknowns(corners, held)
    with pytest.raises(NotConverged, match="loose"):
        elimination.factor(unknowns, np.ones(3), STIFFNESS - 2e-6 * np.eye(24), held)


def test_the_order_does_not_depend_on_anything_else():
    points, corners = model(np.random.default_rng(0).random((8, 9, 10)) < 0.5)
    first, second = (Elimination.of(points, corners) for _ in range(2))
    assert np.array_equal(first.position, second.position)
    assert np.array_equal(first.below, second.below)
