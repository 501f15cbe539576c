"""The run directory: what other commands add to the metrics lasts as long as it holds."""

import json
import os
import subprocess
import sys

import pytest

from micro.runtime.errors import InputError
from micro.runtime.files import write_json
from multiscale.case.case import load_case
from multiscale.rundir import provenance
from multiscale.rundir.directory import RunDirectory, read_case

ADDED = {"verify": {"distortion": 0.1}, "printability": {"mass_g": 1.0}}


@pytest.mark.parametrize(("stage", "kept"), [("export", True), ("evaluate", True), ("fill", False)])
def test_verification_and_printability_last_until_the_lattice_is_made_again(root, tmp_path, stage, kept):
    case = load_case(root / "tests" / "multiscale" / "minimal.toml")
    directory = RunDirectory(tmp_path / "run", case)
    for name in ("design", "fill", "evaluate", "export"):
        directory.finish(name, {name: 1.0}, {name: {"value": 1}})
    file = tmp_path / "run" / "metrics.json"
    write_json(file, json.loads(file.read_text()) | ADDED)
    # A later command does one stage again.
    RunDirectory(tmp_path / "run", case).finish(stage, {stage: 2.0}, {stage: {"value": 2}})
    metrics = json.loads(file.read_text())
    assert metrics[stage] == {"value": 2}
    for key, value in ADDED.items():
        assert metrics.get(key) == (value if kept else None)


def test_a_runs_case_finds_the_files_that_it_names(root, tmp_path):
    case = load_case(root / "cases" / "cloak_stl.toml")  # names an STL file beside it
    RunDirectory(tmp_path / "run", case)
    assert read_case(tmp_path / "run").digest() == case.digest()
    with pytest.raises(InputError, match="not the directory of a run"):
        read_case(tmp_path)


def variant(root, tmp_path, text, name):
    base = (root / "tests" / "multiscale" / "minimal.toml").read_text()
    file = tmp_path / name
    file.write_text(base + text)
    return load_case(file)


def test_another_fill_keeps_the_design(root, tmp_path):
    run = tmp_path / "run"
    first = RunDirectory(run, variant(root, tmp_path, "", "a.toml"))
    for name in ("design", "fill", "evaluate", "export"):
        first.finish(name, {name: 1.0}, {name: {"value": 1}})
    refilled = RunDirectory(run, variant(root, tmp_path, "[fill]\ntolerance = 0.02\n", "b.toml"))
    assert refilled.again == ("fill", "evaluate", "export")
    assert refilled.done("design")
    assert not refilled.done("fill")
    refilled.finish("fill", {"fill": 1.0}, {"fill": {"value": 2}})
    # Killed here: what is done of the new fill stays done, the rest is still to do.
    again = RunDirectory(run, variant(root, tmp_path, "[fill]\ntolerance = 0.02\n", "b.toml"))
    assert again.again == ()
    assert [s for s in ("design", "fill", "evaluate", "export") if again.done(s)] == ["design", "fill"]
    assert again.metrics()["fill"] == {"value": 2}
    with pytest.raises(InputError, match="another case"):
        RunDirectory(run, variant(root, tmp_path, "[filter]\nradius = 3.0\n", "c.toml"))


def test_each_stage_keeps_what_made_it(root, tmp_path, monkeypatch):
    case = load_case(root / "tests" / "multiscale" / "minimal.toml")
    monkeypatch.setattr(provenance, "versions", lambda: {"multiscale": "1"})
    RunDirectory(tmp_path, case).finish("design", {}, {})
    monkeypatch.setattr(provenance, "versions", lambda: {"multiscale": "2"})
    later = RunDirectory(tmp_path, case)
    assert later.metrics()["versions"] == {"multiscale": "1"}  # opening it changes nothing
    later.finish("fill", {}, {})
    record = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert [record[s]["versions"]["multiscale"] for s in ("design", "fill")] == ["1", "2"]


def test_a_run_is_read_from_elsewhere(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root / "cases")
    case = load_case("cloak_stl.toml")
    RunDirectory(tmp_path / "run", case)
    monkeypatch.chdir(tmp_path)
    assert read_case(tmp_path / "run").digest() == case.digest()


def test_two_processes_can_not_work_in_one_directory(root, tmp_path, run_cli):
    case = root / "tests" / "multiscale" / "minimal.toml"
    tmp_path = tmp_path / "run"
    code = f"""
import sys
from pathlib import Path
from multiscale.case.case import load_case
from multiscale.rundir.directory import RunDirectory
directory = RunDirectory(Path({str(tmp_path)!r}), load_case({str(case)!r}))
print("open", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(InputError, match="another process"):
            RunDirectory(tmp_path, load_case(case))
        # Only rank 0 sees it; the other one ends with it, and says nothing.
        done = run_cli("multiscale", "run", case, "--out", tmp_path, ranks=2)
        assert done.returncode == 2
        assert done.stderr.count("another process works") == 1
        assert "Traceback" not in done.stderr
    finally:
        other.communicate()
    RunDirectory(tmp_path, load_case(case))  # the lock went with the process
