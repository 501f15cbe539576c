"""Cells moved onto their targets by the homogeniser's derivatives."""

import numpy as np
import pytest

from micro.cell import octant as cell
from micro.cell.tensor import PAPER_SPAN, Bounds, tensor_error
from micro.data.packaged import load_dataset
from micro.generator import refinement
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.shape.channels import is_open


@pytest.fixture(scope="module")
def drawn():
    """Cells for tensors of the data set's middle, steered but not homogenised."""
    data = load_dataset()
    middle = np.flatnonzero((data.C[:, 0] > 0.1) & (data.C[:, 0] < 0.5))
    targets = data.C[np.random.default_rng(0).choice(middle, 12, replace=False)]
    generator = Generator.load()
    return generator, generator.sample(targets, 1, draws=1, steering=2), targets


def refined(drawn, trials):
    generator, samples, targets = drawn
    return generator.refined(samples, targets, tolerance=2e-3, relative=0.02, trials=trials)


def test_every_trial_counts_only_if_it_leads_nearer(drawn):
    targets = drawn[2]
    tensors = [refined(drawn, trials).C for trials in (1, 2, 4)]
    # Nearer by both errors that have bounds: a cell may lose a little of the one for the other.
    both = [Bounds(2e-3, 0.02).error(C, targets) for C in tensors]
    assert (both[1] <= both[0]).all()
    assert (both[2] <= both[1]).all()
    errors = [tensor_error(C, targets) for C in tensors]
    # Cells within the tolerance from the start are left alone.
    far = errors[0] > 2e-3
    assert far.sum() > 3
    assert np.median(errors[2][far]) < 0.4 * np.median(errors[0][far])


def test_refined_cells_are_one_piece_and_have_their_own_tensors(drawn):
    done = refined(drawn, 3)
    assert all(cell.connectivity(octant).connected for octant in done.octants)
    # Trials are solved to a residual of 3e-3.
    np.testing.assert_allclose(homogenize_octants(done.octants).C, done.C, rtol=1e-3, atol=1e-5)
    some = done.rows(np.array([3, 1]))
    assert np.array_equal(some.C, done.C[[3, 1]])
    assert np.array_equal(some.start_z, drawn[1].z[[3, 1]])


def test_steps_are_corrected_by_what_the_flipping_voxels_do(drawn, monkeypatch):
    """Voxels flip in lumps: a step by the slope alone leaves more of what is missing, by their rates."""
    generator, samples, targets = drawn
    left = {}
    monkeypatch.setattr(refinement, "_FAR", np.inf)
    for aims in (1, 6):
        monkeypatch.setattr(refinement, "_AIMS", aims)
        seen = []
        whole = refinement._aimed

        def watched(space, z, now, rows, targets, model, *others, whole=whole, seen=seen):
            step, sums = whole(space, z, now, rows, targets, model, *others)
            missing = (targets - now.C[rows]) / PAPER_SPAN
            seen.append(np.linalg.norm(missing - np.einsum("mij,mj->mi", model, sums), axis=1))
            return step, sums

        with monkeypatch.context() as context:
            context.setattr(refinement, "_aimed", watched)
            generator.refined(samples, targets, tolerance=2e-3, relative=0.02, trials=2)
        (left[aims],) = seen
    assert (left[6] <= left[1] + 1e-12).mean() > 0.8  # the bound is on another norm
    assert left[6].mean() < 0.6 * left[1].mean()


def test_what_gets_stuck_in_the_shape_space_moves_on_voxel_by_voxel(drawn):
    """One homogenisation in the shape space leaves most cells off; open ones stay open."""
    generator, _, targets = drawn
    soft = load_dataset()
    soft = soft.C[(soft.C[:, 0] > 0.02) & (soft.C[:, 0] < 0.08)][::40][:6]
    asked = np.concatenate([targets[:4], soft])
    samples = generator.sample(asked, 1, seed=1, open=True)
    bounds = Bounds(2e-3, 0.02)

    def done(moves, **options):
        return generator.refined(
            samples, asked, tolerance=2e-3, relative=0.02, trials=1, moves=moves, **options
        )

    before, after = done(0), done(12)
    stuck = bounds.error(before.C, asked) > bounds.tolerance
    assert stuck.sum() > 4
    assert np.array_equal(after.C[~stuck], before.C[~stuck])
    error = bounds.error(after.C, asked) / bounds.tolerance
    assert (error[stuck] <= bounds.error(before.C, asked)[stuck] / bounds.tolerance).all()
    assert np.median(error[stuck]) <= 1
    assert (after.trials[stuck] > 1).all()
    assert all(is_open(octant) for octant in after.octants)
    np.testing.assert_allclose(homogenize_octants(after.octants).C, after.C, rtol=1e-3, atol=1e-5)
    # Faces that are held are not moved.
    held = done(0, yielding=0.0)
    assert np.array_equal(done(12, yielding=0.0).octants, held.octants)
