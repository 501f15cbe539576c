"""What comes with the program is not changed by one of those that hold it."""

from __future__ import annotations

import pytest

from micro.data.packaged import load_dataset, load_library


def test_packaged_cells_cannot_be_written_to():
    for cells in (load_library(), load_dataset()):
        for array in (cells.packed, cells.C, cells.volume, cells.params):
            with pytest.raises(ValueError, match="read-only"):
                array[:1] = 0
        assert cells.subset([0, 1]).C.flags.writeable
