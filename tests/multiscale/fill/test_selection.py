"""Choosing cells for all groups together: against trying every combination, and rule by rule."""

import itertools

import numpy as np
import pytest

from micro.cell.tensor import PAPER_SPAN, Bounds, tensor_error
from multiscale.fill.selection import Groups, Pool, Weights, common_faces, interface_counts, misfit, select
from multiscale.objective.combination import Combination
from multiscale.objective.influence import Influence

N = 4
BASE = np.array([0.3, 0.12, 0.09])


def pool_of(rng, groups, k, spread=0.02):
    cells = groups * k
    faces = rng.random((cells, N, N)) < 0.6
    C = BASE + spread * PAPER_SPAN * rng.standard_normal((cells, 3))
    index = np.arange(cells).reshape(groups, k)
    return Pool(faces, C, np.zeros(cells, dtype=bool), index)


def chain(length):
    label = np.arange(length).reshape(length, 1, 1)
    return Groups(
        label, np.tile(BASE, (length, 1)), np.ones(length, dtype=int), interface_counts(label, length)
    )


def model_of(rng, shape, modes=3):
    field = np.tile(BASE, (*shape, 1))
    s = 0.5 * rng.standard_normal((modes, *shape, 3)) / PAPER_SPAN
    return Influence(
        field, [np.array([0.02, *([0.0] * (modes - 1))])], [s], Combination("mean_square", (1.0,))
    )


def cost(pool, groups, weights, model, choice):
    """The documented sum, written out."""
    cells = pool.index[np.arange(len(choice)), choice]
    error = tensor_error(pool.C[cells], groups.target)
    tolerance = weights.bounds.tolerance
    total = float((groups.size * error**2 / (2 * tolerance) * (1 + (error / (3 * tolerance)) ** 2)).sum())
    total += float((groups.size * pool.avoid[cells]).sum())
    if model is None:
        total += float((groups.size * error).sum())
    else:
        total += groups.size.sum() * float(model.value(model.amplitudes(pool.C[cells][groups.label])))
    for a, b in itertools.pairwise(range(len(choice))):
        one, other = pool.faces[cells[a]], pool.faces[cells[b]]
        both = (one & other).sum()
        overlap = both / max(min(one.sum(), other.sum()), 1)
        total += weights.overlap * (1 / max(overlap, 0.02) - 1)
        total += 10.0 * (both < max(1.0, weights.min_contact * N * N))
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("modelled", [False, True])
def test_the_cost_is_the_documented_sum_and_no_single_change_lowers_it(seed, modelled):
    rng = np.random.default_rng(seed)
    groups, weights = chain(5), Weights(0.02, 0.2, Bounds(0.01))
    pool = pool_of(rng, 5, 3)
    model = model_of(rng, (5, 1, 1)) if modelled else None
    found = select(pool, groups, weights, model)
    assert found.cost == pytest.approx(cost(pool, groups, weights, model, found.choice), rel=1e-9)
    for g, c in itertools.product(range(5), range(3)):
        other = found.choice.copy()
        other[g] = c
        assert cost(pool, groups, weights, model, other) >= found.cost - 1e-9
    every = [cost(pool, groups, weights, model, np.array(c)) for c in itertools.product(range(3), repeat=5)]
    # A local minimum, but a good one: within the best tenth of all.
    assert found.cost <= np.quantile(every, 0.1)
    again = select(pool, groups, weights, model)
    assert np.array_equal(again.choice, found.choice)


def test_errors_are_chosen_to_cancel():
    # Two elements, of which only the sum of errors matters: one error up, one down beats twice the smaller.
    groups = chain(2)
    up, down, small = 0.004 * PAPER_SPAN, -0.004 * PAPER_SPAN, 0.003 * PAPER_SPAN
    C = BASE + np.array([up, small, down, small])
    pool = Pool(np.ones((4, N, N), dtype=bool), C, np.zeros(4, dtype=bool), np.array([[0, 1], [2, 3]]))
    s = np.ones((1, 2, 1, 1, 3)) / PAPER_SPAN
    model = Influence(np.tile(BASE, (2, 1, 1, 1)), [np.zeros(1)], [s], Combination("mean_square", (1.0,)))
    weights = Weights(0.0, 0.0, Bounds(0.1))
    assert select(pool, groups, weights, None).choice.tolist() == [1, 1]
    start = np.array([0, 1])
    assert select(pool, groups, weights, model, start).choice.tolist() == [0, 0]


