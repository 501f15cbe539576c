"""Steps of least norm."""

import numpy as np

from micro.homogenize.secant import cut, least_norm


def test_least_norm_step_is_the_shortest():
    rng = np.random.default_rng(3)
    slope, missing = rng.normal(size=(4, 3, 10)), 0.01 * rng.normal(size=(4, 3))
    step = least_norm(slope, missing)
    np.testing.assert_allclose(np.einsum("mij,mj->mi", slope, step), missing, rtol=5e-2, atol=1e-3)
    exact = np.stack([np.linalg.pinv(s) @ b for s, b in zip(slope, missing, strict=True)])
    assert (np.linalg.norm(step, axis=1) <= 1.001 * np.linalg.norm(exact, axis=1)).all()
    assert np.linalg.norm(cut(step, 1e-4), axis=1).max() <= 1.001e-4
