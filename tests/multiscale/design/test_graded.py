"""Graded parts: compliance under a mass limit, target displacements, the best uniform cell."""

from __future__ import annotations

import numpy as np
import pytest
from examples import Ellipsoid

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.tensor import SCALE
from micro.data.packaged import load_least_volume
from micro.runtime.errors import InputError
from micro.runtime.gradient_check import check_gradient
from multiscale.case.case import parse_case
from multiscale.design.filter import cone_filter
from multiscale.design.mass import MassLimit
from multiscale.design.optimize import Optimiser, Settings
from multiscale.design.space import DesignSpace
from multiscale.design.uniform import best_uniform
from multiscale.objective.compliance import ComplianceObjective
from multiscale.objective.target import TargetObjective
from multiscale.problem.problem import build_problem
from multiscale.solve.elasticity import SolverOptions

TIGHT = SolverOptions(rtol=1e-12)


def beam(objective, elements=(8, 4, 4), mirror="auto", **load):
    """A block held at x = 0 and loaded at its other end, all of it design."""
    load = load or {"tractions": [{"where": "x+", "vector_mpa": [0.0, -0.1, 0.0]}]}
    return parse_case(
        {
            "case": {"name": "beam"},
            "grid": {"elements": list(elements), "cell_size_mm": 2.0, "mirror": mirror},
            "base_material": {"young_modulus_mpa": 1000.0},
            "regions": [{"name": "all", "role": "design", "shape": {"type": "all"}}],
            "loads": [{"name": "end", "fixed": [{"where": "x-"}], **load}],
            "objective": objective,
        }
    )


STIFF = {"type": "compliance", "mass_limit": 0.4}


def random_field(objective, seed=0):
    rng = np.random.default_rng(seed)
    shape = objective.reduction.shape
    return tensor.from_moduli(rng.uniform(0.2, 0.6, (*shape, 3)) * SCALE)


def assert_gradient(objective):
    field = random_field(objective)
    _, gradient = objective.value_and_gradient(field)
    # Central differences of a smooth function: error h^2 against solves to 1e-12 / h.
    assert check_gradient(lambda f: objective.value(f).total, field, gradient, step=3e-6).error < 1e-6


def test_gradient_of_the_compliance():
    assert_gradient(ComplianceObjective(build_problem(beam(STIFF)), TIGHT))


def test_compliance_of_a_bar_in_tension():
    """Free to contract, a bar of modulus E under stress s stores c = s^2 V / E, in N mm."""
    case = beam(
        STIFF,
        fixed=[
            {"where": "x-", "components": "x"},
            {
                "where": {"face": "x-", "within": {"type": "box", "min": [0, 2, 0], "max": [0, 2, 4]}},
                "components": "y",
            },
            {
                "where": {"face": "x-", "within": {"type": "box", "min": [0, 0, 2], "max": [0, 4, 2]}},
                "components": "z",
            },
        ],
        tractions=[{"where": "x+", "vector_mpa": [2.0, 0.0, 0.0]}],
    )
    problem = build_problem(case)
    assert problem.mirror_axes == (1, 2)
    C = tensor.isotropic(0.25, 0.3)
    for axes in (None, ()):  # a quarter and the whole have the same work
        objective = ComplianceObjective(problem, TIGHT, axes=axes)
        field = np.broadcast_to(C, (*objective.reduction.shape, 3))
        volume = 8 * 4 * 4 * 2.0**3
        assert objective.value(field).total == pytest.approx(2.0**2 * volume / 250.0, rel=1e-9)


def test_the_refined_mesh_is_softer():
    """Displacement elements are too stiff; splitting them approaches the true compliance from below."""
    case = beam(STIFF)
    values = []
    for refine in (1, 2):
        objective = ComplianceObjective(build_problem(case, refine=refine), TIGHT)
        field = np.broadcast_to(tensor.isotropic(0.3, 0.3), (*objective.reduction.shape, 3))
        values.append(objective.value(field).total)
    assert values[0] < values[1] < 1.2 * values[0]


def test_the_mass_limit_and_its_gradient():
    limit = MassLimit(load_least_volume(), 0.4)
    C = tensor.from_scaled_moduli(np.random.default_rng(0).uniform(0.15, 0.5, (12, 3)))
    value, gradient = limit.value_and_gradient(C)
    assert value == pytest.approx(limit.density(C) / 0.4 - 1)
    found = check_gradient(lambda C: limit.density(C) / 0.4, C, gradient, step=1e-5)
    assert found.error < 1e-4


class Proportional:
    """v = the mean of the scaled moduli: Voigt's bound."""

    def evaluate(self, tensors):
        slope = (tensor.moduli_jacobian() / SCALE[:, None]).mean(axis=0)
        return tensors @ slope, np.broadcast_to(slope, tensors.shape)


