"""Regressors trained for one scalar: learned, kept, taken up, and refused where they do not belong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_model import SMALL

from micro.cell.cellset import CellSet
from micro.dataset import dataset
from micro.generator.generator import Generator
from micro.generator.guidance import Decoder, Shape, raised
from micro.generator.regressor import Regressor, regressor
from micro.generator.scalars import Scalar
from micro.runtime.errors import InputError
from micro.shape.distance import signed_distance
from micro.training.regression import FILE, train_regressor

TEXT = "K / K_HS"


def parted(data: CellSet) -> CellSet:
    """The small data with a test part, which steers nothing."""
    part = dataset.masks(data)["validation"].astype(int)
    part[1::5] = 2
    return dataset.with_provenance(data, ["library"] * len(data), part, {})


@pytest.fixture(scope="module")
def regressed(trained, tmp_path_factory):
    """A regressor of the small model, its folder and the lines reported."""
    folder, lines = tmp_path_factory.mktemp("regressor"), []
    settings = replace(SMALL, samples=64 * 300, rate=2e-3)
    found = train_regressor(parted(trained[2]), folder, TEXT, trained[0], settings, report=lines.append)
    return found, folder, settings, lines


def shape_of(model, count=6):
    z = torch.randn(count, SMALL.dimension, generator=torch.Generator().manual_seed(4))
    return Shape(Decoder(model.space, model.surrogate), z, torch.zeros(count, dtype=torch.int64))


def test_a_correction_learns_what_the_surrogate_misses(trained, regressed):
    found, folder, settings, lines = regressed
    losses = [line["validation"] for line in lines if "validation" in line]
    mine = dataset.part(parted(trained[2]), "train")
    z = torch.from_numpy(trained[0].space.encode(signed_distance(mine.octants())))
    shape = Shape(Decoder(trained[0].space, trained[0].surrogate), z, torch.zeros(len(z), dtype=torch.int64))
    wanted = Scalar(TEXT)(mine.C, mine.volume)
    both = (found, Regressor(Scalar(TEXT), found.surrogate))
    off = [np.square(f(shape).numpy() - wanted).mean() for f in both]
    # Of fifty cells nothing general is learned; the cells shown are.
    assert off[0] < 0.5 * off[1]
    assert found.card["r2_plain"] < 1
    assert losses[-1] == pytest.approx(1 - found.card["r2_validation"], abs=1e-4)
    again = train_regressor(
        parted(trained[2]), folder, TEXT, trained[0], settings, report=lambda line: None
    )  # finished: taken as it is
    shape = shape_of(trained[0])
    torch.testing.assert_close(again(shape), found(shape), rtol=0, atol=0)
    with pytest.raises(InputError, match="other scalar"):
        train_regressor(parted(trained[2]), folder, "E", trained[0], settings, report=lambda line: None)


def test_a_regressor_comes_back_from_its_file(trained, regressed, small_generator):
    found, folder, _, _ = regressed
    surrogate = trained[0].surrogate
    same = regressor(str(folder / FILE), surrogate)
    assert same.correction is not None
    assert same.card == found.card
    shape = shape_of(trained[0])
    # Stored as bfloat16: three digits of a correction of a tenth or so.
    torch.testing.assert_close(same(shape), found(shape), rtol=5e-3, atol=5e-3)
    assert not torch.equal(same(shape), Scalar(TEXT)(shape.tensor, shape.volume))
    # Of an expression it is the surrogate's own scalar.
    assert torch.equal(regressor(TEXT, surrogate)(shape), Scalar(TEXT)(shape.tensor, shape.volume))
    wish = raised(same)
    cells = [small_generator.sample(None, 6, seed=1, resolution=8, guides=g) for g in ((), (wish,))]
    means = [
        float(same(Shape(shape._decoder, torch.from_numpy(c.z), torch.zeros(6, dtype=torch.int64))).mean())
        for c in cells
    ]
    assert means[1] > means[0]


def test_a_regressor_of_other_weights_or_damaged_is_refused(trained, regressed, tmp_path):
    _, folder, _, _ = regressed
    with pytest.raises(InputError, match="another generator's weights"):
        Regressor.load(folder / FILE, Generator.load().model.surrogate)
    raw = bytearray((folder / FILE).read_bytes())
    raw[len(raw) // 2] ^= 0x55
    (tmp_path / "broken.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match="damaged"):
        Regressor.load(tmp_path / "broken.safetensors", trained[0].surrogate)
    with pytest.raises(InputError, match="no such regressor"):
        Regressor.load(tmp_path / "nothing.safetensors", trained[0].surrogate)


def test_the_correction_has_its_gradient(trained, regressed):
    found = regressed[0]
    shape = shape_of(trained[0], 4)
    z = shape.z.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(found(Shape(shape._decoder, z, shape.target)).sum(), z)
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ends = [found(Shape(shape._decoder, shape.z + h * direction, shape.target)) for h in (5e-3, -5e-3)]
    # Float32 values of order one over a step of 1e-2.
    np.testing.assert_allclose(
        (slope * direction).sum(dim=1), (ends[0] - ends[1]) / 1e-2, rtol=0.05, atol=1e-3
    )


def test_the_kept_regressor_belongs_to_the_packaged_weights(root):
    """K / K_HS of the data set's test octants, with what the packaged surrogate misses put right."""
    path = root / "benchmarks" / "data" / "bulk_over_bound.safetensors"
    found = regressor(str(path), Generator.load().model.surrogate)
    assert found.scalar.text == TEXT
    assert found.card["r2"] >= 0.99 > found.card["r2_plain"]
