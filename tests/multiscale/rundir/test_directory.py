"""The run directory: what lasts, what is checked, what is refused, and what two processes do to one run."""

import json
import os
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from examples import MINIMAL
from run_directories import made_up_run

from micro.runtime.errors import InputError
from multiscale.case.case import load_case, parse_case
from multiscale.rundir import provenance
from multiscale.rundir.directory import RunDirectory
from multiscale.rundir.record import STAGES

ADDED = {"verify": {"distortion": 0.1}, "printability": {"mass_g": 1.0}}
FILES = {
    "design": "design.npz",
    "fill": "lattice.zarr",
    "full_scale": "rounds.npz",
    "evaluate": "displacements.npz",
    "export": "fields.vti",
}


def finish(directory, stage, content="1", value=1):
    """A stage that leaves one file, made from those of the stages before it."""
    (directory.path / FILES[stage]).write_text(f"{stage} {content}")
    before = [FILES[s] for s in STAGES[: STAGES.index(stage)]]
    directory.finish(stage, {stage: 1.0}, {stage: {"value": value}}, (FILES[stage],), before)


def through(path, case, content="1"):
    """A run gone through all its stages; with the notes of how it began."""
    directory = RunDirectory.create(path, case)
    for stage in STAGES:
        if not directory.done(stage):
            directory.start(stage)
            finish(directory, stage, content)
    directory.release()
    return directory


def variant(root, tmp_path, text, name):
    base = (root / "tests" / "multiscale" / "minimal.toml").read_text()
    file = tmp_path / name
    file.write_text(base + text)
    return load_case(file)


@pytest.fixture
def case(root):
    return load_case(root / "tests" / "multiscale" / "minimal.toml")


def metrics_of(path):
    return json.loads((path / "metrics.json").read_text())


# ------------------------------------------------------------------ what lasts
@pytest.mark.parametrize(("stage", "kept"), [("export", True), ("evaluate", True), ("fill", False)])
def test_what_other_commands_added_lasts_until_the_lattice_is_another(case, tmp_path, stage, kept):
    run = tmp_path / "run"
    through(run, case)
    for name, metrics in ADDED.items():
        RunDirectory.open(run).add(name, metrics, reads=("lattice.zarr",))
    assert {key: metrics_of(run)[key] for key in ADDED} == ADDED
    directory = RunDirectory.create(run, case)
    finish(directory, stage, content="2", value=2)
    found = metrics_of(run)
    assert found[stage] == {"value": 2}
    for key, value in ADDED.items():
        assert found.get(key) == (value if kept else None)


def test_a_stage_that_leaves_the_same_again_voids_nothing(case, tmp_path):
    run = tmp_path / "run"
    through(run, case)
    RunDirectory.open(run).add("verify", {"distortion": 0.1}, reads=("lattice.zarr",))
    finish(RunDirectory.create(run, case), "fill")
    again = RunDirectory.open(run)
    assert all(again.done(stage) for stage in STAGES)
    assert again.metrics["verify"] == {"distortion": 0.1}


def test_metrics_that_were_removed_are_made_again_with_what_was_added(case, tmp_path):
    run = tmp_path / "run"
    through(run, case)
    RunDirectory.open(run).add("verify", {"distortion": 0.1}, reads=("lattice.zarr",))
    before = metrics_of(run)
    (run / "metrics.json").unlink()
    RunDirectory.create(run, case)
    assert metrics_of(run) == before


def test_each_stage_keeps_what_made_it(case, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "versions", lambda: {"multiscale": "1"})
    directory = RunDirectory.create(tmp_path, case)
    finish(directory, "design")
    directory.release()
    monkeypatch.setattr(provenance, "versions", lambda: {"multiscale": "2"})
    later = RunDirectory.create(tmp_path, case)
    assert later.metrics["versions"] == {"multiscale": "1"}  # opening it changes nothing
    finish(later, "fill")
    record = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert [record[s]["versions"]["multiscale"] for s in ("design", "fill")] == ["1", "2"]


