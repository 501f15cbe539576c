"""Slices and SVX: read back by other people's libraries and compared voxel for voxel."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from heard import Heard
from lattices import N, mixed
from PIL import Image

from micro.runtime.errors import InputError
from multiscale.export.command import export
from multiscale.export.volume import vdb
from multiscale.export.volume.png import png
from multiscale.export.volume.slices import planes, write_slices
from multiscale.export.volume.svx import write_svx
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

BLOCK = Block((1, 0, 1), (3, 3, 2))


@pytest.fixture
def item() -> Lattice:
    return mixed()


def read_slices(path: Path) -> tuple[np.ndarray, dict]:
    """Voxels [x, y, z] of a stack, as its manifest describes it."""
    manifest = json.loads((path / "manifest.json").read_text())
    nx, ny = manifest["pixels"]
    nz = manifest["layers"]
    voxels = np.empty((nx, ny, nz), dtype=bool)
    for k in range(nz):
        with Image.open(path / (manifest["slices"] % k)) as picture:
            assert picture.mode == "1"  # one bit a pixel
            assert picture.size == (nx, ny)
            for x, y in np.ndindex(nx, ny):
                voxels[x, y, k] = picture.getpixel((x, y)) > 0
    assert len(list(path.iterdir())) == nz + 1
    return voxels, manifest


def read_svx(path: Path) -> tuple[np.ndarray, ElementTree.Element]:
    """Voxels [x, y, z] as AbFab3D reads them: slice number y, column x, row z; 8-bit greyscale."""
    with zipfile.ZipFile(path) as package:
        grid = ElementTree.fromstring(package.read("manifest.xml"))
        nx, ny, nz = (int(grid.get(f"gridSize{axis}")) for axis in "XYZ")
        name = grid.find("channels/channel[@type='DENSITY']").get("slices")
        density = np.empty((nx, ny, nz), dtype=np.uint8)
        for y in range(ny):
            with Image.open(io.BytesIO(package.read(name % y))) as picture:
                assert picture.mode == "L"
                assert picture.size == (nx, nz)
                density[:, y, :] = np.asarray(picture).T
    return density, grid


def test_the_test_lattice_tells_every_flip_and_swap(item):
    voxels = item.voxels(Block((0, 0, 0), (2, 2, 2)))
    for axis in range(3):
        assert (np.flip(voxels, axis) != voxels).any()
    for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        assert (voxels.transpose(order) != voxels).any()


@pytest.mark.parametrize("per_cell", [None, N])
def test_slices_are_the_voxels(tmp_path, item, per_cell):
    write_slices(item, tmp_path / "stack", BLOCK, per_cell=per_cell)
    voxels, manifest = read_slices(tmp_path / "stack")
    np.testing.assert_array_equal(voxels, item.voxels(BLOCK, per_cell=per_cell))
    pitch = 2.0 / (per_cell or 2 * N)
    assert [*manifest["pixel_size_mm"], manifest["layer_height_mm"]] == pytest.approx([pitch] * 3)
    assert manifest["origin_mm"] == pytest.approx([2.0, 0.0, 2.0])


@pytest.mark.parametrize("per_cell", [None, N])
def test_svx_is_the_voxels(tmp_path, item, per_cell):
    write_svx(item, tmp_path / "a.svx", BLOCK, per_cell=per_cell)
    density, grid = read_svx(tmp_path / "a.svx")
    np.testing.assert_array_equal(density, 255 * item.voxels(BLOCK, per_cell=per_cell).astype(np.uint8))
    assert float(grid.get("voxelSize")) == pytest.approx(2e-3 / (per_cell or 2 * N))
    assert [float(grid.get(f"origin{a}")) for a in "XYZ"] == pytest.approx([2e-3, 0.0, 2e-3])
    assert grid.get("slicesOrientation") == "Y"


@pytest.mark.parametrize("axis", range(3))
def test_planes_stack_to_the_voxels(item, axis):
    stacked = np.stack(list(planes(item, BLOCK, per_cell=2 * N, axis=axis)), axis=axis)
    np.testing.assert_array_equal(stacked, item.voxels(BLOCK))


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_png_of_any_width_is_read_back(dtype):
    rng = np.random.default_rng(0)
    for columns in (1, 7, 8, 9, 64):
        image = rng.integers(0, 2 if dtype is bool else 256, (5, columns)).astype(dtype)
        with Image.open(io.BytesIO(png(image))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), image)


@pytest.mark.parametrize("write", [write_slices, write_svx])
def test_an_export_that_fails_half_way_leaves_nothing(tmp_path, item, write):
    def stop(done: int, total: int, what: str = "") -> None:
        if 2 * done > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(item, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_replaces_a_stack_and_nothing_else(tmp_path, item):
    item.save(tmp_path / "run" / "lattice.zarr")
    out = tmp_path / "stack"
    export(tmp_path / "run", "slices", out)
    export(tmp_path / "run", "slices", out, "0:1,0:1,1:2", per_cell=N)
    assert len(list(out.iterdir())) == N + 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("a year's")
    with pytest.raises(InputError, match="not replaced"):
        export(tmp_path / "run", "slices", tmp_path / "mine")
    assert (tmp_path / "mine" / "work.txt").read_text() == "a year's"


def test_the_size_is_said_first(tmp_path, item):
    item.save(tmp_path / "run" / "lattice.zarr")
    for name, out in (("slices", "stack"), ("svx", "a.svx")):
        heard = Heard()
        export(tmp_path / "run", name, tmp_path / out, reporter=heard)
        assert "36 x 48 x 24 voxels of 0.1667 mm" in heard.said[0]


# -- OpenVDB ------------------------------------------------------------------------------------------


class FakeGrid:
    """What the writer uses of OpenVDB's FloatGrid, as its documentation describes it."""

    def __init__(self):
        self.values: dict[tuple[int, int, int], float] = {}

    def copyFromArray(self, array, ijk=(0, 0, 0)):
        for where in np.argwhere(array):
            self.values[tuple(int(v) for v in where + np.array(ijk))] = float(array[tuple(where)])


class FakeLibrary:
    FloatGrid = FakeGrid

    def createLinearTransform(self, voxelSize):
        return voxelSize

    def write(self, path, grids):
        self.grids = grids
        Path(path).write_bytes(b"vdb")


def test_vdb_holds_the_voxels_in_place(tmp_path, item):
    library = FakeLibrary()
    vdb.write_vdb(library, item, tmp_path / "a.vdb", BLOCK, per_cell=N)
    (grid,) = library.grids
    expected = np.argwhere(item.voxels(BLOCK, per_cell=N)) + np.array(BLOCK.lower) * N
    assert set(grid.values) == {tuple(where) for where in expected.tolist()}
    assert grid.transform == pytest.approx(2e-3 / N)
    assert (tmp_path / "a.vdb").exists()


def test_vdb_without_its_library_is_refused(tmp_path, item, monkeypatch):
    monkeypatch.setattr(vdb, "_NAMES", ("no_such_openvdb",))
    item.save(tmp_path / "run" / "lattice.zarr")
    with pytest.raises(InputError, match="not installed") as caught:
        export(tmp_path / "run", "vdb", tmp_path / "a.vdb")
    assert caught.value.key == "format"
    assert not (tmp_path / "a.vdb").exists()
