"""Slices on a printer's grid: read back, and compared with the cells' level sets and with known shapes."""

from __future__ import annotations

import configparser
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from heard import Heard
from lattices import N, make, mixed, octants
from PIL import Image
from scipy.interpolate import RegularGridInterpolator

from micro.runtime.errors import InputError
from multiscale.export.command import export
from multiscale.export.volume import printer_slices
from multiscale.export.volume.level_sets import level_set
from multiscale.export.volume.printer_slices import PrinterGrid
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

J750 = (0.0423, 0.0846), 0.027  # mm: 600 x 300 dpi


def read_stack(path: Path) -> tuple[np.ndarray, dict]:
    """Pixels [x, y, z] and the manifest, by somebody else's reader."""
    manifest = json.loads((path / "manifest.json").read_text())
    layers = []
    for k in range(manifest["layers"]):
        with Image.open(path / (manifest["slices"] % k)) as picture:
            assert (picture.mode, picture.size) == ("1", tuple(manifest["pixels"]))
            layers.append(np.asarray(picture).T)
    return np.stack(layers, axis=-1), manifest


def read_sl1(path: Path) -> tuple[np.ndarray, tuple[float, ...], dict[str, str]]:
    """Solid pixels [x, y, z], their pitch in mm and the job, as PrusaSlicer reads them back (SL1.cpp).

    Pictures by their names in order, 8-bit greyscale and nothing else, solid from 128 on; the screen's
    orientation and mirrors say how x and y lie in them, row 0 being the highest y of a screen not mirrored.
    """
    with zipfile.ZipFile(path) as package:
        tables = {}
        for name in ("config.ini", "prusaslicer.ini"):
            parser = configparser.ConfigParser(interpolation=None)
            parser.optionxform = str
            parser.read_string("[ini]\n" + package.read(name).decode())
            tables[name] = dict(parser["ini"])
        job, screen = tables["config.ini"], tables["prusaslicer.ini"]
        layers = []
        for name in sorted(name for name in package.namelist() if name.endswith(".png")):
            assert name == f"{job['jobDir']}{len(layers):05d}.png"
            with package.open(name) as file, Image.open(file) as picture:
                assert picture.mode == "L"
                layers.append(np.asarray(picture) >= 128)
    assert screen["display_orientation"] == "landscape"
    image = np.stack(layers, axis=-1)
    rows, columns = image.shape[:2]
    assert (columns, rows) == (int(screen["display_pixels_x"]), int(screen["display_pixels_y"]))
    if screen["display_mirror_y"] == "0":
        image = image[::-1]
    if screen["display_mirror_x"] == "1":
        image = image[:, ::-1]
    assert screen["layer_height"] == screen["initial_layer_height"] == job["layerHeight"]
    width, height = float(screen["display_width"]), float(screen["display_height"])
    return (
        image.transpose(1, 0, 2),
        (width / columns, height / rows, float(screen["layer_height"])),
        job,
    )


def centres(manifest: dict, low: float = 0.5) -> list[np.ndarray]:
    """Coordinates in mm of the pixels' centres along each axis, from the lattice's corner."""
    steps = [*manifest["pixel_size_mm"], manifest["layer_height_mm"]]
    counts = [*manifest["pixels"], manifest["layers"]]
    return [
        origin + (np.arange(n) + low) * step
        for n, step, origin in zip(counts, steps, manifest["origin_mm"], strict=True)
    ]


