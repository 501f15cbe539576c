"""Every derivative in the optimisation chain against finite differences, and the mirror planes."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from examples import Ellipsoid, cloak

from micro.cell import tensor
from micro.cell.tensor import SCALE
from micro.runtime.gradient_check import check_gradient
from multiscale.case.case import load_case
from multiscale.case.settings import Kind
from multiscale.design.feasibility import FeasibilityConstraint, FeasibilityPenalty, FeasibleProjection
from multiscale.design.filter import cone_filter
from multiscale.design.space import DesignSpace
from multiscale.objective.combination import WORST_POWER, Combination
from multiscale.objective.objective import DistortionObjective
from multiscale.problem.problem import build_problem
from multiscale.solve.elasticity import SolverOptions

TIGHT = SolverOptions(rtol=1e-12)
LOADS = ("shear_x", "tension_y", "shear_z")


def random_field(objective, seed=0):
    """The problem's tensors with random positive definite ones in the design region, reduced grid."""
    rng = np.random.default_rng(seed)
    field = objective.reduction.elements(objective.problem.tensor)
    design = objective.reduction.elements(objective.problem.design)
    field[design] = tensor.from_moduli(rng.uniform(0.2, 0.6, (int(design.sum()), 3)) * SCALE)
    return field, design


@pytest.mark.parametrize(
    ("loads", "combine"), [(LOADS[:1], "mean_square"), *((LOADS, kind) for kind in get_args(Kind))]
)
def test_adjoint_gradient_of_the_distortion(loads, combine):
    objective = DistortionObjective(build_problem(cloak(8, loads)), TIGHT, 1e-11, combine)
    field, design = random_field(objective)
    _, gradient = objective.value_and_gradient(field)
    assert np.all(gradient[np.all(field == 0, axis=-1)] == 0)
    # Central differences of a smooth function: error h^2 against solves to 1e-12 / h.
    found = check_gradient(
        lambda f: objective.value(f).total, field, gradient, step=3e-6, where=design[..., None]
    )
    assert found.error < 1e-6


@pytest.mark.parametrize("loads", [LOADS[:1], LOADS])
def test_quarter_model_equals_the_whole(loads):
    problem = build_problem(cloak(12, loads))
    assert problem.mirror_axes == (0, 2)
    quarter = DistortionObjective(problem, TIGHT, adjoint_rtol=1e-11)
    whole = DistortionObjective(problem, TIGHT, adjoint_rtol=1e-11, axes=())
    assert quarter.reduction.shape == (6, 12, 6)
    field, _ = random_field(quarter)
    a, gradient_a = quarter.value_and_gradient(field)
    b, gradient_b = whole.value_and_gradient(quarter.reduction.expand_elements(field))
    assert a.total == pytest.approx(b.total, rel=1e-9)
    assert a.per_load == pytest.approx(b.per_load, rel=1e-9)
    # A reduced element stands for its four images.
    folded = quarter.reduction.elements(gradient_b) * quarter.reduction.element_weight
    assert np.abs(folded - gradient_a).max() < 1e-7 * np.abs(gradient_a).max()
    for load, u, v in zip(
        quarter.loads,
        quarter.displacements(field),
        whole.displacements(quarter.reduction.expand_elements(field)),
        strict=True,
    ):
        assert np.abs(quarter.reduction.expand_displacement(u, load) - v).max() < 1e-8 * np.abs(v).max()


def test_combinations_of_loads():
    values, weights = np.array([0.5, 0.3, 0.1]), (1.0, 2.0, 1.0)
    assert Combination("sum", weights).value(values) == pytest.approx((0.5 + 2 * 0.3 + 0.1) / 4)
    assert Combination("mean_square", weights).value(values) == pytest.approx(
        np.sqrt((0.25 + 2 * 0.09 + 0.01) / 4)
    )
    # The smooth maximum counts the second load fully, the others half, and lies a little above the worst.
    worst = Combination("worst", weights).value(values)
    assert 0.3 < worst <= 0.3 * 3 ** (1 / WORST_POWER)
    assert Combination("worst", (1.0, 1.0, 1.0)).value(np.full(3, 0.2)) == pytest.approx(
        0.2 * 3 ** (1 / WORST_POWER)
    )
    for kind in get_args(Kind):
        assert Combination(kind, weights).value(np.zeros(3)) == 0.0
        assert Combination(kind, weights).slopes(np.zeros(3)) == pytest.approx(np.zeros(3))


def test_no_change_means_no_distortion():
    objective = DistortionObjective(build_problem(cloak(8)), TIGHT)
    reference = objective.reduction.elements(objective.problem.reference)
    assert objective.value(reference).total < 1e-8


def test_the_flagship_without_cloak(root):
    """The published 34.3 %: the hole alone, on the 40^3 grid."""
    objective = DistortionObjective(build_problem(load_case(root / "cases" / "cloak.toml")))
    reduction = objective.reduction
    field = np.where(
        reduction.elements(objective.problem.solid)[..., None], objective.problem.reference[0, 0, 0], 0
    )
    assert objective.value(field, rtol=1e-8).total == pytest.approx(0.3431, abs=5e-4)