# ------------------------------------------------------- another case, or another part of it
def test_another_fill_keeps_the_design_and_moves_what_it_replaces(root, tmp_path):
    run = tmp_path / "run"
    through(run, variant(root, tmp_path, "", "a.toml"))
    (run / "verify.npz").write_text("full scale")
    RunDirectory.open(run).add("verify", {"distortion": 0.1}, ("verify.npz",), ("lattice.zarr",))
    other = variant(root, tmp_path, "[fill]\ntolerance = 0.02\n", "b.toml")
    refilled = RunDirectory.create(run, other)
    (note,) = refilled.notes
    assert "fill.tolerance: 0.01 -> 0.02" in note
    for name in ("lattice.zarr", "displacements.npz", "fields.vti", "verify.npz"):
        assert name in note
        assert not (run / name).exists()
        assert (run / "earlier" / "1" / name).exists()
    assert json.loads((run / "earlier" / "1" / "metrics.json").read_text())["verify"]["distortion"] == 0.1
    assert [s for s in STAGES if refilled.done(s)] == ["design"]
    assert set(metrics_of(run)) & {*STAGES, "verify"} == {"design"}
    finish(refilled, "fill", "2", 2)
    refilled.release()
    # Killed here: what is done of the new fill stays done, the rest is still to do.
    again = RunDirectory.create(run, other)
    assert again.notes == []
    assert [s for s in STAGES if again.done(s)] == ["design", "fill"]
    assert again.metrics["fill"] == {"value": 2}
    again.release()
    with pytest.raises(InputError, match=r"another case \(filter.radius: 2.0 -> 3.0\)"):
        RunDirectory.create(run, variant(root, tmp_path, "[filter]\nradius = 3.0\n", "c.toml"))


def test_rounds_asked_of_a_run_without_are_named(root, tmp_path):
    """With rounds the first design stands elsewhere. What differs had been an empty list of files."""
    run = tmp_path / "run"
    through(run, variant(root, tmp_path, "", "a.toml"))
    rounds = "[full_scale]\nvoxels_per_cell = 8\nrounds = 1\n"
    with pytest.raises(InputError, match=r"another case \(.*full_scale.rounds: 0 -> 1"):
        RunDirectory.create(run, variant(root, tmp_path, rounds, "b.toml"))


