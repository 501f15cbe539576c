"""Rounds of active learning with a small_generator model."""

from dataclasses import replace

import numpy as np
import pytest
from small_model import SMALL

from micro.cell import octant as cell, tensor
from micro.data.packaged import load_gamut
from micro.dataset.dataset import masks
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.runtime.errors import InputError
from micro.shape.channels import is_open
from micro.training.active import active_round, aims, around
from micro.training.pipeline import train


def test_active_round_gives_clean_homogenised_cells(small_generator, trained):
    cells = active_round(small_generator, trained[2], 12, seed=3)
    assert (cells.family == "generated").all()
    for octant in cells.octants():
        assert cell.connectivity(octant).connected
    np.testing.assert_allclose(homogenize_octants(cells.octants()).C, cells.C, rtol=1e-3, atol=1e-6)
    again = active_round(small_generator, trained[2], 12, seed=3)
    assert again.digest() == cells.digest()


def test_a_round_with_trials_gets_nearer_to_its_holes(small_generator, trained):
    known = trained[2]
    targets = aims(known.C, 12, np.random.default_rng([3, 12]))

    def distance(cells):
        return np.mean([tensor.tensor_error(cells.C, t).min() for t in targets])

    once, moved = (active_round(small_generator, known, 12, seed=3, trials=k) for k in (1, 4))
    assert all(cell.connectivity(octant).connected for octant in moved.octants())
    assert distance(moved) < distance(once)


def test_aims_are_positive_definite(trained):
    targets = aims(trained[2].C, 50, np.random.default_rng(0))
    assert targets.shape == (50, 3)
    assert (tensor.to_moduli(targets) > 0).all()


def test_a_round_around_known_tensors_is_for_training_alone(small_generator, trained, tmp_path):
    model, _, data, _ = trained
    targets = around(data.C, 12, np.random.default_rng([3, 12]))
    assert tensor.is_definite(targets).all()
    nearest = [tensor.relative_error(data.C, t).min() for t in targets]
    assert max(nearest) < 0.25  # a few standard deviations
    cells = active_round(small_generator, data, 12, seed=3, aim="known", open=True)
    assert all(is_open(octant) for octant in cells.octants())
    assert masks(cells)["train"].all()
    settings = replace(SMALL, samples=SMALL.batch, surrogate_samples=SMALL.batch)
    more = train([data, cells], tmp_path, settings, start=model, report=lambda line: None)
    assert more.card["cells"] == model.card["cells"] + len(cells)


def test_a_round_all_over_the_gamut_aims_at_feasible_tensors(small_generator, trained):
    """And its cells, made where the surrogate may be wrong, are for training alone."""
    gamut = load_gamut()
    targets = gamut.draw(12, np.random.default_rng([3, 12]))
    assert (gamut.phi(targets) >= 0).all()
    with pytest.raises(InputError, match="no tensors with phi"):
        gamut.draw(1, np.random.default_rng(3), phi=(5.0, 6.0))
    just_outside = gamut.draw(12, np.random.default_rng(3), phi=(-0.03, -0.005))
    assert ((gamut.phi(just_outside) >= -0.03) & (gamut.phi(just_outside) < -0.005)).all()
    data = trained[2]
    cells = active_round(small_generator, data, 12, seed=3, aim="gamut")
    settings = {"seed": 3 * 10**6 + np.arange(12), "draws": 4, "caution": 0.0, "resolution": data.n}
    made = small_generator.sample(targets, 1, **settings)
    expected = {octant.tobytes() for octant in made.octants()}
    assert len(cells)
    assert all(octant.tobytes() in expected for octant in cells.octants())
    assert masks(cells)["train"].all()


def test_a_round_in_which_no_cell_survives_gives_none(small_generator, trained, monkeypatch):
    """It unpacked an empty zip."""
    monkeypatch.setattr("micro.training.active.presentable", lambda octant: False)
    cells = active_round(small_generator, trained[2], 4, seed=3, draws=1)
    assert len(cells) == 0
    assert cells.n == 8


def test_a_round_all_over_the_gamut_is_of_its_base_material(small_generator, trained):
    """Targets of another one would be asked for silently."""
    data = replace(trained[2], poisson=0.2)
    other = Generator(replace(small_generator.model, card={**small_generator.model.card, "poisson": 0.2}))
    with pytest.raises(InputError, match="Poisson"):
        active_round(other, data, 4, seed=3, aim="gamut")
