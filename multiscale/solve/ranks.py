"""The few things that ranks do together, on PETSc's communicator.

Every rank follows the same path with the same whole arrays; only rank 0
writes and prints, and chooses the cells of a fill, whose making the others share. A failure on rank 0 is
raised on all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.executor import kept, lent
from multiscale.solve.errors import RankFailed
from multiscale.solve.petsc import PETSc

T = TypeVar("T")


def ranks() -> int:
    """Number of MPI ranks."""
    return PETSc.COMM_WORLD.getSize()


def is_root() -> bool:
    """Whether this is rank 0."""
    return PETSc.COMM_WORLD.getRank() == 0


def on_root(work: Callable[[], T]) -> T | None:
    """Do ``work`` on rank 0 and return its result there (None elsewhere); others wait.

    Raises
    ------
    Exception
        What ``work`` raised, on rank 0; :class:`RankFailed` on the others.
    """
    result: T | None = None
    error: BaseException | None = None
    if is_root():
        try:
            result = work()
        except BaseException as caught:
            error = caught
    code = 0 if error is None else int(getattr(error, "exit_code", 1))
    failed = int(_shared(np.array([float(code)]))[0])
    if error is not None:
        raise error
    if failed:
        raise RankFailed(failed)
    return result


def with_ranks(work: Callable[[], T]) -> T | None:
    """As :func:`on_root`, while the other ranks do what jobs ``work`` has (:mod:`micro.runtime.executor`).

    Needs mpi4py; without it rank 0 does them alone (:func:`shares_jobs`). A rank that is the only one has
    processes on the other cores instead.
    """
    if ranks() == 1:
        with kept():
            return work()
    if not shares_jobs():
        return on_root(work)
    from mpi4py import MPI

    ended: list[Callable[[], T]] = []
    with lent(MPI.COMM_WORLD) as leads:
        if leads:
            ended.append(_outcome(work))
    return on_root(lambda: ended[0]())


def shares_jobs() -> bool:
    """Whether there are ranks that can share jobs: several, and mpi4py on the MPI that PETSc has."""
    mpi = sys.modules.get("mpi4py.MPI")
    return ranks() > 1 and mpi is not None and mpi.COMM_WORLD.Get_size() == ranks()


def _outcome(work: Callable[[], T]) -> Callable[[], T]:
    """Do ``work``; a function that returns its result, or raises what it raised."""
    try:
        result = work()
    except BaseException as caught:
        error = caught

        def fail() -> T:
            raise error

        return fail
    return lambda: result


def from_root(array: Floats | None, shape: tuple[int, ...]) -> Floats:
    """An array that rank 0 has, of known shape, on every rank."""
    mine = np.zeros(shape) if array is None or not is_root() else np.asarray(array, dtype=np.float64)
    return _shared(mine)


def agreed(answer: bool) -> bool:
    """What rank 0 says, on every rank."""
    return bool(from_root(np.array([float(answer)]), (1,))[0])


def sum_over_ranks(array: Floats, comm: Any) -> Floats:
    """Elementwise sum over the ranks of ``comm`` (PETSc vectors do the communication)."""
    if comm.getSize() == 1:
        return array
    vector = PETSc.Vec().createMPI(array.size, comm=comm)
    index = np.flatnonzero(array).astype(PETSc.IntType)
    vector.setValues(index, array.reshape(-1)[index], addv=PETSc.InsertMode.ADD_VALUES)
    vector.assemble()
    scatter, whole = PETSc.Scatter.toAll(vector)
    scatter.scatter(vector, whole)
    return np.array(whole.getArray()).reshape(array.shape)


def _shared(array: Floats) -> Any:
    return sum_over_ranks(array, PETSc.COMM_WORLD)
