"""PLY, OBJ and decimation: the STL's surface with points once each, and with fewer triangles."""

from __future__ import annotations

import manifold3d
import numpy as np
import pytest
import trimesh
from lattices import N, make, mixed

from multiscale.export.mesh import surface
from multiscale.export.mesh.decimation import border, decimate
from multiscale.export.mesh.indexed import write_obj, write_ply
from multiscale.export.mesh.stl import write_stl
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

WRITERS = [pytest.param(write_ply, "ply", id="ply"), pytest.param(write_obj, "obj", id="obj")]
BLOCK = Block((1, 0, 0), (3, 4, 2))


@pytest.fixture
def item() -> Lattice:
    return mixed()


@pytest.fixture
def many_slabs(monkeypatch):
    monkeypatch.setattr(surface, "_SLAB_VOXELS", 1)


def load(path, process=False) -> trimesh.Trimesh:
    return trimesh.load(path, file_type=path.suffix[1:], process=process)


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.7])
def test_the_surface_is_closed_by_its_numbers_alone(tmp_path, item, many_slabs, write, suffix, share):
    path = tmp_path / f"a.{suffix}"
    written = write(item, path, BLOCK, per_cell=2 * N, decimate=share)
    found = load(path)  # points are not merged by the reader
    assert found.is_watertight
    assert found.is_winding_consistent
    assert len(found.faces) == written.triangles
    assert len(np.unique(found.vertices, axis=0)) == len(found.vertices)
    expected = 8.0 * item.densities()[BLOCK.slices].sum()
    # 0.5 % as for STL; deleting points changes the volume by some thousandths more.
    assert found.volume == pytest.approx(expected, rel=0.005 + 0.02 * bool(share))
    assert written.volume_mm3 == pytest.approx(found.volume, rel=1e-5)


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
def test_it_is_the_stls_surface(tmp_path, item, many_slabs, write, suffix):
    write(item, tmp_path / f"a.{suffix}", BLOCK, per_cell=2 * N)
    write_stl(item, tmp_path / "a.stl", BLOCK, per_cell=2 * N)
    one, other = load(tmp_path / f"a.{suffix}"), load(tmp_path / "a.stl")
    key = lambda mesh: mesh.triangles.reshape(-1, 9)[np.lexsort(mesh.triangles.reshape(-1, 9).T)]  # noqa: E731
    np.testing.assert_array_equal(key(one).astype(np.float32), key(other).astype(np.float32))


@pytest.mark.parametrize("slabs", ["one", "many"])
def test_decimated_stl_is_watertight(tmp_path, item, slabs, monkeypatch):
    if slabs == "many":
        monkeypatch.setattr(surface, "_SLAB_VOXELS", 1)
    whole = write_stl(item, tmp_path / "a.stl", smooth=0.6)
    fewer = write_stl(item, tmp_path / "b.stl", smooth=0.6, decimate=0.8)
    found = load(tmp_path / "b.stl", process=True)
    assert found.is_watertight
    # What lies along the slabs' borders stays: less goes where slabs are thin.
    assert fewer.triangles < (0.3 if slabs == "one" else 0.5) * whole.triangles
    # Points deleted on blurred bars of two voxels cut some of them away; decimation promises no volume.
    assert found.volume == pytest.approx(whole.volume_mm3, rel=0.04)


def test_decimation_keeps_a_border_and_a_flat_part():
    # A bump on a plane: the plane goes to a few triangles, the border keeps its points.
    n = 24
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    z = 4.0 * np.exp(-((x - 11.5) ** 2 + (y - 11.5) ** 2) / 8)
    z[z < 1e-2] = 0
    points = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    triangles = np.concatenate([np.stack([a, a + n, a + 1], 1), np.stack([a + 1, a + n, a + n + 1], 1)])
    fewer, left = decimate(points, triangles, 0.8)
    assert len(left) < 0.3 * len(triangles)
    ends = {tuple(p) for p in points[border(triangles)].reshape(-1, 3)}
    assert {tuple(p) for p in fewer[border(left)].reshape(-1, 3)} == ends
    assert {tuple(p) for p in fewer} <= {tuple(p) for p in points}


def test_border_of_known_surfaces():
    tetrahedron = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    assert len(border(tetrahedron)) == 0
    np.testing.assert_array_equal(np.sort(border(tetrahedron[1:]), axis=1), [[0, 1], [1, 2], [0, 2]])
    assert border(np.array([[0, 1, 2], [0, 1, 3]])) is None  # both run from 0 to 1


@pytest.mark.parametrize(("write", "suffix"), WRITERS)
def test_an_export_that_fails_half_way_leaves_nothing(tmp_path, item, many_slabs, write, suffix):
    def stop(done: int, total: int, what: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(item, tmp_path / f"a.{suffix}", BLOCK, per_cell=2 * N, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_a_block_of_4_x_4_x_4_is_a_manifold_of_the_right_volume(tmp_path, share):
    # Judged by a library that does booleans on the mesh and therefore refuses what is not a solid.
    item = make(np.random.default_rng(2).integers(-1, 6, size=(4, 4, 4)))
    write_ply(item, tmp_path / "a.ply", Block.whole(item.shape), per_cell=2 * N, smooth=0.6, decimate=share)
    found = load(tmp_path / "a.ply")
    solid = manifold3d.Manifold(
        manifold3d.Mesh(np.asarray(found.vertices, np.float32), np.asarray(found.faces, np.uint32))
    )
    assert solid.status() == manifold3d.Error.NoError
    # Blurred bars of two voxels lose volume to decimation, which promises none.
    expected = pytest.approx(item.solid_volume_m3 * 1e9, rel=0.04 if share else 0.01)
    assert solid.volume() == expected
