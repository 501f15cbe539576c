"""``export --fill-cavities`` and ``--drain``: every format holds the changed voxels."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
import trimesh
from described import undescribed
from examples import MINIMAL
from heard import Heard
from lattices import N, make
from PIL import Image
from run_directories import made_up_run
from scipy import ndimage

from micro.cell.octant import cell_from_octant
from micro.cell.surface import read_triangles
from micro.runtime.errors import InputError
from multiscale.export.command import export
from multiscale.export.mesh.cell_mesh import MeshOptions, cell_mesh
from multiscale.export.mesh.surface import enclosed_volume
from multiscale.export.volume.slices import planes
from multiscale.export.volume.vti import read_vti
from multiscale.lattice.block import Block
from multiscale.lattice.draining import without_cavities
from multiscale.lattice.lattice import Lattice
from multiscale.printability.cavities import find_cavities

LOW = np.sort(np.indices((N, N, N)), axis=0)[0]
SHELL, SOLID = LOW < 2, LOW >= 0  # walls of two voxels around a box of void
NOISE = (np.random.default_rng(7).random((N, N, N)) < 0.85)[tuple(np.sort(np.indices((N, N, N)), axis=0))]


@pytest.fixture
def item() -> Lattice:
    """Three cells of which no two faces match: cavities across them, which no octant could fill."""
    return make([[[0], [1]], [[2], [0]]], cells=np.array([SHELL, NOISE, SOLID]))


def enclosed(voxels: np.ndarray) -> int:
    return int(ndimage.label(np.pad(~voxels, 1, constant_values=True))[1]) - 1


@pytest.mark.parametrize("cavities", ["fill", "drain"])
def test_slices_and_voxels_hold_the_changed_cells(tmp_path, item, cavities):
    item.save(tmp_path / "a.zarr")
    assert enclosed(item.voxels()) > 2
    changed, _ = without_cavities(item, drain=cavities == "drain")
    wanted = changed.voxels()
    assert (wanted != item.voxels()).any()
    heard = Heard()
    export(tmp_path / "a.zarr", "slices", tmp_path / "s", cavities=cavities, reporter=heard)
    stack = [np.asarray(Image.open(file)).T for file in sorted((tmp_path / "s").glob("*.png"))]
    np.testing.assert_array_equal(np.stack(stack, axis=-1), wanted)
    assert "enclosed cavities" in heard.said[0]
    for axis in range(3):
        stacked = np.stack(
            list(planes(changed, Block.whole(item.shape), per_cell=2 * N, axis=axis)), axis=axis
        )
        np.testing.assert_array_equal(stacked, wanted)
    export(tmp_path / "a.zarr", "vti", tmp_path / "a.vti", cavities=cavities)
    np.testing.assert_array_equal(read_vti(tmp_path / "a.vti").cell_data["solid"].astype(bool), wanted)
    pitch = 2.0 / (2 * N)
    grid = {"pixel_mm": (pitch, pitch), "layer_mm": pitch}
    export(tmp_path / "a.zarr", "slices", tmp_path / "p", cavities=cavities, **grid)
    stack = [np.asarray(Image.open(file)).T for file in sorted((tmp_path / "p").glob("*.png"))]
    # Pixels of the voxels' size at their centres: the level set has each voxel's own sign there.
    np.testing.assert_array_equal(np.stack(stack, axis=-1), wanted)


def test_a_surface_without_cavities_has_no_inner_shells(tmp_path, item):
    item.save(tmp_path / "a.zarr")

    def shells(**options) -> list[float]:
        found = trimesh.load(export(tmp_path / "a.zarr", "stl", tmp_path / "a.stl", **options))
        assert found.is_watertight
        return [part.volume for part in found.split(only_watertight=False)]

    assert sum(volume < 0 for volume in shells()) > 2
    assert sum(volume < 0 for volume in shells(cavities="fill")) == 0
    assert sum(volume < 0 for volume in shells(cavities="drain")) == 0


def test_a_slicers_file_holds_the_changed_cells(tmp_path, item):
    item.save(tmp_path / "a.zarr")
    changed, changes = without_cavities(item)
    assert changes.elements > 1
    export(tmp_path / "a.zarr", "3mf", tmp_path / "a.3mf", cavities="fill", smooth=0.0, decimate=0.0)
    volume = enclosed_volume(read_triangles(tmp_path / "a.3mf"))
    assert volume == pytest.approx(1e9 * changed.solid_volume_m3, rel=1e-4)


def test_a_whole_cells_surface_is_that_of_its_octant():
    for octant in (SHELL, NOISE, SOLID):
        for options in (MeshOptions(2 * N, 0.0, 0.0), MeshOptions(2 * N, 0.6, 0.5)):
            whole = cell_mesh(cell_from_octant(octant), options, whole=True)
            found = trimesh.Trimesh(whole.points, whole.triangles, process=False)
            assert found.is_watertight
            assert found.volume == pytest.approx(octant.mean(), rel=1e-6)
            np.testing.assert_array_equal(found.bounds, [[0, 0, 0], [1, 1, 1]])


def test_the_change_is_recorded_in_the_run(tmp_path, run_cli):
    run = made_up_run(tmp_path / "run", tomllib.loads(MINIMAL))
    before = find_cavities(Lattice.load(run / "lattice.zarr")).count
    done = run_cli(
        "multiscale", "export", run, "--out", tmp_path / "a.stl", "--drain", "--voxels-per-cell", 2 * N
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["changes"]["cavities"] == before
    assert metrics["changes"]["option"] == "--drain"
    assert not undescribed(metrics)
    both = run_cli("multiscale", "export", run, "--out", tmp_path / "b.stl", "--drain", "--fill-cavities")
    assert both.returncode == 2
    assert "either, not both" in both.stderr


@pytest.mark.parametrize(
    ("format", "options", "key"),
    [
        ("glb", {"cavities": "drain"}, "--drain"),
        ("vtu", {"cavities": "fill"}, "--fill-cavities"),
        ("stl", {"cavities": "fill", "per_cell": N}, "--fill-cavities"),
        ("stl", {"cavities": "fill", "channel_mm": 0.1}, "--channel"),
        ("stl", {"cavities": "drain", "channel_mm": 5.0}, "--channel"),
        ("stl", {"channel_mm": 0.1}, "--channel"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, item, format, options, key):
    item.save(tmp_path / "a.zarr")
    with pytest.raises(InputError) as caught:
        export(tmp_path / "a.zarr", format, tmp_path / f"a.{format}", **options)
    assert caught.value.key == key
