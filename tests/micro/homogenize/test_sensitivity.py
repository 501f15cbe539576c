"""dC / d(modulus) against finite differences, and what follows from theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from small_cells import random_octant, schwarz_p

from micro.cell.chamber import chamber
from micro.cell.octant import symmetrise
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.sensitivity import homogenised_tensor, sensitivities
from micro.runtime.errors import InputError, NotConverged
from micro.runtime.gradient_check import check_gradient


def _moduli(seed: int, n: int) -> np.ndarray:
    """Random grey octants with a soft void in about half of the voxels, symmetric."""
    rng = np.random.default_rng(seed)
    solid = random_octant(seed, n)
    grey = symmetrise(rng.uniform(0.2, 1.0, (n, n, n)))
    return np.where(solid, grey, 1e-3)


@pytest.mark.parametrize("nu", [0.3, 0.0])
def test_gradient_against_finite_differences(nu: float) -> None:
    """Central differences along random directions; all three constants, two octants of one batch.

    A relative step of 1e-4 leaves an error of its square times the third derivative, below 1e-6; the
    solves' 1e-9 leave 1e-9 / 1e-4 = 1e-5 at most (C's error is the square of the residual: far less).
    """
    moduli = np.stack([_moduli(s, 8) for s in (1, 2)])
    rng = np.random.default_rng(0)
    found = sensitivities(moduli, nu=nu, rtol=1e-9)
    for cell, gradient in zip(moduli, found.gradient, strict=True):
        moves = [cell * symmetrise(rng.standard_normal(cell.shape)) for _ in range(3)]
        checked = check_gradient(
            lambda m: homogenize_octants(m[None], nu=nu, rtol=1e-9).C[0],
            cell,
            gradient,
            step=2e-4,
            directions=moves,
        )
        assert checked.error < 1e-4


def test_gradient_of_single_orbits() -> None:
    """One orbit of voxels at a time: the derivative by the orbit is the sum over its voxels."""
    moduli = _moduli(3, 6)
    grid = chamber(6)
    found = sensitivities(moduli, rtol=1e-9)
    rng = np.random.default_rng(4)
    orbits = rng.choice(len(grid.weights), 4, replace=False)
    where = np.stack([grid.unfold(np.arange(len(grid.weights)) == orbit) for orbit in orbits])
    step = np.array([1e-3 * moduli[w].mean() for w in where])
    change = step[:, None, None, None] * where
    C = homogenize_octants(moduli + np.concatenate([change, -change]), rtol=1e-10).C
    expected = (C[:4] - C[4:]) / (2 * step[:, None])
    slopes = np.stack([found.gradient[0][:, w].sum(axis=1) for w in where])
    # A constant that an orbit hardly moves drowns in the others' rounding.
    assert_allclose(slopes, expected, rtol=1e-4, atol=1e-4 * np.abs(slopes).max())


def test_autograd_chain() -> None:
    """Through a power law and a scalar of C, by torch's own checker's formula but along one direction."""
    grid = chamber(6)
    rank = torch.from_numpy(grid.unfold(np.arange(len(grid.weights))))
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.uniform(0.1, 1.0, (2, len(grid.weights)))).requires_grad_()
    d = torch.from_numpy(rng.standard_normal(x.shape))

    def value(x: torch.Tensor) -> torch.Tensor:
        C = homogenised_tensor((1e-3 + x**3)[:, rank], rtol=1e-9)
        return (C[:, 1] / (C[:, 0] + C[:, 1]) + C[:, 2].log()).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    step = 1e-5
    expected = (value(x + step * d) - value(x - step * d)).detach() / (2 * step)
    assert_allclose(float((gradient * d).sum()), float(expected), rtol=1e-4)


def test_tensor_is_linear_in_all_moduli_at_once() -> None:
    """Euler: C is homogeneous of degree one in the moduli, so C = sum rho dC/drho."""
    moduli = np.stack([_moduli(s, 8) for s in (6, 7)])
    found = sensitivities(moduli, rtol=1e-7)
    total = np.einsum("mcxyz,mxyz->mc", found.gradient, moduli)
    assert_allclose(total, found.C, rtol=1e-6, atol=1e-7)


def test_same_tensor_as_the_homogeniser_and_none_in_exact_void() -> None:
    octants = np.stack([random_octant(s) for s in (8, 9)])
    found = sensitivities(octants)
    plain = homogenize_octants(octants)
    assert_allclose(found.C, plain.C, rtol=1e-12)
    assert (found.status == Status.OK).all()
    for gradient, octant in zip(found.gradient, octants, strict=True):
        assert (gradient[:, ~octant] == 0).all()
        assert (gradient[0][octant] >= 0).all()  # an energy


def test_derivatives_where_they_are_needed() -> None:
    octants = np.stack([random_octant(s) for s in (8, 9, 10)])
    every = sensitivities(octants)
    some = sensitivities(octants, needed=lambda C: C[:, 0] > every.C[:, 0].min())
    left = int(np.argmin(every.C[:, 0]))
    assert np.isnan(some.gradient[left]).all()
    rest = np.delete(np.arange(3), left)
    assert_allclose(some.gradient[rest], every.gradient[rest], rtol=1e-12)
    assert np.isnan(sensitivities(octants, needed=lambda C: C[:, 0] > 9).gradient).all()


def test_starting_from_a_solution_saves_iterations() -> None:
    octant = schwarz_p(32)
    cold = sensitivities(octant, rtol=1e-4)
    warm = sensitivities(octant, rtol=1e-4, start=cold.fluctuation)
    assert warm.iterations[0] == 0
    near = sensitivities(np.where(octant, 0.98, 1e-4), rtol=1e-4, start=cold.fluctuation)
    far = sensitivities(np.where(octant, 0.98, 1e-4), rtol=1e-4)
    assert near.iterations[0] < far.iterations[0]
    assert_allclose(near.C, far.C, rtol=1e-6)


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    octant = random_octant(1)
    with pytest.raises(InputError, match="positive"):
        homogenised_tensor(torch.from_numpy(octant.astype(float))[None])
    with pytest.raises(InputError, match="permutation"):
        sensitivities(np.random.default_rng(0).uniform(0.1, 1, (4, 4, 4)))
    with pytest.raises(InputError, match="start"):
        sensitivities(octant, start=torch.zeros(3, 2, 2, 9, 9, 9, dtype=torch.float64))
    with pytest.raises(NotConverged, match="larger modulus"):
        homogenised_tensor(torch.from_numpy(np.where(octant, 1.0, 1e-3))[None], rtol=1e-17)
