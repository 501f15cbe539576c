"""Printability: cavities against labelling every voxel, features and overhangs of known shapes."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from described import undescribed
from examples import MINIMAL
from heard import Counted
from lattices import N, make, mixed, octants
from run_directories import made_up_run
from scipy import ndimage

from micro.cell.octant import cell_from_octant, encloses
from micro.runtime.errors import InputError
from multiscale.lattice.lattice import Lattice
from multiscale.printability.cavities import find_cavities
from multiscale.printability.printability import assess, assess_run, described, overhanging_area, thinner_than
from multiscale.printability.printer import printable, thinner

UP = np.array([0.0, 0.0, 1.0])


def octant(rule, n: int = N) -> np.ndarray:
    """An octant (n, n, n) from a rule on the sorted indices, so that it is symmetric."""
    return rule(*np.sort(np.indices((n, n, n)), axis=0))


SOLID = octant(lambda a, b, c: a >= 0)
SHELL = octant(lambda a, b, c: a < 2)  # walls of 2 voxels on all faces around a box of void
BARS = octant(lambda a, b, c: b >= N - 1)  # bars of 2 x 2 voxels through the centre
PORT = octant(lambda a, b, c: (a < 2) & ~((b >= N - 1) & (c >= N - 1)))  # the shell with a hole in every wall


def slow_cavities(item) -> tuple[int, int, int]:
    """Number, voxels and elements of enclosed void, by labelling every voxel."""
    void = np.pad(~item.voxels(), 1, constant_values=True)
    labels, count = ndimage.label(void)
    closed = (labels > 0) & (labels != labels[0, 0, 0])
    inside = closed[1:-1, 1:-1, 1:-1]
    size = item.voxels_per_cell
    nx, ny, nz = item.shape
    elements = inside.reshape(nx, size, ny, size, nz, size).any(axis=(1, 3, 5)).sum()
    return count - 1, int(inside.sum()), int(elements)


# -- cavities -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_cavities_agree_with_labelling_every_voxel(seed):
    # Dense random cells enclose void of every kind: within a cell, across two, around void elements.
    rng = np.random.default_rng(seed)
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    cells = np.concatenate([(rng.random((4, N, N, N)) < 0.75)[:, low, mid, high], [SOLID, SHELL, BARS]])
    item = make(rng.integers(-1, len(cells), size=(4, 3, 3)), cells=cells)
    found = find_cavities(item)
    count, voxels, elements = slow_cavities(item)
    assert count > 0
    assert (found.count, found.elements) == (count, elements)
    assert found.volume_mm3 == pytest.approx(voxels * (2.0 / (2 * N)) ** 3)


def test_cells_enclose_void_as_in_a_lattice_of_their_own_kind():
    rng = np.random.default_rng(0)
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    fill = np.repeat([0.25, 0.6], 6)[:, None, None, None]
    cells = (rng.random((12, N, N, N)) < fill)[:, low, mid, high]
    cells = np.concatenate([cells, [SOLID, SHELL, BARS, PORT]])
    slow = []
    for one in cells:
        # A piece of void is as wide as a cell or two, or endless: five cells tell them apart in the middle.
        labels, _ = ndimage.label(np.tile(cell_from_octant(~one), (5, 5, 5)))
        middle = labels[4 * N : 6 * N, 4 * N : 6 * N, 4 * N : 6 * N]
        faces = [np.take(labels, end, axis=axis) for axis in range(3) for end in (0, -1)]
        reach = np.unique(np.concatenate([face.ravel() for face in faces]))
        slow.append(not np.isin(middle[middle > 0], reach).all())
    assert encloses(cells).tolist() == slow
    assert True in slow[:12]
    assert False in slow[:12]
    assert slow[12:] == [False, True, False, False]


def test_known_cavities():
    shells = make([[[0, 0]], [[0, 1]]], cells=np.array([SHELL, BARS]))
    found = find_cavities(shells)
    box = (2.0 * (2 * N - 4) / (2 * N)) ** 3  # mm3
    assert (found.count, found.elements, found.cells, found.elements_by_themselves) == (3, 3, 1, 3)
    assert found.volume_mm3 == pytest.approx(3 * box)
    assert found.largest_mm3 == pytest.approx(box)
    assert found.median_mm3 == pytest.approx(box)
    # A hole in every wall, and they all drain, through each other; closed ends make one long cavity.
    assert find_cavities(make([[[0, 0, 0]]], cells=np.array([PORT]))).count == 0
    pad = np.full((3, 3, 5), 1)
    pad[1, 1, 1:4] = 0
    sealed = find_cavities(make(pad, cells=np.array([PORT, SOLID])))
    assert (sealed.count, sealed.elements, sealed.cells) == (1, 3, 0)


def test_a_void_element_within_solid_is_a_cavity():
    index = np.zeros((3, 3, 3), dtype=int)
    index[1, 1, 1] = -1
    found = find_cavities(make(index, cells=np.array([SOLID])))
    assert (found.count, found.elements, found.cells) == (1, 1, 0)
    assert found.volume_mm3 == pytest.approx(8.0)
    index[1, 1, 2] = -1  # a way out
    assert find_cavities(make(index, cells=np.array([SOLID]))).count == 0


# -- features -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
def test_bars_and_walls_are_as_thick_as_they_are(k):
    n = 12
    bars = octant(lambda a, b, c: b >= n - k, n)
    walls = octant(lambda a, b, c: a < k, n)
    for shape in (bars, walls):
        # Mirrored, both are 2k voxels thick.
        lost = thinner_than(shape, 8)
        assert (lost[: 2 * k + 1] == 0).all()
        assert lost[2 * k + 1] > 0.5
        assert (np.diff(lost) >= 0).all()


def test_opening_agrees_with_scipy_on_the_mirrored_cell():
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    shape = (np.random.default_rng(0).random((N, N, N)) < 0.8)[low, mid, high]
    whole = np.tile(cell_from_octant(shape), (3, 3, 3))
    middle = (slice(2 * N, 3 * N),) * 3
    for k in range(2, 6):
        opened = ndimage.binary_opening(whole, np.ones((k, k, k), dtype=bool))[middle]
        assert thinner_than(shape, 6)[k] == pytest.approx(1 - opened.sum() / shape.sum())


def test_solid_and_empty_have_no_thin_part():
    assert not thinner_than(SOLID, 8).any()
    assert not thinner_than(~SOLID, 8).any()


def test_wide_openings_agree_with_narrow_ones():
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    for seed in range(3):
        shape = (np.random.default_rng(seed).random((N, N, N)) < 0.9)[low, mid, high]
        for part in (shape, ~shape, SHELL, BARS, SOLID, ~SOLID):
            assert [thinner(part, k) for k in range(9)] == pytest.approx(thinner_than(part, 8))


def test_walls_against_a_printer():
    # Cells of 2 mm and 24 voxels: walls of 6 voxels = 0.5 mm around boxes of 18 voxels = 1.5 mm.
    n, size = 12, 2.0
    walls = octant(lambda a, b, c: a < 3, n)
    item = make([[[0, 0]]], cells=np.array([walls]))
    for least, passes in ((0.2, True), (0.5, True), (0.5001, False), (1.6, False)):
        found = printable(item, least)
        assert found.passes == passes
        assert found.solid_thinner == pytest.approx(0.0 if passes else 1.0)
        # Beyond the box's edge every gap is too narrow as well.
        assert found.void_thinner == pytest.approx(float(least > 1.5))
        # The walls are a quarter of the cell: it has to be four times as large as they.
        assert found.cell_size_mm == pytest.approx(4 * least)
        for scale, passes_then in ((1.0001, True), (0.9999, False)):
            scaled = make([[[0, 0]]], cell_size_m=1e-3 * scale * found.cell_size_mm, cells=np.array([walls]))
            assert printable(scaled, least).passes == passes_then
    assert size == 1e3 * item.cell_size_m
    # Gaps count as walls do, and a cell that is solid throughout stops no printer.
    slots = make([[[0, 1]]], cells=np.array([~walls, octant(lambda a, b, c: a >= 0, n)]))
    assert printable(slots, 0.5001).void_thinner == pytest.approx(1.0)
    assert not printable(slots, 0.5001).passes
    full = make([[[0]]], cells=np.array([SOLID]))
    assert printable(full, 1e3).passes


def test_the_printer_in_the_report_of_a_lattice():
    item = mixed()
    report = assess(item, least_mm=0.7)  # voxels of 1/6 mm: five of them are needed
    assert report.printer == printable(item, 0.7)
    assert report.printer.solid_thinner == pytest.approx(report.solid.thinner["5"])
    assert report.printer.void_thinner == pytest.approx(report.void.thinner["5"])
    fits = min(report.solid.smallest_voxels, report.void.smallest_voxels)
    assert report.printer.cell_size_mm == pytest.approx(0.7 / fits * 2 * N)
    assert any("these cells suit from cell_size_mm = " in line for line in described(report))
    assert assess(item).printer is None


# -- overhangs ----------------------------------------------------------------------------------------


def test_a_third_of_horizontal_walls_hang_over():
    # The box within a shell: a ceiling, a floor, four walls. One face of six hangs over.
    down, area = overhanging_area(SHELL, UP)
    # Bevels of the blurred edges and corners lean by about 45 degrees and count on either side.
    assert down / area == pytest.approx(1 / 6, abs=0.03)
    assert area == pytest.approx(6 * (2 * N - 4) ** 2, rel=0.15)  # the bevels again
    for axis in np.eye(3):
        np.testing.assert_allclose(overhanging_area(SHELL, axis), (down, area), rtol=1e-6)
        np.testing.assert_allclose(overhanging_area(SHELL, -axis), (down, area), rtol=1e-6)


def test_a_sphere_hangs_over_on_its_cap():
    n = 16
    x = np.indices((n, n, n)) + 0.5
    ball = ((x - n) ** 2).sum(axis=0) < 12**2
    down, area = overhanging_area(ball, UP)
    # Zone of a sphere (Archimedes): (1 - cos 45) / 2 = 14.6 %; voxels' slopes blur it.
    assert down / area == pytest.approx((1 - np.cos(np.pi / 4)) / 2, abs=0.03)
    tilted = overhanging_area(ball, np.array([1.0, 2.0, -1.0]) / np.sqrt(6))
    assert tilted[0] / tilted[1] == pytest.approx(down / area, abs=0.03)


def test_what_lies_on_a_cells_face_does_not_hang_over():
    assert overhanging_area(SOLID, UP) == (0.0, 0.0)


# -- the report ---------------------------------------------------------------------------------------


def test_the_report_of_a_known_lattice():
    item = make([[[0, 0]], [[0, -1]]], cells=np.array([SHELL, BARS]))
    report = assess(item, density_kg_m3=1000.0)
    pitch = 2.0 / (2 * N)
    assert report.voxel_mm == pytest.approx(pitch)
    assert report.size_mm == pytest.approx((4.0, 2.0, 4.0))
    assert (report.solid.smallest_voxels, report.solid.cell) == (4, 0)  # two walls of 2 back to back
    assert report.solid.smallest_mm == pytest.approx(4 * pitch)
    assert (report.void.smallest_voxels, report.void.cell) == (8, 0)  # the box
    assert report.least_contact_mm2 == pytest.approx(4.0)
    assert report.solid_mm3 == pytest.approx(item.solid_volume_m3 * 1e9)
    assert report.mass_g == pytest.approx(1e-3 * report.solid_mm3)
    assert report.cavities.count == 3
    assert report.overhang.worst_cell == 0
    assert report.overhang.share == pytest.approx(report.overhang.worst_share)


def test_shares_are_weighted_by_what_is_built():
    thin = make([[[0, 0, 1]]], cells=np.array([BARS, SOLID]))
    report = assess(thin)
    bars = BARS.mean()
    assert report.solid.smallest_voxels == 2
    assert report.solid.thinner["2"] == 0
    lost = thinner_than(BARS, 3)[3]
    assert report.solid.thinner["3"] == pytest.approx(2 * bars * lost / (2 * bars + 1))
    assert report.mass_g is None
    assert report.void.cell == 0  # the solid cell has no void to be thin


def test_a_solid_lattice_has_no_smallest_feature():
    report = assess(make([[[0]]], cells=np.array([SOLID])))
    assert (report.void.cell, report.void.thinner["2"]) == (-1, 0.0)
    assert report.solid.smallest_voxels == 8
    assert report.overhang.share == 0.0
    assert report.least_contact_mm2 is None


def test_progress_of_every_part_rises_to_one():
    heard = Counted()
    assess(mixed(), progress=heard)
    layered = ["pieces", "voids", "walls and gaps", "layers"]
    assert list(heard.shares) == ["features and overhangs", "void of the cells", "interfaces", *layered]
    assert heard.rise()
    assert heard.shares["features and overhangs"][-1] == heard.shares["void of the cells"][-1] == 1.0


def test_the_command_adds_to_the_metrics(tmp_path, run_cli):
    run = made_up_run(tmp_path / "run", tomllib.loads(MINIMAL))
    item = Lattice.load(run / "lattice.zarr")
    done = run_cli("multiscale", "printability", tmp_path / "run", "--density", "1180", "--least", "0.4")
    assert done.returncode == 0, done.stderr
    assert "enclosed cavities" in done.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["distortion"]["void"] == 0.3
    assert metrics["printability"]["printer"]["least_mm"] == 0.4
    assert "walls and gaps of 0.4 mm" in done.stdout
    assert not undescribed(metrics)
    assert metrics["printability"]["mass_g"] == pytest.approx(1180e3 * item.solid_volume_m3)
    assert metrics["printability"]["cavities"]["count"] == slow_cavities(item)[0]


def test_a_lattice_by_itself_is_assessed_without_writing(tmp_path):
    mixed().save(tmp_path / "lattice.zarr")
    before = sorted(tmp_path.rglob("*"))
    assert assess_run(tmp_path / "lattice.zarr").mass_g is None
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"direction": (0.0, 0.0, 0.0)}, "direction"),
        ({"direction": (0.0, np.nan, 1.0)}, "direction"),
        ({"density_kg_m3": 0.0}, "density"),
        ({"least_mm": 0.0}, "least"),
    ],
)
def test_a_wrong_request_is_refused(options, key):
    with pytest.raises(InputError) as caught:
        assess(mixed(), **options)
    assert caught.value.key == key


def test_damaged_files_are_refused(tmp_path):
    run = made_up_run(tmp_path / "run", tomllib.loads(MINIMAL))
    (run / "lattice.zarr" / "cells" / "zarr.json").unlink()
    with pytest.raises(InputError, match="damaged: `multiscale run"):
        assess_run(run)
    with pytest.raises(InputError, match="damaged"):  # a lattice by itself knows its own digest
        assess_run(run / "lattice.zarr")
    (run / "run.json").unlink()
    with pytest.raises(InputError, match=r"record of this run is missing: give .*lattice.zarr itself"):
        assess_run(run)
    with pytest.raises(InputError, match="nothing solid"):
        assess(make([[[-1]]], cells=octants()))