def test_a_graded_beam_is_stiffer_than_the_uniform_one_it_started_from():
    objective = ComplianceObjective(build_problem(beam(STIFF, (12, 6, 4))), SolverOptions(rtol=1e-8))
    reduction = objective.reduction
    design = reduction.elements(objective.problem.design)
    background = np.zeros((*reduction.shape, 3))
    matrix = cone_filter(design, 1.5, reduction.axes)
    space = DesignSpace(design, background, matrix, 0.05 * SCALE, 0.8 * SCALE)
    limit = MassLimit(Proportional(), 0.3)
    settings = Settings("mma", uniform_evaluations=8, stages=1, evaluations=25)
    optimiser = Optimiser(objective, space, Ellipsoid(), settings, limit=limit)
    start = np.broadcast_to(tensor.from_scaled_moduli([0.5, 0.5, 0.4]), (space.size, 3))
    state = optimiser.initial_state(start)
    # Too heavy a start is softened until it is light enough.
    assert limit.density(space.forward(state.x)) <= 0.3
    state = optimiser.run(state)
    assert state.best is not None
    assert limit.density(state.best) <= 0.3 * (1 + 2e-3)
    uniform = min(r["compliance"] for r in state.records if r["stage"] == 0 and r["density"] <= 0.3006)
    assert state.best_value < 0.93 * uniform
    # Matter goes to the flanges at the clamped end, away from the axis at the tip.
    field = space.field(state.best)[..., 0]
    root, tip = field[0, -1].mean(), field[-1, 0].mean()
    assert root > 1.5 * tip


def test_the_best_uniform_cell_is_the_best_of_all():
    rng = np.random.default_rng(3)
    count = 60
    volume = rng.uniform(0.2, 0.6, count)
    C = tensor.from_scaled_moduli(volume[:, None] * rng.uniform(0.3, 0.9, (count, 3)))
    # Octants only to make a set: the volumes that count are given.
    octants = np.ones((count, 4, 4, 4), dtype=bool)
    cells = CellSet.from_octants(octants, C, family=["made up"] * count)
    cells = CellSet(cells.n, cells.packed, C, volume, cells.family, cells.params, {})
    objective = ComplianceObjective(build_problem(beam(STIFF)), TIGHT)
    shape = objective.reduction.shape

    def fill(tensors):
        return np.array(tensors).reshape(*shape, 3)

    design = np.ones(shape, dtype=bool)
    found = best_uniform(objective, cells, 0.45, fill, design, rtol=1e-10)
    light = np.flatnonzero(volume <= 0.45)
    values = [objective.value(np.broadcast_to(C[i], (*shape, 3))).total for i in light]
    assert found.row == light[int(np.argmin(values))]
    assert found.value.total == pytest.approx(min(values))
    assert found.solved < len(light) / 2
    with pytest.raises(InputError, match="that light"):
        best_uniform(objective, cells, 0.1, fill, design)


# --------------------------------------------------------------------- targets
def morph(**changes):
    target = {"load": "end", "where": "y+", "along": "x", "at": [0, 4, 8], "y_mm": [0.0, -0.1, -0.3]}
    return {"type": "target_displacement", "targets": [target | changes]}


def test_gradient_of_the_mismatch():
    problem = build_problem(beam(morph()))
    # The target on one face is not mirrored on the other, but the two sides of z are alike.
    assert problem.mirror_axes == (2,)
    assert_gradient(TargetObjective(problem, TIGHT, 1e-11))


def test_a_target_that_is_met_has_no_mismatch():
    """Wanted is what the beam does: of the half model and of the whole, coarse and refined."""
    case = beam(morph())
    problem = build_problem(case)
    target = problem.targets[0]
    assert target.mask[..., 1].sum() == 9 * 5
    assert not target.mask[..., [0, 2]].any()
    # Monotone cubic through the points, in element edges of 2 mm.
    assert target.value[4, -1, 0, 1] == pytest.approx(-0.05)
    assert target.value[8, -1, 0, 1] == pytest.approx(-0.15)
    assert -0.15 < target.value[6, -1, 0, 1] < -0.05
    half, whole = TargetObjective(problem, TIGHT), TargetObjective(problem, TIGHT, axes=())
    field = random_field(half)
    u = half.displacements(field)
    value = half.value_of(u).total
    assert whole.value(half.reduction.expand_elements(field)).total == pytest.approx(value, rel=1e-8)
    fine = build_problem(case, refine=2).targets[0]
    assert fine.mask[..., 1].sum() == 17 * 9
    assert fine.value[16, -1, 0, 1] == pytest.approx(-0.3)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (morph(at=[0, 4, 7]), "reach from 0 to 8"),
        (morph(y_mm=[0.0, 0.0, 0.0]), "zero everywhere"),
        (morph(y_mm=[0.0, 0.1]), "one number or 3"),
        (morph(at=[0, 8, 4]), "ascending"),
        (morph(load="ned"), "did you mean 'end'"),
        ({"type": "target_displacement"}, "at least 1"),
        ({"type": "compliance"}, "mass_limit.* needs it"),
        (STIFF | {"observe": ["all"]}, "means nothing"),
        ({"reference": "solid"}, "observe.* at least 1"),
    ],
)
def test_wrong_objectives_are_refused(objective, message):
    with pytest.raises(InputError, match=message):
        build_problem(beam(objective))


def test_compliance_takes_no_prescribed_displacement():
    with pytest.raises(InputError, match="work of forces"):
        beam(STIFF, displacements=[{"where": "x+", "y_mm": -0.1}])


def test_a_mirror_plane_needs_a_mirrored_target():
    with pytest.raises(InputError, match="not that load's symmetry"):
        build_problem(beam(morph(), mirror=["y"]))


def test_lbfgs_takes_no_mass_limit():
    table = beam(STIFF).model_dump(mode="json", exclude_none=True) | {"optimizer": {"algorithm": "lbfgs"}}
    with pytest.raises(InputError, match="keeps no mass limit") as caught:
        parse_case(table)
    assert caught.value.key == "optimizer.algorithm"
