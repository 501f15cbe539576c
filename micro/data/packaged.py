"""What comes with the program, read once and checked: data set, library, gamuts, least volume."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from micro.cell.cellset import CellSet
from micro.gamut.gamut import Gamut
from micro.gamut.least_volume import LeastVolume
from micro.runtime.errors import InputError


@lru_cache(maxsize=1)
def load_least_volume() -> LeastVolume:
    """The packaged v, of the packaged data set; read once."""
    with as_file(files("micro") / "data" / "least_volume.safetensors") as path:
        return LeastVolume.load(path)


@lru_cache(maxsize=1)
def load_dataset() -> CellSet:
    """The packaged data set, read once and checked; its arrays are read-only."""
    with packaged_file() as path:
        return CellSet.load(path).read_only()


def packaged_file() -> AbstractContextManager[Path]:
    """The packaged data set's file, for a ``with`` statement."""
    return as_file(files("micro") / "data" / "dataset.zarr.zip")


@lru_cache(maxsize=1)
def load_library() -> CellSet:
    """The packaged library, read once and checked; its arrays are read-only."""
    with as_file(files("micro") / "data" / "library.zarr.zip") as path:
        return CellSet.load(path).read_only()


@lru_cache(maxsize=2)
def load_gamut(cells: Literal["library", "dataset"] = "dataset") -> Gamut:
    """The gamut of the packaged data set or library, read once; its source is checked against theirs.

    Raises
    ------
    InputError
        If it was learned from other cells than the packaged ones.
    """
    from micro.data.packaged import load_dataset, load_library

    name = "gamut.safetensors" if cells == "library" else "gamut_dataset.safetensors"
    with as_file(files("micro") / "data" / name) as path:
        gamut = Gamut.load(path)
        digest = (load_library() if cells == "library" else load_dataset()).digest()
        if gamut.source != digest:
            raise InputError(f"learned from another {cells} than the packaged one", file=path, key="source")
    return gamut
