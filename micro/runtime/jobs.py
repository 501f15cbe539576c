"""Long work in jobs, each kept in a file: what is missing is made, so the same call resumes a killed one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

from micro.runtime.progress import Progress, unheard


class Job(Protocol):
    """A piece of work that is done once its file is there."""

    @property
    def path(self) -> Path:
        """The file."""

    def make(self) -> None:
        """Do the work and write the file, whole or not at all; the same whatever else is made."""


class Workers:
    """Processes that do jobs.

    Parameters
    ----------
    count : int, optional
        How many; 1 works in this process. Default: as many as there are cores.
    progress : Progress
        Told how much of a stage is done.
    """

    def __init__(self, count: int | None = None, progress: Progress = unheard):
        self.count = count or os.cpu_count() or 1
        self._progress = progress

    def __enter__(self) -> Workers:
        # Spawned, because a forked process would inherit torch's threads in an unknown state.
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(self.count, mp_context=context, initializer=_start_worker)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

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
        made = map(_make, missing) if self.count <= 1 else self._executor.map(_make, missing)
        for job, _ in zip(missing, made, strict=True):
            done += size(job)
            self._progress(done, total, stage)


def _make(job: Job) -> None:
    job.make()


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    # A killed parent cannot tell its workers: each one watches for its end.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
