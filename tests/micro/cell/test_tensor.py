"""Cubic tensor algebra: exact identities, bounds, refusals."""

import numpy as np
import pytest

from micro.cell import tensor
from micro.runtime.errors import InputError


def random_cubic(m: int, seed: int = 0) -> np.ndarray:
    """Positive definite cubic tensors (m, 3), drawn in their moduli."""
    return tensor.from_moduli(np.random.default_rng(seed).uniform(0.01, 1.0, (m, 3)))


def test_solid_has_the_documented_constants():
    # The four decimals that the documentation prints.
    np.testing.assert_allclose(tensor.SOLID, [1.3462, 0.5769, 0.3846], atol=5e-5)


def test_isotropic_gives_back_its_constants():
    E, nu = np.array([0.2, 1.0, 3.0]), np.array([-0.4, 0.0, 0.45])
    C = tensor.isotropic(E, nu)
    np.testing.assert_allclose(tensor.young(C), E, rtol=1e-12)
    np.testing.assert_allclose(tensor.poisson(C), nu, atol=1e-12)
    np.testing.assert_allclose(tensor.zener(C), 1.0, rtol=1e-12)
    np.testing.assert_allclose(tensor.tetragonal_shear(C), C[:, 2], rtol=1e-12)


def test_moduli_are_the_eigenvalues_of_the_stiffness():
    C = random_cubic(20)
    M = tensor.to_moduli(C)
    for stiffness, (K, mu, G) in zip(tensor.stiffness_matrix(C), M, strict=True):
        expected = np.sort([3 * K, 2 * mu, 2 * mu, G, G, G])
        np.testing.assert_allclose(np.linalg.eigvalsh(stiffness), expected, rtol=1e-10)
    np.testing.assert_allclose(tensor.bulk(C), M[:, 0], rtol=1e-14)


def test_definiteness_is_that_of_the_stiffness():
    C = np.random.default_rng(3).normal(size=(400, 3))
    lowest = np.linalg.eigvalsh(tensor.stiffness_matrix(C))[:, 0]
    found = tensor.is_definite(C)
    np.testing.assert_array_equal(found, lowest > 0)
    assert 20 < found.sum() < 380
    assert not tensor.is_definite([[0.0, 0.0, 0.0], [np.nan, 0.1, 0.1], [np.inf, 0.1, 0.1]]).any()
    assert tensor.is_definite(tensor.SOLID.reshape(1, 1, 3)).shape == (1, 1)


def test_moduli_round_trip_and_jacobian():
    C = random_cubic(12).reshape(3, 4, 3)
    np.testing.assert_allclose(tensor.from_moduli(tensor.to_moduli(C)), C, rtol=1e-13)
    np.testing.assert_allclose(C @ tensor.moduli_jacobian().T, tensor.to_moduli(C), rtol=1e-14)


def test_young_agrees_with_the_compliance():
    C = random_cubic(10, seed=1)
    compliance = np.linalg.inv(tensor.stiffness_matrix(C))
    np.testing.assert_allclose(tensor.young(C), 1 / compliance[:, 0, 0], rtol=1e-10)
    np.testing.assert_allclose(tensor.poisson(C), -compliance[:, 0, 1] / compliance[:, 0, 0], atol=1e-10)


def test_void_has_no_stiffness_and_no_ratio():
    assert tensor.young(np.zeros(3)) == 0
    assert np.isnan(tensor.poisson(np.zeros(3)))
    assert np.isnan(tensor.zener(np.zeros(3)))


def test_tensor_error_is_eq_4():
    low, high = tensor.PAPER_RANGE.T
    assert tensor.tensor_error(low, high) == pytest.approx(1.0)
    one = low + np.array([0.03, 0, 0]) * (high - low)
    assert tensor.tensor_error(one, low) == pytest.approx(0.01)
    assert tensor.tensor_error(low, one) == pytest.approx(0.01)
    assert tensor.tensor_error(np.zeros((4, 1, 3)), np.ones((5, 3))).shape == (4, 5)


def test_relative_error_is_of_the_whole_tensor_and_of_any_axes():
    """The Frobenius norm of the fourth-order tensor itself, which no rotation changes."""
    rng = np.random.default_rng(0)
    C = tensor.from_moduli(rng.uniform(0.2, 1.0, (2, 3)))
    pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    full = np.zeros((2, 3, 3, 3, 3))
    for a, (i, j) in enumerate(pairs):
        for b, (k, m) in enumerate(pairs):
            for p, q in ((i, j), (j, i)):
                for r, s in ((k, m), (m, k)):
                    full[:, p, q, r, s] = tensor.stiffness_matrix(C)[:, a, b]
    turned = np.einsum("cijkl,pi,qj,rk,sl->cpqrs", full, turn, turn, turn, turn)
    assert tensor.frobenius(C) == pytest.approx(np.sqrt((turned**2).sum(axis=(1, 2, 3, 4))))
    expected = np.linalg.norm(full[0] - full[1]) / np.linalg.norm(full[1])
    assert tensor.relative_error(C[0], C[1]) == pytest.approx(expected)


def test_bounds_are_kept_exactly_where_both_are():
    bounds = tensor.Bounds(0.01, 0.05)
    rng = np.random.default_rng(0)
    C_ref = tensor.from_moduli(np.exp(rng.uniform(-6, 0, (500, 3))) * tensor.SCALE)
    C = C_ref * (1 + rng.uniform(-0.08, 0.08, (500, 3)))
    kept = (tensor.tensor_error(C, C_ref) <= 0.01) & (tensor.relative_error(C, C_ref) <= 0.05)
    assert 50 < kept.sum() < 450
    assert np.array_equal(bounds.error(C, C_ref) <= 0.01, kept)
    assert tensor.Bounds(0.01).error(C, C_ref) == pytest.approx(tensor.tensor_error(C, C_ref))


def test_hashin_shtrikman_limits_and_reference():
    bulk, shear = tensor.hashin_shtrikman([0.0, 1.0])
    np.testing.assert_allclose(bulk, [0, tensor.bulk(tensor.SOLID)], atol=1e-15)
    np.testing.assert_allclose(shear, [0, tensor.SOLID[2]], atol=1e-15)
    # The textbook form, at half volume.
    Ks, Gs, V = float(tensor.bulk(tensor.SOLID)), float(tensor.SOLID[2]), 0.5
    bulk, shear = tensor.hashin_shtrikman(V)
    assert bulk == pytest.approx(Ks + (1 - V) / (-1 / Ks + 3 * V / (3 * Ks + 4 * Gs)), rel=1e-12)
    compliance = -1 / Gs + 6 * V * (Ks + 2 * Gs) / (5 * Gs * (3 * Ks + 4 * Gs))
    assert shear == pytest.approx(Gs + (1 - V) / compliance, rel=1e-12)


def test_hashin_shtrikman_lies_below_voigt():
    V = np.linspace(0, 1, 21)
    bulk, shear = tensor.hashin_shtrikman(V)
    # One unit of rounding at the ends, where the bounds meet.
    assert np.all(bulk <= V * tensor.bulk(tensor.SOLID) + 1e-15)
    assert np.all(shear <= V * tensor.SOLID[2] + 1e-15)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tensor.bulk(np.zeros(4)),
        lambda: tensor.to_moduli(1.0),
        lambda: tensor.isotropic(-1.0, 0.3),
        lambda: tensor.isotropic(1.0, 0.5),
        lambda: tensor.isotropic(1.0, -1.0),
        lambda: tensor.hashin_shtrikman(1.2),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(InputError):
        call()


def test_constants_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        tensor.SOLID[0] = 2.0
