"""How far the surrogate is off: learned from cells it has not seen, kept, and minded in the choice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_model import SMALL, small_data

from micro.diffusion.uncertainty import Uncertainty, predict_with_error
from micro.diffusion.weights import Model
from micro.generator.generator import CAUTION, Generator, sampler_steps
from micro.generator.steering import predict
from micro.runtime.errors import InputError
from micro.training.uncertainty import FILE, train_uncertainty

SAMPLES = 256 * 400


@pytest.fixture(scope="module")
def uncertain(trained, tmp_path_factory):
    """The small model that knows its expected errors, its folder and the lines reported."""
    folder, lines = tmp_path_factory.mktemp("uncertainty"), []
    return (
        train_uncertainty(small_data(200), folder, trained[0], samples=SAMPLES, report=lines.append),
        folder,
        lines,
    )


def test_the_mean_of_unlike_errors_is_learned():
    """Half of the cells are off by 0.001 on average, half by 0.02, both exponentially."""
    rng = np.random.default_rng(0)
    mean = np.repeat([1e-3, 2e-2], 2000)
    features = torch.from_numpy(rng.normal(size=(4000, 8)).astype(np.float32))
    features[2000:, 0] += 20.0
    error = torch.from_numpy(rng.exponential(mean)).float()
    torch.manual_seed(0)
    uncertainty = Uncertainty(8, hidden=16)
    optimiser = torch.optim.Adam(uncertainty.parameters(), 1e-2)
    for _ in range(300):
        loss = uncertainty.loss(features, error)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = uncertainty(features).detach().numpy()
    # The mean of 2,000 such errors is known to 2 %, and 1e-4 is added to all. The rest is left to the
    # network, which takes some of their scatter for a dependence on the eight features.
    assert np.median(found[:2000]) == pytest.approx(1e-3 + 1e-4, rel=0.15)
    assert np.median(found[2000:]) == pytest.approx(2e-2, rel=0.15)


def test_a_uncertainty_is_learned_and_kept_with_the_weights(trained, uncertain):
    model, folder, lines = uncertain
    card = model.card["uncertainty"]
    assert lines[-1] == {"phase": "uncertainty", **card}
    assert card["cells"] == len(small_data(200))
    losses = [line["validation"] for line in lines if "validation" in line]
    assert losses[-1] == pytest.approx(card["loss"], abs=1e-4)
    assert card["rank_correlation"] > 0.1  # of some sixty cells; 0 would be chance
    again = Model.load(folder / FILE)
    z = np.random.default_rng(0).normal(size=(5, SMALL.dimension)).astype(np.float32)
    first, second = (predict_with_error(m.surrogate, m.uncertainty, z)[1] for m in (model, again))
    assert (first == second).all()
    assert (first > 0).all()
    plain = predict_with_error(trained[0].surrogate, None, z)
    assert (plain[0] == predict(trained[0].surrogate, z)).all()
    assert not plain[1].any()
    # All else is as it was.
    assert trained[0].uncertainty is None
    old, new = trained[0].state(), again.state()
    assert all((old[name] == new[name]).all() for name in old)
    assert {name.split(".")[0] for name in new.keys() - old.keys()} == {"uncertainty"}
    assert Generator(model).fingerprint != Generator(trained[0]).fingerprint


def test_a_finished_uncertainty_is_taken_up_and_wrong_cells_are_refused(trained, uncertain):
    model, folder, _ = uncertain
    again = train_uncertainty(small_data(200), folder, trained[0], samples=SAMPLES, report=lambda line: None)
    name = "uncertainty.layers.1.weight"
    assert (again.state()[name] == model.state()[name]).all()
    with pytest.raises(InputError, match="at least 50 cells"):
        train_uncertainty(small_data(20), folder, trained[0], report=lambda line: None)
    with pytest.raises(InputError, match="has learned from this set"):
        train_uncertainty(trained[2], folder, trained[0], report=lambda line: None)
    with pytest.raises(InputError, match="other data"):
        train_uncertainty(small_data(100), folder, trained[0], samples=SAMPLES, report=lambda line: None)


def test_surer_candidates_are_chosen(trained, uncertain):
    targets = np.tile([[0.30, 0.12, 0.09], [0.5, 0.2, 0.15]], (8, 1))
    settings = {"draws": 8, "steering": 0, "resolution": 8, "seed": np.arange(16)}
    model = uncertain[0]
    z = [Generator(m).sample(targets, 1, **settings).z for m in (trained[0], model)]
    expected = [predict_with_error(model.surrogate, model.uncertainty, one)[1].mean() for one in z]
    assert expected[1] < 0.9 * expected[0]
    # One that is equally sure of all chooses as if there were none.
    even = Uncertainty(SMALL.surrogate_width)
    torch.nn.init.zeros_(even.layers[-1].weight)
    same = Generator(replace(model, uncertainty=even.eval())).sample(targets, 1, **settings).z
    assert (same == z[0]).all()


def test_the_steered_ones_are_chosen_between(trained, uncertain, monkeypatch):
    """Two of eight are steered, and one of these is delivered; only weights that know of errors do so."""
    targets = np.array([[0.30, 0.12, 0.09], [0.5, 0.2, 0.15]])
    generator = Generator(uncertain[0])
    settings = {"draws": 8, "steering": 2, "resolution": 8, "seed": np.arange(2)}
    kept, best = [], Generator._best

    def watched(self, aim, found, among, number, caution):
        rows = best(self, aim, found, among, number, caution)
        kept.append((among, number, caution, len(found.z), len(rows)))
        return rows

    monkeypatch.setattr(Generator, "_best", watched)
    usual = generator.sample(targets, 1, **settings)
    assert kept == [(8, 2, CAUTION, 16, 4), (2, 1, 1.0, 4, 2)]
    assert len(usual) == 2
    # At its word, or without weights that tell: one is steered.
    generator.sample(targets, 1, caution=0.0, **settings)
    Generator(trained[0]).sample(targets, 1, **settings)
    assert kept[2:] == [(8, 1, 0.0, 16, 2), (8, 1, CAUTION, 16, 2)]
    with pytest.raises(InputError, match="caution: is not negative"):
        generator.sample(targets, 1, caution=-1.0)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [((16, 4, False), 8), ((1, 4, False), 18), ((16, 0, False), 18), ((16, 4, True), 18)],
)
def test_the_sampler_takes_its_time_where_each_step_counts(settings, steps):
    assert sampler_steps(*settings) == steps