def slow_level(item: Lattice, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The lattice's level set on an open grid of points in mm: by scipy, an element at a time."""
    edge, n = 1e3 * item.cell_size_m, item.cells.n
    out = np.full((len(x), len(y), len(z)), -1.0)
    sample = (np.arange(-1, n + 1) + 0.5) / (2 * n)  # with a mirror image at either end
    for cell in np.unique(item.index[item.solid]):
        field = np.pad(level_set(item.cells.octants(int(cell))), 1, mode="symmetric")
        look = RegularGridInterpolator([sample] * 3, field.astype(float))
        for where in np.argwhere(item.index == cell):
            inside = [
                np.flatnonzero((c >= i * edge) & (c < (i + 1) * edge))
                for c, i in zip((x, y, z), where, strict=True)
            ]
            local = [c[ids] / edge - i for c, ids, i in zip((x, y, z), inside, where, strict=True)]
            local = [np.minimum(c, 1 - c) for c in local]
            out[np.ix_(*inside)] = look(tuple(np.meshgrid(*local, indexing="ij")))
    return out


# -- against the level sets ------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixel", "layer"), [J750, ((0.05, 0.05), 0.1), ((0.25, 0.1), 0.25)])
def test_pixels_have_the_level_sets_sign_at_their_centres(tmp_path, pixel, layer):
    item = mixed()
    item.save(tmp_path / "a.zarr")
    out = export(
        tmp_path / "a.zarr", "slices", tmp_path / "stack", "1:3,0:3,0:2", pixel_mm=pixel, layer_mm=layer
    )
    pixels, manifest = read_stack(out)
    assert manifest["origin_mm"] == [2.0, 0.0, 0.0]
    assert manifest["units"] == "mm"
    expected = slow_level(item, *centres(manifest))
    # Only where a centre is on the surface to the last digit of single precision may they differ.
    assert np.abs(expected[pixels != (expected > 0)]).max(initial=0) < 1e-5
    assert 0.2 < pixels.mean() < 0.8


def test_sl1_holds_the_same_pixels(tmp_path):
    item = mixed()
    item.save(tmp_path / "a.zarr")
    asked = {"region": "1:3,0:3,0:2", "pixel_mm": J750[0], "layer_mm": J750[1]}
    expected, manifest = read_stack(export(tmp_path / "a.zarr", "slices", tmp_path / "stack", **asked))
    pixels, pitch, job = read_sl1(export(tmp_path / "a.zarr", "sl1", tmp_path / "part.sl1", **asked))
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_allclose(pitch, (*J750[0], J750[1]))
    assert int(job["numFast"]) == manifest["layers"]
    assert float(job["usedMaterial"]) == pytest.approx(manifest["solid_mm3"] / 1000)


def test_sl1_is_made_of_the_voxels_unless_told_otherwise(tmp_path):
    item = mixed()
    item.save(tmp_path / "a.zarr")
    pixels, pitch, _ = read_sl1(export(tmp_path / "a.zarr", "sl1", tmp_path / "a.sl1"))
    np.testing.assert_array_equal(pixels, item.voxels())
    np.testing.assert_allclose(pitch, 1e3 * item.cell_size_m / item.voxels_per_cell)
    with pytest.raises(InputError, match="--voxels-per-cell"):
        export(tmp_path / "a.zarr", "sl1", tmp_path / "b.sl1", per_cell=N)


def test_wrong_pixels_touch_the_surface(tmp_path):
    item = mixed()
    item.save(tmp_path / "a.zarr")
    pixel, layer = (0.06, 0.11), 0.08
    out = export(
        tmp_path / "a.zarr", "slices", tmp_path / "stack", "0:2,0:2,0:2", pixel_mm=pixel, layer_mm=layer
    )
    pixels, manifest = read_stack(out)
    # Nine points of every pixel: its corners and its centre. One that all of them have in the solid is solid.
    corners = [slow_level(item, *centres(manifest, low)) > 0 for low in (1e-6, 0.5, 1 - 1e-6)]
    full, empty = np.logical_and.reduce(corners), ~np.logical_or.reduce(corners)
    assert not (full & ~pixels).any()
    assert not (empty & pixels).any()
    assert full.any()
    assert empty.any()


def test_the_volume_is_the_voxels(tmp_path):
    # Smooth cells of known volume: a thousandth is what the level sets are made to, the rest are the pixels.
    item = make([[[0, 1], [2, 0]]], cell_size_m=1e-2, cells=octants()[:3])
    item.save(tmp_path / "a.zarr")
    heard = Heard()
    out = export(
        tmp_path / "a.zarr",
        "slices",
        tmp_path / "stack",
        pixel_mm=(0.05, 0.1),
        layer_mm=0.08,
        reporter=heard,
    )
    pixels, manifest = read_stack(out)
    volume = pixels.sum() * 0.05 * 0.1 * 0.08
    assert volume == pytest.approx(1e9 * item.solid_volume_m3, rel=3e-3)
    assert manifest["solid_mm3"] == pytest.approx(volume)
    assert "125 slices" not in heard.said[0]
    assert "250 slices of 200 x 200 pixels, 0.05 x 0.1 x 0.08 mm each" in heard.said[0]
    assert "the cells' own volume" in heard.said[1]


# -- against shapes whose surface is known ------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(0.0423, 0.0846, 0.027), (0.11, 0.05, 0.13)])
def test_a_sphere_is_round_at_any_pitch(tmp_path, steps):
    n, edge, radius = 16, 4.0, 1.7
    at = (np.indices((n, n, n)) + 0.5) * edge / (2 * n) - edge / 2
    ball = np.sqrt((at**2).sum(axis=0)) < radius
    item = make([[[0]]], cell_size_m=1e-3 * edge, cells=ball[None])
    item.save(tmp_path / "a.zarr")
    out = export(tmp_path / "a.zarr", "slices", tmp_path / "s", pixel_mm=steps[:2], layer_mm=steps[2])
    pixels, manifest = read_stack(out)
    x, y, z = centres(manifest)
    distance = np.sqrt((x[:, None, None] - 2) ** 2 + (y[:, None] - 2) ** 2 + (z - 2) ** 2)
    wrong = np.abs(distance - radius)[pixels != (distance < radius)]
    voxel = edge / (2 * n)
    # The voxels know the surface to half of their diagonal; smoothing brings it to a third of their edge.
    assert wrong.max(initial=0) < 0.35 * voxel
    nearest = np.clip((np.stack(np.meshgrid(x, y, z, indexing="ij")) / voxel).astype(int), 0, 2 * n - 1)
    blocky = item.voxels()[tuple(nearest)]
    assert (pixels != (distance < radius)).sum() < 0.35 * (blocky != (distance < radius)).sum()
    assert pixels.sum() * np.prod(steps) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)


