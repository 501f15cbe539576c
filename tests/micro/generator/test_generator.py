"""The generator: seeds, conditions, refusals; open cells; one in a place of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro.cell import octant as cell
from micro.cell.octant import encloses
from micro.generator.generator import Generator
from micro.runtime.errors import InputError


def test_a_cell_depends_on_its_seed_alone(small_generator):
    targets = np.array([[0.3, 0.1, 0.1], [0.5, 0.2, 0.15], [0.1, 0.05, 0.02]])
    seeds = np.array([4, 5, 6])
    together = small_generator.sample(targets, 3, seed=seeds, resolution=8, draws=4)
    for i in range(3):
        alone = small_generator.sample(targets[i : i + 1], 3, seed=seeds[i : i + 1], resolution=8, draws=4)
        np.testing.assert_array_equal(alone.z, together.z[together.target == i])
        np.testing.assert_array_equal(alone.packed, together.packed[together.target == i])
    first = small_generator.sample(targets[:1], 1, seed=4, resolution=8, draws=4)
    np.testing.assert_array_equal(first.packed, together.packed[:1])
    other = small_generator.sample(targets[:1], 1, seed=7, resolution=8, draws=4)
    assert not np.array_equal(other.z, first.z)


def test_every_kind_of_condition(small_generator):
    targets = np.array([[0.3, 0.1, 0.1], [0.5, 0.2, 0.15]])
    volume = np.array([0.4, 0.6])
    kinds = {
        "tensor": small_generator.sample(targets, 2, resolution=8),
        "volume": small_generator.sample(None, 2, volume=volume, resolution=8),
        "both": small_generator.sample(targets, 2, volume=volume, resolution=8),
        "none": small_generator.sample(None, 2, seed=[0, 1], resolution=8),
    }
    for samples in kinds.values():
        assert samples.octants().shape == (4, 8, 8, 8)
        assert all(cell.is_symmetric(o) for o in samples.octants())
    assert not np.array_equal(kinds["tensor"].z, kinds["both"].z)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"targets": [[1.0, 2.0]]}, "targets"),
        ({"targets": [[0.3, 0.1, 0.1]], "volume": [0.2, 0.3]}, "volume"),
        ({"volume": [1.2]}, "volume"),
        ({"n": 0}, "n"),
        ({"draws": 0}, "draws"),
        ({"resolution": 4}, "resolution"),
    ],
)
def test_wrong_requests_are_refused(small_generator, arguments, key):
    with pytest.raises(InputError, match=key):
        small_generator.sample(**({"resolution": 8} | arguments))


def test_generated_cells_are_open_if_asked_for_and_depend_on_nothing_else():
    """Of tensors whose drawn cells enclose void, at both resolutions, and refined."""
    wanted = [[0.62, 0.2, 0.19], [0.45, 0.16, 0.13]]
    generator = Generator.load()
    plain = generator.sample(wanted, 2, seed=5, draws=2, steering=1)
    assert encloses(plain.octants()).any()
    free = generator.sample(wanted, 2, seed=5, draws=2, steering=1, open=True)
    assert not encloses(free.octants()).any()
    assert free.connected.all()
    volume = [s.octants().mean(axis=(1, 2, 3)) for s in (plain, free)]
    assert np.abs(volume[0] - volume[1]).max() < 0.05
    alone = generator.sample(wanted[1:], 2, seed=5, draws=2, steering=1, open=True)
    assert np.array_equal(alone.packed, free.packed[2:])
    refined = generator.refine(free, wanted, trials=2)
    assert not encloses(refined.octants()).any()


def test_a_generator_on_another_device_leaves_the_packaged_one_where_it_is():
    first = Generator.load()
    other = Generator.load(device="meta")
    assert {p.device.type for p in other.model.denoiser.parameters()} == {"meta"}
    assert {p.device.type for p in first.model.denoiser.parameters()} == {"cpu"}
    assert len(first.sample([[0.30, 0.13, 0.09]], n=1, draws=1, resolution=8)) == 1
    assert first.model.to("cpu").denoiser is first.model.denoiser


def test_a_cell_is_the_same_for_any_threads_and_at_any_resolution():
    """The packaged weights' sizes, so that products are worth dividing among threads."""
    generator, threads = Generator.load(), torch.get_num_threads()
    targets, settings = np.array([[0.3, 0.12, 0.09], [0.08, 0.03, 0.02]]), {"n": 2, "seed": 8, "draws": 2}
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(generator.sample(targets, **settings))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(found[0].z, found[1].z)
    np.testing.assert_array_equal(found[0].packed, found[1].packed)
    fine = generator.sample(targets, resolution=64, **settings)
    # The same level set, sampled at twice the resolution: blocks of eight voxels agree but at the surface.
    np.testing.assert_array_equal(fine.z, found[0].z)
    coarse = fine.octants().reshape(4, 32, 2, 32, 2, 32, 2).mean(axis=(2, 4, 6))
    clear = (coarse == 0) | (coarse == 1)
    assert clear.mean() > 0.8
    assert ((coarse > 0.5) == found[0].octants())[clear].mean() > 0.999
