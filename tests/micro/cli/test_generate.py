"""``micro generate`` with the packaged weights, and what it refuses."""

import json

import numpy as np
import pytest

from micro.cell.cellset import CellSet
from micro.cell.tensor import tensor_error
from micro.data.packaged import load_dataset
from micro.homogenize.octants import homogenize_octants


def test_cells_report_and_picture(run_cli, tmp_path):
    table = tmp_path / "targets.csv"
    table.write_text("C11,C12,C44,volume\n0.30,0.11,0.09,\n0.45,0.16,0.13,0.6\n")
    out = tmp_path / "cells"
    done = run_cli("micro", "generate", "--targets", table, "--per-target", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "generate.json").read_text())
    cells = CellSet.load(out / "cells.zarr.zip")
    assert report["n"] == cells.n == 32
    assert len(cells) == 4
    assert report["error_mean"] == pytest.approx(
        np.mean([e for line in report["cells"] for e in line["error"]]), abs=1e-6
    )
    # The report's tensors are the delivered cells' own.
    np.testing.assert_allclose(homogenize_octants(cells.octants()).C, cells.C, rtol=1e-4, atol=1e-7)
    wanted = np.array([line["target"] for line in report["cells"]])[cells.params[:, 0].astype(int)]
    assert tensor_error(cells.C, wanted).mean() < 0.05
    assert (out / "cells.png").read_bytes()[:4] == b"\x89PNG"
    # They are not written over, unless that is said.
    again = run_cli("micro", "generate", "--volume", "0.3", "--out", out)
    assert again.returncode == 2
    assert "holds cells.zarr.zip, generate.json, cells.png already" in again.stderr
    assert json.loads((out / "generate.json").read_text()) == report


def test_a_volume_that_no_cell_of_the_tensor_has_is_said(run_cli, tmp_path):
    """0.30, 0.126, 0.089 needs two fifths of solid: a twentieth is no wish that can be met in silence."""
    single = ("--c11", "0.30", "--c12", "0.126", "--c44", "0.089", "--per-target", "1", "--draws", "2")
    out = tmp_path / "cells"
    done = run_cli("micro", "generate", *single, "--volume", "0.05", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "volume 0.050 asked" in done.stderr
    assert "lightest known cells have 0.4" in done.stderr
    report = json.loads((out / "generate.json").read_text())
    line = report["cells"][0]
    assert line["volume_asked"] == 0.05
    assert line["volume"] == pytest.approx(CellSet.load(out / "cells.zarr.zip").volume, abs=1e-6)
    assert report["volume_error_mean"] == pytest.approx(abs(line["volume"][0] - 0.05), abs=1e-6)
    assert 0.4 < line["volume_least"] < 0.5
    assert line["relative_error"][0] > 0
    quiet = run_cli("micro", "generate", *single, "--out", tmp_path / "quiet")
    assert "asked" not in quiet.stderr


def test_cells_by_volume_alone(run_cli, tmp_path):
    out = tmp_path / "cells"
    done = run_cli("micro", "generate", "--volume", "0.3", "--per-target", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "generate.json").read_text())
    assert report["error_mean"] is None
    assert report["cells"][0]["target"] is None
    assert report["outside_gamut"] == 0
    cells = CellSet.load(out / "cells.zarr.zip")
    assert len(cells) == 2
    # Asked for by a number that the network sees, not cut to it: a few hundredths off.
    np.testing.assert_allclose(cells.volume, 0.3, atol=0.06)


def test_refined_cells_are_nearer(run_cli, tmp_path):
    single = ("--c11", "0.30", "--c12", "0.11", "--c44", "0.09", "--per-target", "2", "--seed", "3")
    errors = []
    for name, more in (("drawn", ()), ("refined", ("--refine",))):
        done = run_cli("micro", "generate", *single, *more, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        errors.append(json.loads((tmp_path / name / "generate.json").read_text())["error_mean"])
    assert errors[1] <= errors[0]
    assert errors[1] < 0.01


def test_cells_guided_by_expressions_and_a_face(run_cli, tmp_path):
    """As the API does it: what --raise and --face do is tested there."""
    out = tmp_path / "cells"
    wishes = ("--raise", "K / K_HS", "--lower", "V", "--face", "dataset:100")
    single = ("--c11", "0.30", "--c12", "0.11", "--c44", "0.09", "--per-target", "4", "--draws", "2")
    done = run_cli("micro", "generate", *single, *wishes, "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "generate.json").read_text())["guides"] == ["raise K / K_HS", "lower V"]
    faces, other = CellSet.load(out / "cells.zarr.zip").faces(), load_dataset().faces([100])[0]
    # Of two candidates each, most are beyond 0.98; left alone faces have 0.47 (docs/generator.md).
    overlap = [(face & other).sum() / np.sqrt(face.sum() * other.sum()) for face in faces]
    assert len(overlap) == 4
    assert np.mean(overlap) > 0.9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "C11"),
        ("C11,C12\n1,2\n", "C44"),
        ("C11,C12,C44,colour\n0.3,0.1,0.1,red\n", "colour"),
        ("C11,C12,C44\n0.3,none,0.1\n", "line 2"),
        ("C11,C12,C44\n0.3,0.1,0.1\n0.1,0.3,0.1\n", "target 2"),
        ("C11,C12,C44\n", "no targets"),
    ],
)
def test_bad_tables_are_refused(run_cli, tmp_path, text, says):
    table = tmp_path / "bad.csv"
    table.write_text(text)
    done = run_cli("micro", "generate", "--targets", table, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--c11", "0.3"), "--c11"),
        (("--c11", "0.1", "--c12", "0.3", "--c44", "0.1"), "positive definite"),
        (("--targets", "nothing.csv"), "nothing.csv"),
        (("--volume", "1.5"), "volume"),
        (("--volume", "0.3", "--refine"), "--refine"),
        (("--volume", "0.3", "--raise", "K / bound"), "bound: known are C11"),
        (("--volume", "0.3", "--per-target", "0"), "--per-target"),
        (("--volume", "0.3", "--generator", "no.safetensors"), "no.safetensors"),
    ],
)
def test_bad_options_are_refused(run_cli, tmp_path, arguments, says):
    done = run_cli("micro", "generate", *arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "out").exists()
