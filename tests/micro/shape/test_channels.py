"""Enclosed void and the channels that drain it."""

import numpy as np

from micro.cell.chamber import chamber, fundamental_domain
from micro.cell.octant import cell_from_octant, connectivity, encloses, symmetrise
from micro.data.packaged import load_library
from micro.shape.channels import closed_pockets, drain, drained as drained_shape, is_open


def ball(n, radius, centre=0.5):
    """A solid octant with a ball of void around the cell's centre (0.5) or corner (0)."""
    at = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / (2 * n)] * 3, indexing="ij"))
    return np.linalg.norm(at - centre, axis=0) > radius


def drained(octant):
    n = len(octant)
    inside, _ = fundamental_domain(n)
    solid = octant.ravel()[inside]
    plan = drain(solid, np.ones(len(solid)), n)
    return chamber(n).unfold((solid & ~plan.channels) | plan.filled), plan


def test_void_is_open_exactly_if_it_meets_all_four_walls_of_the_chamber():
    """Against the octant's own criterion, on cells by formula and on noise with many small pockets."""
    rng = np.random.default_rng(0)
    noise = [symmetrise(rng.random((14, 14, 14))) > np.quantile(rng.random(100), s) for s in (0.3, 0.5, 0.7)]
    noise += [symmetrise(rng.random((12, 12, 12))) > 0.5 + s for s in np.linspace(-0.2, 0.2, 30)]
    cells = [*load_library().octants(np.arange(0, 3400, 60)), *noise]
    states = np.array([is_open(octant) for octant in cells])
    assert np.array_equal(states, [not encloses(octant[None])[0] for octant in cells])
    assert 10 < states.sum() < len(cells) - 10


def test_a_closed_ball_is_led_out_along_the_shortest_way():
    """In a solid cell a ball's way is the straight one to the cell's neighbours, along a cube axis."""
    octant = ball(32, 0.3)
    assert not is_open(octant)
    made, plan = drained(octant)
    assert is_open(made)
    assert connectivity(made).connected
    whole = cell_from_octant(made)
    middle = whole[:, 32, 32]
    assert not middle.any()  # the void runs through the whole cell
    # Six channels of three voxels' width over what is left between ball and face: a fifth of a radius.
    lost = cell_from_octant(octant).sum() - whole.sum()
    assert lost <= 6 * 0.2 * 64 * np.pi * (3.5 / 2 + 1) ** 2
    assert not plan.filled.any()


def test_a_pocket_smaller_than_its_channel_is_filled():
    octant = ball(32, 0.03) & ball(32, 0.36, centre=0.0) & (np.arange(32)[:, None, None] >= 0)
    # The ball at the corner is large and closed, the one at the centre a few voxels.
    made, plan = drained(octant)
    assert is_open(made)
    inside, _ = fundamental_domain(32)
    small = ~ball(32, 0.03).ravel()[inside]
    assert np.array_equal(plan.filled, small)


def test_draining_a_shape_keeps_its_volume():
    octant = ball(32, 0.3)
    made = drained_shape(octant, octant - 0.5)
    assert is_open(made)
    assert abs(made.mean() - octant.mean()) < 2e-3
    assert drained_shape(made, octant - 0.5) is made
    solid = np.ones((16, 16, 16), bool)
    assert drained_shape(solid, solid.astype(float)) is solid


def test_pockets_are_told_apart():
    octant = ball(16, 0.2) & ball(16, 0.2, centre=0.0)
    inside, _ = fundamental_domain(16)
    label, closed, goes_on = closed_pockets(~octant.ravel()[inside], 16)
    assert label.max() == 1
    assert len(closed) == 2
    assert len(goes_on) == 0
