"""Giving memory back to the system.

Solving thousands of cells, each with systems of its own size, leaves the C library's heap in pieces that it
keeps: a process homogenising octants of 64^3 voxels grew by 3 MB a cell though nothing was held.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache


def trim() -> bool:
    """Return the heap's free memory to the system, where the C library can (glibc); whether there was any."""
    release = _malloc_trim()
    return release is not None and bool(release(0))


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, or none to be had
        return None
    return found
