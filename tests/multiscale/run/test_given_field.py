"""Designs made elsewhere: read, projected, filled and judged like any other; and a run opened in Python."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from examples import varied

import multiscale
from micro.runtime.errors import InputError
from multiscale.case.case import load_case, parse_case
from multiscale.case.settings import DesignSettings
from multiscale.case.tables import isotropic_tensor
from multiscale.export.volume.vti import write_vti, write_vtu
from multiscale.problem.given_field import read_field
from multiscale.problem.problem import build_problem
from multiscale.problem.tensor_field import save_tensors


@pytest.fixture(scope="module")
def problem():
    return build_problem(parse_case(tomllib.loads(varied())))


def _field(problem) -> np.ndarray:
    """Every element its own tensor, feasible or not."""
    x, y, z = np.indices(problem.shape)
    return np.array([0.3, 0.1, 0.09]) * (1 + 0.01 * (x + 10 * y + 100 * z))[..., None] / 5


@pytest.mark.parametrize("kind", ["npz", "vti", "vtu"])
def test_a_field_comes_back_from_every_kind_of_file(problem, tmp_path: Path, kind: str) -> None:
    """In pascals on a mesh in metres, as this program's own exports have it, and in E_s as npz."""
    field, path, h = _field(problem), tmp_path / f"field.{kind}", problem.cell_size_m
    data = {name: field[..., i] * problem.young_pa for i, name in enumerate(("C11", "C12", "C44"))}
    settings = DesignSettings(unit="Pa")
    if kind == "npz":
        save_tensors(path, field)
        settings = DesignSettings()
    elif kind == "vti":
        write_vti(path, problem.shape, (h, h, h), cell_data=data)
    else:
        write_vtu(path, problem.solid, (h, h, h), cell_data=data)
    read = read_field(path, problem, settings)
    np.testing.assert_allclose(read[problem.design], field[problem.design], rtol=1e-6)
    assert not read[~problem.design].any()


def test_a_density_becomes_tensors_by_its_law(problem, tmp_path: Path) -> None:
    rho = np.full(problem.shape, 0.5)
    np.savez(tmp_path / "rho.npz", rho=rho)
    read = read_field(tmp_path / "rho.npz", problem, DesignSettings(density="rho", exponent=2.0))
    expected = isotropic_tensor(0.25, problem.poisson)
    np.testing.assert_allclose(read[problem.design], np.broadcast_to(expected, read[problem.design].shape))
    np.savez(tmp_path / "rho.npz", rho=rho - 0.5)
    with pytest.raises(InputError, match="not above 0 and at most 1"):
        read_field(tmp_path / "rho.npz", problem, DesignSettings(density="rho"))


def test_a_field_that_does_not_cover_the_design_is_refused_with_both_extents(problem, tmp_path: Path) -> None:
    data = {name: np.ones((2, 2, 2)) for name in ("C11", "C12", "C44")}
    write_vti(tmp_path / "small.vti", (2, 2, 2), (1e-3, 1e-3, 1e-3), cell_data=data)
    with pytest.raises(InputError, match="scale gives the elements per unit"):
        read_field(tmp_path / "small.vti", problem, DesignSettings())
    with pytest.raises(InputError, match="must be a tensor field"):
        read_field(tmp_path / "field.csv", problem, DesignSettings())
    (tmp_path / "text.vtu").write_text("<VTKFile")
    with pytest.raises(InputError):
        read_field(tmp_path / "text.vtu", problem, DesignSettings())


def test_a_missing_field_is_found_with_the_case(tmp_path: Path) -> None:
    (tmp_path / "case.toml").write_text(varied() + '\n[design]\nsource = "none.npz"\n')
    with pytest.raises(InputError, match=r"design\.source: must be a path that exists"):
        load_case(tmp_path / "case.toml")


def test_a_given_field_is_projected_filled_and_judged(problem, tmp_path: Path, run_cli) -> None:
    """Half of the tensors lie far outside the gamut: they are moved onto it, with their number said."""
    field = np.broadcast_to([0.3, 0.1, 0.09], (*problem.shape, 3)).copy()
    outside = problem.design & (np.indices(problem.shape)[1] == 1)
    field[outside] = [0.5, 0.45, 0.002]
    save_tensors(tmp_path / "theirs.npz", field)
    more = '\n[design]\nsource = "theirs.npz"\n[fill]\nsource = "library"\npolish = 0\n'
    (tmp_path / "case.toml").write_text(varied(("[grid]", "[grid]\nmirror = []")) + more)
    done = run_cli("multiscale", "run", str(tmp_path / "case.toml"), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert f"{outside.sum()} of {problem.design.sum()} tensors lie outside the gamut" in " ".join(
        (done.stdout + done.stderr).split()
    )
    run = multiscale.open(tmp_path / "run")
    assert run.metrics["design"]["projected"] == outside.sum()
    assert run.metrics["feasibility"]["violations"] == 0
    kept = problem.design & ~outside
    np.testing.assert_allclose(run.design[kept], field[kept], rtol=1e-12)
    assert (np.abs(run.design[outside] - field[outside]).max(axis=-1) > 1e-3).all()
    assert [record["kind"] for record in run.history] == ["evaluation", "projection"]
    assert run.lattice.tensors().shape == field.shape
    assert "design" in run.figures
    assert f"<run tiny in {run.path}: distortion" in repr(run)
    page = run._repr_html_()
    assert "data:image/png;base64," in page
    assert "distortion, lattice" in page
