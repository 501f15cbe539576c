"""The least volume of a tensor: quantile, bound, derivatives, file."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from micro.cell import tensor
from micro.cell.tensor import from_scaled_moduli, hashin_shtrikman
from micro.data.packaged import load_dataset, load_least_volume
from micro.dataset.dataset import part
from micro.dataset.learn import ALONE, learn_least_volume
from micro.dataset.widening import beyond_edge
from micro.gamut.least_volume import LeastVolume
from micro.runtime.errors import InputError
from micro.runtime.gradient_check import check_gradient


def bulk_bound(C):
    """The volume at which Hashin and Shtrikman's bound reaches the bulk modulus."""
    volume = np.linspace(0, 1, 1001)
    return np.interp(tensor.bulk(C), hashin_shtrikman(volume)[0], volume)


def made_up(count=3000, seed=0):
    """Cells of a known least volume, above the bulk bound, + an exponential waste, 0.03 on average."""
    rng = np.random.default_rng(seed)
    m = rng.uniform(0.1, 0.6, (count, 3))
    floor = bulk_bound(from_scaled_moduli(m)) + 0.03 + 0.2 * m[:, 1] ** 2 + 0.1 * m[:, 2]
    return m, floor, floor + rng.exponential(0.03, count)


def test_a_known_lower_envelope_is_found():
    m, floor, volume = made_up()
    fitted = LeastVolume.fit(from_scaled_moduli(m), volume, quantile=0.05, spacing=1 / 12)
    v = fitted.volume(from_scaled_moduli(m))
    # The 5 % quantile of the waste is 0.0015; a spline of spacing 1/12 follows 3000 scattered cells to a few
    # thousandths, their wasted volume itself being 0.03.
    assert np.abs(v - floor - 0.0015).mean() < 0.004
    assert 0.02 < (volume < v).mean() < 0.12


def test_cells_sought_beyond_the_edge_count_only_where_no_others_stand():
    """They may weigh what they like: v is a quantile, and many heavy cells would raise it."""
    cells = load_dataset()
    train = part(cells, "train")
    beyond = beyond_edge(train)
    m = tensor.scaled_moduli(train.C)
    away = cKDTree(m[~beyond]).query(m)[0]
    without = LeastVolume.fit(train.C[~beyond], train.volume[~beyond])
    with_all = LeastVolume.fit(train.C, train.volume)
    learned = learn_least_volume(cells)

    def raised(v, rows):
        return (v.volume(train.C[rows]) - without.volume(train.C[rows])).mean()

    beside = beyond & (away < ALONE)
    assert raised(learned, ~beyond) < 0.0005
    assert raised(learned, beside) < 0.6 * raised(with_all, beside)
    # Where nothing else is known, v is that of these cells.
    alone = away > ALONE
    assert raised(learned, alone) > 0.02


def test_derivatives():
    learned = load_least_volume()
    C = from_scaled_moduli(np.random.default_rng(1).uniform(0.1, 0.6, (20, 3)))
    value, gradient = learned.evaluate(C)
    assert value == pytest.approx(learned.volume(C))
    for row, slope in zip(C, gradient, strict=True):
        # Third derivatives of a spline of spacing 1/24 times the step squared.
        assert check_gradient(learned.volume, row, slope, directions=list(np.eye(3))).error < 1e-4


def test_the_packaged_one_is_a_lower_bound_of_unseen_cells():
    learned, cells = load_least_volume(), load_dataset()
    assert learned.source == cells.digest()
    unseen = part(cells, "test")
    assert (unseen.volume < learned.volume(unseen.C)).mean() < 0.15
    # No cell is lighter than Hashin and Shtrikman allow for its bulk modulus; the spline rounds that
    # kinked bound off by less than its own resolution.
    assert (learned.volume(unseen.C) - bulk_bound(unseen.C)).min() > -0.02
    # Stiffer in everything is heavier.
    soft = from_scaled_moduli(np.linspace(0.1, 0.6, 11)[:, None] * np.ones(3))
    assert (np.diff(learned.volume(soft)) > 0).all()


def test_light_cells_fill_the_property_space():
    learned, cells = load_least_volume(), load_dataset()
    rows = learned.light(cells, 0.02)
    assert (cells.volume[rows] <= learned.volume(cells.C[rows]) + 0.02).all()
    assert 0.3 < len(rows) / len(cells) < 0.6


def test_files(tmp_path):
    m, _, volume = made_up(400)
    fitted = LeastVolume.fit(from_scaled_moduli(m), volume, spacing=1 / 8)
    fitted.save(tmp_path / "v.safetensors")
    again = LeastVolume.load(tmp_path / "v.safetensors")
    C = from_scaled_moduli(m[:5])
    assert np.array_equal(again.volume(C), fitted.volume(C))
    with pytest.raises(InputError, match="no such file"):
        LeastVolume.load(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(InputError, match="not a readable"):
        LeastVolume.load(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="at least 50"):
        LeastVolume.fit(C, volume[:5])
