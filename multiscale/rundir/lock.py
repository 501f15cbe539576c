"""Locks between processes on one directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from micro.runtime.errors import InputError

#: Held by a run from its first stage to its last.
WORK = ".lock"
#: Held by whoever changes the record, for as long as that takes.
RECORD = ".record.lock"


def acquired(directory: Path, name: str, seconds: float) -> BaseFileLock | None:
    """A lock, held until it is released or the process ends; None where files can't be locked.

    Raises
    ------
    InputError
        If another process still holds it after ``seconds``.
    """
    lock = FileLock(directory / name, timeout=seconds, mode=0o666)
    try:
        lock.acquire()
    except Timeout:
        raise InputError("another process works in this directory", file=directory) from None
    except NotImplementedError:  # a file system without locks
        return None
    return lock


@contextmanager
def held(directory: Path, name: str, seconds: float) -> Iterator[None]:
    """Hold a lock meanwhile, as :func:`acquired`."""
    lock = acquired(directory, name, seconds)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
