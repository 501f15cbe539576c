"""Bringing a binary cell to a target tensor."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from small_cells import random_octant, schwarz_p

from micro.cell.octant import connectivity, is_symmetric
from micro.cell.tensor import PAPER_RANGE, SOLID, Bounds, relative_error, tensor_error
from micro.families.families import family, minimal_surface
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.sensitivity import sensitivities
from micro.inverse import match_target
from micro.inverse.surface import Surface
from micro.runtime.errors import InputError
from micro.shape.derivative import level_field

SPAN = PAPER_RANGE[:, 1] - PAPER_RANGE[:, 0]


def _cell(name: str, leading: list[float], n: int) -> np.ndarray:
    return family("tpms-solid").octant(np.concatenate([leading, minimal_surface(name)]), n)


def test_from_three_percent_to_a_third_of_one() -> None:
    """A Schwarz-P cell to the tensor of a thinner, tilted one."""
    start, other = _cell("schwarz-p", [0.2, 0, 0], 16), _cell("schwarz-p", [0.3, 0.0, 0.15], 16)
    there, target = homogenize_octants(np.stack([start, other])).C
    # A target 3 % away on the line between the two cells' tensors.
    target = there + (target - there) * 0.03 / float(tensor_error(there, target))
    seen: list[float] = []
    found = match_target(start, target, watch=lambda best: seen.append(best.error), keep=True)
    assert_allclose(tensor_error(there, target), 0.03, rtol=1e-6)
    assert found.error <= 3e-3
    assert len(seen) <= 20
    assert found.homogenisations == len(found.trail) <= 21
    assert seen == sorted(seen, reverse=True)
    assert found.octant.dtype == bool
    assert is_symmetric(found.octant)
    assert connectivity(found.octant).connected
    # Its own tensor: the solves' 1e-3 leave an error of about its square.
    own = homogenize_octants(found.octant).C[0]
    assert_allclose(found.C, own, atol=1e-5)
    assert_allclose(found.error, tensor_error(found.C, target), rtol=1e-12)


def test_both_bounds_are_kept_and_no_cell_on_the_way_that_will_not_do() -> None:
    """Of a soft cell a tensor error of 3e-3 is a tenth of its stiffness."""
    start = _cell("schwarz-p", [0.7, 0, 0], 16)
    there = homogenize_octants(start).C[0]
    target = 0.8 * there
    loose = match_target(start, target, tolerance=3e-3)
    assert relative_error(loose.C, target) > 0.02
    tight = match_target(start, target, tolerance=3e-3, relative=0.02)
    assert relative_error(tight.C, target) <= 0.02
    assert tight.error == Bounds(3e-3, 0.02).error(tight.C, target) <= 3e-3
    asked: list[np.ndarray] = []

    def dense(octant: np.ndarray) -> bool:
        asked.append(octant)
        return bool(octant.mean() >= start.mean())

    kept = match_target(start, target, tolerance=3e-3, relative=0.02, allowed=dense, iterations=4)
    assert asked
    assert kept.octant.mean() >= start.mean()
    assert min(octant.mean() for octant in asked) < start.mean()


def test_a_cell_already_there_is_left_alone() -> None:
    start = random_octant(3, 12)
    found = match_target(start, homogenize_octants(start).C[0])
    assert found.homogenisations == 1
    assert np.array_equal(found.octant, start)


def test_an_unreachable_target_gives_the_nearest_and_no_error() -> None:
    start = _cell("schwarz-p", [0.5, 0, 0], 12)
    found = match_target(start, 0.999 * SOLID, iterations=3)
    assert 3e-3 < found.error < tensor_error(homogenize_octants(start).C[0], 0.999 * SOLID)
    assert connectivity(found.octant).connected


def test_level_field_is_a_distance_on_the_right_side() -> None:
    octant = schwarz_p(48)
    level = level_field(octant)
    assert np.array_equal(level > 0, octant)
    # Slope one across the surface: a solid layer 9 voxels deep, seen far from its ends.
    slab = np.zeros((16, 16, 16), dtype=bool)
    slab[:9] = True
    assert_allclose(level_field(slab)[6:12, 8, 8], [2.5, 1.5, 0.5, -0.5, -1.5, -2.5], atol=0.1)


def test_predicted_changes_are_near_the_true_ones() -> None:
    """Shape derivatives with whole-voxel factors: right in sign, and within a factor of two in size."""
    octant = _cell("i-wp", [0.2, 0, 0], 16)
    found = sensitivities(octant)
    surface = Surface.of(octant, found.gradient[0])
    displacements = np.array([[-0.7], [0.7]]) * np.ones(len(surface.level))
    moved = np.stack([surface.moved(d) for d in displacements])
    true = (homogenize_octants(moved).C - found.C) / SPAN
    predicted = surface.predicted(displacements) / SPAN
    assert_allclose(predicted.sum(axis=1), true, rtol=1.0)
    assert (predicted.sum(axis=1) * true > 0).all()
    assert (predicted[0, 1] == 0).all()
    assert (predicted[1, 0] == 0).all()


@pytest.mark.parametrize(
    ("octant", "target", "message"),
    [
        (np.ones((4, 4, 4)), SOLID, "bool octant"),
        (np.zeros((4, 4, 4), dtype=bool), SOLID, "connected"),
        (np.ones((4, 4, 4), dtype=bool), [0.1, 0.2, 0.1], "positive definite"),
        (np.arange(64).reshape(4, 4, 4) > 20, SOLID, "symmetric"),
    ],
)
def test_what_it_refuses(octant: np.ndarray, target: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_target(octant, target)


def test_a_solid_cell_has_no_surface_to_move() -> None:
    found = match_target(np.ones((8, 8, 8), dtype=bool), 0.9 * SOLID, keep=True)
    assert found.octant.all()
    assert_allclose(found.C, SOLID, rtol=1e-6)
    assert found.homogenisations == len(found.trail) == 1
