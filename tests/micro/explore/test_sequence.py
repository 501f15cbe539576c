"""From one cell to another: guidance towards likeness, the path, what is given, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.octant import connectivity, half_period_shift, similarity
from micro.cli.main import app
from micro.data.packaged import load_dataset
from micro.dataset.dataset import part
from micro.explore.given import given_cell
from micro.explore.sequence import (
    Sequence,
    _moved,
    in_phase,
    interpolate,
    path_of_tensors,
    straightened,
    turning,
)
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.runtime.errors import InputError


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator.load()


@pytest.fixture(scope="module")
def ends() -> CellSet:
    return part(load_dataset(), "test").subset([443, 480])


def test_path_keeps_the_ratios_of_moduli() -> None:
    first, last = tensor.isotropic(0.01, 0.1), tensor.isotropic(0.5, 0.3)
    path = path_of_tensors(first, last, 5)
    assert_allclose(path[[0, -1]], [first, last])
    ratio = tensor.to_moduli(path[1:]) / tensor.to_moduli(path[:-1])
    assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape))


@pytest.fixture(scope="module")
def sequence(generator: Generator, ends: CellSet) -> Sequence:
    return interpolate(generator, ends, 5)


def test_steps_are_connected_on_the_path_and_alike(sequence: Sequence, ends: CellSet) -> None:
    octants = sequence.cells.octants()
    assert np.array_equal(octants[[0, -1]], in_phase(ends)[0].octants())
    assert all(connectivity(octant).connected for octant in octants)
    assert_allclose(sequence.cells.C, homogenize_octants(octants).C, atol=2e-4)
    assert sequence.errors.max() < 0.01
    straight = float(similarity(octants[0], octants[-1]))
    assert (sequence.likeness > straight + 0.05).all()
    assert (sequence.likeness <= sequence.nested + 1e-9).all()
    assert (sequence.faces <= sequence.faces_by_area + 1e-9).all()
    report = sequence.report()
    assert report["connected"]
    assert_allclose(report["error_worst"], sequence.errors[1:-1].max())


def test_a_cell_that_got_stuck_begins_anew_beside_itself(sequence: Sequence, ends: CellSet) -> None:
    """The solid has no surface to move; its neighbours are one step of the path away."""
    octants, C = sequence.cells.octants()[1:-1].copy(), sequence.cells.C[1:-1].copy()
    octants[1], C[1] = True, tensor.isotropic(1.0, 0.3)
    known, both = np.ones(len(octants), dtype=bool), in_phase(ends)[0]
    moved, found, count = _moved(octants, known, both, sequence.targets, 2e-3, 30, C)
    assert tensor.tensor_error(found[1], sequence.targets[2]) < 5e-3
    assert_allclose(found, homogenize_octants(moved).C, atol=2e-4)
    assert np.array_equal(moved[[0, 2]], octants[[0, 2]])
    assert count > 1


def test_a_modulus_that_turns_back_is_put_right(sequence: Sequence, ends: CellSet) -> None:
    """The middle one of three cells stands where the last one does: it is moved onto its own target."""
    octants, C = sequence.cells.octants()[1:-1].copy(), sequence.cells.C[1:-1].copy()
    octants[0], C[0] = octants[2], C[2]
    both = in_phase(ends)[0]
    assert turning(np.concatenate([both.C[:1], C, both.C[1:]])).any()
    moved, found, count = straightened(octants, C, both, sequence.targets, 2e-3, 30)
    assert not turning(np.concatenate([both.C[:1], found, both.C[1:]])).any()
    assert count > 0
    assert_allclose(found, homogenize_octants(moved).C, atol=2e-4)


def test_noise_alone_wanders_off_the_path(generator: Generator, ends: CellSet, sequence: Sequence) -> None:
    wandering = interpolate(generator, ends, 5, along="noise")
    assert wandering.errors.mean() > 3 * sequence.errors.mean()
    assert all(connectivity(octant).connected for octant in wandering.cells.octants())


@pytest.mark.parametrize(("change", "key"), [({"steps": 2}, "steps"), ({"along": "x"}, "along")])
def test_what_it_refuses(generator: Generator, ends: CellSet, change: Any, key: str) -> None:
    with pytest.raises(InputError) as refused:
        interpolate(generator, ends, **change)
    assert refused.value.key == key
    with pytest.raises(InputError, match="two cells"):
        interpolate(generator, ends.subset([0]))


def test_cells_by_name(generator: Generator, ends: CellSet, tmp_path: Path) -> None:
    assert given_cell("dataset:7", generator, 16).digest() == load_dataset().subset([7]).digest()
    ends.save(tmp_path / "set.zarr.zip")
    assert_allclose(given_cell(f"{tmp_path}/set.zarr.zip:1", generator, 16).C, ends.C[1:])
    np.save(tmp_path / "octant.npy", ends.octants()[0])
    assert_allclose(given_cell(str(tmp_path / "octant.npy"), generator, 16).C, ends.C[:1], atol=1e-4)
    drawn = given_cell("0.30,0.13,0.09", generator, 16)
    assert tensor.tensor_error(drawn.C[0], [0.30, 0.13, 0.09]) < 0.02
    np.save(tmp_path / "pieces.npy", np.zeros((4, 4, 4), dtype=bool))
    for wrong in ("dataset:99999999", "1,2,x", str(tmp_path / "pieces.npy"), str(tmp_path / "none.npy")):
        with pytest.raises(InputError):
            given_cell(wrong, generator, 16)


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "sequence"
    line = ["interpolate", "dataset:100", "dataset:2000", "--steps", "3", "--trials", "2", "--out", str(out)]
    result = CliRunner().invoke(app, [*line, "--json"])
    assert result.exception is None, result.exception
    written = json.loads((out / "sequence.json").read_text())
    assert json.loads(result.stdout)["C"] == written["C"]
    assert len(CellSet.load(out / "cells.zarr.zip")) == 3
    assert (out / "sequence.png").read_bytes().startswith(b"\x89PNG")


def test_a_stiff_family_grows_from_cell_to_cell(generator: Generator) -> None:
    """Between the data set's stiffest cells of two volumes: volumes in equal ratios, near the bound."""
    cells = load_dataset()
    ratio = tensor.bulk(cells.C) / tensor.hashin_shtrikman(cells.volume)[0]
    rows = [int(np.where(np.abs(cells.volume - v) < 0.02, ratio, 0).argmax()) for v in (0.3, 0.6)]
    family = interpolate(generator, cells.subset(rows), 3, maximise="bulk", trials=3)
    assert_allclose(family.cells.volume[1], np.sqrt(np.prod(cells.volume[rows])), atol=0.005)
    assert min(family.report()["bulk_over_bound"]) > 0.85
    assert family.report()["connected"]
    assert family.report()["error_mean"] is None


def test_the_last_cell_may_be_moved_by_half_a_period(ends: CellSet) -> None:
    octants = ends.octants()
    away = CellSet.from_octants([octants[0], half_period_shift(octants[0])], ends.C[[0, 0]], family="x")
    back, shifted = in_phase(away)
    assert shifted
    assert np.array_equal(back.octants()[1], octants[0])
    assert in_phase(back) == (back, False)
