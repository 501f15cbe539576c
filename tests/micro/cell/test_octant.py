"""Octants and cells: symmetry, connectivity against a brute-force cell, packing."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from micro.cell import octant as cell
from micro.cell.chamber import pack, packed_bytes, unpack
from micro.runtime.errors import InputError


def random_octant(n: int, seed: int, share: float = 0.5) -> np.ndarray:
    """A symmetric random octant: smooth noise above its quantile."""
    noise = np.random.default_rng(seed).standard_normal((n, n, n))
    field = cell.symmetrise(ndimage.gaussian_filter(noise, 1.0))
    # Rounded, so that permuted voxels compare alike.
    field = np.round(field, 9)
    return field > np.quantile(field, 1 - share)


def test_symmetrise_is_a_projection():
    noise = np.random.default_rng(0).random((2, 5, 5, 5))
    once = cell.symmetrise(noise)
    np.testing.assert_allclose(cell.symmetrise(once), once, rtol=1e-14)
    np.testing.assert_allclose(once, once.transpose(0, 2, 3, 1), rtol=1e-14)
    assert cell.is_symmetric(cell.symmetrise(noise > 0.5))
    assert cell.symmetrise(noise > 0.5).dtype == bool


def test_cell_and_octant_round_trip():
    octant = random_octant(6, 1)
    full = cell.cell_from_octant(octant)
    assert full.shape == (12, 12, 12)
    assert np.array_equal(full, full[::-1])
    assert np.array_equal(full, full.transpose(2, 0, 1))
    assert np.array_equal(cell.octant_from_cell(full), octant)


def test_octant_index_zero_is_the_outer_face():
    octant = np.zeros((3, 3, 3), bool)
    octant[0, 0, 0] = True  # the cell's corner
    full = cell.cell_from_octant(octant)
    assert full[0, 0, 0]
    assert full[-1, -1, -1]
    assert full.sum() == 8
    assert cell.face(octant)[0, 0]
    assert cell.face(octant).sum() == 1


def test_octant_from_cell_refuses_what_is_not_cubic():
    with pytest.raises(InputError, match="even"):
        cell.octant_from_cell(np.ones((3, 3, 3), bool))
    unmirrored = np.zeros((4, 4, 4), bool)
    unmirrored[0] = True
    with pytest.raises(InputError, match="mirror"):
        cell.octant_from_cell(unmirrored)
    tetragonal = np.zeros((4, 4, 4), bool)
    tetragonal[[0, -1]] = True
    with pytest.raises(InputError, match="permutation"):
        cell.octant_from_cell(tetragonal)


def test_half_period_shift_is_the_shifted_cell():
    octant = random_octant(5, 2)
    shifted = cell.cell_from_octant(cell.half_period_shift(octant))
    assert np.array_equal(shifted, np.roll(cell.cell_from_octant(octant), (5, 5, 5), axis=(0, 1, 2)))
    assert np.array_equal(cell.half_period_shift(cell.half_period_shift(octant)), octant)


def test_similarity():
    a = random_octant(6, 3)
    assert cell.similarity(a, a) == pytest.approx(1.0)
    assert cell.similarity(a, ~a) == 0
    assert cell.similarity(a, np.zeros_like(a)) == 0
    half = a.copy()
    half[:3] = False
    expected = half.sum() / np.sqrt(a.sum() * half.sum())
    np.testing.assert_allclose(cell.similarity(np.stack([a, half]), half), [expected, 1.0])
    with pytest.raises(InputError, match="sizes"):
        cell.similarity(a, np.ones((4, 4, 4), bool))


def brute_connected(octant: np.ndarray) -> bool:
    """Whether the mirrored cell is one piece by itself and meets all six faces, on the whole cell."""
    full = cell.cell_from_octant(octant)
    _, count = ndimage.label(full)
    faces = [full.take(i, axis) for axis in range(3) for i in (0, -1)]
    return count == 1 and all(f.any() for f in faces)


@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
@settings(max_examples=60, deadline=None)
def test_connected_octants_make_connected_cells(seed, share):
    octant = random_octant(5, seed, share)
    if cell.connectivity(octant).connected:
        assert brute_connected(octant)
    kept = cell.largest_component(octant)
    assert cell.is_symmetric(kept)
    assert not (kept & ~octant).any()


def test_connectivity_details():
    octant = np.zeros((4, 4, 4), bool)
    assert cell.connectivity(octant) == cell.Connectivity(0, 0.0, False, False, False)
    octant[:, 0, 0] = octant[0, :, 0] = octant[0, 0, :] = True
    assert cell.connectivity(octant) == cell.Connectivity(1, 1.0, True, True, True)
    octant[2, 2, 2] = True
    loose = cell.connectivity(octant)
    assert loose.components == 2
    assert not loose.connected
    assert loose.largest_fraction == pytest.approx(10 / 11)
    assert cell.connectivity(cell.largest_component(octant)).connected
    # An edge or a corner in common does not connect.
    corner = np.zeros((2, 2, 2), bool)
    corner[0, 0, 0] = corner[1, 1, 1] = True
    assert cell.connectivity(corner).components == 2
    core = np.zeros((4, 4, 4), bool)
    core[2:, 2:, 2:] = True
    assert cell.connectivity(core).touches_middle
    assert not cell.connectivity(core).connected


@pytest.mark.parametrize("n", [1, 2, 5, 8, 16])
def test_pack_round_trip(n):
    octants = np.stack([random_octant(n, s) for s in range(4)])
    packed = pack(octants)
    assert packed.shape == (4, packed_bytes(n))
    assert packed.dtype == np.uint8
    assert np.array_equal(unpack(packed, n), octants)


def test_pack_and_unpack_refuse_what_they_would_damage():
    lopsided = np.zeros((1, 3, 3, 3), bool)
    lopsided[0, 0, 1, 2] = True
    with pytest.raises(InputError, match="permutation"):
        pack(lopsided)
    with pytest.raises(InputError, match="shape"):
        pack(np.zeros((3, 3, 3), bool))
    with pytest.raises(InputError, match="uint8"):
        unpack(np.zeros((1, 3), np.uint8), 8)
    with pytest.raises(InputError, match="n, n, n"):
        cell.face(np.zeros((2, 3, 4), bool))
    with pytest.raises(InputError, match="one octant"):
        cell.connectivity(np.zeros((2, 3, 3, 3), bool))
