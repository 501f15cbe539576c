"""An objective of one module and one registration, `tests/deflection.py`, goes through every command."""

from __future__ import annotations

import io
import json

import deflection
import pytest
from deflection import DeflectionObjective
from examples import case_of, cloak, varied
from rich.console import Console

from micro.runtime.errors import InputError
from micro.runtime.gradient_check import check_gradient
from multiscale.case.case import case_schema, load_case
from multiscale.case.purpose import PURPOSES, register
from multiscale.cli.check import check_case
from multiscale.objective.purpose import make_objective, objective_class
from multiscale.problem.grid import split_elements
from multiscale.problem.problem import build_problem
from multiscale.problem.tensor_field import load_tensors
from multiscale.report.compare import compare_runs
from multiscale.report.page import write_report
from multiscale.run.run import run_case
from multiscale.verify.full_scale import verify

CHANGES = (
    (
        '[objective]\nobserve = ["block"]\nreference = "soft"',
        '[objective]\ntype = "deflection"\nobserve = ["block"]',
    ),
    (
        "[[loads]]",
        """[solver]
rtol_forward = 1e-3

[optimizer]
uniform_iterations = 2
stages = 1
iterations = 3

[filter]
radius = 1.0

[gamut]
source = "library"

[fill]
source = "library"
tolerance = 0.04
candidates = 4
polish = 0

[[loads]]""",
    ),
)


@pytest.fixture(scope="module")
def purpose():
    register(deflection.PURPOSE)
    yield deflection.PURPOSE
    del PURPOSES[deflection.PURPOSE.type]


@pytest.fixture(scope="module")
def run(purpose, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deflection")
    file = folder / "tiny.toml"
    file.write_text(varied(*CHANGES), encoding="utf-8")
    return file, folder / "run", run_case(file, folder / "run")


def test_it_is_asked_for_like_any_other(purpose, tmp_path):
    assert purpose.type in case_schema()["$defs"]["Objective"]["properties"]["type"]["enum"]
    with pytest.raises(InputError, match="means nothing for the objective deflection"):
        case_of(varied(("[objective]\n", '[objective]\ntype = "deflection"\n')))
    with pytest.raises(InputError, match="the work of forces"):
        case_of(varied(*CHANGES, ("tractions", 'displacements = [{ where = "y+", y_mm = 1.0 }]\ntractions')))
    file = tmp_path / "tiny.toml"
    file.write_text(varied(*CHANGES), encoding="utf-8")
    assert check_case(file, tmp_path / "out", Console(file=io.StringIO())).is_file()


def test_the_design_moves_less_than_the_initial_material(run):
    values = run[2]["deflection"]
    assert values["design"] < 0.9 * values["start"]
    assert values["lattice"] == pytest.approx(values["design"], rel=0.1)
    assert values["per_load"]["pull"]["start"] == values["start"]


def test_reported_values_are_solved_to_the_reporting_tolerance(run):
    """The optimisation's own solves, to 1e-3 here, would show in the fourth digit."""
    file, out, metrics = run
    values = metrics["deflection"]
    assert metrics["selection"]["polish"][-1] == pytest.approx(values["lattice"], rel=1e-7)
    case = load_case(file)
    problem = build_problem(case, refine=2)
    design = load_tensors(out / "design.npz", build_problem(case))
    fine = make_objective(case, problem, 1e-11)
    field = fine.reduction.elements(split_elements(design, 2))
    assert values["design_refined"] == pytest.approx(fine.value(field).total, rel=1e-7)


def test_figures_report_and_comparison_name_it(run, tmp_path):
    _, out, metrics = run
    assert (out / "figures" / "deflection.png").is_file()
    text = write_report(out)[1].read_text(encoding="utf-8")
    assert f"{metrics['deflection']['start']:.4g} mm" in text
    assert deflection.PURPOSE.caption in text
    console = Console(file=io.StringIO(), width=200)
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    compare_runs([out, other], None, console)
    assert "with the cells as built" in console.file.getvalue()
    assert "Deflection" in console.file.getvalue()


def test_full_scale_judges_it_by_the_voxels_displacements(run):
    section = verify(run[1], voxels_per_cell=8)
    assert section["deflection"] == pytest.approx(section["deflection_homogenised"], rel=0.35)


def test_an_unknown_objective_is_named_with_those_there_are():
    with pytest.raises(InputError, match=r"objective\.type: unknown objective; did you mean 'compliance'"):
        case_of(varied(("[objective]\n", '[objective]\ntype = "complianse"\n')))


def test_every_purpose_names_a_class_that_measures_its_quantity():
    for purpose in PURPOSES.values():
        assert objective_class(purpose).quantity == purpose.quantity
        assert purpose.baseline.name in purpose.labels
    wrong = type(deflection.PURPOSE)(**{**vars(deflection.PURPOSE), "quantity": "sag"})
    with pytest.raises(TypeError, match="measures sag"):
        objective_class(wrong)


def test_the_case_s_solver_settings_reach_the_objective():
    case = case_of(
        varied(("[objective]", '[solver]\npreconditioner = "gamg"\nrtol_adjoint = 1e-3\n[objective]'))
    )
    objective = make_objective(case, build_problem(case), 1e-8)
    assert objective.options.preconditioner == "gamg"
    assert (objective.options.rtol, objective.adjoint_rtol) == (1e-8, 1e-3)


def test_its_gradient_agrees_with_differences():
    objective = DeflectionObjective(build_problem(cloak(6)), adjoint_rtol=1e-10)
    field = objective.reduction.elements(objective.problem.tensor)
    gradient = objective.value_and_gradient(field)[1]
    found = check_gradient(
        lambda f: objective.value(f, 1e-11).total, field, gradient, step=1e-4, where=field != 0
    )
    assert found.error < 1e-5
