"""The surrogate: positive definite tensors, right slopes."""

import numpy as np
import torch
from small_model import SMALL

from micro.cell import tensor
from micro.generator.steering import predict, slopes
from micro.runtime.gradient_check import check_gradient


def test_slope_loss_is_zero_for_the_own_slopes(small_generator):
    surrogate = small_generator.model.surrogate
    z = torch.randn((5, SMALL.dimension), generator=torch.Generator().manual_seed(1))
    mix = torch.eye(3)[[0, 1, 2, 0, 1]]
    own = torch.from_numpy(slopes(surrogate, z.numpy())).float()
    assert surrogate.slope_loss(z, own, mix).item() < 1e-10
    assert surrogate.slope_loss(z, 0 * own + 1, mix).item() > 1e-3


def test_surrogate_is_positive_definite_and_its_slope_right(small_generator):
    surrogate = small_generator.model.surrogate
    z = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    assert (tensor.to_moduli(predict(surrogate, z)) > 0).all()
    for row, slope in zip(z, slopes(surrogate, z), strict=True):
        found = check_gradient(
            lambda x: predict(surrogate, x[None].astype(np.float32))[0] / tensor.PAPER_SPAN,
            row,
            slope,
            step=1e-2,
        )
        # Float32 values of order 1 over a step of 1e-2: about 1e-5.
        np.testing.assert_allclose(found.analytic, found.differences, atol=2e-4, rtol=2e-2)
