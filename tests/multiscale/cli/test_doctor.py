"""The report on the machine: right on this one, and useful on a broken one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from multiscale.cli import doctor


@pytest.fixture(scope="module")
def facts() -> dict:
    return doctor.report()


def test_report_is_plain_json(facts):
    assert json.loads(json.dumps(facts)) == facts


def test_verdict_follows_from_what_is_missing(facts):
    assert facts["ok"] == (not any(item["needed"] for item in facts["missing"]))
    assert all(item["what"] and item["mend"] for item in facts["missing"])


def test_versions_are_those_of_the_imported_packages(facts):
    import numpy
    import torch

    assert facts["versions"]["numpy"] == numpy.__version__
    # Of a wheel from PyPI the metadata does not name the CUDA that it is built for.
    assert torch.__version__.startswith(facts["versions"]["torch"])
    assert None not in facts["versions"].values()


def test_petsc_is_described(facts):
    from petsc4py import PETSc

    assert facts["petsc"]["version"] == ".".join(map(str, PETSc.Sys.getVersion()))
    assert facts["petsc"]["scalar"] == "float64"
    assert Path(facts["petsc"]["mpi_library"]).is_file()


def test_machine_sizes_are_possible(facts):
    machine = facts["machine"]
    assert 0 < machine["cores_usable"] <= machine["cores"]
    assert 0 < machine["memory_available"] <= machine["memory_total"]


def test_mpiexec_starts_ranks_that_see_each_other(facts, mpiexec, run_ranks):
    """Of another MPI it would start processes that each believe to be alone."""
    assert facts["mpi"]["mpiexec"] == str(mpiexec)
    # In one piece: what ranks print may come between each other's.
    text = "import sys; from petsc4py import PETSc; sys.stdout.write(f'{PETSc.COMM_WORLD.size}\\n')"
    done = run_ranks(2, "-c", text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "2"]


def _program(folder: Path, name: str, prints: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("library", "expected"),
    [("Open MPI v4.1.4", "mpiexec.openmpi"), ("MPICH Version: 4.2.3", "mpiexec")],
)
def test_mpiexec_of_the_same_kind_is_chosen(tmp_path, monkeypatch, library, expected):
    _program(tmp_path, "mpiexec", "HYDRA build details:")
    _program(tmp_path, "mpiexec.openmpi", "mpiexec.openmpi (OpenRTE) 4.1.4")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "no-environment"))
    monkeypatch.setattr(doctor, "_library_version", lambda path: library)
    assert doctor.find_mpiexec("libmpi.so") == tmp_path / expected


def test_no_mpiexec_is_better_than_the_wrong_one(tmp_path, monkeypatch):
    _program(tmp_path, "mpiexec", "HYDRA build details:")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "no-environment"))
    monkeypatch.setattr(doctor, "_library_version", lambda path: "Open MPI v4.1.4")
    missing: list[doctor.Missing] = []
    assert doctor._mpi("libmpi.so", missing)["mpiexec"] is None
    assert [item.mend for item in missing] == ["apt-get install openmpi-bin"]
    assert not missing[0].needed


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Shadow a package by one that fails to import as a broken installation does."""

    def shadow(name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('libpetsc.so: cannot open')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return shadow


def test_broken_petsc_is_needed_and_mended_by_setup(broken):
    broken("petsc4py")
    missing: list[doctor.Missing] = []
    facts = doctor._petsc(missing)
    assert "libpetsc.so: cannot open" in facts["error"]
    assert [(item.mend, item.needed) for item in missing] == [("make setup", True)]


def test_broken_rendering_is_optional(broken):
    broken("pyvista")
    missing: list[doctor.Missing] = []
    assert doctor._rendering(missing)["offscreen"] is False
    assert missing[0].mend.startswith("apt-get install libegl1")
    assert not missing[0].needed


def test_packaged_library_is_counted(facts):
    from micro.data.packaged import load_library

    assert facts["library"]["cells"] == len(load_library())


def test_damaged_library_is_needed_and_mended(monkeypatch):
    import micro.data.packaged

    def damaged():
        raise ValueError("not a zip file")

    monkeypatch.setattr(micro.data.packaged, "load_library", damaged)
    missing: list[doctor.Missing] = []
    assert "not a zip file" in doctor._library(missing)["error"]
    assert missing[0].needed
    assert "micro/data" in missing[0].mend


def test_complex_petsc_is_refused(monkeypatch):
    monkeypatch.setattr(doctor, "_petsc_facts", lambda: {"scalar": "complex128"})
    missing: list[doctor.Missing] = []
    doctor._petsc(missing)
    assert missing[0].needed
    assert "complex128" in missing[0].what


def test_probe_does_not_join_the_mpi_run_around_it(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    done = doctor._probe("import os; print([n for n in os.environ if n.endswith('RANK')])")
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("ok", [True, False])
def test_exit_code_and_table(facts, monkeypatch, capsys, ok):
    gap = {"what": "the [thing]", "mend": "make thing", "needed": not ok}
    monkeypatch.setattr(doctor, "report", lambda: facts | {"ok": ok, "missing": [gap]})
    assert doctor.doctor() == (0 if ok else 1)
    shown = capsys.readouterr().out
    assert "make thing" in shown
    assert "the [thing]" in shown
    assert facts["versions"]["numpy"] in shown


def test_json_output(facts, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "report", lambda: facts)
    doctor.doctor(json_output=True)
    assert json.loads(capsys.readouterr().out) == facts