def test_a_case_edited_inside_the_run_is_refused_with_its_keys(case, tmp_path):
    run = tmp_path / "run"
    through(run, case)
    file = run / "case.toml"
    text = file.read_text()
    file.write_text(text.replace("young_modulus_mpa = 1000.0", "young_modulus_mpa = 4000.0"))
    with pytest.raises(InputError, match=r"young_modulus_mpa: 1000.0 -> 4000.0.*multiscale run"):
        RunDirectory.open(run)
    # The run puts it back and keeps the edited one.
    directory = RunDirectory.create(run, case)
    assert file.read_text() == text
    assert "4000" in (run / "earlier" / "1" / "case.toml").read_text()
    assert all(directory.done(stage) for stage in STAGES)
    directory.release()
    file.write_text(text.replace('name = "tiny"', 'name = "small"'))  # what does not count may change
    assert RunDirectory.open(run).metrics["fill"] == {"value": 1}
    file.write_text(text[: len(text) // 2] + "[")
    with pytest.raises(InputError, match=r"case.toml: is damaged .*multiscale run .* makes it anew"):
        RunDirectory.open(run)


def test_a_runs_case_finds_the_files_that_it_names_from_anywhere(root, tmp_path, monkeypatch):
    for name in ("cloak_stl.toml", "three_lobes.stl"):
        (tmp_path / name).write_bytes((root / "cases" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    case = load_case("cloak_stl.toml")  # names an STL file beside it
    RunDirectory.create(tmp_path / "run", case)
    monkeypatch.chdir("/")
    assert RunDirectory.open(tmp_path / "run").case.digest() == case.digest()
    mesh = tmp_path / "three_lobes.stl"
    data = mesh.read_bytes()
    facets = np.frombuffer(
        data, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("", "V2")]), offset=84
    )
    facets = facets.copy()
    facets["corners"] *= 0.9
    mesh.write_bytes(data[:84] + facets.tobytes())
    with pytest.raises(InputError, match=r"three_lobes.stl: has changed since"):
        _ = RunDirectory.open(tmp_path / "run").case
    with pytest.raises(InputError, match=r"no run\.json"):
        RunDirectory.open(tmp_path)


# --------------------------------------------------------------------- damage
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_spoilt_file_is_refused_and_made_again(case, tmp_path, stage, damage):
    run = tmp_path / "run"
    through(run, case)
    name = FILES[stage]
    data = (run / name).read_bytes()
    if damage == "gone":
        (run / name).unlink()
    else:
        (run / name).write_bytes(data[:-1] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    what = "missing" if damage == "gone" else "damaged"
    with pytest.raises(InputError, match=f"{name}: is {what}: `multiscale run .* makes it anew"):
        RunDirectory.open(run).file(name)
    directory = RunDirectory.create(run, case)
    assert any(f"{name} is {what}" in note for note in directory.notes)
    assert not (run / name).exists()
    assert (run / "earlier" / "1" / name).exists() == (damage != "gone")  # a user may have put it there
    assert [s for s in STAGES if not directory.done(s)] == [stage]
    finish(directory, stage)
    assert all(directory.done(s) for s in STAGES)  # what depends on it is as it was


def test_what_depends_on_a_file_made_otherwise_is_made_again_too(case, tmp_path):
    run = tmp_path / "run"
    through(run, case)
    (run / "design.npz").unlink()
    directory = RunDirectory.create(run, case)
    finish(directory, "design", "another")
    assert [s for s in STAGES if directory.done(s)] == ["design"]
    with pytest.raises(InputError, match=r"lattice.zarr: was made from another design"):
        RunDirectory.open(run).file("lattice.zarr")
    assert "fill" not in metrics_of(run)
    directory.start("fill")
    assert (run / "earlier" / "1" / "lattice.zarr").exists()


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_an_altered_record_is_refused(case, tmp_path, place):
    run = tmp_path / "run"
    through(run, case)
    file = run / "run.json"
    text = file.read_text()
    at = next(i for i in range(int(place * len(text)), len(text)) if text[i].isdigit())
    file.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    for work in (lambda: RunDirectory.open(run), lambda: RunDirectory.create(run, case)):
        with pytest.raises(InputError, match=r"run.json: is (damaged|the record of a run by another)"):
            work()


def test_leftovers_of_a_kill_are_nobodys_results(case, tmp_path):
    made_up_run(tmp_path / "run", tomllib.loads(MINIMAL))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / "run" / "figures" / f".design.{dead.pid}.part.png"
    left.write_bytes(b"half a picture")
    store = tmp_path / "run" / "lattice.zarr"
    os.replace(store, store.with_name(f".lattice.{dead.pid}.old.zarr"))  # killed between two renames
    mine = tmp_path / "run" / f".verify.{os.getppid()}.part.npz"
    mine.write_bytes(b"another process writes this")
    directory = RunDirectory.create(tmp_path / "run", parse_case(tomllib.loads(MINIMAL)))
    assert not left.exists()
    assert mine.exists()
    assert directory.notes == []
    assert directory.done("fill")


# ------------------------------------------------------------ other people's files
def test_a_run_never_writes_beside_or_over_what_is_not_its_own(root, tmp_path):
    text = MINIMAL + "\n# mine\n"
    file = tmp_path / "job" / "case.toml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(InputError, match="holds the case file itself"):
        RunDirectory.create(tmp_path / "job", load_case(file))
    assert [p.name for p in (tmp_path / "job").iterdir()] == ["case.toml"]
    assert file.read_text() == text
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds something else than a run \(metrics.json\)"):
        RunDirectory.create(other, load_case(file))
    assert [p.name for p in other.iterdir()] == ["metrics.json"]
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "run.log").write_text("")
    RunDirectory.create(tmp_path / "logged", load_case(file))  # where its own output goes


# ------------------------------------------------------------------ two at once
def test_two_processes_can_not_work_in_one_directory(root, case, tmp_path, run_cli):
    file = root / "tests" / "multiscale" / "minimal.toml"
    run = tmp_path / "run"
    code = f"""
import sys
from multiscale.case.case import load_case
from multiscale.rundir.directory import RunDirectory
directory = RunDirectory.create({str(run)!r}, load_case({str(file)!r}))
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
            RunDirectory.create(run, case)
        # Only rank 0 sees it; the other one ends with it, and says nothing.
        done = run_cli("multiscale", "run", file, "--out", run, ranks=2)
        assert done.returncode == 2
        assert done.stderr.count("another process works") == 1
        assert "Traceback" not in done.stderr
    finally:
        other.communicate()
    RunDirectory.create(run, case)  # the lock went with the process


def test_printability_and_verify_at_once_leave_both_sections(tmp_path, root):
    """Each reads, works for seconds and adds; neither writes back what it read."""
    run = made_up_run(tmp_path / "run", tomllib.loads(MINIMAL))
    start = "import sys; from multiscale.cli.main import main; sys.argv[0] = 'multiscale'; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(root), "NO_COLOR": "1"}
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", start, command, str(run), *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, *options in (["printability"], ["verify", "--voxels-per-cell", "4"])
    ]
    said = [command.communicate()[0] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    found = metrics_of(run)
    assert {"printability", "verify", "distortion"} <= set(found)
    assert RunDirectory.open(run).file("verify_4.npz").is_file()


def test_what_was_measured_of_another_lattice_is_not_added(case, tmp_path):
    run = tmp_path / "run"
    through(run, case)
    reader = RunDirectory.open(run)
    finish(RunDirectory.create(run, case), "fill", "another")
    with pytest.raises(InputError, match=r"lattice.zarr was made anew meanwhile"):
        reader.add("verify", {"distortion": 0.1}, reads=("lattice.zarr",))
    assert "verify" not in metrics_of(run)


def test_a_run_elsewhere_is_the_same_run(case, tmp_path):
    through(tmp_path / "run", case)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert RunDirectory.open(tmp_path / "moved").file("lattice.zarr").is_file()
