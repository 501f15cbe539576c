"""The shape space: symmetry, encoding, resolution."""

import numpy as np
import pytest
from small_cells import octants

from micro.cell.chamber import chamber
from micro.cell.octant import half_period_shift
from micro.runtime.errors import InputError
from micro.shape.distance import SATURATION, signed_distance
from micro.shape.space import ShapeSpace, distance_at, half_period, resampled, resampling


def test_a_coarse_grid_keeps_where_fine_voxels_put_the_surface():
    n = 32
    index = np.indices((n, n, n)).min(axis=0)
    for thick in (7, 8):  # of 32: 3.5 and 4 voxels of 16
        solid = (index < thick)[None]
        coarse = distance_at(solid, 16)[0]
        level = chamber(16).unfold(SATURATION * np.arctanh(coarse / SATURATION))
        # Far from edges, across the plate, the distance is linear: it changes sign where the surface is.
        at = level[2:5, 14, 14]
        np.testing.assert_allclose(at, (thick - 2 * np.array([2, 3, 4]) - 1) / (2 * n), atol=2e-4)
    np.testing.assert_array_equal(distance_at(solid, n), signed_distance(solid))
    # Coarser octants are interpolated, to about a voxel's share at corners.
    finer = distance_at(solid[:, ::2, ::2, ::2], n)
    assert np.abs(finer - signed_distance(solid)).max() < 1 / (2 * n)


def test_half_period_is_the_shift_of_the_octant():
    octant = octants(1, 8, seed=1)
    shifted = signed_distance(half_period_shift(octant))
    np.testing.assert_array_equal(shifted, signed_distance(octant)[:, half_period(8)])
    assert not np.array_equal(shifted, signed_distance(octant))


def test_an_extended_space_keeps_its_coordinates_and_carries_other_cells_better():
    first, others = signed_distance(octants(24, 8)), signed_distance(octants(40, 8, seed=9))
    space = ShapeSpace.fit(first, 8, 12)
    more = space.extended(others, 30)
    assert more.dimension == 30
    z = more.encode(first)
    np.testing.assert_allclose(z[:, :12], space.encode(first), atol=1e-5)
    off = [np.square(s.decode(s.encode(others)) - others).mean() for s in (space, more)]
    assert off[1] < 0.5 * off[0]
    # New coordinates are in the unit of the old ones: a component's spread falls on, it does not jump.
    spread = more.encode(np.concatenate([others, others[:, half_period(8)]])).std(axis=0)
    assert 0.3 < spread[12] / spread[11] < 3
    assert space.extended(others, 12) is space
    with pytest.raises(InputError, match="lies between 12"):
        space.extended(others, 11)


def test_half_period_map_shifts_coordinates():
    distance = signed_distance(octants(24, 8))
    space = ShapeSpace.fit(distance, 8, 12)
    plain, shifted = space.encode(distance), space.encode(distance[:, half_period(8)])
    M = space.half_period_map()
    # A difference of two cells' coordinates: the constant drops out. Float32, coordinates of order one.
    np.testing.assert_allclose((plain[1:] - plain[0]) @ M, shifted[1:] - shifted[0], atol=2e-4)
    assert not np.allclose(plain, shifted, atol=0.1)
    np.testing.assert_allclose(M @ M, np.eye(12), atol=1e-4)


def test_all_coordinates_reproduce_the_solid():
    solid = octants(24, 8)
    distance = signed_distance(solid)
    space = ShapeSpace.fit(distance, 8, 47)  # 24 cells, their shifts, less the mean
    again = space.levels(space.encode(distance), 8) > 0
    assert (again == solid).mean() > 0.9999
    assert np.mean(space.encode(distance) ** 2) == pytest.approx(1.0, rel=0.2)


def test_more_coordinates_are_nearer():
    distance = signed_distance(octants(24, 8))
    errors = []
    for dimension in (2, 8, 32):
        space = ShapeSpace.fit(distance, 8, dimension)
        left = space.decode(space.encode(distance)) - distance
        errors.append(float(np.mean(left**2 * chamber(8).weights)))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("n", [8, 12, 16, 32])
def test_any_resolution_is_symmetric(n):
    distance = signed_distance(octants(6, 8))
    space = ShapeSpace.fit(distance, 8, 6)
    levels = space.levels(space.encode(distance), n)
    assert levels.shape == (6, n, n, n)
    for axes in ((0, 2, 1, 3), (0, 2, 3, 1)):
        np.testing.assert_array_equal(levels, levels.transpose(axes))


def test_resampling_keeps_constants_and_mirror_symmetric_waves():
    np.testing.assert_allclose(resampling(16, 32).sum(axis=1), 1.0, atol=1e-6)
    wave = lambda n: np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)  # noqa: E731
    # Cubic splines: a wave of 16 samples is met to a few thousandths.
    np.testing.assert_allclose(resampling(16, 32) @ wave(16), wave(32), atol=5e-3)
    ones = np.ones((1, 8, 8, 8), np.float32)
    np.testing.assert_allclose(resampled(ones, 12), 1.0, atol=1e-5)


def test_rows_do_not_depend_on_the_batch():
    distance = signed_distance(octants(20, 8))
    space = ShapeSpace.fit(distance, 8, 16)
    together = space.encode(distance)
    alone = np.concatenate([space.encode(row[None]) for row in distance])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(space.decode(together)[3:4], space.decode(together[3:4]))


def test_bad_dimension_is_refused():
    with pytest.raises(InputError, match="dimension"):
        ShapeSpace.fit(np.zeros((3, 120), np.float32), 8, 121)
