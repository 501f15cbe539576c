"""numba's compiler with a cache that sees every kernel's source.

numba dates what it keeps of a function by the file that the function stands in; an edit of another file,
whose functions were compiled into it, goes unnoticed. Here the cache is valid for one content of all modules
named ``*kernels*.py`` in this folder and in the function's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


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


@lru_cache(maxsize=8)
def sources_digest(folder: Path) -> str:
    """SHA-256 of the kernels' sources in this folder and in another."""
    sha = hashlib.sha256()
    for place in dict.fromkeys((Path(__file__).parent, folder)):
        for file in sorted(place.glob("*kernels*.py")):
            sha.update(file.name.encode())
            sha.update(file.read_bytes())
    return sha.hexdigest()
