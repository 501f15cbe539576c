"""Guidance by functions of the decoded shape: decoding, gradients, wishes met, volumes beside tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from micro.cell import tensor
from micro.data.packaged import load_dataset
from micro.dataset.dataset import part
from micro.generator.generator import Generator
from micro.generator.guidance import Decoder, Shape, Wish, openness, raised
from micro.generator.scalars import Scalar
from micro.runtime.errors import InputError
from micro.runtime.gradient_check import check_gradient
from micro.shape.channels import is_open
from micro.shape.distance import signed_distance


@pytest.fixture(scope="module")
def generator():
    return Generator.load()


@pytest.fixture(scope="module")
def decoder(generator):
    return Decoder(generator.model.space, generator.model.surrogate)


@pytest.fixture(scope="module")
def known(generator):
    """Test cells and their coordinates."""
    cells = part(load_dataset(), "test").subset(np.arange(0, 800, 20))
    return cells, torch.from_numpy(generator.model.space.encode(signed_distance(cells.octants())))


def shape_of(decoder, z):
    return Shape(decoder, z, torch.arange(len(z)))


def hole(shape):
    """How deep solid stands on the axes through the cell's centre, three voxels around, in voxels.

    Index n - 1 is the mid-plane. By the level set, which has a slope deep in the solid, where soft voxels
    have none.
    """
    return torch.relu(2 * shape.n * shape.levels[:, :, -3:, -3:] + 0.5).mean(dim=(1, 2, 3))


def test_a_shape_is_what_its_coordinates_are_delivered_as(generator, decoder, known):
    cells, z = known
    shape = shape_of(decoder, z)
    levels = generator.model.space.levels(z.numpy(), 32)
    assert_allclose(shape.levels.numpy(), levels, atol=1e-6)  # float32 sums in another order
    assert (np.abs(shape.density.numpy() - (levels > 0)) <= 0.5).all()
    assert_allclose(shape.volume.numpy(), cells.volume, atol=0.015)
    assert tensor.tensor_error(shape.tensor.numpy(), cells.C).mean() < 0.02


@pytest.mark.parametrize(
    "function",
    [hole, lambda s: s.volume**2, lambda s: Scalar("K / K_HS")(s.tensor, s.volume)],
    ids=["hole", "volume", "stiffness"],
)
def test_gradients_through_the_decoder_are_those_of_differences(decoder, known, function):
    z = known[1][:4]
    _, slope = Wish(function).gradient(shape_of(decoder, z))

    def value(row):
        with torch.no_grad():
            return float(function(shape_of(decoder, torch.from_numpy(row).float()[None])))

    for row, own in zip(z.numpy(), slope.numpy(), strict=True):
        # A surface moves by 1e-2 of a voxel or so; float32 values of order one leave 1e-5 over the step.
        found = check_gradient(value, row, own, step=0.02, directions=1)
        assert_allclose(found.analytic, found.differences, rtol=0.05, atol=4e-3)


def test_a_step_ends_at_the_goal_and_is_no_longer_than_it_may(decoder, known):
    z = known[1][:8]
    shape = shape_of(decoder, z)
    before = shape.volume
    moved = Wish(lambda s: s.volume - before, goal=-0.01).moved(shape)
    # Over so little the volume is nearly linear.
    assert_allclose(shape_of(decoder, moved).volume - before, -0.01, rtol=0.1)
    assert torch.equal(Wish(lambda s: s.volume, goal=1.0).moved(shape), z)  # reached already
    up = raised(lambda s: s.volume, step=0.1).moved(shape)
    assert_allclose((up - z).norm(dim=1), 0.1, rtol=1e-4)
    assert (shape_of(decoder, up).volume > before).all()


def test_a_hole_that_is_wished_for_is_there(generator):
    """An own wish, beside tensors: the axes through the cell's centre are to be free."""
    known = part(load_dataset(), "test")
    rows = np.flatnonzero((known.volume > 0.4) & (known.volume < 0.7))[::60][:6]
    settings = {"n": 1, "seed": 3, "draws": 4}
    wish = Wish(hole, goal=0.0)
    free = generator.sample(known.C[rows], **settings)
    guided = generator.sample(known.C[rows], guides=[wish], **settings)

    def filled(samples):
        return samples.octants()[:, :, -3:, -3:].mean(axis=(1, 2, 3))

    assert filled(free).mean() > 0.3
    assert filled(guided).mean() < 0.02
    assert guided.connected.all()
    # The tensor is asked for as well: as the surrogate sees it, hardly further off.
    assert tensor.tensor_error(guided.predicted, known.C[rows]).mean() < 0.01
    # A cell depends on its target and seed alone, guided too.
    alone = generator.sample(known.C[rows[2:3]], guides=[wish], **settings)
    assert_array_equal(alone.packed, guided.packed[2:3])


