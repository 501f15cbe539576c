"""Sparse factors against dense ones: numbers, how many, supports, contrast, orders, and loose solid."""

from __future__ import annotations

from functools import partial

import numpy as np
import psutil
import pytest

from micro.cell.tensor import SOLID
from micro.runtime.errors import NotConverged
from micro.runtime.memory import trim
from micro.runtime.threads import run
from micro.voxels.corners import CORNERS, nodes_of
from micro.voxels.hexahedron import element_matrices
from multiscale.solve.voxels import cholesky_kernels as kernels
from multiscale.solve.voxels.cholesky import Elimination, graph_of, minimum_degree

#: With a little on the diagonal: random voxels are loose.
STIFFNESS = np.tensordot(np.asarray(SOLID), element_matrices(), axes=1) + 1e-6 * np.eye(24)


def model(solid):
    """Nodes of some voxels, the voxels' corners among them, and their graph."""
    mask = nodes_of(np.pad(solid, 1) > 0)[1:-1, 1:-1, 1:-1]
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(np.count_nonzero(mask))
    points = np.argwhere(mask)
    corners = number[tuple((np.argwhere(solid)[:, None] + CORNERS).transpose(2, 0, 1))]
    return points, corners, graph_of(corners, len(points))


def factorised(solid, held=0.2, contrast=2.0, seed=5):
    """A factor, and the dense matrix that it is one of, in its order."""
    rng = np.random.default_rng(seed)
    points, corners, graph = model(solid)
    held = rng.random((len(points), 3)) < held
    moduli = 10 ** rng.uniform(-contrast, 0, len(corners))
    elimination = Elimination.by(kernels.dissected(points), graph)
    assert np.array_equal(np.sort(elimination.position), np.arange(len(points)))
    places = elimination.places(corners, held)
    factor = elimination.factor(places, held, moduli, STIFFNESS)
    assert factor.values.nbytes == elimination.nbytes
    absent = np.empty_like(held)
    absent[elimination.position] = held
    a = np.diag(np.where(absent.reshape(-1), 1.0, 0.0))
    for place, modulus in zip(places, moduli, strict=True):
        inside = place >= 0
        a[np.ix_(place[inside], place[inside])] += modulus * STIFFNESS[np.ix_(inside, inside)]
    return factor, a


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
        assert at == factor.value_start[s + 1]
    return out, 1 / factor.pivot.astype(np.float64)


def check(factor, a):
    low, d = lower(factor, len(a))
    assert np.abs(low * d @ low.T - a).max() < 1e-6 * a.max()  # it is kept in float32
    b = np.random.default_rng(1).standard_normal(len(a))
    x = b.copy()
    kernels.solve_factored(factor, x, np.zeros(len(b)))
    assert np.abs(low * d @ (low.T @ x) - b).max() < 1e-5 * np.abs(b).max()


@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 1, 1), (5, 4, 6), (2, 11, 7), (8, 7, 8)])
def test_factor_times_its_transpose_is_the_stiffness(shape):
    """Random voxels with moduli from 0.01 to 1, some degrees of freedom held."""
    full = 1 if min(shape) == 1 else 0.7
    factor, a = factorised(np.random.default_rng(5).random(shape) < full)
    check(factor, a)
    assert shape != (8, 7, 8) or (np.diff(factor.first) == kernels.PANEL).any()  # a front of several panels


@pytest.mark.parametrize(("held", "contrast"), [(1.0, 2.0), (0.9, 2.0), (0.0, 3.0)])
def test_everything_held_and_a_thousandfold_contrast(held, contrast):
    check(*factorised(np.random.default_rng(2).random((4, 5, 3)) < 0.8, held, contrast))


def test_parts_that_do_not_meet():
    solid = np.zeros((9, 3, 3), dtype=bool)
    solid[:3], solid[5:8] = True, True
    check(*factorised(solid))


def filled(position, corners):
    """Numbers under the diagonal after a dense elimination."""
    n = len(position)
    near = np.zeros((n, n), dtype=bool)
    for some in position[corners]:
        near[np.ix_(some, some)] = True
    total = 0
    for k in range(n):
        rows = np.flatnonzero(near[k, k + 1 :]) + k + 1
        total += 9 * len(rows) + 3
        near[np.ix_(rows, rows)] = True
    return total


def test_planes_first_where_solid_is_thick_and_few_neighbours_first_where_it_is_thin():
    """Either order fills what a dense elimination does (and few zeros more); the better one is taken."""
    frame = np.zeros((17, 17, 17), dtype=bool)
    for axis in range(3):
        np.moveaxis(frame, axis, 0)[:, ::8, ::8] = True
    for solid, thick in ((np.ones((12, 12, 12), dtype=bool), True), (frame, False)):
        points, corners, graph = model(solid)
        orders = kernels.dissected(points), minimum_degree(graph)
        planes, degrees = (Elimination.by(order, graph) for order in orders)
        for found in (planes, degrees):
            true = filled(found.position, corners)
            assert true <= found.nbytes / 4 < 1.25 * true
        better, worse = (planes, degrees) if thick else (degrees, planes)
        assert better.nbytes < 0.95 * worse.nbytes
        assert np.array_equal(Elimination.best(graph, *orders).position, better.position)


def test_loose_solid_is_told_and_leaves_no_memory():
    points, corners, graph = model(np.ones((12, 12, 12), dtype=bool))
    held = np.zeros((len(points), 3), dtype=bool)
    elimination = Elimination.by(kernels.dissected(points), graph)
    places, sizes = elimination.places(corners, held), []
    for _ in range(6):
        with pytest.raises(NotConverged, match="loose"):
            elimination.factor(places, held, np.ones(len(corners)), STIFFNESS - 2e-6 * np.eye(24))
        trim()
        sizes.append(psutil.Process().memory_info().rss)
    assert sizes[-1] - sizes[1] < 0.5 * elimination.nbytes  # an exception inside would leave four of them


def test_factors_made_at_once_are_those_made_in_turn():
    shapes = [(3 + k % 4, 4, 5 + k % 3) for k in range(16)]
    tasks = [partial(factorised, np.random.default_rng(k).random(s) < 0.7) for k, s in enumerate(shapes)]
    for one, many in zip(run(tasks, 1), run(tasks, 4), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one[0], many[0], strict=True))


def test_working_memory_is_that_of_fronts():
    """Of a bar, voxel by voxel: the largest front, and the one that waits."""
    points, _, graph = model(np.ones((40, 1, 1), dtype=bool))
    bar = Elimination.by(np.arange(len(points)), graph)
    assert bar.working_bytes <= 8 * (3 * 24) ** 2
    cube = model(np.ones((10, 10, 10), dtype=bool))
    planes = Elimination.by(kernels.dissected(cube[0]), cube[2])
    assert 8 * (3 * 121) ** 2 < planes.working_bytes < 2 * planes.nbytes