def test_filter_of_the_reduced_grid_equals_that_of_the_whole():
    problem = build_problem(cloak(12))
    objective_axes = problem.mirror_axes
    design = problem.design
    quarter = design[6:, :, 6:]
    whole = cone_filter(design, 2.5)
    reduced = cone_filter(quarter, 2.5, objective_axes)
    values = np.random.default_rng(0).normal(size=int(quarter.sum()))
    field = np.zeros(quarter.shape)
    field[quarter] = values
    mirrored = np.concatenate([field[::-1], field])
    mirrored = np.concatenate([mirrored[:, :, ::-1], mirrored], axis=2)
    out = np.zeros(design.shape)
    out[design] = whole @ mirrored[design]
    assert reduced @ values == pytest.approx(out[6:, :, 6:][quarter], abs=1e-13)


def test_filter_keeps_constants_and_means_nothing_up_to_radius_one():
    design = np.ones((4, 5, 6), bool)
    assert cone_filter(design, 3.0) @ np.ones(120) == pytest.approx(np.ones(120))
    for radius in (0.0, 0.5, 1.0):
        assert (cone_filter(design, radius) - np.eye(120)).max() == 0.0


def space(seed=0):
    design = np.zeros((4, 4, 3), bool)
    design[1:, :3] = True
    lower, upper = 0.05 * SCALE, 0.8 * SCALE
    return DesignSpace(design, np.zeros((4, 4, 3, 3)), cone_filter(design, 2.0, (0,)), lower, upper)


def test_gradient_through_the_filter():
    s = space()
    rng = np.random.default_rng(0)
    x, weights = rng.uniform(size=(s.size, 3)), rng.normal(size=(s.size, 3))
    assert check_gradient(lambda v: np.sum(weights * s.forward(v)), x, s.backward(weights)).error < 1e-6
    assert s.variables(s.forward(np.full((s.size, 3), 0.3))) == pytest.approx(np.full((s.size, 3), 0.3))


def test_gradient_of_the_feasibility_aggregate():
    s, gamut = space(), Ellipsoid()
    x = np.random.default_rng(2).uniform(size=(s.size, 3))
    constraint = FeasibilityConstraint(gamut, 0.01, 40.0)
    value, gradient = constraint.value_and_gradient(s.forward(x))
    # Between the mean and the largest violation, and near the largest one if sharp.
    violation = 0.01 - gamut.phi(s.forward(x))
    assert violation.mean() < value < violation.max()
    sharp = FeasibilityConstraint(gamut, 0.01, 1e4).value(s.forward(x))
    assert sharp == pytest.approx(float(violation.max()), abs=1.01 * np.log(len(x)) / 1e4)
    assert check_gradient(lambda v: constraint.value(s.forward(v)), x, s.backward(gradient)).error < 1e-6


def test_gradient_of_the_feasibility_penalty():
    s, gamut = space(), Ellipsoid()
    x = np.random.default_rng(2).uniform(size=(s.size, 3))
    penalty = FeasibilityPenalty(gamut, -0.02)
    value, gradient = penalty.value_and_gradient(s.forward(x))
    short = np.maximum(0, -0.02 - gamut.phi(s.forward(x)))
    assert 0 < np.count_nonzero(short) < len(short)
    assert value == pytest.approx(np.sum(short**2) / len(short))
    found = check_gradient(lambda v: penalty.value_and_gradient(s.forward(v))[0], x, s.backward(gradient))
    assert found.error < 1e-6


def test_gradient_through_the_projection():
    s, gamut = space(), Ellipsoid()
    rng = np.random.default_rng(4)
    x, weights = rng.uniform(size=(s.size, 3)), rng.normal(size=(s.size, 3))
    projection = FeasibleProjection(gamut, 0.005)
    raw = s.forward(x)
    projected = projection.forward(raw)
    moved = np.linalg.norm(projected - raw, axis=1) > 1e-9
    assert moved.sum() > 3
    assert gamut.phi(projected).min() > 0.005 - 1e-12
    gradient = s.backward(projection.backward(raw, projected, weights))
    found = check_gradient(
        lambda v: np.sum(weights * projection.forward(s.forward(v))), x, gradient, step=1e-6
    )
    assert found.error < 1e-5
    # The finite difference above is smooth only if no element sits on the gamut's boundary.
    assert np.abs(gamut.phi(raw) - 0.005).min() > 1e-5


def test_warm_projection_equals_the_cold_one():
    """Newton from the last result, then from the gamut's own search."""
    s, gamut = space(), Ellipsoid()
    rng = np.random.default_rng(6)
    x = rng.uniform(size=(s.size, 3))
    projection = FeasibleProjection(gamut, 0.005)
    projection.forward(s.forward(x))
    calls = []
    gamut.project = lambda tensors, margin=0.0: (
        calls.append(len(tensors)) or Ellipsoid().project(tensors, margin)
    )
    for _ in range(3):
        x = np.clip(x + 0.03 * rng.normal(size=x.shape), 0, 1)
        warm = projection.forward(s.forward(x))
        cold = Ellipsoid().project(s.forward(x), 0.005)
        assert np.abs(warm - cold).max() < 1e-7
        assert gamut.phi(warm).min() >= 0.005
    # Newton does most of the work: that is what it is for.
    assert sum(calls) < 0.2 * 3 * s.size
