"""The quadratic model of what tensor errors do: exact where it should be, and better than the slope alone."""

import numpy as np
import pytest

from micro.cell.tensor import PAPER_SPAN
from micro.runtime.gradient_check import check_gradient
from multiscale.case.case import load_case
from multiscale.objective.influence import influence
from multiscale.objective.objective import DistortionObjective
from multiscale.problem.problem import build_problem
from multiscale.solve.elasticity import SolverOptions


@pytest.fixture(scope="module")
def setting(root):
    case = load_case(root / "tests" / "multiscale" / "minimal.toml")
    problem = build_problem(case)
    objective = DistortionObjective(problem, SolverOptions(rtol=1e-10), 1e-9)
    design = objective.reduction.elements(problem.design)
    field = objective.reduction.elements(problem.tensor)
    field[design] *= 1.3
    return objective, field, design, influence(objective, field, design)


def errors(field, design, size, seed):
    rng = np.random.default_rng(seed)
    out = np.zeros_like(field)
    out[design] = size * PAPER_SPAN * rng.standard_normal((int(design.sum()), 3))
    return out


def test_value_and_slope_are_the_objectives(setting):
    objective, field, design, model = setting
    assert model.value(model.amplitudes(field)) == pytest.approx(objective.value(field).total, rel=1e-8)
    change = errors(field, design, 1.0, 1)
    found = check_gradient(
        lambda f: objective.value(f).total,
        field,
        model.sensitivity[0][0],
        step=1e-5 * float(np.abs(change).max()),
        directions=[change],
    )
    # Central differences of 1e-5 and solves to 1e-10 leave about six digits.
    assert found.error < 1e-4


def test_it_is_the_objective_of_linearised_displacements(setting):
    objective, field, design, model = setting
    u, operator = objective.displacements(field)[0], objective.operators[0]
    for seed in range(2, 6):
        change = errors(field, design, 0.01, seed)
        response = operator.solve(-operator.apply(u, change))
        exact = objective.measure(0, u + response)
        predicted = float(model.value(model.amplitudes(field + change)))
        by_slope = objective.measure(0, u) + float((model.sensitivity[0][0] * change).sum())
        # Ten random modes hold all but a small part of what an eleventh error does; the slope holds one.
        assert predicted <= exact * (1 + 1e-6)
        assert exact - predicted < 0.2 * (exact - by_slope)


def test_errors_that_cancel_are_free(setting):
    _, field, design, model = setting
    s = model.sensitivity[0].reshape(len(model.sensitivity[0]), -1)
    change = errors(field, design, 0.01, 3).ravel()
    free = change - np.linalg.pinv(s) @ (s @ change)
    kept = model.value(model.amplitudes(field + free.reshape(field.shape)))
    assert kept == pytest.approx(float(model.value(model.amplitudes(field))), rel=1e-9)
    assert np.abs(free).max() > 1e-3
