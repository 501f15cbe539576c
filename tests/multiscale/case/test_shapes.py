"""Which elements and nodes a shape selects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

from multiscale.case.shapes import AnyShape, Box, Cylinder, Halfspace, Shape, Sphere
from multiscale.problem import grid

shape_of = TypeAdapter(AnyShape).validate_python
SIZE = (7, 6, 5)
ALL = {"type": "all"}
BALL = {"type": "sphere", "center": [3, 3, 2.5], "radius": 2.0}
SLAB = {"type": "box", "min": [0, 0, 0], "max": [7, 3, 5]}


def elements(shape: dict) -> np.ndarray:
    return grid.elements_in(shape_of(shape), SIZE)


def test_all_selects_the_whole_grid():
    assert elements(ALL).shape == SIZE
    assert elements(ALL).all()


def test_box_by_element_centres():
    mask = elements({"type": "box", "min": [1, 2, 0], "max": [3, 2.49, 5]})
    assert not mask.any(), "centres lie at y = 2.5"
    mask = elements({"type": "box", "min": [1, 2, 0], "max": [3, 2.5, 5]})
    assert np.argwhere(mask.any(axis=2)).tolist() == [[1, 2], [2, 2]]


def test_a_flat_box_selects_a_line_of_nodes():
    mask = grid.nodes_in(shape_of({"type": "box", "min": [0, 0, 0], "max": [7, 0, 0]}), SIZE)
    assert mask.sum() == 8
    assert mask[:, 0, 0].all()


def test_sphere_volume_converges_to_the_ball():
    # The surface cuts a layer of elements: the relative error falls at least like 1/r.
    for n in (8, 16, 32):
        shape = Sphere(type="sphere", center=(n, n, n), radius=0.8 * n)
        count = grid.elements_in(shape, (2 * n, 2 * n, 2 * n)).sum()
        assert count == pytest.approx(4 / 3 * np.pi * (0.8 * n) ** 3, rel=0.25 / n)


@pytest.mark.parametrize(("axis", "center"), [("x", (3.0, 2.5)), ("y", (3.5, 2.5)), ("z", (3.5, 3.0))])
def test_cylinder_is_the_same_in_every_layer_along_its_axis(axis, center):
    mask = elements({"type": "cylinder", "axis": axis, "center": center, "radius": 1.9})
    along = "xyz".index(axis)
    layers = np.moveaxis(mask, along, 0)
    assert layers.any()
    assert (layers == layers[0]).all()
    # Centred on the mid-plane in both cross directions.
    assert all(np.array_equal(layers[0], np.flip(layers[0], a)) for a in (0, 1))


def test_cylinder_span_bounds_it_along_its_axis():
    mask = elements({"type": "cylinder", "axis": "y", "center": [3.5, 2.5], "radius": 9, "span": [2, 4]})
    assert mask.any(axis=(0, 2)).tolist() == [False, False, True, True, False, False]


def test_halfspace_keeps_what_the_normal_points_away_from():
    mask = elements({"type": "halfspace", "point": [3, 0, 0], "normal": [2, 0, 0]})
    assert mask[:3].all()
    assert not mask[3:].any()


def test_boolean_combinations():
    ball, slab = elements(BALL), elements(SLAB)
    assert np.array_equal(elements({"type": "union", "shapes": [BALL, SLAB]}), ball | slab)
    assert np.array_equal(elements({"type": "intersection", "shapes": [BALL, SLAB]}), ball & slab)
    assert np.array_equal(
        elements({"type": "difference", "shape": ALL, "minus": [BALL, SLAB]}), ~ball & ~slab
    )
    nested = {"type": "difference", "shape": {"type": "union", "shapes": [BALL, SLAB]}, "minus": [BALL]}
    assert np.array_equal(elements(nested), slab & ~ball)


@given(st.tuples(*[st.floats(-3, 9)] * 3), st.floats(0.1, 6))
def test_sphere_is_the_plain_distance_test(center, radius):
    mask = grid.elements_in(Sphere(type="sphere", center=center, radius=radius), SIZE)
    points = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in SIZE], indexing="ij"), axis=-1)
    distance = np.linalg.norm(points - center, axis=-1)
    sure = np.abs(distance - radius) > 1e-6
    assert np.array_equal(mask[sure], (distance <= radius)[sure])


def test_selection_does_not_depend_on_the_last_digit_of_a_radius():
    exact = Cylinder(type="cylinder", axis="z", center=(20, 20), radius=2.5)
    typed = Cylinder(type="cylinder", axis="z", center=(20, 20), radius=2.4999999999)
    assert np.array_equal(grid.nodes_in(exact, (40, 40, 2)), grid.nodes_in(typed, (40, 40, 2)))


@pytest.mark.parametrize(
    "shape",
    [
        {"type": "sphere", "center": [0, 0, 0], "radius": 0},
        {"type": "sphere", "center": [0, 0], "radius": 1},
        {"type": "cylinder", "axis": "w", "center": [0, 0], "radius": 1},
        {"type": "box", "min": [1, 0, 0], "max": [0, 1, 1]},
        {"type": "halfspace", "point": [0, 0, 0], "normal": [0, 0, 0]},
        {"type": "union", "shapes": []},
        {"type": "torus"},
        {"type": "all", "radius": 1},
        {"radius": 1},
        {"type": "sphere", "center": [0, 0, 0], "radius": float("nan")},
        {"type": "sphere", "center": [0, 0, 0], "radius": "2"},
    ],
)
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValidationError):
        shape_of(shape)


def test_shapes_are_values():
    box = Box(type="box", min=(0, 0, 0), max=(1, 1, 1))
    assert box == Box(type="box", min=(0, 0, 0), max=(1, 1, 1))
    with pytest.raises(ValidationError):
        box.min = (1, 1, 1)  # type: ignore[misc]


def test_every_primitive_answers_on_an_open_grid():
    for shape in (
        Halfspace(type="halfspace", point=(1, 1, 1), normal=(1, 2, 3)),
        shape_of(BALL),
        shape_of(ALL),
    ):
        assert isinstance(shape, Shape)
        open_grid = grid.centres(SIZE)
        full = tuple(np.broadcast_to(a, SIZE) for a in open_grid)
        assert np.array_equal(shape.contains(*open_grid), shape.contains(*full))
