"""Long work in jobs, each kept in a file: what is missing is made, so the same call resumes a killed one.

:class:`Workers` do jobs that know their files; a :class:`Cache` has files for results by what they follow
from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from micro.runtime.errors import InputError
from micro.runtime.executor import executor
from micro.runtime.npz import read_arrays, write_arrays
from micro.runtime.progress import Progress, unheard

Work = TypeVar("Work")
Result = TypeVar("Result")


class Job(Protocol):
    """A piece of work that is done once its file is there."""

    @property
    def path(self) -> Path:
        """The file."""

    def make(self) -> None:
        """Do the work and write the file, whole or not at all; the same whatever else is made."""


class Workers:
    """Processes, or the ranks of an MPI program, that do jobs.

    Parameters
    ----------
    count : int, optional
        How many; 1 works in this process. Default: as many as there are cores. Ranks are as many as
        ``mpiexec`` started.
    progress : Progress
        Told how much of a stage is done.
    """

    def __init__(self, count: int | None = None, progress: Progress = unheard):
        self.count = count
        self._progress = progress

    def __enter__(self) -> Workers:
        self._entered = ExitStack()
        self._executor = self._entered.enter_context(executor(self.count))
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def finish(
        self,
        stage: str,
        jobs: Sequence[Job],
        *,
        size: Callable[[Any], int] = lambda job: 1,
        before: int = 0,
        total: int | None = None,
    ) -> None:
        """Do the jobs whose files are not there yet, in their order.

        Parameters
        ----------
        stage : str
            What progress is reported of.
        jobs : sequence of Job
        size : callable
            How much a job counts in what is reported.
        before, total : int
            Of the stage, what was done before these jobs, and all of it (default: these jobs).
        """
        missing = [job for job in jobs if not job.path.exists()]
        work, all_of_it = sum(map(size, missing)), sum(map(size, jobs))
        total = all_of_it if total is None else total
        done = before + all_of_it - work
        if missing:
            self._progress(done, total, stage)
        for job, _ in zip(missing, self._executor.run(_make, missing), strict=True):
            done += size(job)
            self._progress(done, total, stage)


def _make(job: Job) -> None:
    job.make()


class Cache:
    """Results of jobs in files named after all that they follow from: the job, and the code of this package.

    A result is a dataclass of arrays and plain numbers. What can't be written or read is done without: a
    result does not depend on what is kept. The files used last stay when there are too many.

    Parameters
    ----------
    folder : Path
    limit : int
        Bytes of all files.
    """

    def __init__(self, folder: Path, limit: int = 2 * 10**9):
        self._folder, self._limit = folder, limit

    def run(
        self, work: Callable[[Work], Result], jobs: Sequence[Work], kind: type[Result]
    ) -> Iterator[Result]:
        """As :meth:`micro.runtime.executor.Executor.run`; what is known is not done again.

        Parameters
        ----------
        work : callable
            A function of a module, of the job alone.
        jobs : sequence
            Of what :func:`fingerprint` takes.
        kind : type
            Of the results.
        """
        files = [self._folder / f"{fingerprint([work.__qualname__, _code(), job])}.npz" for job in jobs]
        known = [self._read(file, kind) for file in files]
        missing = [job for job, found in zip(jobs, known, strict=True) if found is None]
        with executor(1) as processes:
            made = processes.run(work, missing)
            for file, found in zip(files, known, strict=True):
                if found is None:
                    found = next(made)
                    self._write(file, found)
                yield found
        if missing:
            self._prune()

    @staticmethod
    def _read(file: Path, kind: type[Result]) -> Result | None:
        try:
            arrays = read_arrays(file, [f.name for f in fields(kind)])  # type: ignore[arg-type]
            os.utime(file)
        except (InputError, OSError):
            return None
        return kind(**{name: a if a.ndim else a.item() for name, a in arrays.items()})

    @staticmethod
    def _write(file: Path, result: Any) -> None:
        with suppress(OSError, InputError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(file, {f.name: np.asarray(getattr(result, f.name)) for f in fields(result)})

    def _prune(self) -> None:
        with suppress(OSError):
            kept = sorted(self._folder.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
            total = 0
            for file in kept:
                total += file.stat().st_size
                if total > self._limit:
                    file.unlink()


def fingerprint(value: Any) -> str:
    """SHA-256 of what a value consists of: plain values, arrays, containers, dataclasses, and whatever has a
    ``fingerprint`` of its own.

    Raises
    ------
    TypeError
        Of anything else.
    """
    sha = hashlib.sha256()

    def add(part: Any) -> None:
        sha.update(type(part).__name__.encode())
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype} {part.shape}".encode())
            sha.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, str | int | float | bool | np.generic | None):
            sha.update(repr(part).encode())
        elif isinstance(part, list | tuple):
            sha.update(str(len(part)).encode())
            for item in part:
                add(item)
        elif isinstance(part, dict):
            add(sorted(part.items()))
        elif hasattr(part, "fingerprint"):
            sha.update(part.fingerprint.encode())
        elif is_dataclass(part):
            add([getattr(part, f.name) for f in fields(part)])
        else:
            raise TypeError(f"{type(part).__name__} has no fingerprint")

    add(value)
    return sha.hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """SHA-256 of this package's sources, and the versions of what computes."""
    import torch

    folder = Path(__file__).parents[1]
    sources = [file.read_bytes() for file in sorted(folder.rglob("*.py"))]
    sha = hashlib.sha256(b"".join(sources))
    sha.update(f"numpy {np.__version__} torch {torch.__version__}".encode())
    return sha.hexdigest()
