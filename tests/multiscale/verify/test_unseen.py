"""Loads that a cloak was not designed for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from described import undescribed
from examples import cloak
from run_directories import made_up_run

from multiscale.objective.objective import DistortionObjective
from multiscale.problem.problem import build_problem
from multiscale.report.tables import rows_of, text_of
from multiscale.solve.elasticity import SolverOptions
from multiscale.verify.unseen_loads import far_field_distortions, standard_loads, unseen, unseen_distortions

TIGHT = SolverOptions(rtol=1e-9)


def plain(problem):
    """The hole alone, in the reference material."""
    return np.where(problem.solid[..., None], problem.reference, 0.0)


def test_the_standard_set_holds_the_cases_own_load():
    """Held at y = 0 and sheared along x: the case's load, whose distortion is known independently."""
    problem = build_problem(cloak(8))
    found = unseen_distortions(problem, {"lattice": plain(problem)}, TIGHT)
    assert len(found) == 9
    objective = DistortionObjective(problem, TIGHT)
    own = objective.value(objective.reduction.elements(plain(problem))).total
    assert found["shear_yx"]["lattice"] == pytest.approx(own, rel=1e-6)
    # The cylinder's axis is z: x and y are alike, seen from either side.
    assert found["tension_x"]["lattice"] == pytest.approx(found["tension_y"]["lattice"], rel=1e-6)
    assert found["shear_xy"]["lattice"] == pytest.approx(own, rel=1e-6)
    # Along its axis a hole through the block disturbs least.
    assert found["tension_z"]["lattice"] == min(f["lattice"] for f in found.values())


def test_no_hole_no_distortion_and_mirrors_change_nothing():
    problem = build_problem(cloak(8))
    whole = {"lattice": plain(build_problem(cloak(8, mirror=[])))}
    halves = unseen_distortions(problem, whole, TIGHT)
    full = unseen_distortions(build_problem(cloak(8, mirror=[])), whole, TIGHT)
    for load, values in full.items():
        assert halves[load]["lattice"] == pytest.approx(values["lattice"], rel=1e-5)
    filled = unseen_distortions(problem, {"lattice": np.array(problem.reference)}, TIGHT)
    assert max(f["lattice"] for f in filled.values()) < 1e-6


def test_the_loads_pull_with_the_same_force():
    problem = build_problem(cloak(8))
    for axis in range(3):
        for component, load in enumerate(standard_loads(problem, axis)):
            assert load.force.sum(axis=(0, 1, 2)) == pytest.approx(
                1e-3 * 64 * np.eye(3)[component], rel=0.15, abs=1e-12
            )


def test_a_plate_of_two_layers_has_all_moments():
    """What grows across two layers is +- one half: still a basis."""
    case = cloak(8)
    flat = case.model_copy(update={"grid": case.grid.model_copy(update={"elements": (8, 8, 2)})})
    problem = build_problem(flat)
    found = far_field_distortions(flat, problem, {"void": plain(problem)}, TIGHT).distortions
    assert len(found) == 17
    assert found["any_far_field"]["void"] >= found["any_stress"]["void"]


def test_it_goes_into_the_metrics(tmp_path):
    case = cloak(8).model_dump(mode="json", exclude_none=True)
    path = made_up_run(tmp_path / "run", case)
    unseen(path)
    metrics = json.loads((path / "metrics.json").read_text())
    assert set(metrics["unseen"]["tension_x"]) == {"void", "design", "lattice"}
    stresses = {k: v["lattice"] for k, v in metrics["unseen"].items() if k.startswith("stress_")}
    assert len(stresses) == 6
    # The worst of all combinations is no better than the worst of the six, of more loads no better than that.
    any_stress, far = (metrics["unseen"][key]["lattice"] for key in ("any_stress", "any_far_field"))
    assert any_stress >= max(stresses.values()) * (1 - 1e-12)
    moments = {k: v["lattice"] for k, v in metrics["unseen"].items() if k.startswith(("bending", "twist"))}
    assert len(moments) == 9
    assert far >= max(any_stress, *moments.values()) * (1 - 1e-12)
    assert set(metrics["unseen_worst"]["any_stress"]["lattice"]) <= set(stresses)
    assert set(metrics["unseen_worst"]["any_far_field"]["void"]) <= {*stresses, *moments}
    # The worst for the hole in a uniform block is a shear xy, off by as much as the other measures say.
    assert metrics["unseen_measures"]["any_stress"]["void"]["energy_mismatch"] > 0.1
    rows = {row.label: text_of(row, metrics) for row in rows_of([metrics])}
    assert "stress" in rows["any_stress, without a cloak: which"]
    assert rows["any_far_field, strain deviation, as built"].endswith("%")
    assert metrics["distortion"]["design"] == 0.02
    assert not undescribed(metrics)
