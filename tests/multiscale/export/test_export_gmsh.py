"""The macro model written for Gmsh: read back, every element is in its place with its cell's tensor."""

from __future__ import annotations

from pathlib import Path

import meshio
import numpy as np
import pytest
from lattices import mixed

from micro.cell.surface import read_triangles
from multiscale.export.volume.gmsh import write_gmsh
from multiscale.lattice.block import Block


def places(mesh: meshio.Mesh, edge: float) -> np.ndarray:
    """Grid places (e, 3) of hexahedra, which must be the grid's."""
    corners = mesh.points[np.concatenate([block.data for block in mesh.cells])]
    np.testing.assert_allclose(np.ptp(corners, axis=1), edge, rtol=1e-12)
    return np.floor(corners.mean(axis=1) / edge).astype(int)


def test_elements_places_groups_and_tensors_come_back(tmp_path: Path) -> None:
    lattice = mixed()
    assert write_gmsh(lattice, tmp_path / "model.msh") == lattice.solid.sum()
    mesh = meshio.gmsh.read(tmp_path / "model.msh")
    assert {block.type for block in mesh.cells} == {"hexahedron"}
    place = places(mesh, 1e3 * lattice.cell_size_m)
    assert len(np.unique(place, axis=0)) == len(place) == lattice.solid.sum()
    own = lattice.tensors()[tuple(place.T)] * lattice.young_pa / 1e6
    read = np.stack([np.concatenate(mesh.cell_data[name]) for name in ("C11", "C12", "C44")], axis=-1)
    np.testing.assert_array_equal(read, own)
    number = lattice.index[tuple(place.T)]
    np.testing.assert_array_equal(np.concatenate(mesh.cell_data["gmsh:physical"]) - 1, number)
    assert set(mesh.field_data) == {f"CELL_{n}" for n in np.unique(number)}
    sizes = [len(block.data) for block in mesh.cells]
    for n in np.unique(number):
        rows = mesh.cell_sets[f"CELL_{n}"]
        inside = np.concatenate([np.arange(s) + sum(sizes[:k]) for k, s in enumerate(sizes) if len(rows[k])])
        np.testing.assert_array_equal(np.sort(inside), np.flatnonzero(number == n))


def test_a_region_stays_in_its_place_and_is_a_shape_again(tmp_path: Path) -> None:
    """Its group read as a region's shape encloses the volume of its elements."""
    lattice = mixed()
    block = Block((1, 0, 0), lattice.shape)
    write_gmsh(lattice, tmp_path / "part.msh", block)
    edge = 1e3 * lattice.cell_size_m
    assert meshio.gmsh.read(tmp_path / "part.msh").points[:, 0].min() == pytest.approx(edge)
    cell = int(lattice.index[block.slices].max())
    a, b, c = np.moveaxis(read_triangles(tmp_path / "part.msh", f"CELL_{cell}"), 1, 0)
    count = int((lattice.index[block.slices] == cell).sum())
    assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(count * edge**3, rel=1e-12)
