"""The run directory: what other commands add to the metrics lasts as long as it holds."""

import json

import pytest

from micro.errors import InputError
from micro.files import write_json
from multiscale.case import load_case
from multiscale.directory import RunDirectory, read_case

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
