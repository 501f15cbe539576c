"""The model of cost: near its measurements, linear in what it should be, and one place for it."""

import pytest
from small_cases import small

from multiscale.objective.purpose import make_objective
from multiscale.problem import size as cost
from multiscale.problem.problem import build_problem
from multiscale.problem.size import sizes
from multiscale.solve.voxels.multigrid import FACTOR_BYTES
from multiscale.solve.voxels.regions import UNEVEN


def test_the_model_is_near_its_measurements():
    """Times to a fifth (iterations differ between grids), memory to a tenth."""
    data = cost.constants()
    for m in data["macro"]["measured"]:
        ranks = m.get("ranks", 1)
        if "seconds" in m:
            assert cost.evaluation_seconds(m["unknowns"], 1, ranks) == pytest.approx(m["seconds"], rel=0.2)
        if "bytes" in m:
            assert cost.macro_bytes(m["unknowns"], ranks) == pytest.approx(m["bytes"], rel=0.1)
    for m in data["full_scale"]["measured"]:
        said = cost.full_scale_cost(m["voxels"], m["iterations"], 1).seconds
        assert said == pytest.approx(m["seconds"], rel=0.1)
    for m in data["full_scale"]["measured_bytes"]:
        # Announced before it is taken: never too little, and not much too much.
        assert 0.98 < cost.full_scale_bytes(m["voxels"]) / m["bytes"] < 1.3
    full = data["full_scale"]
    assert full["bytes_per_voxel"] >= full["bytes_of_fields"] + UNEVEN * FACTOR_BYTES
    for m in data["fill"]["measured"]:
        assert cost.fill_seconds(m["groups"]) == pytest.approx(m["seconds"], rel=0.2)


@pytest.mark.parametrize(("name", "count"), [("cloak", 1), ("cloak_three_loads", 3), ("cloak_any_load", 4)])
def test_loads_of_other_parities_take_memory_of_their_own(name, count):
    """Supports and parities of the loads say how many matrices there are; as many as the objective has."""
    case = small(name, 5)
    problem = build_problem(case)
    assert cost.operators(problem) == count == len(make_objective(case, problem).groups)
    one = cost.macro_bytes(cost.unknowns(problem.solved_shape))
    assert sizes(problem)["memory_bytes"] - one == pytest.approx(
        (count - 1) * (one - cost.macro_bytes(0)), abs=1
    )


def test_what_a_case_costs():
    case = small("cloak", 5)
    problem = build_problem(case)
    found = cost.predict(case, problem)
    assert found["evaluation"].bytes == pytest.approx(sizes(problem)["memory_bytes"], abs=1)
    evaluations = case.optimizer.uniform_iterations + case.optimizer.stages * case.optimizer.iterations
    assert found["design"].seconds == pytest.approx(evaluations * found["evaluation"].seconds)
    assert "full_scale" not in found
    both = cost.predict(case, problem, ranks=2)
    assert found["evaluation"].seconds / both["evaluation"].seconds == pytest.approx(1.83, abs=0.05)
    full = case.full_scale.model_copy(update={"voxels_per_cell": 8})
    voxels = 8**3 * int(sizes(problem)["elements"] / 2 ** len(problem.mirror_axes))
    seen = cost.predict(case.model_copy(update={"full_scale": full}), problem)["full_scale"]
    assert seen.bytes == cost.full_scale_bytes(voxels)
    # The reference, the void and the lattice.
    assert seen.seconds == pytest.approx(cost.full_scale_cost(voxels, 22, 3).seconds)