def test_cells_to_avoid_and_missing_contact_are_last_resorts():
    groups = chain(2)
    left, right = np.zeros((N, N), dtype=bool), np.zeros((N, N), dtype=bool)
    left[:2], right[2:] = True, True
    full = np.ones((N, N), dtype=bool)
    C = BASE + np.array([[0, 0, 0], [0.05, 0, 0], [0, 0, 0], [0.05, 0, 0]]) * PAPER_SPAN
    faces = np.stack([left, full, right, full])
    index = np.array([[0, 1], [2, 3]])
    weights = Weights(0.0, 0.1, Bounds(0.01))
    found = select(Pool(faces, C, np.zeros(4, dtype=bool), index), groups, weights)
    assert len(found.weak) == 0
    assert found.choice.sum() == 1  # one of the two gives way, not both
    avoided = select(Pool(faces, C, np.array([0, 0, 1, 0], dtype=bool), index), groups, weights)
    assert avoided.choice.tolist() == [0, 1]
    alone = select(Pool(faces, C, np.zeros(4, dtype=bool), index[:, :1]), groups, weights)
    assert alone.weak.tolist() == [0, 1]
    assert misfit(Pool(faces, C, np.zeros(4, dtype=bool), index), groups, np.array([1, 1])).tolist() == [0, 0]


def test_misfit_is_the_mean_lack_of_overlap():
    faces = np.zeros((3, N, N), dtype=bool)
    faces[0, :2] = faces[1, :2] = faces[2, :1] = faces[2, 3:] = True
    pool = Pool(faces, np.tile(BASE, (3, 1)), np.zeros(3, dtype=bool), np.arange(3)[:, None])
    # Overlaps of 1 and 1/2 give the middle one a lack of 0 and 1.
    assert misfit(pool, chain(3), np.zeros(3, dtype=int)).tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_the_common_face_is_the_majority_by_interfaces():
    # Four elements in a ring about element 0 of a 3 x 3 plane's centre: two of kind 1, one of 2, one of 3.
    label = np.array([[-1, 1, -1], [1, 0, 2], [-1, 3, -1]])[:, :, None]
    rng = np.random.default_rng(0)
    faces = rng.random((4, N, N)) < 0.5
    faces = faces | faces.transpose(0, 2, 1)
    groups = Groups(label, np.tile(BASE, (4, 1)), np.array([1, 2, 1, 1]), interface_counts(label, 4))
    pool = Pool(faces, groups.target, np.zeros(4, dtype=bool), np.arange(4)[:, None])
    (found,) = common_faces(pool, groups, np.zeros(4, dtype=int), np.array([0]))
    votes = 2 * faces[1].astype(int) + faces[2] + faces[3]
    assert (found == (votes > 2)).all()
    assert (votes == 2).any()  # a tie is void
    assert (found == found.T).all()
    # No other pattern differs less from the four neighbours'.
    differ = lambda face: sum(int((face != faces[k]).sum()) for k in (1, 1, 2, 3))  # noqa: E731
    for k in (1, 2, 3):
        assert differ(found) <= differ(faces[k])


def test_many_interfaces_of_good_contact_are_not_weak():
    # 2 x 5,000 elements side by side: what each interface lacks adds up beyond what a missing contact costs.
    label = np.zeros((2, 50, 100), dtype=int)
    label[1] = 1
    faces = np.zeros((2, N, N), dtype=bool)
    faces[0, :3], faces[1, 1:] = True, True
    groups = Groups(label, np.tile(BASE, (2, 1)), np.array([5000, 5000]), interface_counts(label, 2))
    pool = Pool(faces, groups.target, np.zeros(2, dtype=bool), np.arange(2)[:, None])
    assert len(select(pool, groups, Weights(1.0, 0.1, Bounds(0.01))).weak) == 0
    # A contact of half the face is asked for, and two of four rows are there: just enough; more is not.
    assert len(select(pool, groups, Weights(1.0, 0.5, Bounds(0.01))).weak) == 0
    assert select(pool, groups, Weights(1.0, 0.6, Bounds(0.01))).weak.tolist() == [0, 1]


def test_a_weight_on_holds_takes_the_cell_whose_strut_is_held():
    """Beside a wall and a strut: one candidate fits the wall, the strut hangs by a voxel; one halves both."""
    wall_and_strut = np.zeros((8, 8), dtype=bool)
    wall_and_strut[:2], wall_and_strut[4:7, 4:7] = True, True
    slip, shifted = wall_and_strut.copy(), np.roll(wall_and_strut, 1, axis=0)
    slip[4:7, 4:7] = False
    slip[6:, 6:], slip[2, :5] = True, True
    faces = np.stack([wall_and_strut, slip, shifted])
    pool = Pool(faces, np.tile(BASE, (3, 1)), np.zeros(3, dtype=bool), np.array([[0, -1], [1, 2]]))
    plain = select(pool, chain(2), Weights(0.05, 0.0, Bounds(0.01)))
    held = select(pool, chain(2), Weights(0.05, 0.0, Bounds(0.01), hold=0.05))
    assert plain.choice.tolist() == [0, 0]
    assert held.choice.tolist() == [0, 1]
    assert plain.cost == pytest.approx(0.05 * (25 / 17 - 1))
    assert held.cost == pytest.approx(0.05 * (25 / 14 - 1 + 2 - 1))
