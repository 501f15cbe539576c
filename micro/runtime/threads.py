"""Independent pieces of torch work, one to a processor core.

The operations of a piece are small: splitting each between cores costs more than it saves, and much
more on a busy machine. So the pieces run at once instead, each on one thread; torch releases Python's
lock while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

T = TypeVar("T")


@contextmanager
def one_thread(device: torch.device) -> Iterator[int]:
    """Let torch's operations run on one thread; yields the number that may be used for :func:`run`."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_core() -> Iterator[None]:
    """Let this process compute on one core, as one of several that share a machine: torch and BLAS.

    A BLAS that parts a small product between cores waits, busily, for the one that another process has: a
    quarter of a fill's time.
    """
    with one_thread(torch.device("cpu")), _blas().limit(limits=1, user_api="blas"):
        yield


def stay_on_one_core() -> None:
    """The same from now on."""
    torch.set_num_threads(1)
    _blas().limit(limits=1, user_api="blas")


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401 (it and numpy bring a BLAS each, which has to be there to be found)

    return ThreadpoolController()


def run(tasks: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """Results of the tasks in their order, at most ``threads`` of them at once, one thread each."""
    if threads == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(task) for task in tasks]
        return [future.result() for future in futures]
