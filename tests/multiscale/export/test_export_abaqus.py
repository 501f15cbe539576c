"""The macro model written for Abaqus: read back, every element has its cell's tensor."""

from __future__ import annotations

import re
from pathlib import Path

import meshio
import numpy as np
import pytest
from lattices import mixed

from multiscale.export.volume.abaqus import write_abaqus
from multiscale.lattice.block import Block


def test_elements_places_and_materials_come_back(tmp_path: Path) -> None:
    lattice = mixed()
    count = write_abaqus(lattice, tmp_path / "model.inp")
    mesh = meshio.abaqus.read(tmp_path / "model.inp")
    (block,) = mesh.cells
    assert block.type == "hexahedron"
    assert len(block.data) == count == lattice.solid.sum()
    edge = 1e3 * lattice.cell_size_m
    corners = mesh.points[block.data]
    np.testing.assert_allclose(np.ptp(corners, axis=1), edge, rtol=1e-6)
    place = np.floor(corners.mean(axis=1) / edge).astype(int)
    text = (tmp_path / "model.inp").read_text()
    found = re.findall(r"NAME=CUBIC_(\d+)\n\*ELASTIC, TYPE=ORTHOTROPIC\n(.*)\n(.*)\n", text)
    assert len(found) == len(np.unique(lattice.index[lattice.solid]))
    tensors = lattice.tensors() * lattice.young_pa / 1e6
    for cell, first, last in found:
        c = [float(v) for v in f"{first}, {last}".split(",")]
        assert c[0] == c[2] == c[5]
        assert c[1] == c[3] == c[4]
        assert c[6] == c[7] == c[8]
        rows = mesh.cell_sets[f"CELL_{cell}"][0]
        own = tensors[tuple(place[rows].T)]
        np.testing.assert_allclose(own, np.broadcast_to([c[0], c[1], c[6]], own.shape), rtol=1e-8)


def test_a_region_stays_in_its_place(tmp_path: Path) -> None:
    lattice = mixed()
    block = Block((1, 0, 0), lattice.shape)
    write_abaqus(lattice, tmp_path / "part.inp", block)
    edge = 1e3 * lattice.cell_size_m
    assert meshio.abaqus.read(tmp_path / "part.inp").points[:, 0].min() == pytest.approx(edge)
