"""3MF and GLB: closed cells, placed where the elements are, read back by other people's libraries."""

from __future__ import annotations

import zipfile
from pathlib import Path

import lib3mf
import numpy as np
import pytest
import trimesh
from heard import Counted
from lattices import N, make, mixed, octants

from micro.cell.octant import cell_from_octant
from micro.runtime.errors import InputError
from multiscale.export.mesh.cell_mesh import MeshOptions, cell_mesh, instanced_triangles
from multiscale.export.mesh.decimation import border
from multiscale.export.mesh.glb import write_glb
from multiscale.export.mesh.threemf import write_3mf
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

FINE = MeshOptions(2 * N, 0.0, 0.0)
DEFAULT = MeshOptions(2 * N, 0.6, 0.9)
BLOCK = Block((0, 1, 0), (2, 4, 2))


@pytest.fixture
def item() -> Lattice:
    return mixed()


def as_trimesh(mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.points, mesh.triangles, process=False)


# -- one cell -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [FINE, MeshOptions(2 * N, 0.6, 0.0), DEFAULT, MeshOptions(N, 0.0, 0.5)])
@pytest.mark.parametrize("cell", range(6))
def test_a_cells_surface_is_closed_and_has_its_volume(cell, options):
    octant = octants()[cell]
    mesh = cell_mesh(octant, options)
    assert len(border(mesh.triangles)) == 0
    found = as_trimesh(mesh)
    assert found.is_watertight
    assert found.is_winding_consistent
    # The last offset makes the volume exact to Newton's last step; trimesh's own sum confirms it.
    assert found.volume == pytest.approx(octant.mean(), rel=1e-6)
    # Flat on the cell's faces wherever the cell reaches them, and never beyond.
    np.testing.assert_array_equal(found.bounds, [[0, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize("cell", range(6))
def test_a_cells_cap_is_its_face_pattern(cell):
    # Neighbours touch on their faces: the cap's area is the pattern's, but for bevelled corners.
    octant = octants()[cell]
    mesh = cell_mesh(octant, FINE)
    a, b, c = np.moveaxis(mesh.points[mesh.triangles], 1, 0)
    on = (mesh.points[mesh.triangles][..., 0] == 0).all(axis=1)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)[on].sum() / 2
    assert area == pytest.approx(octant[0].mean(), rel=0.15)


def test_a_cells_surface_parts_its_voxels():
    # Inside and outside of every voxel's centre: no axis swapped, no shift.
    octant = octants()[2]
    found = as_trimesh(cell_mesh(octant, FINE))
    voxels = cell_from_octant(octant)
    some = np.random.default_rng(0).choice(voxels.size, 200, replace=False)
    centres = (np.argwhere(np.ones_like(voxels))[some] + 0.5) / (2 * N)
    # Winding number by solid angles (Van Oosterom and Strackee 1983).
    np.testing.assert_allclose(_winding(found.triangles, centres), voxels.ravel()[some], atol=1e-6)


def _winding(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    a, b, c = (triangles[None, :, i] - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    dot = lambda u, v: np.einsum("pti,pti->pt", u, v)  # noqa: E731
    top = dot(a, np.cross(b, c))
    under = la * lb * lc + dot(a, b) * lc + dot(b, c) * la + dot(c, a) * lb
    return (2 * np.arctan2(top, under)).sum(axis=1) / (4 * np.pi)


@pytest.mark.parametrize("seed", range(3))
def test_any_octant_gives_a_closed_surface(seed):
    # Random voxels hold every ambiguous case, and decimation its worst input.
    rng = np.random.default_rng(seed)
    low, mid, high = np.sort(np.indices((5, 5, 5)), axis=0)
    for octant in (rng.random((4, 5, 5, 5)) < 0.5)[:, low, mid, high]:
        for options in (MeshOptions(10, 0.0, 0.0), MeshOptions(10, 0.6, 0.9), MeshOptions(2, 0.0, 0.5)):
            mesh = cell_mesh(octant, options)
            assert len(border(mesh.triangles)) == 0
            assert mesh.volume == pytest.approx(octant.mean(), rel=1e-3)


def test_decimation_removes_what_it_is_asked_to():
    octant = np.repeat(np.repeat(np.repeat(octants()[0], 2, 0), 2, 1), 2, 2)
    whole = cell_mesh(octant, MeshOptions(4 * N, 0.6, 0.0))
    fewer = cell_mesh(octant, MeshOptions(4 * N, 0.6, 0.8))
    # Points on the mid-planes stay for the mirror image's sake, so not all of the share can go.
    assert len(fewer.triangles) < 0.4 * len(whole.triangles)


def test_a_wall_lost_when_coarse_is_taken_finer():
    # A wall of two voxels in a cell of twelve has no sample above the level in cells of two.
    octant = octants()[4]
    mesh = cell_mesh(octant, MeshOptions(2, 0.0, 0.0))
    assert len(mesh.triangles)
    assert mesh.volume == pytest.approx(octant.mean(), rel=1e-3)


# -- 3MF ----------------------------------------------------------------------------------------------


def read_3mf(path: Path):
    """Object volumes and bounds by lib3mf, the format's own library, and the placed components."""
    model = lib3mf.get_wrapper().CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(path))
    assert reader.GetWarningCount() == 0
    assert model.GetUnit() == lib3mf.ModelUnit.MilliMeter
    assert model.GetBuildItems().Count() == 1
    meshes, objects = {}, model.GetMeshObjects()
    while objects.MoveNext():
        one = objects.GetCurrentMeshObject()
        assert one.IsManifoldAndOriented()
        points = np.array([list(v.Coordinates) for v in one.GetVertices()])
        faces = np.array([list(t.Indices) for t in one.GetTriangleIndices()])
        meshes[one.GetResourceID()] = trimesh.Trimesh(points, faces, process=False)
    objects = model.GetComponentsObjects()
    assert objects.MoveNext()
    whole, placed = objects.GetCurrentComponentsObject(), []
    for i in range(whole.GetComponentCount()):
        component = whole.GetComponent(i)
        placed.append((component.GetObjectResourceID(), list(component.GetTransform().Fields[3])))
    assert not objects.MoveNext()
    return meshes, placed


@pytest.mark.parametrize("options", [FINE, DEFAULT])
def test_3mf_holds_every_cell_once_and_every_element(tmp_path, item, options):
    written = write_3mf(item, tmp_path / "a.3mf", options=options)
    meshes, placed = read_3mf(tmp_path / "a.3mf")
    assert len(meshes) == written.cells == len(np.unique(item.index[item.solid]))
    assert len(placed) == written.instances == np.count_nonzero(item.solid)
    # Coordinates are written to 2^-16 of a cell.
    volume = sum(meshes[number].volume for number, _ in placed)
    assert volume == pytest.approx(item.solid_volume_m3 * 1e9, rel=1e-4)
    assert written.volume_mm3 == pytest.approx(volume, rel=1e-4)
    assert sum(len(m.faces) for m in meshes.values()) == written.triangles


def test_3mf_puts_each_cell_where_it_belongs(tmp_path, item):
    write_3mf(item, tmp_path / "a.3mf", BLOCK, options=FINE)
    meshes, placed = read_3mf(tmp_path / "a.3mf")
    index = item.index[BLOCK.slices]
    used = np.unique(index[index >= 0])
    at = {tuple(np.rint(np.array(place) / 2.0).astype(int)): number for number, place in placed}
    assert len(at) == len(placed) == np.count_nonzero(index >= 0)
    for where, cell in np.ndenumerate(index):
        if cell >= 0:
            found = meshes[at[where]]
            assert at[where] == 1 + np.searchsorted(used, cell)
            assert found.volume == pytest.approx(8.0 * item.cells.volume[cell], rel=1e-4)


def test_3mf_is_streamed_into_a_sound_zip(tmp_path, item):
    write_3mf(item, tmp_path / "a.3mf", options=FINE)
    with zipfile.ZipFile(tmp_path / "a.3mf") as package:
        assert package.testzip() is None
        assert {"[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model"} == set(package.namelist())


# -- GLB ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [FINE, MeshOptions(N, 0.0, 0.75)])
def test_glb_is_the_lattice_in_metres(tmp_path, item, options):
    written = write_glb(item, tmp_path / "a.glb", BLOCK, options=options)
    scene = trimesh.load(tmp_path / "a.glb")
    assert isinstance(scene, trimesh.Scene)
    index = item.index[BLOCK.slices]
    assert len(scene.geometry) == written.cells == len(np.unique(index[index >= 0]))
    nodes = scene.graph.nodes_geometry
    assert len(nodes) == written.instances == np.count_nonzero(index >= 0)
    found = {}
    for node in nodes:
        transform, name = scene.graph[node]
        np.testing.assert_array_equal(transform[:3, :3], np.eye(3))
        assert scene.geometry[name].is_watertight
        at = np.rint(transform[:3, 3] / 2e-3 - np.array(BLOCK.lower)).astype(int)
        found[tuple(at)] = scene.geometry[name].volume
    for where, cell in np.ndenumerate(index):
        if cell >= 0:
            # float32 corners of a cell 2 mm wide.
            assert found[where] == pytest.approx(8e-9 * item.cells.volume[cell], rel=1e-4)


# -- both ---------------------------------------------------------------------------------------------


def test_size_said_beforehand_is_near(item, tmp_path):
    written = write_3mf(item, tmp_path / "a.3mf", options=FINE)
    estimate = instanced_triangles(item, Block.whole(item.shape), FINE)
    # Half a voxel more along each face and mid-plane, where samples lie on them: much in cells of 12 voxels.
    assert estimate == pytest.approx(written.triangles, rel=0.4)


@pytest.mark.parametrize("write", [write_3mf, write_glb])
def test_an_export_that_fails_half_way_leaves_nothing(tmp_path, item, write):
    def stop(done: int, total: int, what: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(item, tmp_path / "a.out", options=FINE, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_3mf, write_glb])
def test_progress_ends_at_one(tmp_path, item, write):
    heard = Counted()
    write(item, tmp_path / "a.out", options=FINE, progress=heard)
    assert heard.rise()
    assert heard.shares[""][-1] == 1.0


def test_a_block_outside_is_refused(tmp_path, item):
    for write in (write_3mf, write_glb):
        with pytest.raises(InputError, match="leaves the grid"):
            write(item, tmp_path / "a.out", Block((0, 0, 0), (4, 1, 1)), options=FINE)


def test_empty_cells_are_not_drawn(tmp_path):
    cells = np.concatenate([octants()[:1], np.zeros((1, N, N, N), dtype=bool)])
    written = write_3mf(make([[[0, 1]]], cells=cells), tmp_path / "a.3mf", options=FINE)
    assert (written.cells, written.instances) == (1, 1)
