"""Cells for a fill: from the library, and from the packaged generator."""

import numpy as np
import pytest

from micro import cell
from micro.generator import Generator
from micro.homogenize import homogenize_octants
from micro.library import load_library
from micro.tensor import tensor_error
from multiscale.cell_source import GeneratorSource, SetSource
from multiscale.fill import joined

# Three targets along a line through the gamut, as neighbouring elements of a design want them.
TARGETS = np.array([[0.30, 0.11, 0.09], [0.31, 0.112, 0.092], [0.32, 0.114, 0.094]])


@pytest.fixture(scope="module")
def generated():
    source = GeneratorSource(Generator.load(), SetSource(load_library()), seed=1)
    offered = source.candidates(TARGETS, 2, lambda left, what: None)
    return source, offered


def test_candidates_of_the_generator(generated):
    _, offered = generated
    assert offered.faces.shape == (6, 32, 32)
    assert offered.index.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (offered.error < 0.1).all()


def test_one_noise_makes_neighbours_alike(generated):
    _, offered = generated
    faces = offered.faces.reshape(3, 2, 32, 32)
    same = [(faces[i, 0] == faces[i + 1, 0]).mean() for i in range(2)]
    other = [(faces[i, 0] == faces[i + 1, 1]).mean() for i in range(2)]
    assert min(same) > 0.8
    assert np.mean(same) > np.mean(other)


def test_finished_cells_are_their_own(generated):
    source, offered = generated
    chosen = offered.index[np.arange(3), offered.error.argmin(axis=1)]
    finished = source.finish(chosen, TARGETS, 0.01, lambda left, what: None)
    for cells in (finished.before, finished.after):
        assert all(cell.connectivity(octant).connected for octant in cells.octants())
        # Trials are solved to a residual of 3e-3, which leaves C right to about 1e-4.
        np.testing.assert_allclose(homogenize_octants(cells.octants()).C, cells.C, rtol=1e-3, atol=1e-5)
    before = tensor_error(finished.before.C, TARGETS)
    after = tensor_error(finished.after.C, TARGETS)
    assert (after <= before).all()
    assert after.max() < 0.01


def test_lost_cells_come_from_the_library(generated, monkeypatch):
    source, offered = generated
    whole = source.generator.refined

    def losing(samples, targets, **settings):
        done = whole(samples, targets, **settings)
        done.start_C[1] = np.nan
        return done

    monkeypatch.setattr(source.generator, "refined", losing)
    finished = source.finish(offered.index[:, 0], TARGETS, 0.05, lambda left, what: None)
    assert finished.generated.tolist() == [True, False, True]
    assert finished.after.family.tolist() == ["generated", "library", "generated"]
    assert cell.connectivity(finished.after.octants(1)).connected
    assert tensor_error(finished.after.C[1], TARGETS[1]) < 0.05


def test_joined_keeps_parameters_only_if_all_have_them():
    library = load_library()
    both = joined([library.subset([0]), library.subset([5])])
    assert both.params.shape[1] == library.params.shape[1]
    plain = joined([library.subset([0]), joined([library.subset([1])]).subset([0])])
    assert len(plain) == 2
