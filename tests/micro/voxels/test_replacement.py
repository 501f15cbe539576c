"""When residuals are replaced, and when a solve is given up: by numpy, by torch, and of one system alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro.voxels.replacement import EARLY, REPLACE, STALLS, Replacement

RTOL = 1e-6


@pytest.fixture(params=["numpy", "torch"])
def kind(request):
    return np.array if request.param == "numpy" else lambda values: torch.from_numpy(np.array(values))


def test_due_is_what_has_fallen_or_is_about_to_be_small_enough_or_is_no_number(kind):
    rule = Replacement(RTOL, kind([1.0, 1.0, 1.0, 1e-5, 1.0]))
    norms = kind([0.9 * REPLACE, 1.1 * REPLACE, float("nan"), 0.9 * EARLY * RTOL, float("inf")])
    assert rule.due(norms).tolist() == [True, False, True, True, True]


def test_a_replacement_without_gain_starts_anew_and_several_end_a_solve(kind):
    rule = Replacement(RTOL, kind([1.0, 1.0, 1.0]))
    check, usable = kind([True, True, False]), kind([True, True, True])
    ends = []
    for k in range(STALLS + 1):
        # The first system gains nothing after the first time, the second one does every other time.
        size = kind([1e-3, 10.0 ** -(3 + k // 2), 5.0])
        worn, good, ended = rule.take(check, size, usable)
        assert worn.tolist() == [k > 0, k % 2 == 1, False]
        assert not good.any()
        ends.append(ended.tolist())
    assert ends == [[False] * 3] * STALLS + [[True, False, False]]
    assert rule.best.tolist() == [1e-3, 1e-5, np.inf]


def test_what_is_small_enough_is_done_and_what_is_no_number_gains_nothing(kind):
    rule = Replacement(RTOL, kind([1.0, 1.0]))
    worn, good, ended = rule.take(kind([True, True]), kind([0.9 * RTOL, float("nan")]), kind([True, True]))
    assert worn.tolist() == [False, True]
    assert good.tolist() == ended.tolist() == [True, False]
    for _ in range(STALLS - 1):
        _, good, ended = rule.take(kind([False, True]), kind([0.0, float("nan")]), kind([True, True]))
    assert not good.any()
    assert ended.tolist() == [False, True]
    rule.select(kind([1]))
    assert rule.anchor.shape == (1,)


def test_one_system_alone():
    rule = Replacement(RTOL, np.float64(1.0))
    assert not rule.due(np.float64(0.1))
    worn, good, ended = rule.take(np.True_, np.float64(0.1), np.False_)
    assert (bool(worn), bool(good), bool(ended)) == (True, False, False)
    worn, good, ended = rule.take(np.True_, np.float64(0.5 * RTOL), np.True_)
    assert (bool(worn), bool(good), bool(ended)) == (False, True, True)
