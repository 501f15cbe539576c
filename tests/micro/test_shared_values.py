"""Values that several hold are not changed by one of them, and what is no number ends a solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro.data.packaged import load_dataset, load_library
from micro.generator.generator import Generator
from micro.runtime.errors import NotConverged
from micro.voxels.galerkin import shifted_inverse
from micro.voxels.hexahedron import unit_stiffness
from micro.voxels.torch_multigrid import Multigrid
from micro.voxels.torch_operator import Grid


def test_a_generator_on_another_device_leaves_the_packaged_one_where_it_is():
    first = Generator.load()
    other = Generator.load(device="meta")
    assert {p.device.type for p in other.model.denoiser.parameters()} == {"meta"}
    assert {p.device.type for p in first.model.denoiser.parameters()} == {"cpu"}
    assert len(first.sample([[0.30, 0.13, 0.09]], n=1, draws=1, resolution=8)) == 1
    assert first.model.to("cpu").denoiser is first.model.denoiser


def test_packaged_cells_cannot_be_written_to():
    for cells in (load_library(), load_dataset()):
        for array in (cells.packed, cells.C, cells.volume, cells.params):
            with pytest.raises(ValueError, match="read-only"):
                array[:1] = 0
        assert cells.subset([0, 1]).C.flags.writeable


def test_the_inverse_of_what_is_no_number_ends():
    rank_one = np.ones((3, 3))
    assert shifted_inverse(rank_one) @ rank_one == pytest.approx(rank_one / 3, abs=1e-4)
    for wrong in (np.nan, np.inf):
        with pytest.raises(NotConverged, match="infinite or undefined"):
            shifted_inverse(np.diag([1.0, wrong]))


def test_the_torch_solver_ends_on_what_is_no_number():
    grid = Grid((2, 2, 2))
    free = torch.ones((3, 1, 1, *grid.nodes), dtype=torch.bool)
    moduli = torch.full((1, 2, 2, 2), float("nan"), dtype=torch.float64)
    with pytest.raises(NotConverged, match="infinite or undefined"):
        Multigrid.build(moduli, unit_stiffness(0.3), grid, free)
