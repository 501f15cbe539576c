"""What pieces of neighbouring cells hang by: by hand, against a definition written out, and counted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from multiscale.lattice.holds import Patches, find_holds


def least_hold(one, other):
    """The definition, patch by patch."""
    holds = [1.0]
    for a, b in ((one, other), (other, one)):
        (pa, na), (pb, _) = ndimage.label(a), ndimage.label(b)
        for p in range(1, na + 1):
            met = np.setdiff1d(pb[pa == p], 0)
            if len(met):
                shared = np.count_nonzero((pa == p) & (pb > 0))
                holds.append(shared / min(np.count_nonzero(pa == p), np.count_nonzero(np.isin(pb, met))))
    return min(holds)


@pytest.mark.parametrize("seed", range(3))
def test_holds_are_the_definition_written_out(seed):
    rng = np.random.default_rng(seed)
    faces = ndimage.zoom(rng.random((6, 4, 4)) < 0.35, (1, 2, 2), order=0)
    faces = np.array([np.roll(f, rng.integers(2), axis=0) for f in faces])
    a, b = np.meshgrid(np.arange(6), np.arange(6), indexing="ij")
    found = Patches.of(faces).least_hold(a, b)
    assert found == pytest.approx(np.array([[least_hold(p, q) for q in faces] for p in faces]))
    assert np.allclose(np.diagonal(found), 1.0)
    assert (found < 1).any()


def test_a_strut_that_hangs_by_a_voxel_shows_where_the_mean_overlap_hides_it():
    """A wall that fits, a strut of 9 voxels of which one passes; one that meets nothing ends freely."""
    face = np.zeros((3, 12, 12), dtype=bool)
    face[:, :4] = True
    face[0, 6:9, 6:9] = True
    face[1, 8:11, 8:11] = True
    index = np.array([0, 1, 1, 2], dtype=np.int32).reshape(4, 1, 1)
    found = find_holds(index, face)
    assert found.weak == 1
    assert found.least == pytest.approx(1 / 9)
    (interface, hold), *others = found.weakest
    assert (interface.element, interface.axis, hold) == ((0, 0, 0), 0, pytest.approx(1 / 9))
    assert interface.overlap == pytest.approx(49 / 57)
    assert [h for _, h in others] == [1.0, 1.0]


def test_nothing_meets_nothing_hangs():
    found = find_holds(np.full((2, 1, 1), -1, dtype=np.int32), np.ones((1, 4, 4), dtype=bool))
    assert (found.weak, found.least, found.weakest) == (0, 1.0, ())
