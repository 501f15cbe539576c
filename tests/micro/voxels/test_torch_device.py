"""What a device is asked for by the torch path: few operations, and an iteration waits for none of them."""

from functools import partial

import numpy as np
import pytest
import torch
from small_cells import octants
from torch.utils._python_dispatch import TorchDispatchMode

from micro.homogenize.fields import solve_octants
from micro.voxels import torch_multigrid, torch_system
from micro.voxels.torch_operator import Grid

#: Operations whose result the host waits for, and those that only look at memory in another way.
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "item"}
VIEWS = {"view", "as_strided", "select", "slice", "unsqueeze", "expand", "permute", "transpose", "unbind"}
VIEWS |= {"split", "alias", "t", "detach", "_unsafe_view", "squeeze", "empty", "new_empty", "empty_like"}


class Counted(TorchDispatchMode):
    """Counts operations by name; boolean indices are waits."""

    def __init__(self):
        super().__init__()
        self.operations, self.waits = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WAITS:
            self.waits.append(name)
        if name in ("index", "index_put_", "index_put"):
            self.waits += [name for i in args[1] if i is not None and i.dtype == torch.bool]
        self.operations += name not in VIEWS
        return function(*args, **(kwargs or {}))


def _counted(looks, seen, *tensors):
    looks.append(len(tensors))
    return seen(*tensors)


@pytest.fixture
def as_on_a_device(monkeypatch):
    monkeypatch.setattr(torch_multigrid, "FUSED", {"cpu"})


def test_the_host_waits_at_its_looks_alone(monkeypatch, as_on_a_device):
    """Setting up waits for the factors of the coarsest grid; few and many iterations wait as often: never."""
    cells, waits, looks = octants(6, 16, seed=3), {}, {}
    for rtol in (1e-2, 1e-1, 1e-9):  # the first one fills caches
        looks[rtol] = []
        with monkeypatch.context() as patch, Counted() as counted:
            patch.setattr(torch_system, "_seen", partial(_counted, looks[rtol], torch_system._seen))
            found = solve_octants(cells.astype(float), 0.3, rtol, torch.device("cpu"), path="torch")
        waits[rtol] = counted.waits
        iterations = int(found.iterations.max())
    assert iterations > 20
    assert waits[1e-9] == waits[1e-1], "iterations wait"
    # It was two waits an iteration and more before looks were planned; now one in two iterations at most, and
    # one more for each end.
    assert len(looks[1e-9]) <= iterations // 2 + 2 + len(cells)


def test_an_iteration_is_few_operations(monkeypatch):
    """A coarse grid's 81 neighbours and columns as two operations; the same numbers up to rounding."""
    cells = octants(4, 16, seed=3)
    counts, tensors = {}, {}
    for name, devices in (("plain", set()), ("fused", {"cpu"})):
        monkeypatch.setattr(torch_multigrid, "FUSED", devices)
        rho = torch.from_numpy(cells.astype(np.float32))
        grid, k = Grid((16, 16, 16)), torch_system.unit_stiffness(0.3).float()
        free = torch.ones((3, 1, 1, 17, 17, 17), dtype=torch.bool)
        free[:, :, :, 0] = False
        multigrid = torch_multigrid.Multigrid.build(rho, k, grid, free)
        r = torch.randn(3, 1, 4, 17, 17, 17, generator=torch.Generator().manual_seed(0)) * free
        with Counted() as counted:
            tensors[name] = multigrid.precondition(r)
        assert counted.waits == []
        counts[name] = counted.operations
    size = float(tensors["plain"].abs().max())
    torch.testing.assert_close(tensors["fused"], tensors["plain"], rtol=0, atol=1e-5 * size)
    assert counts["plain"] > 800
    assert counts["fused"] < 250, counts
    # In parts where a grid is too large for one operation.
    monkeypatch.setattr(torch_multigrid, "_FUSED_SIZE", 2**16)
    torch.testing.assert_close(multigrid.precondition(r), tensors["plain"], rtol=0, atol=1e-5 * size)


def test_looks_do_not_change_what_is_found(as_on_a_device):
    """Against the compiled path: cells retired at different times, residuals met."""
    cells = octants(7, 8, seed=5).astype(float)
    device = solve_octants(cells, 0.3, 1e-7, torch.device("cpu"), path="torch")
    compiled = solve_octants(cells, 0.3, 1e-7, torch.device("cpu"), path="compiled")
    np.testing.assert_allclose(device.C, compiled.C, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(device.status, compiled.status)
    assert (device.residual <= 1e-7).all()
    assert (np.abs(device.iterations - compiled.iterations) <= 4).all()
