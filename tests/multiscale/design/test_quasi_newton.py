"""L-BFGS-B with penalties on problems of known solution."""

from __future__ import annotations

import numpy as np
import pytest

from multiscale.design.quasi_newton import minimise


def recorded(function):
    """nlopt-like callback of a function x -> (value, gradient) that keeps what it was asked."""
    seen = []

    def call(x, gradient):
        value, slope = function(x)
        gradient[:] = slope
        seen.append((value, x.copy()))
        return value

    return call, seen


def quadratic(scales, target):
    return lambda x: (float(scales @ (x - target) ** 2), 2 * scales * (x - target))


def test_the_minimum_inside_and_on_the_box_is_found():
    """Condition 1e4; components whose targets lie outside the box end on it."""
    rng = np.random.default_rng(1)
    target = rng.uniform(-0.3, 1.3, 60)
    call, seen = recorded(quadratic(np.logspace(0, 4, 60), target))
    minimise(call, [], np.full(60, 0.5), 400, 1e-12)
    best = min(seen, key=lambda pair: pair[0])[1]
    assert best == pytest.approx(np.clip(target, 0, 1), abs=1e-4)


def test_a_penalty_keeps_a_constraint_to_its_multiplier_over_twice_its_weight():
    """min |x - t|^2 under sum x <= 1: the penalised minimum violates by lambda / 2w to first order."""
    target, weight = np.array([0.9, 0.8]), 1000.0
    call, seen = recorded(quadratic(np.ones(2), target))

    def penalty(x, gradient):
        beyond = max(0.0, x.sum() - 1.0)
        gradient[:] = 2 * weight * beyond
        return float(weight * beyond**2)

    minimise(call, [penalty], np.zeros(2), 100, 1e-14)
    x = seen[-1][1]
    # lambda = 0.7 (each x moves by 0.35), and the violation is lambda / (2 w).
    assert x - target == pytest.approx([-0.35, -0.35], abs=1e-3)
    assert x.sum() - 1.0 == pytest.approx(0.7 / (2 * weight), rel=0.01)


def test_evaluations_are_counted_exactly_and_a_small_gain_ends_the_search():
    bowl = quadratic(np.logspace(0, 4, 30), np.random.default_rng(2).uniform(0.1, 0.9, 30))
    call, seen = recorded(bowl)
    minimise(call, [], np.ones(30), 7, 0.0)
    assert len(seen) == 7
    few, many = [], []
    for tolerance, kept in ((0.5, few), (1e-9, many)):
        call, seen = recorded(lambda x: (bowl(x)[0] + 1.0, bowl(x)[1]))
        minimise(call, [], np.ones(30), 500, tolerance)
        kept += seen
    assert len(few) < len(many) < 500


def test_a_failed_line_search_is_not_the_end():
    """A gradient of the wrong sign for some evaluations makes a line search fail and the memory useless."""
    rng = np.random.default_rng(3)
    target = rng.uniform(0.1, 0.9, 40)
    bowl = quadratic(np.logspace(0, 3, 40), target)
    call, seen = recorded(lambda x: (bowl(x)[0], -bowl(x)[1] if len(seen) in range(9, 20) else bowl(x)[1]))
    minimise(call, [], np.full(40, 0.5), 600, 1e-12)
    assert len(seen) > 40
    assert min(seen, key=lambda pair: pair[0])[1] == pytest.approx(target, abs=1e-4)
