"""Long work in jobs, each kept in a file: what is missing is made, so the same call resumes a killed one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from micro.runtime.executor import executor
from micro.runtime.progress import Progress, unheard


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
