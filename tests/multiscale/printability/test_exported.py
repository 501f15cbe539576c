"""What ships, measured again: files with known faults, and files that hold what the voxels hold."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
import trimesh
from described import undescribed
from examples import MINIMAL
from lattices import N, make, mixed, octants
from run_directories import made_up_run
from scipy import ndimage

from micro.runtime.errors import InputError
from multiscale.export.command import export
from multiscale.lattice.block import Block
from multiscale.printability.exported import assess_file, described, surface_facts
from multiscale.printability.grid import measure, measure_layers
from multiscale.printability.printability import assess

ONE = (1.0, 1.0, 1.0)
LOW = np.sort(np.indices((N, N, N)), axis=0)[0]
SHELL = LOW < 2


def box(shape, *filled) -> np.ndarray:
    """A grid of ``shape`` with boxes ``((x0, x1), (y0, y1), (z0, z1))`` filled."""
    out = np.zeros(shape, dtype=bool)
    for (x0, x1), (y0, y1), (z0, z1) in filled:
        out[x0:x1, y0:y1, z0:z1] = True
    return out


# -- a solid on a grid -----------------------------------------------------------------------------------


def test_pieces_cavities_and_single_openings_of_known_boxes():
    solid = np.ones((20, 12, 12), dtype=bool)
    solid[2:5, 2:5, 2:5] = False  # closed
    solid[8:11, 3:6, 3:6] = False
    solid[9, 4, 6:] = False  # one opening
    solid[14:17, 3:6, 3:6] = False
    solid[15, 4] = False  # through and through: two
    found = measure(solid, (1.0, 2.0, 0.5))
    assert (found.pieces, found.loose_share) == (1, 0.0)
    assert (found.cavities, found.cavities_mm3) == (1, 27.0)
    assert (found.one_opening, found.one_opening_mm3) == (1, 27.0 + 6)
    assert found.solid_mm3 == solid.sum()
    assert found.size_mm == (20.0, 24.0, 6.0)
    apart = box((9, 4, 4), ((0, 2), (0, 4), (0, 4)), ((3, 9), (0, 4), (0, 4)))
    found = measure(apart, ONE)
    assert (found.pieces, found.loose_share) == (2, pytest.approx(0.25))


def test_openings_round_an_edge_are_one():
    solid = np.ones((8, 8, 8), dtype=bool)
    solid[2:5, 2:5, 2:5] = False
    solid[3, :3, 3] = False
    solid[3, 0, :4] = False  # a groove along the face up to the edge, and over it
    solid[3, :2, 0] = False
    assert measure(solid, ONE).one_opening == 1


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_walls_and_gaps_are_as_wide_as_they_are(k):
    wall = box((30, 20, 20), ((12, 12 + k), (0, 20), (0, 20)))
    assert measure(wall, (0.1, 0.1, 0.1)).least_wall_mm == pytest.approx(0.1 * k)
    found = measure(~wall, (0.1, 0.1, 0.1))
    assert found.least_gap_mm == pytest.approx(0.1 * k)
    assert found.least_wall_mm == pytest.approx(0.8)
    # Pixels that are not cubes: 0.2 mm is the coarsest pitch, and a wall of 4 k pixels of 0.05 mm along x.
    fine = np.repeat(np.repeat(wall, 4, axis=0), 2, axis=1)
    assert measure(fine, (0.05, 0.1, 0.2)).least_wall_mm == pytest.approx(0.2 * k)


def test_a_gap_at_the_rim_is_open():
    # All around is open: what is left of the block beside a thin block is no narrow gap.
    assert measure(box((10, 10, 10), ((1, 9), (1, 9), (0, 10))), ONE).least_gap_mm == 8.0


# -- layers ----------------------------------------------------------------------------------------------


def test_a_table_bridges_and_a_gallows_hangs_over():
    legs = ((0, 2), (0, 4), (0, 6)), ((12, 14), (0, 4), (0, 6))
    top = box((14, 4, 8), *legs, ((0, 14), (0, 4), (6, 8)))
    found = measure_layers(top, ONE)
    assert (found.islands, found.bridges, found.overhangs) == (0, 1, 0)
    # Ten wide; a voxel at either end leans out by 45 degrees, the rest is four from what holds it at most.
    assert found.longest_bridge_mm == pytest.approx(8.0)
    gallows = box((14, 4, 8), legs[0], ((0, 10), (0, 4), (6, 8)))
    found = measure_layers(gallows, (0.5, 0.5, 0.5))
    assert (found.islands, found.bridges, found.overhangs) == (0, 0, 1)
    assert found.longest_overhang_mm == pytest.approx(3.5)
    assert found.unsupported_share == pytest.approx(7 * 4 / gallows.sum())


def test_what_begins_in_the_air_is_an_island():
    drop = box((12, 12, 12), ((0, 12), (0, 12), (0, 1)), ((4, 7), (4, 8), (6, 12)), ((4, 5), (0, 4), (9, 12)))
    found = measure_layers(drop, ONE)
    assert (found.count, found.islands, found.island_layer, found.largest_island_mm2) == (12, 1, 6, 12.0)
    # Built upside down, the drop stands on the plate, and its own plate begins in the air.
    turned = measure(drop, ONE, (0.0, 0.0, -2.0)).layers
    assert (turned.islands, turned.island_layer, turned.largest_island_mm2) == (1, 11, 144.0)


def test_a_slope_of_45_degrees_stands():
    slope = np.zeros((12, 3, 10), dtype=bool)
    for k in range(10):
        slope[: k + 2, :, k] = True
    assert measure_layers(slope, ONE).overhangs == 0
    # At half the layers' height the same pixels lean out by 63 degrees.
    assert measure_layers(slope, (1.0, 1.0, 0.5)).overhangs == 0  # a pixel is the least there is
    steep = np.zeros((24, 3, 10), dtype=bool)
    for k in range(10):
        steep[: 2 * k + 2, :, k] = True
    assert measure_layers(steep, ONE).overhangs == 9
    assert measure_layers(steep, (0.5, 1.0, 1.0)).overhangs == 0


def test_a_layer_along_any_axis():
    solid = mixed().voxels(Block((0, 0, 0), (2, 2, 2)))
    up = measure(solid, ONE).layers
    assert measure(solid.transpose(2, 0, 1), ONE, (1.0, 0.0, 0.0)).layers == up
    assert measure(solid.transpose(0, 2, 1), ONE, (0.0, 1.0, 0.0)).layers == up
    with pytest.raises(InputError, match="along an axis"):
        measure(solid, ONE, (1.0, 1.0, 0.0))


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["stl", "ply", "3mf"])
def test_a_mesh_holds_what_its_voxels_hold(tmp_path, format):
    item = mixed()
    item.save(tmp_path / "a.zarr")
    out = export(tmp_path / "a.zarr", format, tmp_path / f"a.{format}", smooth=0.0, decimate=0.0)
    found = assess_file(item, out)
    assert found.region == "0:3,0:4,0:2"
    own = found.voxels
    assert own.solid_mm3 == pytest.approx(1e9 * item.solid_volume_m3)
    assert own.cavities == ndimage.label(np.pad(~item.voxels(), 1, constant_values=True))[1] - 1
    # A mesh passes between the voxels' centres: at them it is the voxels.
    assert found.file == own
    assert found.surface.watertight
    if format != "3mf":
        assert found.surface.inner_shells == own.cavities
        assert found.surface.crowded_edges == 0
    assert found.surface.enclosed_mm3 == pytest.approx(own.solid_mm3, rel=5e-3)


def test_a_slicers_file_keeps_gaps_of_a_voxel(tmp_path):
    """As it comes, blurred and decimated: boxes with a hole of two voxels in every wall stay open."""
    port = SHELL & ~(np.sort(np.indices((N, N, N)), axis=0)[1] >= N - 1)
    item = make(np.zeros((2, 2, 2), dtype=int), cells=port[None])
    item.save(tmp_path / "a.zarr")
    found = assess_file(item, export(tmp_path / "a.zarr", "3mf", tmp_path / "a.3mf"))
    assert (found.file.cavities, found.voxels.cavities) == (0, 0)
    assert found.surface.inner_shells == 0
    assert found.file.solid_mm3 == pytest.approx(found.voxels.solid_mm3, rel=0.02)


def test_slices_of_the_voxels_are_the_voxels(tmp_path):
    item = mixed()
    item.save(tmp_path / "a.zarr")
    out = export(tmp_path / "a.zarr", "slices", tmp_path / "s", "1:3,1:3,0:2")
    found = assess_file(item, out)
    assert (found.region, found.surface) == ("1:3,1:3,0:2", None)
    assert found.file == found.voxels
    coarse = export(tmp_path / "a.zarr", "slices", tmp_path / "c", pixel_mm=(0.4, 0.4), layer_mm=0.4)
    found = assess_file(item, coarse)
    assert found.file.pitch_mm == (0.4, 0.4, 0.4)
    assert found.file.solid_mm3 != found.voxels.solid_mm3
    assert any("islands" in line for line in described(found))


def test_where_a_file_lies_in_its_lattice(tmp_path):
    item = mixed()
    item.save(tmp_path / "a.zarr")
    part = export(tmp_path / "a.zarr", "stl", tmp_path / "a.stl", "1:3,1:3,0:2")
    assert assess_file(item, part).region == "1:3,1:3,0:2"
    moved = export(tmp_path / "a.zarr", "3mf", tmp_path / "a.3mf", "1:3,1:3,0:2")
    with pytest.raises(InputError, match="say which elements") as caught:
        assess_file(item, moved)  # a 3MF lies at the origin
    assert caught.value.key == "--region"
    assert assess_file(item, moved, "1:3,1:3,0:2").voxels == assess_file(item, part).voxels
    metres = trimesh.load(part)
    metres.apply_scale(1e-3)
    metres.export(tmp_path / "metres.stl")
    with pytest.raises(InputError, match=r"holds 0.004\d* x 0.004\d* x 0.004\d* mm"):
        assess_file(item, tmp_path / "metres.stl")


def test_a_file_against_a_printers_least(tmp_path):
    item = make([[[0]]], cells=SHELL[None])  # walls of two voxels of 1/6 mm around a box of eight
    item.save(tmp_path / "a.zarr")
    found = assess_file(item, export(tmp_path / "a.zarr", "stl", tmp_path / "a.stl"))
    assert described(found, 0.33)[-1].endswith("passes")
    assert described(found, 0.4)[-1].endswith("too thin: walls of 0.333 mm")
    solid = make([[[0]]], cells=np.ones((1, N, N, N), dtype=bool))
    solid.save(tmp_path / "b.zarr")
    found = assess_file(solid, export(tmp_path / "b.zarr", "stl", tmp_path / "b.stl"))
    assert "not measured at this pitch" in described(found, 1.5)[-1]


def test_faults_of_a_surface_are_counted():
    cube = trimesh.creation.box(extents=(2, 2, 2))
    whole = surface_facts(cube.vertices, cube.faces)
    assert (whole.watertight, whole.bodies, whole.inner_shells) == (True, 1, 0)
    assert whole.enclosed_mm3 == pytest.approx(8.0)
    holed = surface_facts(cube.vertices, cube.faces[1:])
    assert (holed.watertight, holed.open_edges) == (False, 3)
    inner = trimesh.creation.box(extents=(1, 1, 1))
    points = np.concatenate([cube.vertices, inner.vertices])
    both = surface_facts(points, np.concatenate([cube.faces, inner.faces[:, ::-1] + len(cube.vertices)]))
    assert (both.bodies, both.inner_shells, both.watertight) == (1, 1, True)
    assert both.enclosed_mm3 == pytest.approx(7.0)


def test_damaged_files_are_refused(tmp_path):
    item = mixed()
    item.save(tmp_path / "a.zarr")
    out = export(tmp_path / "a.zarr", "slices", tmp_path / "s", "0:1,0:1,0:1")
    (out / "slice_00003.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match="slice_00003"):
        assess_file(item, out)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="not the manifest of slices"):
        assess_file(item, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no slices"):
        assess_file(item, tmp_path / "empty")
    with pytest.raises(InputError, match="no such mesh file"):
        assess_file(item, tmp_path / "none.stl")
    with pytest.raises(InputError, match="no file that is measured"):
        assess_file(item, tmp_path / "a.svx")


# -- the commands --------------------------------------------------------------------------------------


def test_small_lattices_are_measured_layer_by_layer():
    item = make(np.zeros((2, 2, 1), dtype=int), cells=octants()[:1])
    report = assess(item)
    assert report.region == "0:2,0:2,0:1"
    assert report.grid == measure(item.voxels(), (2.0 / (2 * N),) * 3)
    assert assess(item, direction=(1.0, 1.0, 0.0)).grid is None
    part = assess(item, region="0:1,:,:")
    assert part.grid.size_mm == pytest.approx((2.0, 4.0, 2.0))
    with pytest.raises(InputError, match="along an axis"):
        assess(item, region="0:1,:,:", direction=(1.0, 1.0, 0.0))


def test_the_file_is_added_to_the_metrics(tmp_path, run_cli):
    run = made_up_run(tmp_path / "run", tomllib.loads(MINIMAL))
    out = export(run, "stl", tmp_path / "part.stl", "0:2,0:2,0:2")
    done = run_cli("multiscale", "printability", run, "--exported", out)
    assert done.returncode == 0, done.stderr
    for word in ("watertight", "file", "voxels", "least wall, mm", "islands"):
        assert word in done.stdout
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["exported"]["name"] == "part.stl"
    assert metrics["exported"]["file"]["solid_mm3"] == metrics["exported"]["voxels"]["solid_mm3"]
    assert not undescribed(metrics)
