"""What a surrogate misses: learned from a few cells, true of those that are like them."""

import numpy as np
from small_model import SMALL

from micro.cell import tensor
from micro.diffusion.residual import Corrected, Residual, features, most_telling
from micro.generator.steering import predict, slopes
from micro.runtime.gradient_check import check_gradient


def cells(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, SMALL.dimension)).astype(np.float32)


def missed(surrogate, z):
    """An error that is a smooth function of what the surrogate sees, of half the tensor's own size."""
    at = features(surrogate, z)
    axis = np.linalg.svd(at - at.mean(axis=0), full_matrices=False)[2][0]
    wave = np.sin((at - at.mean(axis=0)) @ axis / np.std((at - at.mean(axis=0)) @ axis))
    return 0.02 * wave[:, None] * tensor.PAPER_SPAN * np.array([1.0, -0.5, 0.7])


def test_errors_of_like_cells_are_alike(small_generator):
    surrogate = small_generator.model.surrogate
    z = cells(160)
    truth = predict(surrogate, z) + missed(surrogate, z)
    known, rest = slice(0, 120), slice(120, 160)
    corrected = Corrected(surrogate, Residual.of(surrogate, z[known], truth[known]))
    before = tensor.tensor_error(predict(surrogate, z[rest]), truth[rest]).mean()
    after = tensor.tensor_error(predict(corrected, z[rest]), truth[rest]).mean()
    # Three quarters of the cells in a space of few dimensions leave little of a smooth error.
    assert after < 0.4 * before
    # What is known stays so, but for the share that counts as noise.
    seen = tensor.tensor_error(predict(corrected, z[known]), truth[known]).mean()
    assert seen < 0.2 * before


def test_nothing_missed_nothing_corrected(small_generator):
    surrogate = small_generator.model.surrogate
    z = cells(40)
    own = predict(surrogate, z)
    corrected = Corrected(surrogate, Residual.of(surrogate, z, own))
    np.testing.assert_allclose(
        predict(corrected, cells(9, seed=1)), predict(surrogate, cells(9, seed=1)), rtol=1e-5
    )


def test_the_corrected_surrogate_has_right_slopes(small_generator):
    surrogate = small_generator.model.surrogate
    z = cells(50)
    truth = predict(surrogate, z) + missed(surrogate, z)
    corrected = Corrected(surrogate, Residual.of(surrogate, z, truth))
    rows = np.concatenate([cells(3, seed=1), z[:1]])  # at a known cell too, where the distance has a kink
    found_slopes = slopes(corrected, rows)
    assert np.abs(found_slopes - slopes(surrogate, rows)).max() > 1e-3
    for row, slope in zip(rows, found_slopes, strict=True):
        found = check_gradient(
            lambda x: predict(corrected, x[None].astype(np.float32))[0] / tensor.PAPER_SPAN,
            row,
            slope,
            step=1e-2,
        )
        np.testing.assert_allclose(found.analytic, found.differences, atol=2e-4, rtol=2e-2)


def test_no_more_cells_than_a_kernel_matrix_can_hold(small_generator, monkeypatch):
    surrogate = small_generator.model.surrogate
    monkeypatch.setattr("micro.diffusion.residual._MOST", 20)
    z = cells(75)
    assert Residual.of(surrogate, z, predict(surrogate, z)).features.shape[0] == 20


def test_the_most_telling_cells_stand_for_all_kinds(small_generator):
    surrogate = small_generator.model.surrogate
    kinds = cells(4, seed=3)
    z = np.repeat(kinds, 10, axis=0) + 1e-3 * cells(40, seed=4)
    first = most_telling(surrogate, z, 12)
    assert len(set(first.tolist())) == 12
    assert set((first[:4] // 10).tolist()) == {0, 1, 2, 3}
