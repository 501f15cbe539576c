"""What memory there is, refusing work that needs more, and giving memory back to the system.

Solving thousands of cells, each with systems of its own size, leaves the C library's heap in pieces that it
keeps: a process homogenising octants of 64^3 voxels grew by 3 MB a cell though nothing was held.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import psutil

from micro.runtime.errors import InputError
from micro.runtime.files import PathLike

SHARE = 0.9
"""Of the memory that is free, what work may take."""

#: M_MMAP_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h: chunks, bytes, bytes.
_MAPPED = {-4: 65536, -3: 4 * 2**20, -1: 32 * 2**20}


def total_and_available() -> tuple[int, int]:
    """Bytes of memory, and those that are free: the machine's, or a container's own where that is less."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = cgroup("memory.max"), cgroup("memory.current")
    if limit and limit[0].isdigit() and int(limit[0]) < total:
        total = int(limit[0])
        free = min(free, total - int(used[0]) if used else total)
    return total, max(0, free)


def available() -> int:
    """Bytes that this process may still take: what is free, within its own limit (``ulimit -v``)."""
    free = total_and_available()[1]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free = min(free, max(0, limit - psutil.Process().memory_info().vms))
    return free


def cgroup(name: str) -> list[str]:
    """Words of a control group's file, empty where there is none."""
    try:
        return Path("/sys/fs/cgroup", name).read_text(encoding="ascii").split()
    except OSError:
        return []


def require(
    need: float,
    what: str,
    advice: str,
    *,
    key: str = "memory",
    limit: float | None = None,
    file: PathLike | None = None,
) -> None:
    """Refuse work that needs more memory than there is, before it begins.

    Parameters
    ----------
    need : float
        Bytes.
    what : str
        What is to be done, the subject of the message.
    advice : str
        What would fit.
    key : str
        The option or key to name.
    limit : float, optional
        Bytes that may be taken; :data:`SHARE` of what is free by default.
    file : path, optional
        Where the key stands.

    Raises
    ------
    InputError
        If it does not fit.
    """
    allowed = SHARE * available() if limit is None else limit
    if need > allowed:
        raise InputError(
            f"{what} needs about {need / 1e9:.2g} GB, {allowed / 1e9:.2g} GB may be taken; {advice}",
            file=file,
            key=key,
        )


def trim() -> bool:
    """Return the heap's free memory to the system, where the C library can (glibc); whether there was any."""
    release = _of_glibc("malloc_trim")
    return release is not None and bool(release(0))


def map_large() -> bool:
    """Let the C library map large arrays one by one (glibc), as it does by itself; whether it does now.

    What is mapped goes back to the system when it is freed. Libraries turn that off for the whole process:
    SuperLU_DIST, which Debian's PETSc is linked with, does so when it is loaded, and from then on every array
    comes from the heap, which keeps it. The bounds are those at which glibc's own adaptive ones end.
    """
    option = _of_glibc("mallopt")
    return option is not None and all(option(key, value) for key, value in _MAPPED.items())


@lru_cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # another C library, or none to be had
        return None
    return found
