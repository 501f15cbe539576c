"""The sampler: exact for Gaussian data, the network itself, and no call too many."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from micro.diffusion import process
from micro.diffusion.conditions import Conditions
from micro.diffusion.network import Denoiser


def test_guidance_calls_the_free_network_only_when_needed(small_generator):
    calls, asked_for = [], []

    class Counting(Denoiser):
        def modulations(self, sigma, conditions):
            asked_for.append(float(conditions.given.max()))
            return super().modulations(sigma, conditions)

        def denoise(self, x, estimate, sigma, modulations):
            calls.append(len(x))
            return super().denoise(x, estimate, sigma, modulations)

    network = Counting(12, 16, 1)
    noise, asked = torch.randn(3, 12), Conditions.of([[0.3, 0.1, 0.1]] * 3, None)
    process.sample(network, noise, asked, steps=5)
    assert len(calls) == 5
    assert asked_for == [1.0]
    process.sample(network, noise, asked, steps=5, guidance=2.0)
    assert len(calls) == 15
    assert sorted(asked_for) == [0.0, 1.0, 1.0]


def test_sampling_by_shared_modulations_is_the_network_itself(small_generator):
    # The sampler works out what conditions do once for all cells and levels; step by step it is the same.
    network = Denoiser(12, 16, 2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(3))
    C = [[0.3, 0.1, 0.1], [0.5, 0.2, 0.15], [0.3, 0.1, 0.1], [np.nan] * 3]
    conditions = Conditions.of(C, [np.nan, 0.4, np.nan, 0.5])
    noise = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    found = process.sample(network, noise, conditions, steps=6)
    sigmas, estimate = process.levels(6), torch.zeros_like(noise)
    x = noise * sigmas[0]
    with torch.no_grad():
        for now, following in pairwise(sigmas):
            estimate = network(x, estimate, now.expand(4), conditions)
            x = estimate + (x - estimate) * (following / now)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
    assert (found[0] - found[2]).abs().max() > 1e-3  # the same condition, another noise


def test_sampler_is_exact_for_gaussian_data():
    # Of data N(0, 1) the best estimate of x0 is x / (1 + sigma^2): the sampler's end is then x / sigma_max,
    # up to Euler's error, and inverting it gives the noise back.
    class Best(Denoiser):
        def denoise(self, x, estimate, sigma, modulations):
            return x / (1 + sigma**2)[:, None]

    noise = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    free = Conditions.of(None, count=7)
    errors = []
    for steps in (20, 40, 80):
        x = process.sample(Best(5, 8, 1), noise, free, steps=steps)
        errors.append(float((x - noise).norm() / noise.norm()))
    assert errors[2] < 0.03
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2)  # first order
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.2)
    back = process.invert(Best(5, 8, 1), x, free, steps=80)
    torch.testing.assert_close(back, noise, rtol=0.02, atol=0.02)
