"""The lattice: voxels, contact, connectivity and its file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from micro.cell.cellset import CellSet
from micro.cell.octant import cell_from_octant
from micro.runtime.errors import InputError
from multiscale.lattice import contact
from multiscale.lattice.block import Block
from multiscale.lattice.components import component_volumes
from multiscale.lattice.contact import find_contacts
from multiscale.lattice.lattice import Lattice, coarsen

N = 4


def octant(rule) -> np.ndarray:
    """An octant (N, N, N) from a rule on the sorted indices, so that it is symmetric."""
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    return rule(low, mid, high)


SOLID = octant(lambda a, b, c: a >= 0)
FRAME = octant(lambda a, b, c: b <= 0)  # bars along the cell's edges (index 0: outer face)
CROSS = octant(lambda a, b, c: b >= N - 1)  # bars through the cell's centre
SPHERE = octant(lambda a, b, c: a >= N - 1)  # a cube in the middle that reaches no face
EMPTY = octant(lambda a, b, c: a < 0)
# A cross and loose corners: two octant components, nine pieces in the cell.
CRUMBS = CROSS | octant(lambda a, b, c: c <= 0)


def cell_set(*octants: np.ndarray) -> CellSet:
    stack = np.array(octants)
    volume = stack.mean(axis=(1, 2, 3))
    return CellSet.from_octants(stack, volume[:, None] * [1.35, 0.58, 0.38])


def lattice(index, *octants: np.ndarray, **more) -> Lattice:
    settings = {"cell_size_m": 2e-3, "young_pa": 2e9, "poisson": 0.3} | more
    return Lattice(cell_set(*octants), np.array(index), **settings)


def random_octants(count: int, rng: np.random.Generator, fill: float = 0.6) -> np.ndarray:
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    return (rng.random((count, N, N, N)) < fill)[:, low, mid, high]


@pytest.fixture
def mixed() -> Lattice:
    rng = np.random.default_rng(3)
    octants = np.concatenate([random_octants(6, rng), [SOLID, FRAME, CROSS, SPHERE, CRUMBS]])
    index = rng.integers(-1, len(octants), size=(4, 3, 2))
    return lattice(index, *octants, attrs={"name": "mixed"})


def expanded(item: Lattice) -> np.ndarray:
    """Voxels put together the slow way, element by element."""
    size = item.voxels_per_cell
    out = np.zeros([count * size for count in item.shape], dtype=bool)
    for (i, j, k), cell in np.ndenumerate(item.index):
        if cell >= 0:
            box = tuple(slice(x * size, (x + 1) * size) for x in (i, j, k))
            out[box] = cell_from_octant(item.cells.octants(int(cell)))
    return out


# -- physics ------------------------------------------------------------------------------------------


def test_tensors_and_volume_are_the_cells_own(mixed):
    tensors = mixed.tensors()
    assert tensors.shape == (4, 3, 2, 3)
    assert (tensors[mixed.index == -1] == 0).all()
    where = tuple(np.argwhere(mixed.index == 6)[0])
    np.testing.assert_array_equal(tensors[where], mixed.cells.C[6])
    assert mixed.densities()[where] == 1.0
    # The voxels are the truth: 2 mm cells of (2N)^3 voxels.
    pitch = 2e-3 / (2 * N)
    assert mixed.solid_volume_m3 == pytest.approx(expanded(mixed).sum() * pitch**3, rel=1e-12)


def test_voxels_and_layers_are_the_mirrored_octants_in_place(mixed):
    full = expanded(mixed)
    np.testing.assert_array_equal(mixed.voxels(), full)
    block = Block((1, 0, 1), (3, 2, 2))
    size = 2 * N
    part = full[size : 3 * size, : 2 * size, size : 2 * size]
    np.testing.assert_array_equal(mixed.voxels(block), part)
    for axis in range(3):
        layers = list(mixed.layers(block, axis=axis))
        assert len(layers) == block.shape[axis]
        np.testing.assert_array_equal(np.concatenate(layers, axis=axis), part)


def test_coarse_voxels_are_solid_where_half_of_them_is(mixed):
    blocks = expanded(mixed).reshape(4 * N, 2, 3 * N, 2, 2 * N, 2).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(mixed.voxels(per_cell=N), blocks >= 0.5)
    np.testing.assert_allclose(mixed.fractions(per_cell=N), blocks)
    part = Block((1, 0, 1), (3, 2, 2))
    np.testing.assert_allclose(mixed.fractions(part, per_cell=N), blocks[N : 3 * N, : 2 * N, N:])


def test_contact_area_and_overlap_of_known_cells():
    # Frame against cross: the frame's face is its rim, the cross's the middle bar; they never meet.
    item = lattice([[[0, 1, 2, 2, -1, 2]]], FRAME, CROSS, SOLID)
    found = item.contacts()
    rim, bar = (2 * N) ** 2 - (2 * N - 2) ** 2, 4
    area = np.array([0, bar, (2 * N) ** 2]) / (2 * N) ** 2
    assert (found.count, found.unconnected) == (3, 1)
    np.testing.assert_allclose(found.areas[2][0, 0], [*area, np.nan, np.nan])
    assert found.areas[0].size == found.areas[1].size == 0
    assert found.mean_area == pytest.approx(area.mean())
    # The bar lies wholly on the solid: all of the smaller pattern is in contact.
    assert (found.mean_overlap, found.min_overlap, found.min_area) == (pytest.approx(2 / 3), 0.0, 0.0)
    weakest = found.weakest[0]
    assert (weakest.element, weakest.axis, weakest.cells, weakest.area) == ((0, 0, 0), 2, (0, 1), 0.0)
    assert lattice([[[0, 2]]], FRAME, CROSS, SOLID).contacts().mean_area == pytest.approx(rim / (2 * N) ** 2)


def test_contacts_agree_with_the_voxels(mixed):
    full, size = expanded(mixed), 2 * N
    found = mixed.contacts()
    areas = []
    for axis in range(3):
        for (i, j, k), area in np.ndenumerate(found.areas[axis]):
            low = [slice(x * size, (x + 1) * size) for x in (i, j, k)]
            high = low.copy()
            low[axis] = slice(low[axis].stop - 1, low[axis].stop)
            high[axis] = slice(low[axis].stop, low[axis].stop + 1)
            there = mixed.index[i, j, k] >= 0 and np.roll(mixed.index, -1, axis)[i, j, k] >= 0
            both = (full[tuple(low)] & full[tuple(high)]).sum() / size**2
            # areas are float32
            assert area == pytest.approx(both, abs=1e-6) if there else np.isnan(area)
            if there:
                areas.append(both)
    assert found.count == len(areas)
    assert found.mean_area == pytest.approx(np.mean(areas))
    assert found.unconnected == areas.count(0.0)


@pytest.mark.parametrize("seed", range(6))
def test_components_agree_with_labelling_every_voxel(seed):
    # Sparse random octants fall into many pieces of every kind, which is what the piece graph must get right.
    rng = np.random.default_rng(seed)
    octants = np.concatenate([random_octants(5, rng, 0.3), [FRAME, CROSS, SPHERE, CRUMBS, EMPTY, SOLID]])
    item = lattice(rng.integers(-1, len(octants), size=(3, 4, 3)), *octants)
    labels, count = ndimage.label(expanded(item))
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1] / (2 * N) ** 3
    assert item.components() == count
    np.testing.assert_allclose(item.component_volumes(), sizes, rtol=1e-12)


def test_connected_cells_that_do_not_touch_are_two_pieces():
    item = lattice([[[0, 0, 1]]], FRAME, CROSS)
    assert item.components() == 2
    assert len(item.disconnected_cells()) == 0
    assert lattice([[[0, 2, 1]]], FRAME, CROSS, SOLID).components() == 1


def test_disconnected_cells_are_found_among_those_in_use():
    item = lattice([[[0, 1, 1, -1]]], FRAME, CRUMBS, SPHERE)
    np.testing.assert_array_equal(item.disconnected_cells(), [1])
    np.testing.assert_array_equal(lattice([[[0, 2]]], FRAME, CRUMBS, SPHERE).disconnected_cells(), [2])


# -- behaviour ----------------------------------------------------------------------------------------


def test_ranks_by_table_and_by_sorting_agree(monkeypatch, mixed):
    by_table = find_contacts(mixed.index, mixed.cells.faces())
    monkeypatch.setattr(contact, "_TABLE", 0)
    by_sorting = find_contacts(mixed.index, mixed.cells.faces())
    assert by_table.weakest == by_sorting.weakest
    assert by_table.mean_overlap == by_sorting.mean_overlap
    for a, b in zip(by_table.areas, by_sorting.areas, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_lattice_without_neighbours_has_no_contacts():
    item = lattice([[[0, -1, 0]]], SOLID)
    found = item.contacts()
    assert (found.count, found.unconnected, found.weakest) == (0, 0, ())
    assert np.isnan(found.mean_overlap)
    assert item.components() == 2


def test_an_all_void_lattice_has_no_pieces():
    item = lattice([[[-1, -1]]], SOLID)
    assert item.components() == 0
    assert not item.voxels().any()
    assert item.solid_volume_m3 == 0


def test_compact_keeps_what_is_used(mixed):
    thin = Lattice(mixed.cells, np.where(mixed.index % 3 == 1, mixed.index, -1), 2e-3, 2e9, 0.3)
    small = thin.compact()
    assert len(small.cells) == len(np.unique(thin.index[thin.index >= 0])) < len(thin.cells)
    np.testing.assert_array_equal(small.voxels(), thin.voxels())
    full = lattice([[[1, 1]]], SOLID, FRAME).compact()
    assert len(full.cells) == 1
    assert (full.index == 0).all()


def test_the_lattice_is_a_value(mixed):
    given = np.zeros((2, 2, 2), dtype=np.int64)
    item = lattice(given, SOLID)
    given[0, 0, 0] = -1
    assert (item.index == 0).all()
    assert item.index.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        item.index[0, 0, 0] = -1


def test_component_volumes_of_large_lattices_need_no_voxels():
    # 40^3 cells: 32 million voxels at this resolution, but 64,000 nodes.
    index = np.zeros((40, 40, 40), dtype=np.int32)
    index[10] = -1
    np.testing.assert_allclose(component_volumes(index, cell_set(SOLID)), [29 * 1600, 10 * 1600])


# -- on disk ------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path, mixed):
    path = tmp_path / "lattice.zarr"
    mixed.save(path)
    back = Lattice.load(path)
    np.testing.assert_array_equal(back.index, mixed.index)
    np.testing.assert_array_equal(back.voxels(), mixed.voxels())
    np.testing.assert_array_equal(back.tensors(), mixed.tensors())
    assert (back.cell_size_m, back.young_pa, back.poisson) == (2e-3, 2e9, 0.3)
    assert back.attrs == {"name": "mixed"}
    assert back.digest() == mixed.digest()
    mixed.save(path)  # over itself
    assert [p.name for p in tmp_path.iterdir()] == ["lattice.zarr"]


def test_the_40_cubed_cloak_fits_in_a_few_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    # The worst case for compression: an index map without order, and as many cells as a design needs.
    cells = cell_set(*random_octants(2000, rng))
    Lattice(cells, rng.integers(-1, 2000, size=(40, 40, 40)), 1e-3, 1e9, 0.3).save(tmp_path / "l.zarr")
    assert sum(p.stat().st_size for p in (tmp_path / "l.zarr").rglob("*")) < 3e6


def test_a_failed_save_leaves_what_was_there(tmp_path, mixed):
    path = tmp_path / "lattice.zarr"
    mixed.save(path)
    bad = Lattice(mixed.cells, mixed.index, 1e-3, 1e9, 0.3, attrs={"not": object()})
    with pytest.raises(TypeError):
        bad.save(path)
    assert Lattice.load(path).digest() == mixed.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["lattice.zarr"]


def chunks(path: Path) -> list[Path]:
    return [p for p in path.rglob("c/**/*") if p.is_file()]


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "flipped", "missing"])
def test_every_damaged_chunk_is_noticed(tmp_path, mixed, damage):
    path = tmp_path / "lattice.zarr"
    mixed.save(path)
    names = [p.relative_to(path) for p in chunks(path)]
    assert len(names) >= 4
    for name in names:
        copy = tmp_path / "copy.zarr"
        shutil.copytree(path, copy)
        damage(copy / name)
        with pytest.raises(InputError, match=r"copy\.zarr"):
            Lattice.load(copy)
        shutil.rmtree(copy)


def edited(**changes):
    def edit(path: Path) -> None:
        header = json.loads((path / "zarr.json").read_text())
        header["attributes"].update(changes)
        (path / "zarr.json").write_text(json.dumps(header))

    return edit


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "no lattice here"),
        (lambda p: (p / "zarr.json").unlink(), "not a readable Zarr group"),
        (lambda p: (p / "zarr.json").write_text("{"), "not a readable Zarr group"),
        (lambda p: shutil.rmtree(p / "cells"), "damaged"),
        (lambda p: shutil.rmtree(p / "index"), "damaged"),
        (lambda p: (p / "index" / "zarr.json").write_text("[]"), "damaged"),
        (edited(format="cubic-cell-set"), "not a lattice"),
        (edited(version=99), "version 1"),
        (edited(cell_size_m=None), "damaged"),
        (edited(young_pa=-1.0), "damaged"),
        (edited(cell_size_m=1.0), "digest"),
        (edited(digest=""), "digest"),
    ],
)
def test_a_foreign_or_damaged_store_is_refused(tmp_path, mixed, damage, reason):
    path = tmp_path / "lattice.zarr"
    mixed.save(path)
    damage(path)
    with pytest.raises(InputError, match=reason):
        Lattice.load(path)


def test_a_cell_set_or_a_file_is_not_a_lattice(tmp_path, mixed):
    mixed.cells.save(tmp_path / "cells.zarr")
    with pytest.raises(InputError, match="not a lattice"):
        Lattice.load(tmp_path / "cells.zarr")
    (tmp_path / "file.zarr").write_text("nothing")
    with pytest.raises(InputError, match="no lattice here"):
        Lattice.load(tmp_path / "file.zarr")


# -- failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "more", "key"),
    [
        ([[[1]]], {}, "index"),
        ([[[-2]]], {}, "index"),
        ([[0]], {}, "index"),
        ([[[0.5]]], {}, "index"),
        (np.zeros((0, 1, 1), dtype=int), {}, "index"),
        ([[[0]]], {"cell_size_m": 0.0}, "cell_size_m"),
        ([[[0]]], {"young_pa": np.nan}, "young_pa"),
        ([[[0]]], {"poisson": 0.5}, "poisson"),
    ],
)
def test_a_wrong_lattice_is_refused(index, more, key):
    with pytest.raises(InputError) as caught:
        lattice(index, SOLID, **more)
    assert caught.value.key == key


@pytest.mark.parametrize("per_cell", [0, 1, 3, 6, 16, -2])
def test_coarse_sizes_divide_the_cell(per_cell):
    with pytest.raises(InputError, match="2, 4, 8"):
        coarsen(np.array([SOLID]), per_cell)


@pytest.mark.parametrize(
    "text",
    ["", "0:1", "0:1,0:1", "0:1,0:1,0:1,0:1", "a:b,0:1,0:1", "1:1,0:1,0:1", "2:1,:,:", "0:9,:,:", "-1:2,:,:"],
)
def test_a_bad_region_is_refused(text):
    with pytest.raises(InputError) as caught:
        Block.parse(text, (4, 5, 6))
    assert caught.value.key == "region"


def test_regions_read_as_written():
    block = Block.parse(" 0:4, :,2: ", (8, 5, 6))
    assert (block.lower, block.upper, block.shape) == ((0, 0, 2), (4, 5, 6), (4, 5, 4))
    assert Block.parse(str(block), (8, 5, 6)) == block
    assert Block.parse(None, (8, 5, 6)) == Block.whole((8, 5, 6))
    with pytest.raises(InputError, match="leaves the grid"):
        lattice([[[0]]], SOLID).voxels(Block((0, 0, 0), (1, 1, 2)))
