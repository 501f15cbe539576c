"""The few things that ranks do together, on PETSc's communicator.

Every rank follows the same path with the same whole arrays; only rank 0
writes, prints and fills. A failure on rank 0 is raised on all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

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


def from_root(array: NDArray[np.float64] | None, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """An array that rank 0 has, of known shape, on every rank."""
    mine = np.zeros(shape) if array is None or not is_root() else np.asarray(array, dtype=np.float64)
    return _shared(mine)


def sum_over_ranks(array: NDArray[np.float64], comm: Any) -> NDArray[np.float64]:
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


def _shared(array: NDArray[np.float64]) -> Any:
    return sum_over_ranks(array, PETSc.COMM_WORLD)
