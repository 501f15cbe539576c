"""Independent jobs spread over processes: those of one machine, or the ranks of an MPI program.

The jobs are the same whoever does them and their results come in the jobs' order, so a result does not depend
on how many processes there are. Idle processes take the next job. Rank 0 alone reads, writes the results and
prints; beside that it does jobs like the others. Data go between ranks by ``mpi4py.futures``.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as Pool, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from types import ModuleType
from typing import Any, TypeVar

from micro.runtime.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables by which Open MPI, MPICH and its descendants, and srun tell a process how many it is one of."""

_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
"""The same for which of them it is."""

_HELPER = 1.5e9
"""Memory of a process that refines cells, in bytes: 1.0 GB measured at n = 32."""


@dataclass(frozen=True)
class Executor:
    """Does jobs in ``workers`` processes; see :func:`executor`.

    Attributes
    ----------
    workers : int
        Processes that do jobs, this one included.
    """

    workers: int
    _pool: Pool | None = None
    _one_thread: bool = False

    def run(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Do the jobs; yields what each returns, in the jobs' order.

        Parameters
        ----------
        work : callable
            A function of a module; it and the jobs are sent to other processes.
        jobs : sequence

        Raises
        ------
        Exception
            What a job raised, when its turn comes; jobs not begun by then are left.
        """
        if self._pool is None or len(jobs) < 2:  # a single one has all threads here
            return map(work, jobs)
        mine = partial(_on_one_thread, work) if self._one_thread else work
        return _shared(self._pool, self.workers - 1, work, mine, jobs)


_helpers: ContextVar[Executor | None] = ContextVar("helpers", default=None)


@contextmanager
def executor(workers: int | None = None) -> Iterator[Executor]:
    """Processes for independent jobs: the ranks of this MPI program, else those of this machine.

    Parameters
    ----------
    workers : int, optional
        Processes on one machine, this one among them (default: all cores; 1: this process alone). Ranks are
        as many as ``mpiexec`` started.
    """
    helpers = _helpers.get()
    if helpers is not None:
        yield helpers
        return
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    if count <= 1:
        yield Executor(1)
        return
    # Spawned, because a forked process would inherit torch's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count - 1, mp_context=context, initializer=_start_worker)
    try:
        yield Executor(count, pool, True)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def kept() -> Iterator[None]:
    """Processes that every :func:`executor` inside shares, as many as torch may use threads and memory holds.

    They start with the first job.
    """
    import torch

    from micro.runtime.memory import SHARE, available

    count = min(torch.get_num_threads(), 1 + int(SHARE * available() / _HELPER))
    with executor(count) as all_, _working_for(all_ if all_.workers > 1 else None):
        yield


def among(workers: int | None, default: int | None = None) -> int | None:
    """A user's number of processes, or the default; refused under ``mpiexec``, which has said how many.

    Raises
    ------
    InputError
        Naming ``--workers``.
    """
    ranks = _helpers.get()
    if workers is not None and ranks is not None:
        raise InputError(f"is said by mpiexec: {ranks.workers}", key="--workers", value=workers)
    if workers is not None and workers < 1:
        raise InputError("at least one process is needed", key="--workers", value=workers)
    return default if workers is None else workers


def on_ranks(command: Callable[[], int]) -> int:
    """Do a command on rank 0, whose jobs (:func:`executor`) the other ranks share; alone without ``mpiexec``.

    Returns the command's exit code, on every rank.

    Raises
    ------
    InputError
        If ``mpiexec`` started several processes that cannot see each other: mpi4py is missing or belongs to
        another MPI. On rank 0; the others return its exit code.
    """
    size = started()
    if size == 1:
        return command()
    try:
        comm = _world(size)
    except InputError as error:
        if rank() != 0:
            return error.exit_code
        raise
    _one_thread()
    code = 1
    try:
        with lent(comm) as leads:
            if leads:
                code = command()
    finally:
        code = comm.bcast(code)
    return code


@contextmanager
def lent(comm: Any) -> Iterator[bool]:
    """The other ranks of an mpi4py communicator do the jobs of rank 0 (:func:`executor`) while it is inside.

    Yields True on rank 0, at once, and False on the others, when rank 0 has left.
    """
    from mpi4py.futures import MPICommExecutor

    joined: AbstractContextManager[Any] = MPICommExecutor(comm, root=0)
    with joined as pool:
        if pool is not None:
            with _working_for(Executor(comm.Get_size(), pool)):
                yield True
    if pool is None:
        yield False


@contextmanager
def _working_for(helpers: Executor | None) -> Iterator[None]:
    token = _helpers.set(helpers)
    try:
        yield
    finally:
        _helpers.reset(token)


def _shared(
    pool: Pool,
    others: int,
    work: Callable[[Job], Result],
    own: Callable[[Job], Result],
    jobs: Sequence[Job],
) -> Iterator[Result]:
    """Results of jobs done by the pool's processes and, between their results, by this one (``own``).

    Each of the others has one job at a time; the thread that hears of its end hands it the next.
    """
    left = deque(range(len(jobs)))
    known: dict[int, Future[Result]] = {}
    lock = threading.Lock()

    def hand_out(_: object = None) -> None:
        with lock:  # what is taken from ``left`` is in ``known`` before anybody looks again
            if not left:
                return
            number = left.popleft()
            future = known[number] = pool.submit(work, jobs[number])
        future.add_done_callback(hand_out)

    def take() -> int | None:
        with lock:
            return left.popleft() if left else None

    with _without_main():
        for _ in range(others):
            hand_out()
    try:
        for number in range(len(jobs)):
            while not (number in known and known[number].done()) and (mine := take()) is not None:
                known[mine] = _finished(own, jobs[mine])
            yield known.pop(number).result()
    finally:
        with lock:
            left.clear()


def _finished(work: Callable[[Job], Result], job: Job) -> Future[Result]:
    """A job done here; what it raised waits for its turn."""
    future: Future[Result] = Future()
    try:
        with _working_for(None):  # a job within a job is done where it is
            future.set_result(work(job))
    except Exception as error:
        future.set_exception(error)
    return future


def _on_one_thread(work: Callable[[Job], Result], job: Job) -> Result:
    from micro.runtime.threads import one_core

    with one_core():
        return work(job)


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start inside do not run the caller's script again: jobs are functions of modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def started() -> int:
    """Number of processes that an mpiexec or srun started together with this one."""
    return max(1, _first(_SIZES) or 1)


def rank() -> int:
    """Number of this process among them, known from the launcher, without importing MPI."""
    return _first(_RANKS) or 0


def _first(names: Sequence[str]) -> int | None:
    """The number in the first of these variables that is set."""
    texts = (os.environ.get(name, "") for name in names)
    return next((int(text) for text in texts if text.isdigit()), None)


def _world(size: int) -> Any:
    """MPI's communicator of all processes."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = (
            f"{size} processes were started by an mpiexec, which needs mpi4py and an MPI library: {error}"
        )
        raise InputError(f"{reason}; pip install mpi4py") from None
    comm = MPI.COMM_WORLD
    if comm.Get_size() != size:
        reason = (
            f"{size} processes were started, but mpi4py's MPI ({MPI.Get_library_version().split(',')[0]})"
        )
        raise InputError(f"{reason} sees {comm.Get_size()}; start them with the mpiexec of that MPI")
    return comm


def _one_thread() -> None:
    """One thread a process, unless the user has said how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        from micro.runtime.threads import stay_on_one_core

        stay_on_one_core()


def _start_worker() -> None:
    from micro.runtime.threads import stay_on_one_core

    stay_on_one_core()
    # A killed parent cannot tell its workers: each one watches for its end.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
