"""Arrays by name on disk: what was written comes back; a file of unfinished work that is cut is refused."""

from __future__ import annotations

import numpy as np
import pytest

from micro.cell.readers import read_voxels
from micro.explore.extreme import _load
from micro.inverse.folder import load_state
from micro.library.labelling import load_labels
from micro.runtime.errors import InputError
from micro.runtime.npz import read_arrays, write_arrays
from micro.training.pipeline import _space


@pytest.mark.parametrize("pack", [True, False])
def test_arrays_come_back(tmp_path, pack):
    arrays = {"x": np.linspace(0, 1, 7), "names": np.array(["a", "bc"]), "none": np.empty((0, 3))}
    write_arrays(tmp_path / "all.npz", arrays, pack=pack)
    again = read_arrays(tmp_path / "all.npz", ("x", "none"))
    assert list(again) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
        assert again[name].dtype == value.dtype


def test_a_missing_array_is_named(tmp_path):
    write_arrays(tmp_path / "some.npz", {"x": np.ones(3)})
    with pytest.raises(InputError, match=r"some\.npz: y: the array is missing"):
        read_arrays(tmp_path / "some.npz", ("x", "y"))


@pytest.mark.parametrize(
    "read",
    [
        load_labels,
        load_state,
        lambda path: _load(path, "random"),
        lambda path: _space(path, np.empty((0, 0), np.float32), [], 8, 2, None),
        read_voxels,
    ],
    ids=["shard", "state", "run", "shape space", "voxels"],
)
@pytest.mark.parametrize("left", [0.0, 0.3, 0.97])
def test_files_of_unfinished_work_that_are_cut_are_one_line(tmp_path, read, left):
    path = tmp_path / "cut.npz"
    write_arrays(path, {"x": np.ones(50), "mean": np.ones(4)}, pack=False)
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(InputError, match=r"cut\.npz"):
        read(path)
