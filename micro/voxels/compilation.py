"""numba's compiler with a cache that sees every kernel's source.

numba dates what it keeps of a function by the file that the function stands in; an edit of another file,
whose functions were compiled into it, goes unnoticed. Here the cache is valid for one content of all modules
in the folder ``kernels`` beside this one and all named ``*kernels*.py`` in the function's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """As :func:`numba.njit`; with ``cache=True`` it is made anew when any kernel has changed."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        if options.get("cache"):
            file = dispatcher._cache._cache_file
            folder = Path(function.__code__.co_filename).parent
            file._source_stamp = (file._source_stamp, sources_digest(folder))
        return dispatcher

    return compiled if function is None else compiled(function)


#: Unsigned positions: they can't be meant from the end, which lets the compiler vectorise.
U = np.uintp

_UNWRAPPED = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def entry(function: Callable[..., Any]) -> Any:
    """Compile what Python calls: kept beside its file."""
    return njit(function, nogil=True, cache=True, error_model="numpy")


def fixed(dispatcher: Any) -> Callable[..., Any]:
    """An entry whose arguments have the same types in all calls, which are found out in the first one alone.

    numba goes through named tuples number by number to choose the version it has compiled: seven of the eight
    microseconds of a call, an eighth of what a cell of n = 8 took.
    """
    known: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> Any:
        if known:
            return known[0](*arguments)
        result = dispatcher(*arguments)
        (version,) = dispatcher.overloads.values()  # with several versions the types would differ
        known.append(version.entry_point)
        return result

    return call


def part(**options: Any) -> Any:
    """Compile what only other compiled code calls: nothing of it is kept by itself."""
    return njit(**(options | _UNWRAPPED))


@lru_cache(maxsize=8)
def sources_digest(folder: Path) -> str:
    """SHA-256 of the kernels' sources in this room and in another folder."""
    sha = hashlib.sha256()
    for file in sorted({*(Path(__file__).parent / "kernels").glob("*.py"), *folder.glob("*kernels*.py")}):
        sha.update(file.name.encode())
        sha.update(file.read_bytes())
    return sha.hexdigest()
