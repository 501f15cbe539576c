"""Arrays by name on disk (npz): written whole, and what can't be read is one line."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path

#: What numpy, its header's parser and zip raise on bytes that are no npz file, or one that is cut or altered.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    LookupError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def write_arrays(path: PathLike, arrays: Mapping[str, NDArray[Any]], *, pack: bool = True) -> None:
    """Write arrays by name as npz, atomically; compressed unless ``pack`` is False."""
    save: Any = np.savez_compressed if pack else np.savez
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        save(stream, **arrays)


def read_arrays(path: PathLike, needed: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file by name.

    Raises
    ------
    InputError
        If there is no such file, it is not a whole npz file of plain arrays, or one of ``needed`` is missing.
    """
    try:
        with open(path, "rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InputError("holds one array (npy); needed are several by name (npz)", file=path)
            arrays = {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise InputError("there is no such file", file=path) from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"not an npz file of plain arrays ({reason})", file=path) from None
    for name in needed:
        if name not in arrays:
            raise InputError("the array is missing", file=path, key=name, value=list(arrays))
    return arrays