def test_stiffness_over_its_bound_is_raised(generator):
    stiff = Scalar("K / K_HS")
    volume, settings = np.array([0.3, 0.5, 0.7]), {"n": 3, "seed": 1, "draws": 1, "steering": 0}
    free = generator.sample(None, volume=volume, **settings)
    wish = raised(lambda shape: stiff(shape.tensor, shape.volume))
    guided = generator.sample(None, volume=volume, guides=[wish], **settings)
    own = []
    for samples in (free, guided):
        solid = samples.octants().mean(axis=(1, 2, 3))
        own.append(stiff(samples.homogenize().C, solid)[samples.connected].mean())
    assert own[1] > own[0] + 0.1


def test_closed_cells_are_guided_open(generator):
    """Before anything is drained: the network makes cells around the channels that are wished for."""
    known = part(load_dataset(), "test")
    rows = np.flatnonzero((known.volume > 0.55) & (known.volume < 0.9))[::90][:5]
    settings = {"n": 1, "seed": 11, "draws": 1, "steering": 0}
    share = []
    for guides in ((), (openness(),)):
        samples = generator.sample(known.C[rows], guides=guides, **settings)
        share.append(np.mean([is_open(octant) for octant in samples.octants()]))
    # Of ten such targets half were open without, all with.
    assert share[1] >= 0.8
    assert share[1] > share[0]


def test_what_stands_in_a_channel_is_found_and_has_its_gradient(decoder, generator):
    known = part(load_dataset(), "test")
    octants = known.octants(np.flatnonzero((known.volume > 0.4) & (known.volume < 0.8))[::40][:12])
    z = torch.from_numpy(generator.model.space.encode(signed_distance(octants)))
    solids = generator.model.space.levels(z.numpy(), 32) > 0
    free = np.array([is_open(solid) for solid in solids])
    assert 0 < free.sum() < len(free)
    wish = openness()
    excess, slope = wish.gradient(shape_of(decoder, z))
    assert_array_equal(excess.numpy() == 0, free)
    assert_array_equal(slope.norm(dim=1).numpy() == 0, free)
    # Blurred estimates are left alone.
    assert not wish.excess(Shape(decoder, z, torch.arange(len(z)), noise=5.0)).any()
    # A short step down the gradient leaves less standing in the same channels.
    shut = torch.from_numpy(~free)
    lower = wish.excess(shape_of(decoder, z - 0.3 * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-9)))
    assert (lower[shut] < excess[shut]).float().mean() > 0.8


def test_a_volume_beside_a_tensor_is_respected(generator):
    """Tensors of test cells, and volumes a few hundredths above theirs."""
    known = part(load_dataset(), "test")
    rows = np.flatnonzero((known.volume > 0.3) & (known.volume < 0.7))[::30][:10]
    volume = known.volume[rows] + 0.03
    settings = {"n": 1, "seed": 5, "draws": 8}
    free = generator.sample(known.C[rows], **settings)
    both = generator.sample(known.C[rows], volume=volume, **settings)
    off = [np.abs(s.octants().mean(axis=(1, 2, 3)) - volume).mean() for s in (free, both)]
    assert off[1] < 0.02
    assert off[1] < 0.7 * off[0]
    assert tensor.tensor_error(both.predicted, known.C[rows]).mean() < 0.02


@pytest.mark.parametrize(
    "function",
    [lambda s: s.volume.sum(), lambda s: s.volume / 0, lambda s: s.level],
    ids=["one value", "not finite", "many values"],
)
def test_a_function_of_another_shape_is_refused(small_generator, function):
    with pytest.raises(InputError, match="one finite value for each cell"):
        small_generator.sample([[0.3, 0.1, 0.1]], 2, resolution=8, guides=[function])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("K / bound", "bound: known are"),
        ("K /", "is no expression"),
        ("__import__('os')", "only numbers"),
        ("K if V else G", "only numbers"),
        ("'K'", "only numbers"),
    ],
)
def test_what_is_no_expression_is_refused(text, says):
    with pytest.raises(InputError, match=says):
        Scalar(text)


def test_expressions_are_the_moduli(known):
    cells, _ = known
    K, G = tensor.hashin_shtrikman(cells.volume)
    for text, value in (
        ("K", tensor.bulk(cells.C)),
        ("E", tensor.young(cells.C)),
        ("-nu", -tensor.poisson(cells.C)),
        ("A", tensor.zener(cells.C)),
        ("(K / K_HS)**2 - 1.5*V", (tensor.bulk(cells.C) / K) ** 2 - 1.5 * cells.volume),
        ("G / G_HS", cells.C[:, 2] / G),
    ):
        assert_allclose(Scalar(text)(cells.C, cells.volume), value, rtol=1e-9)
        wanted = Scalar(text)(torch.from_numpy(cells.C), torch.from_numpy(cells.volume))
        assert_allclose(wanted.numpy(), value, rtol=1e-9)
    # Bounds are those of the base material.
    own = Scalar("K_HS", poisson=0.2)(cells.C, cells.volume)
    assert_allclose(own, tensor.hashin_shtrikman(cells.volume, 0.2)[0], rtol=1e-9)
