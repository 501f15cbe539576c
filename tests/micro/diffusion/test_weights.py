"""Weights come back as they were; damaged ones are refused."""

import numpy as np
import pytest

from micro.diffusion.weights import Model
from micro.generator.generator import Generator
from micro.runtime.errors import InputError


def test_weights_come_back_as_they_were(trained):
    model, folder, _, _ = trained
    again = Model.load(folder / "generator.safetensors")
    assert again.card["command"] == "test"
    assert again.card["settings"]["dimension"] == 12
    targets = [[0.3, 0.1, 0.1]]
    first, second = (Generator(m).sample(targets, 3, resolution=8) for m in (model, again))
    np.testing.assert_array_equal(first.z, second.z)
    np.testing.assert_array_equal(first.packed, second.packed)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.98])
def test_damaged_weights_are_refused(trained, tmp_path, place):
    _, folder, _, _ = trained
    raw = bytearray((folder / "generator.safetensors").read_bytes())
    at = int(place * len(raw))
    raw[at : at + 8] = bytes(b ^ 0x55 for b in raw[at : at + 8])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(raw)
    with pytest.raises(InputError, match=r"broken\.safetensors"):
        Generator.load(broken)


def test_cut_or_missing_weights_are_refused(trained, tmp_path):
    _, folder, _, _ = trained
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((folder / "generator.safetensors").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut\.safetensors"):
        Generator.load(cut)
    with pytest.raises(InputError, match="no such file"):
        Generator.load(tmp_path / "nothing.safetensors")
