"""Independent pieces of torch work, one to a processor core.

The pieces' operations are too small to be worth splitting, so each piece gets one thread; torch
releases Python's lock while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def run(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Results of the tasks, computed at once with one thread each (no more than torch may use).

    Results don't depend on the number of threads.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(task) for task in tasks]
            return [future.result() for future in futures]
    finally:
        # A thread's setting is its own but for torch's default of later threads.
        torch.set_num_threads(threads)
