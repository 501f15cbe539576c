"""Voxel systems of some cells: what is asked of them is the same, whichever code solves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from micro.voxels.replacement import Solution
from micro.voxels.torch_operator import Grid


@dataclass(frozen=True)
class Task:
    """How a solve is to be done.

    Attributes
    ----------
    rtol : float
        Wanted norm of the residual relative to the right-hand side b.
    floor : Tensor, shape (L, B), or array (L,) of one cell
        Norm of the forces behind b: below 1e-13 of it b is rounding, and u = 0 solves.
    max_iterations : int
    groups : list of slice
        Load cases to be solved together.
    threads : int
    start : Tensor, shape (3, L, B, X, Y, Z), float64, optional
        First iterate, zero on fixed degrees of freedom; zero by default.
    count : callable
        Called with how many load cases are newly done.
    """

    rtol: float
    floor: Any
    max_iterations: int
    groups: list[slice]
    threads: int
    start: Tensor | None
    count: Callable[[int], None]


@dataclass
class System(ABC):
    """The systems of some cells.

    Parameters
    ----------
    moduli : Tensor, shape (B, nx, ny, nz), float64
    nu : float
        Poisson's ratio.
    grid : Grid
    free : Tensor of bool, shape (3, K, 1, X, Y, Z)
        Free degrees of freedom of K load cases, or K = 1 if all are fixed alike.
    """

    moduli: Tensor
    nu: float
    grid: Grid
    free: Tensor

    @abstractmethod
    def forces(self, u: Tensor) -> Tensor:
        """A u on all layers of nodes (3, L, B, nx + 1, ...), as if the grid were open; u has one cell."""

    def solve(
        self,
        b: Tensor,
        *,
        rtol: float,
        floor: Tensor,
        groups: list[slice],
        threads: int = 1,
        start: Tensor | None = None,
        max_iterations: int = 400,
        count: Callable[[int], None] | None = None,
    ) -> Solution:
        """Solve A u = b on the free degrees of freedom.

        Parameters
        ----------
        b : Tensor, shape (3, L, B, X, Y, Z), float64
            Zero on fixed degrees of freedom.
        rtol, floor, groups, threads, start, max_iterations, count
            As of :class:`Task`.
        """
        heard = count or (lambda newly: None)
        return self._solve(b, Task(rtol, floor, max_iterations, groups, threads, start, heard))

    @abstractmethod
    def _solve(self, b: Tensor, task: Task) -> Solution: ...
