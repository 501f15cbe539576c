"""A graded bar of a sequence of cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from micro.cell.cellset import CellSet
from micro.cell.octant import cell_from_octant
from micro.families.families import family, minimal_surface
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.periodic import homogenize_cell
from micro.runtime.errors import InputError
from multiscale.cli.main import app
from multiscale.lattice.lattice import Lattice
from multiscale.lattice.sequence import graded_bar


@pytest.fixture(scope="module")
def cells() -> CellSet:
    """Three Schwarz-P cells of growing volume: neighbours fit."""
    octants = np.stack(
        [family("tpms-solid").octant([t, 0, 0, *minimal_surface("schwarz-p")], 8) for t in (0.6, 0.3, 0.0)]
    )
    return CellSet.from_octants(octants, homogenize_octants(octants).C, family="graded")


def test_cells_stand_in_order(cells: CellSet) -> None:
    bar = graded_bar(cells, across=2, repeat=2, cell_size_m=0.004)
    assert bar.shape == (6, 2, 2)
    assert bar.index[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert bar.components() == 1
    assert_allclose(bar.densities()[::2, 1, 1], cells.volume)
    for change in ({"across": 0}, {"repeat": 0}):
        with pytest.raises(InputError, match="at least 1"):
            graded_bar(cells, **change)


def test_full_scale_stiffness_is_near_the_homogenised_one(cells: CellSet) -> None:
    """Layers in series under uniaxial strain: 1 / C11 is the mean of the cells' 1 / C11; there and back,
    so that the bar is periodic. Cells alike in shape: what homogenisation misses at the joints is small."""
    voxels = np.concatenate([cell_from_octant(cells.octants(i)) for i in (0, 1, 2, 2, 1, 0)])
    full = homogenize_cell(voxels, rtol=1e-4).C[0, 0]
    assert_allclose(full, 1 / np.mean(1 / cells.C[:, 0]), rtol=0.05)


def test_command_writes_a_lattice_that_export_takes(cells: CellSet, tmp_path: Path) -> None:
    cells.save(tmp_path / "cells.zarr.zip")
    made = CliRunner().invoke(app, ["bar", f"{tmp_path}/cells.zarr.zip", "--out", f"{tmp_path}/bar.zarr"])
    assert made.exception is None, made.exception
    assert "3 x 2 x 2 cells in 1 piece, 0 of" in made.stdout
    assert Lattice.load(tmp_path / "bar.zarr").young_pa == 1e9
    out = tmp_path / "bar.stl"
    exported = CliRunner().invoke(app, ["export", f"{tmp_path}/bar.zarr", "--out", str(out)])
    assert exported.exception is None, exported.exception
    assert out.stat().st_size > 10_000
