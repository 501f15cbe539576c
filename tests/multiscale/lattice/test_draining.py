"""Cavities of an assembled lattice filled or drained: none is left, it stays whole, nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from lattices import N, make, mixed
from scipy import ndimage

from micro.runtime.errors import InputError
from multiscale.lattice.block import Block
from multiscale.lattice.changed import ChangedLattice
from multiscale.lattice.draining import without_cavities
from multiscale.lattice.lattice import Lattice


def symmetric(rule, n: int = N) -> np.ndarray:
    """An octant (n, n, n) from a rule on the sorted indices."""
    return rule(*np.sort(np.indices((n, n, n)), axis=0))


SOLID = symmetric(lambda a, b, c: a >= 0)
SHELL = symmetric(lambda a, b, c: a < 2)  # walls of 2 voxels around a box of void
PORT = symmetric(lambda a, b, c: (a < 2) & ~((b >= N - 1) & (c >= N - 1)))  # a hole in every wall


def noisy(seed: int) -> Lattice:
    """Dense random cells, which enclose void within a cell, across two, and around void elements."""
    rng = np.random.default_rng(seed)
    low, mid, high = np.sort(np.indices((N, N, N)), axis=0)
    cells = np.concatenate([(rng.random((4, N, N, N)) < 0.8)[:, low, mid, high], [SOLID, SHELL]])
    return make(rng.integers(0, len(cells), size=(3, 2, 2)), cells=cells)


def enclosed(voxels: np.ndarray) -> tuple[np.ndarray, int]:
    """Voxels of enclosed void, and how many cavities they are, by labelling every voxel."""
    labels, count = ndimage.label(np.pad(~voxels, 1, constant_values=True))
    closed = (labels > 0) & (labels != labels[0, 0, 0])
    return closed[1:-1, 1:-1, 1:-1], count - 1


def pieces(voxels: np.ndarray) -> int:
    return int(ndimage.label(voxels)[1])


# -- filling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_filling_takes_the_cavities_and_nothing_else(seed):
    item = noisy(seed)
    before = item.voxels()
    closed, count = enclosed(before)
    filled, changes = without_cavities(item)
    after = filled.voxels()
    assert count > 5
    np.testing.assert_array_equal(after, before | closed)
    assert enclosed(after)[1] == 0
    pitch = 2.0 / (2 * N)
    assert (changes.cavities, changes.filled, changes.left) == (count, count, 0)
    assert changes.added_mm3 == pytest.approx(closed.sum() * pitch**3)
    assert (changes.pieces_before, changes.pieces) == (pieces(before), pieces(after))
    elements = closed.reshape(3, 2 * N, 2, 2 * N, 2, 2 * N).any(axis=(1, 3, 5))
    assert changes.elements == elements.sum()
    assert filled.densities().sum() * 8 == pytest.approx(after.sum() * pitch**3)


def test_a_part_is_filled_as_it_is_cut_out():
    index = np.full((3, 3, 5), 1)
    index[1, 1, 1:4] = 0
    item = make(index, cells=np.array([PORT, SOLID]))
    filled, changes = without_cavities(item)
    assert (changes.cavities, changes.elements) == (1, 3)
    assert filled.voxels().all()
    # Of a block that cuts the channel of cells open nothing is enclosed.
    same, changes = without_cavities(item, Block((0, 0, 0), (3, 3, 3)))
    assert changes.cavities == 0
    assert same is item


def test_a_void_of_the_case_is_not_filled():
    index = np.zeros((3, 3, 3), dtype=int)
    index[1, 1, 1] = -1
    item = make(index, cells=np.array([SOLID]))
    same, changes = without_cavities(item)
    assert same is item
    assert (changes.cavities, changes.filled, changes.left) == (1, 0, 1)
    drained, changes = without_cavities(item, drain=True)
    assert (changes.drained, changes.channels, changes.left) == (1, 2, 0)
    assert enclosed(drained.voxels())[1] == 0


# -- draining -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_draining_leaves_no_cavity_and_cuts_nothing_off(seed):
    item = noisy(seed)
    before = item.voxels()
    closed, count = enclosed(before)
    drained, changes = without_cavities(item, drain=True)
    after = drained.voxels()
    assert enclosed(after)[1] == 0
    # Chips that float in a cavity are joined to what fills it.
    assert pieces(after) == changes.pieces <= pieces(before) == changes.pieces_before
    assert changes.filled + changes.drained == count
    assert changes.drained > 0
    pitch = 2.0 / (2 * N)
    removed, added = before & ~after, after & ~before
    assert removed.sum() * pitch**3 == pytest.approx(changes.removed_mm3)
    assert added.sum() * pitch**3 == pytest.approx(changes.added_mm3)
    # What became solid was enclosed; what became void lies around channels of a voxel's radius.
    assert not (added & ~closed).any()
    assert removed.sum() < 40 * changes.channels


def test_a_box_gets_two_openings_far_apart():
    item = make([[[0]]], cells=np.array([SHELL]))
    drained, changes = without_cavities(item, drain=True)
    assert (changes.drained, changes.channels, changes.one_opening, changes.filled) == (1, 2, 0, 0)
    before, after = item.voxels(), drained.voxels()
    holes, count = ndimage.label(before & ~after)
    assert count == 2
    centres = np.array(ndimage.center_of_mass(holes > 0, holes, [1, 2]))
    assert np.linalg.norm(centres[0] - centres[1]) > (2 * N - 4) / 2
    # The finest channels: crosses of five voxels through walls of two, one of them aslant.
    assert (before & ~after).sum() <= 2 * 5 * 3
    assert pieces(after) == 1


def test_wider_channels_are_wider():
    item = make([[[0]]], cells=np.array([SHELL]))
    pitch = 2.0 / (2 * N)
    thin = without_cavities(item, drain=True)[1].removed_mm3
    wide = without_cavities(item, drain=True, radius_mm=2 * pitch)[1].removed_mm3
    assert wide > 2 * thin


def test_a_cavity_smaller_than_its_channel_is_filled():
    cell = symmetric(lambda a, b, c: ~((a == 2) & (b == 2) & (c == 2)))  # eight voids of a voxel
    item = make([[[0, 0]]], cells=np.array([cell]))
    full, changes = without_cavities(item, drain=True)
    assert (changes.cavities, changes.filled, changes.drained) == (16, 16, 0)
    assert full.voxels().all()
    assert len(full.variants) == 1  # both elements alike


# -- the changed lattice --------------------------------------------------------------------------------


def test_changed_cells_are_where_they_were_put():
    item = mixed()
    rng = np.random.default_rng(1)
    size = 2 * N
    cells = {(0, 1, 1): rng.random((size,) * 3) < 0.5, (2, 3, 0): np.ones((size,) * 3, dtype=bool)}
    changed = ChangedLattice.of(item, cells)
    expected = item.voxels()
    for (i, j, k), voxels in cells.items():
        expected[i * size : (i + 1) * size, j * size : (j + 1) * size, k * size : (k + 1) * size] = voxels
    np.testing.assert_array_equal(changed.voxels(), expected)
    block = Block((0, 1, 0), (2, 3, 2))
    np.testing.assert_array_equal(changed.voxels(block), expected[: 2 * size, size : 3 * size])
    half = expected.reshape(3 * N, 2, 4 * N, 2, 2 * N, 2).mean(axis=(1, 3, 5)) >= 0.5
    np.testing.assert_array_equal(changed.voxels(per_cell=N), half)
    assert changed.digest() != item.digest()


def test_it_is_not_saved(tmp_path):
    changed = ChangedLattice.of(mixed(), {(0, 0, 0): np.ones((2 * N,) * 3, dtype=bool)})
    with pytest.raises(InputError, match="exported, not saved"):
        changed.save(tmp_path / "a.zarr")
