"""Likeness of neighbours: the proximal step of its energy, on chains and graphs, beside given cells."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse

from micro.cell.octant import face
from micro.explore.sequence import along_a_chain
from micro.generator import blocks
from micro.generator.face_guidance import face_layer
from micro.generator.generator import Generator
from micro.generator.likeness import LATTICE, Likeness, Strength
from micro.runtime.errors import InputError


@pytest.fixture(scope="module")
def generator():
    return Generator.load()


@pytest.mark.parametrize(("cells", "faces"), [(3.0, 3.0), (0.5, 20.0)])
def test_a_step_minimises_its_energy(generator, cells, faces):
    """The gradient of the energy vanishes: on a graph with sizes, given neighbours and two strengths."""
    space = generator.model.space
    rng = np.random.default_rng(0)
    m, f = 5, 2
    counts = np.triu(rng.integers(0, 4, (m, m)), 1)
    counts = counts + counts.T
    beside, size = rng.integers(0, 3, (m, f)), rng.integers(1, 9, m)
    given = rng.standard_normal((f, space.dimension)).astype(np.float32)
    x = rng.standard_normal((m, space.dimension))
    step = Likeness(
        space,
        sparse.csr_array(counts + 7 * np.eye(m)),  # interfaces with one's own kind count nothing
        Strength(cells, faces, until=0.5),
        size=size,
        given=given,
        beside=beside,
    )
    z = step(x, 1.0)
    free = face_layer(space).free()
    pulled = sum(counts[:, [h]] * (z - z[h]) for h in range(m))
    pulled = pulled + sum(beside[:, [h]] * (z - given[h]) for h in range(f))
    gradient = size[:, None] * (z - x) + cells * pulled @ free + faces * (pulled - pulled @ free)
    # The projector is computed in double precision of a basis in single precision.
    assert_allclose(gradient, 0, atol=1e-4)
    assert np.array_equal(step(x, 0.5), x)


def test_a_stiff_chain_is_a_straight_line(generator):
    space = generator.model.space
    rng = np.random.default_rng(1)
    ends = rng.standard_normal((2, space.dimension)).astype(np.float32)
    z = along_a_chain(space, ends, 4, Strength(1e9, 1e9))(rng.standard_normal((4, space.dimension)), 1.0)
    line = ends[0] + np.arange(1, 5)[:, None] / 5 * (ends[1] - ends[0])
    assert_allclose(z, line, atol=1e-5)


def test_neighbours_drawn_together_have_like_faces(generator):
    """Along a row of graded targets faces differ less than those of cells drawn each by itself."""
    way = np.linspace(0, 1, 8)[:, None]
    targets = (1 - way) * [[0.35, 0.15, 0.10]] + way * [[0.08, 0.02, 0.03]]
    counts = np.diag(np.ones(7), 1) + np.diag(np.ones(7), -1)
    likeness = Likeness(generator.model.space, counts, LATTICE)
    together = blocks.sample_together(generator, targets, likeness, seed=5, open=True)
    alone = generator.sample(targets, 1, seed=5, draws=1, steering=2, open=True)

    def missed(octants):
        a, b = face(octants)[1:], face(octants)[:-1]
        both = (a & b).sum(axis=(1, 2)) / np.minimum(a.sum(axis=(1, 2)), b.sum(axis=(1, 2)))
        return float((1 - both).mean())

    assert missed(together.octants()) < 0.5 * missed(alone.octants())
    assert together.connected.all()
    assert np.array_equal(together.target, np.arange(8))


def test_what_does_not_match_is_refused(generator):
    space = generator.model.space
    with pytest.raises(InputError, match="do not match"):
        Likeness(space, np.zeros((3, 3)), LATTICE, size=[1.0, 1.0])
    with pytest.raises(InputError, match="do not match"):
        generator.draw_together(np.ones((2, 3)), Likeness(space, np.zeros((3, 3)), LATTICE))
