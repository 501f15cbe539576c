"""``multiscale check``, and what the command answers to mistakes."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from examples import MINIMAL, case_of, varied
from typer.testing import CliRunner

from micro.runtime.errors import InputError, NotConverged
from multiscale.case.case import load_case
from multiscale.cli import main as cli, shell
from multiscale.cli.check import _grid_table, _load_table, sizes
from multiscale.figures.problem_sheet import draw_problem
from multiscale.problem.problem import build_problem

RING = 'shape = { type = "box", min = [1, 1, 0], max = [5, 3, 4] }'
HOLE = 'shape = { type = "box", min = [2, 1, 0], max = [4, 3, 4] }'
FIXED = 'fixed = [{ where = "y-" }]'
TRACTION = 'tractions = [{ where = "y+", vector_mpa = [0, 1, 0] }]'
SOFT = "tensor = [0.3, 0.1, 0.09]"
SECOND_LOAD = f'[[loads]]\nname = "pull"\n{FIXED}\n{TRACTION}\n\n[objective]'

# (what is wrong, the text, the key that is named, words of the reason)
MISTAKES = [
    ("unknown section", MINIMAL + "\n[optimiser]\nstages = 1\n", "optimiser", "did you mean 'optimizer'"),
    ("unknown key", varied(("cell_size_mm", "cellsize_mm")),
     "grid.cellsize_mm", "did you mean 'cell_size_mm'"),
    ("unknown key far from all", varied(("cell_size_mm", "qqq")),
     "grid.qqq", "Allowed: elements, cell_size_mm"),
    ("unknown key of a shape", varied((RING, RING.replace("min", "mim"))), "regions[1].shape.mim", "'min'"),
    ("missing section", varied(("[base_material]\nyoung_modulus_mpa = 1000.0\n", "")),
     "base_material", "missing"),
    ("missing key", varied(("young_modulus_mpa = 1000.0", "")), "base_material.young_modulus_mpa", "missing"),
    ("a word for a number", varied(("cell_size_mm = 2.0", 'cell_size_mm = "two"')),
     "grid.cell_size_mm", "number"),
    ("a number for a table", varied(("[case]", "case = 3\n[x]")), "x", "unknown key"),
    ("not a table", varied(('[case]\nname = "tiny"\n', "case = 3\n")), "case", "must be a table"),
    ("negative cell size", varied(("cell_size_mm = 2.0", "cell_size_mm = -2.0")),
     "grid.cell_size_mm", "than 0"),
    ("infinite modulus", varied(("= 1000.0", "= inf")), "base_material.young_modulus_mpa", "finite"),
    ("no elements", varied(("[6, 4, 4]", "[6, 0, 4]")), "grid.elements[1]", "greater than or equal to 1"),
    ("half an element", varied(("[6, 4, 4]", "[6, 4.5, 4]")), "grid.elements[1]", "whole number"),
    ("two-dimensional grid", varied(("[6, 4, 4]", "[6, 4]")), "grid.elements", "a list of 3, not of 2"),
    ("too many elements", varied(("[6, 4, 4]", "[6000, 4000, 4000]")), "grid.elements", "at most"),
    ("mirror misspelt", varied(("cell_size_mm = 2.0", 'mirror = "x"')), "grid.mirror", "'auto' or a list"),
    ("no mirror plane", varied(("cell_size_mm = 2.0", 'mirror = ["y"]')), "grid.mirror", "no mirror plane"),
    ("nu of a fluid", varied(("= 1000.0", "= 1000.0\npoisson = 0.5")),
     "base_material.poisson", "less than 0.5"),
    ("nu of a material", varied(("poisson = 0.25", "poisson = -1")),
     "materials.iso.poisson", "greater than -1"),
    ("unstable C12", varied((SOFT, "tensor = [0.1, 0.3, 0.09]")),
     "materials.soft.tensor", "positive definite"),
    ("unstable bulk", varied((SOFT, "tensor = [0.3, -0.2, 0.09]")),
     "materials.soft.tensor", "C11 + 2 C12 > 0"),
    ("unstable C44", varied((SOFT, "tensor = [0.3, 0.1, 0]")), "materials.soft.tensor", "C44 > 0"),
    ("two constants", varied((SOFT, "tensor = [0.3, 0.1]")), "materials.soft.tensor", "3, not of 2"),
    ("half isotropic", varied(("poisson = 0.25", "")), "materials.iso.poisson", "needs"),
    ("both ways", varied((SOFT, SOFT + "\npoisson = 0.2")), "materials.soft.tensor", "either"),
    ("material named solid", varied(("materials.iso", "materials.solid")), "materials.solid", "taken"),
    ("unknown material", varied(('material = "soft"', 'material = "sfot"')), "regions[0].material", "'soft'"),
    ("unknown reference", varied(('reference = "soft"', 'reference = "x"')),
     "objective.reference", "soft, iso"),
    ("unknown initial", varied((RING, RING + '\ninitial = "isso"')), "regions[1].initial", "mean 'iso'"),
    ("fixed without material", varied(('material = "soft"\n', "")),
     "regions[0].material", "needs a material"),
    ("void with material", varied((HOLE, HOLE + '\nmaterial = "soft"')), "regions[2].material", "takes no"),
    ("fixed with initial", varied(('= "soft"\n', '= "soft"\ninitial = "iso"\n')),
     "regions[0].initial", "only a"),
    ("unknown role", varied(('role = "void"', 'role = "hole"')),
     "regions[2].role", "'void', 'design' or 'fixed'"),
    ("unknown shape", varied((HOLE, 'shape = { type = "box2" }')), "regions[2].shape", "did you mean 'box'"),
    ("shape without type", varied((HOLE, "shape = { radius = 1 }")), "regions[2].shape", "'type'"),
    ("radius 0", varied((HOLE, 'shape = { type = "sphere", center = [3, 2, 2], radius = 0 }')),
     "regions[2].shape.radius", "greater than 0"),
    ("box inside out", varied((HOLE, 'shape = { type = "box", min = [4, 1, 0], max = [2, 3, 4] }')),
     "regions[2].shape", "above max along x"),
    ("outside the grid", varied((HOLE, 'shape = { type = "sphere", center = [30, 2, 2], radius = 1 }')),
     "regions[2].shape", "catches no element"),
    ("region painted over", varied((HOLE, 'shape = { type = "box", min = [1, 1, 0], max = [5, 3, 4] }')),
     "regions[1].shape", "cover this one"),
    ("elements left over",
     varied(('{ type = "all" }', '{ type = "box", min = [0, 0, 0], max = [3, 4, 4] }')),
     "regions", "belong to no region"),
    ("region named twice", varied(('name = "hole"', 'name = "ring"')), "regions[2].name", "twice"),
    ("bad name", varied(('name = "hole"', 'name = "a hole"')), "regions[2].name", "a letter, then letters"),
    ("no design region", varied(('role = "design"', 'role = "void"')), "regions", "design"),
    ("observed region unknown", varied(('["block"]', '["blocks"]')), "objective.observe[0]", "mean 'block'"),
    ("observed void", varied(('["block"]', '["hole"]')), "objective.observe[0]", "no nodes to observe"),
    ("nothing observed", varied(('["block"]', "[]")), "objective.observe", "at least 1"),
    ("unknown objective", varied(("[objective]", '[objective]\ntype = "mass"')), "objective.type", "unknown"),
    ("load named twice", varied(("[objective]", SECOND_LOAD)), "loads[1].name", "twice"),
    ("no load", varied((f'[[loads]]\nname = "pull"\n{FIXED}\n{TRACTION}\n', "")), "loads", "needs at least"),
    ("load that does nothing", varied((TRACTION, "")), "loads[0].tractions", "does nothing"),
    ("zero traction", varied(("[0, 1, 0]", "[0, 0, 0]")), "loads[0].tractions[0].vector_mpa", "zero"),
    ("negative weight", varied((FIXED, FIXED + "\nweight = -1")), "loads[0].weight", "greater than 0"),
    ("no support", varied((FIXED, "")), "loads[0].fixed", "there are no supports"),
    ("too little support", varied((FIXED, 'fixed = [{ where = "y-", components = "y" }]')), "loads[0].fixed",
     "3 of 6 rigid-body motions"),
    ("unknown face", varied(('where = "y-"', 'where = "bottom"')), "loads[0].fixed[0].where", "x-, x+, y-"),
    ("unknown component", varied(('where = "y-"', 'where = "y-", components = "yx"')),
     "loads[0].fixed[0].components", "'xyz'"),
    ("support in empty space", varied(('where = "y-"', 'where = { within = { type = "sphere", '
     'center = [50, 0, 0], radius = 1 } }')), "loads[0].fixed[0].where", "no node"),
    ("traction on void only", varied(("min = [2, 1, 0], max = [4, 3, 4]", "min = [2, 1, 0], max = [4, 4, 4]"),
     ('where = "y+"',
      'where = { face = "y+", within = { type = "box", min = [2, 4, 0], max = [4, 4, 4] } }')),
     "loads[0].tractions[0].where", "only void"),
    ("traction without face", varied(('where = "y+"', 'where = { within = { type = "all" } }')),
     "loads[0].tractions[0].where.face", "give one"),
    ("contradicting displacements", varied((TRACTION, 'displacements = [{ where = "x+", x_mm = 1 }]')),
     "loads[0].displacements[0]", "another value"),
    ("empty displacement", varied((TRACTION, TRACTION + '\ndisplacements = [{ where = "y+" }]')),
     "loads[0].displacements[0].x_mm", "at least one"),
    ("unknown algorithm", MINIMAL + '\n[optimizer]\nalgorithm = "adam"\n', "optimizer.algorithm", "'mma'"),
    ("zero stages", MINIMAL + "\n[optimizer]\nstages = 0\n",
     "optimizer.stages", "greater than or equal to 1"),
    ("levels as a word", MINIMAL + '\n[solver]\nlevels = "many"\n',
     "solver.levels", "'auto' or a whole number"),
    ("tolerance above 1", MINIMAL + "\n[solver]\nrtol_forward = 2\n", "solver.rtol_forward", "less than 1"),
    ("missing gamut file", MINIMAL + '\n[gamut]\nsource = "no.gamut"\n',
     "gamut.source", "a path that exists"),
    ("STL box outside", MINIMAL + "\n[export]\nstl_box = [[0, 0, 0], [7, 1, 1]]\n",
     "export.stl_box", "beyond"),
    ("empty STL box", MINIMAL + "\n[export]\nstl_box = [[1, 0, 0], [1, 1, 1]]\n",
     "export.stl_box", "low < high"),
]  # fmt: skip


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(("text", "key", "words"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_answered_by_one_line(tmp_path, monkeypatch, text, key, words):
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text(text, encoding="utf-8")
    code, stdout, stderr = invoke("check", "bad.toml", "--out", "drawing")
    assert code == 2
    assert stdout == ""
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith(f"error: bad.toml: {key}: "), stderr
    assert words in stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad.toml"], "nothing may be written"


def test_a_valid_case_is_the_base_of_all_mistakes():
    build_problem(case_of(MINIMAL))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[case]\nname = "a\n', "line 2"),
        (b"[case\n", "line 1"),
        (b'[case]\nname = "a"\nname = "b"\n', "line 3"),
        (b"\xff\xfe\x00case", "UTF-8"),
        (b"", "required and missing"),
    ],
)
def test_files_that_are_no_case(tmp_path, content, words):
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    code, _, stderr = invoke("check", file, "--out", tmp_path / "drawing")
    assert code == 2
    assert stderr.startswith(f"error: {file}: ")
    assert stderr.count("\n") == 1
    assert words in stderr
    assert not (tmp_path / "drawing").exists()


def test_a_file_that_is_missing_and_a_directory(tmp_path):
    assert invoke("check", tmp_path / "no.toml")[::2] == (
        2,
        f"error: {tmp_path}/no.toml: there is no such file\n",
    )
    code, _, stderr = invoke("check", tmp_path)
    assert code == 2
    assert "directory" in stderr


def test_out_that_is_a_file(tmp_path):
    case = tmp_path / "tiny.toml"
    case.write_text(MINIMAL)
    code, _, stderr = invoke("check", case, "--out", case)
    assert code == 2
    assert stderr.count("\n") == 1
    assert case.read_text() == MINIMAL


# ------------------------------------------------------------------ a good case
def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_check_as_a_user_runs_it(run_cli, tmp_path, root):
    done = run_cli("multiscale", "check", root / "cases" / "cloak_small.toml", "--out", "drawing")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    width, height = png_size(tmp_path / "drawing" / "problem.png")
    assert width > 1000
    assert height > 300
    for words in ("20 x 20 x 20 elements", "x = 10, z = 10", "10 x 20 x 10", "7,623 (full grid: 27,783)",
                  "surroundings", "2,160", "odd / - / even", "40000 0 0"):  # fmt: skip
        assert words in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drawing"]


def test_check_without_out_names_its_directory_after_the_case(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("multiscale.figures.problem_sheet.views", lambda problem, colours: ([], "of a test"))
    Path("a.toml").write_text(MINIMAL)
    code, stdout, _ = invoke("check", "a.toml")
    assert code == 0
    assert Path("check-tiny/problem.png").exists()
    assert "sections only, because of a test" in " ".join(stdout.split()), "a missing view is said"


def test_sizes_of_the_cloak(root):
    count = sizes(build_problem(load_case(root / "cases" / "cloak.toml")))
    assert count["unknowns_full"] == 206_763
    assert count["unknowns"] == 3 * 21 * 41 * 21
    assert (count["void"], count["design"], count["fixed"]) == (5600, 16640, 41760)
    assert 1e8 < count["memory_bytes"] < 1e9


@pytest.mark.parametrize(("name", "observes"), [("cloak_small", True), ("cantilever", False)])
def test_observed_nodes_are_named_where_there_are_any(root, name, observes):
    table = _grid_table(build_problem(load_case(root / f"cases/{name}.toml")), 1.0)
    assert ("observed" in list(table.columns[0].cells)) is observes


def test_a_load_that_nothing_holds_says_so(root):
    """Its resultant is zero, not the rounding of a sum."""
    problem = build_problem(load_case(root / "cases" / "cloak_any_load_sphere.toml"))
    rows = list(zip(*(column._cells for column in _load_table(problem).columns), strict=True))
    assert len(rows) == 6
    for name, _, held, force, _, _ in rows:
        assert name.startswith("stress_")
        assert (held, force) == ("balanced", "0 0 0")


def test_drawing_of_several_loads_shows_what_is_there(tmp_path, monkeypatch):
    """Arrows, hatches and colours reach the picture: each load's row carries its own colour."""
    import matplotlib.image

    monkeypatch.setattr("multiscale.figures.problem_sheet.views", lambda problem, colours: ([], "test"))
    moved = (
        f'[[loads]]\nname = "move"\n{FIXED}\ndisplacements = [{{ where = "y+", x_mm = 1 }}]\n\n[objective]'
    )
    problem = build_problem(case_of(varied(("[objective]", moved))))
    assert draw_problem(problem, tmp_path / "a.png") == "because test"
    image = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    upper, lower = image[: len(image) // 2], image[len(image) // 2 : int(0.9 * len(image))]

    def share(part: np.ndarray, colour: str) -> float:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return float((np.abs(part - rgb).max(axis=-1) < 0.03).mean())

    force, move, design = "#d1373f", "#e08a1e", "#2f7fb5"
    assert share(upper, force) > 1e-4 > share(upper, move)
    assert share(lower, move) > 1e-4 > share(lower, force)
    assert share(upper, design) > 0.02


# ------------------------------------------------------------------ the frame
def test_check_needs_neither_petsc_nor_torch(tmp_path, root):
    """What `check` imports, and `--help` all the more, so that both start at once."""
    script = (
        "import sys, multiscale.cli.main, multiscale.cli.check, multiscale.figures.problem_sheet\n"
        "heavy = {'petsc4py', 'mpi4py', 'torch', 'pyvista', 'nlopt', 'zarr'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["check", "schema", "run", "evaluate", "export", "doctor"])
def test_every_command_explains_itself(command):
    code, stdout, _ = invoke(command, "--help")
    assert code == 0
    assert len(stdout) > 200


def test_schema_command(tmp_path, root):
    printed = invoke("schema")[1]  # numbers are written 0 or 0.0, as the release of pydantic has it
    assert json.loads(printed) == json.loads((root / "docs" / "case.schema.json").read_text(encoding="utf-8"))
    assert invoke("schema", "--out", tmp_path / "s.json")[0] == 0
    assert (tmp_path / "s.json").read_text(encoding="utf-8") == printed


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            InputError("too big", file="f.toml", key="a.b", value=3),
            2,
            "error: f.toml: a.b: too big (got 3)\n",
        ),
        (NotConverged("300 iterations:\ntry gamg"), 3, "error: 300 iterations: try gamg\n"),
        (
            KeyboardInterrupt(),
            130,
            "multiscale run: interrupted; the same command goes on where it stopped\n",
        ),
    ],
)
def test_errors_become_a_line_and_an_exit_code(capsys, error, code, line):
    import typer

    with pytest.raises(typer.Exit) as caught, shell.reporting(lambda: "multiscale run"):
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == line


def test_under_mpi_only_the_first_rank_talks(capsys, monkeypatch):
    import typer

    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    with pytest.raises(typer.Exit), shell.reporting(lambda: "multiscale run"):
        raise InputError("wrong")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with pytest.raises(typer.Exit), shell.reporting(lambda: "multiscale run"):
        raise InputError("wrong")
    assert capsys.readouterr().err == "error: wrong\n"
