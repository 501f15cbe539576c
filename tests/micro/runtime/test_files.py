"""Files written whole or not at all."""

from __future__ import annotations

import pytest

from micro.runtime.files import atomic_path


@pytest.mark.parametrize("inner", [None, "", "chunk"])
def test_an_error_of_the_system_names_the_file_that_was_asked_for(tmp_path, inner):
    """Not the temporary, nor a file in it, which are gone when the message is read."""
    target = tmp_path / "part.stl"
    with pytest.raises(OSError, match="No space") as caught, atomic_path(target) as temporary:
        raise OSError(28, "No space left on device", None if inner is None else str(temporary / inner))
    assert caught.value.filename == str(target)
    assert list(tmp_path.iterdir()) == []


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "part.stl"):
        (tmp_path / "other.npy").read_bytes()
    assert caught.value.filename == str(tmp_path / "other.npy")
