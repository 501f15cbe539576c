"""What is no number ends a solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro.runtime.errors import NotConverged
from micro.voxels.galerkin import shifted_inverse
from micro.voxels.hexahedron import unit_stiffness
from micro.voxels.torch_multigrid import Multigrid
from micro.voxels.torch_operator import Grid


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
