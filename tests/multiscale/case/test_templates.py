"""Templates are cases that can be run; the command leaves files alone."""

from __future__ import annotations

import pytest

from micro.runtime.errors import InputError
from multiscale.case.case import load_case
from multiscale.case.templates import describe, new_case
from multiscale.problem.problem import Role, build_problem


@pytest.mark.parametrize("template", sorted(describe()))
def test_a_template_is_a_case_with_something_to_design(template, tmp_path):
    file = new_case("mine", template, tmp_path / "mine.toml")
    case = load_case(file)
    assert case.name == "mine"
    problem = build_problem(case)
    assert (problem.role == Role.DESIGN).any()
    # The hole is closed in by the design: nothing observed touches it.
    hole = problem.role == Role.VOID
    for axis in range(3):
        lower, upper = ([slice(None)] * 3 for _ in range(2))
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        for a, b in ((lower, upper), (upper, lower)):
            assert not (hole[tuple(a)] & problem.observed[tuple(b)]).any()
    # A comment for every table says what it is for.
    text = file.read_text(encoding="utf-8")
    assert "#" in text.split("[grid]")[1].split("[base_material]")[0]
    assert "NAME" not in text


def test_the_command(run_cli, tmp_path):
    done = run_cli("multiscale", "new", "first", "--template", "sphere")
    assert done.returncode == 0, done.stderr
    assert load_case(tmp_path / "first.toml").name == "first"
    listed = run_cli("multiscale", "new", "--list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == sorted(describe())


def test_refusals(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("mine")
    with pytest.raises(InputError, match="left alone"):
        new_case("a", out=file)
    assert file.read_text() == "mine"
    with pytest.raises(InputError, match="must be one of bracket, cloak"):
        new_case("a", "bridge", tmp_path / "b.toml")
    with pytest.raises(InputError, match="a letter"):
        new_case("3d", out=tmp_path / "b.toml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.toml"]