def test_plates_are_as_thick_as_they_are(tmp_path):
    # Plates of four voxels of 0.125 mm on all faces, half of them in each cell.
    n = 8
    plates = np.sort(np.indices((n, n, n)), axis=0)[0] < 2
    item = make([[[0, 0]]], cell_size_m=2e-3, cells=plates[None])
    item.save(tmp_path / "a.zarr")
    out = export(tmp_path / "a.zarr", "slices", tmp_path / "s", pixel_mm=(0.01, 0.01), layer_mm=0.02)
    pixels, _ = read_stack(out)
    middle = pixels[100, 100]
    runs = np.diff(np.flatnonzero(np.diff(np.pad(middle.astype(int), 1))))
    assert runs[[0, 2, 4]].tolist() == pytest.approx([12.5, 25, 12.5], abs=1)  # layers of 0.02 mm


def test_no_voxel_is_lost():
    rng = np.random.default_rng(0)
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    for fill in (0.2, 0.5, 0.8):
        noise = (rng.random((N, N, N)) < fill)[low, mid, high]
        np.testing.assert_array_equal(level_set(noise) > 0, noise)
    assert (level_set(np.ones((4, 4, 4), dtype=bool)) == 1).all()
    assert (level_set(np.zeros((4, 4, 4), dtype=bool)) == -1).all()


# -- what is refused, and what is bounded -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"pixel_mm": (42.3, 84.6), "layer_mm": 0.027}, "--pixel"),  # micrometres
        ({"pixel_mm": (0.05, 0.05), "layer_mm": 100.0}, "--layer"),
        ({"pixel_mm": (0.05, float("nan")), "layer_mm": 0.1}, "--pixel"),
        ({"pixel_mm": (0.05, 0.05)}, "--layer"),
        ({"layer_mm": 0.1}, "--pixel"),
        ({"pixel_mm": (0.05, 0.05), "layer_mm": 0.1, "per_cell": N}, "--voxels-per-cell"),
    ],
)
def test_a_wrong_grid_is_refused(tmp_path, options, key):
    mixed().save(tmp_path / "a.zarr")
    with pytest.raises(InputError) as caught:
        export(tmp_path / "a.zarr", "slices", tmp_path / "s", **options)
    assert caught.value.key == key
    with pytest.raises(InputError, match="for slices and sl1"):
        export(tmp_path / "a.zarr", "svx", tmp_path / "a.svx", pixel_mm=(0.05, 0.05), layer_mm=0.1)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_more_than_there_is_place_for_is_refused(tmp_path, monkeypatch):
    mixed().save(tmp_path / "a.zarr")
    grid = {"pixel_mm": (0.05, 0.05), "layer_mm": 0.1}
    monkeypatch.setattr(printer_slices.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 10_000}))
    with pytest.raises(InputError, match="the disk has place for") as caught:
        export(tmp_path / "a.zarr", "slices", tmp_path / "new" / "s", **grid)
    assert caught.value.key == "--out"
    monkeypatch.setattr(printer_slices, "MOST_PIXELS", 1000)
    with pytest.raises(InputError, match="pixels a slice"):
        export(tmp_path / "a.zarr", "slices", tmp_path / "s", **grid)
    monkeypatch.setattr(printer_slices, "MOST_LAYERS", 10)
    monkeypatch.setattr(printer_slices, "MOST_PIXELS", 10**9)
    with pytest.raises(InputError, match="layers are more"):
        export(tmp_path / "a.zarr", "slices", tmp_path / "s", **grid)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_level_sets_of_other_layers_are_let_go(monkeypatch):
    item = make(np.arange(6).reshape(1, 1, 6) % 4)
    block = Block.whole(item.shape)
    grid = PrinterGrid.of(item, block, (0.1, 0.1), 0.1)
    free = list(printer_slices.printer_slices(item, block, grid))
    monkeypatch.setattr("multiscale.export.volume.level_sets.KEEP_BYTES", 1)
    for a, b in zip(free, printer_slices.printer_slices(item, block, grid), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_command_takes_a_printers_grid(tmp_path, run_cli):
    mixed().save(tmp_path / "a.zarr")
    words = ("multiscale", "export", tmp_path / "a.zarr", "--out", tmp_path / "s", "--region", "0:1,0:1,0:2")
    done = run_cli(*words, "--pixel", "0.0423,0.0846", "--layer", "0.027")
    assert done.returncode == 0, done.stderr
    assert "148 slices of 47 x 24 pixels, 0.0423 x 0.0846 x 0.027 mm each" in done.stdout
    wrong = run_cli(*words, "--pixel", "1,2,3", "--layer", "0.027")
    assert wrong.returncode == 2
    assert "--pixel" in wrong.stderr
