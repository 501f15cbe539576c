"""Conjugate gradients for voxel models: float32 fields inside, float64 solution and residual outside.

The recursive float32 residual is replaced by the true float64 one each time it has fallen by two digits,
keeping the search direction (van der Vorst and Ye, 2000), so the accuracy is that of float64 and the memory
nearly that of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from micro.runtime.arrays import Floats
from micro.runtime.errors import NotConverged
from micro.runtime.threads import one_thread
from micro.voxels.hexahedron import element_matrices
from micro.voxels.torch_operator import Grid, apply_stiffness, pad_moduli
from multiscale.solve.team import Team
from multiscale.solve.voxel_multigrid import Multigrid

#: Fall of the float32 residual after which it is replaced by the true one.
_REPLACE = 1e-2
#: Replacements that gain less than a factor of two before the solve gives up.
_STALLS = 3
#: Planes of voxels whose float64 residual is evaluated at once.
_SLAB = 4


@dataclass(frozen=True, eq=False)
class Solution:
    """Outcome of a solve.

    Attributes
    ----------
    u : float64 (X, Y, 3, Z)
        Displacements in voxel edges; zero at nodes without solid.
    residual : float
        Norm of f - A u on the free degrees of freedom over that of the load, in float64.
    iterations : int
    """

    u: Floats
    residual: float
    iterations: int


def solve(
    multigrid: Multigrid,
    tensor: Floats,
    load: tuple[NDArray[np.int64], Floats],
    prescribed: tuple[NDArray[np.int64], Floats],
    team: Team,
    *,
    rtol: float,
    max_iterations: int = 500,
    progress: Callable[[int, float], None] | None = None,
) -> Solution:
    """Solve A u = f on the free degrees of freedom.

    Parameters
    ----------
    multigrid : Multigrid
        Its finest grid is the model.
    tensor : (3,)
        C11, C12, C44 of the solid.
    load, prescribed : (flat indices, values)
        Nodal forces, and displacements at fixed degrees of freedom, sparse in (X, Y, 3, Z).
    rtol : float
        Wanted residual relative to the load: the forces, and those that the prescribed displacements cause.
    progress : callable, optional
        Called as ``progress(iterations, relative residual)``.

    Raises
    ------
    NotConverged
        With the residual reached.
    """
    finest = multigrid.levels[0]
    shape = finest.nodes
    stiffness = np.tensordot(np.asarray(tensor, dtype=np.float64), element_matrices(), axes=1)
    x = np.zeros(shape)
    x.reshape(-1)[prescribed[0]] = prescribed[1]
    r = np.zeros(shape, np.float32)

    def true_residual() -> float:
        return _residual(x, finest.index, stiffness, load, finest.fixed, r, team, scale)

    scale = 1.0
    scale = true_residual()  # the load's norm: fields are kept relative to it, away from float32's limits
    if scale == 0.0:
        return Solution(x, 0.0, 0)
    size = true_residual()
    p, ap, dx, z = (np.zeros(shape, np.float32) for _ in range(4))
    pap, anchor, best, stalls, fresh = 1.0, size, size, 0, True
    for iteration in range(1, max_iterations + 1):
        multigrid.precondition(r, z)
        # Conjugacy to the last direction is imposed as such, which survives residual replacement.
        beta = 0.0 if fresh else -team.dot(z, ap) / pap
        team.combine(z, 1.0, p, beta)
        finest.product(p, ap, team)
        pap = team.dot(p, ap)
        if not pap > 0:
            raise NotConverged(_failure(iteration, best, rtol))
        alpha = team.dot(r, p) / pap
        team.combine(p, alpha, dx)
        team.combine(ap, -alpha, r)
        fresh = False
        size = float(np.sqrt(team.dot(r, r)))
        if progress is not None:
            progress(iteration, size)
        if size <= 0.7 * rtol or size <= _REPLACE * anchor or not np.isfinite(size):
            usable = bool(np.isfinite(size))

            def add(first: int, last: int, usable: bool = usable) -> None:
                if usable:
                    x[first:last] += scale * dx[first:last]
                dx[first:last] = 0

            team.run(add, len(x))
            size = anchor = true_residual()
            if size <= rtol:
                # Coarse corrections reach into the void, where they mean nothing.
                for plane, inverse in zip(x, finest.inverse, strict=True):
                    plane *= inverse > 0
                return Solution(x, size, iteration)
            stalls = stalls + 1 if size > 0.5 * best or not usable else 0
            fresh = stalls > 0
            if fresh:
                p[:] = 0
            best = min(best, size)
            if stalls > _STALLS:
                raise NotConverged(_failure(iteration, best, rtol))
    raise NotConverged(_failure(max_iterations, best, rtol))


def _failure(iterations: int, residual: float, rtol: float) -> str:
    return (
        f"the voxel solve stopped after {iterations} iterations at relative residual {residual:.1e} (wanted "
        f"{rtol:.0e}). Check that all parts of the lattice are supported; a larger --rtol accepts less."
    )


def _residual(
    x: Floats,
    solid: NDArray,
    stiffness: Floats,
    load: tuple[NDArray[np.int64], Floats],
    fixed: NDArray[np.int64],
    out: NDArray[np.float32],
    team: Team,
    scale: float,
) -> float:
    """(f - A x) / scale evaluated in float64 and rounded into ``out``, zero where fixed; its norm."""
    nx, ny, nz = solid.shape
    k = torch.from_numpy(stiffness)
    plane = out[0].size
    order = np.argsort(load[0], kind="stable")
    where, value = load[0][order], load[1][order]
    held = np.sort(fixed)

    def slab(first: int, last: int) -> float:
        """Node planes first:last, from the layers of voxels on both sides of them."""
        total = 0.0
        for low in range(first, last, _SLAB):
            high = min(low + _SLAB, last)
            begin, end = max(low - 1, 0), min(high, nx)
            part = torch.from_numpy(np.ascontiguousarray(x[begin : end + 1].transpose(2, 0, 1, 3)))
            moduli = pad_moduli(torch.from_numpy(solid[begin:end].astype(np.float64))[None])
            force = apply_stiffness(part[:, None, None], moduli, k, Grid((end - begin, ny, nz)))
            values = -force[:, 0, 0, low - begin : high - begin].permute(1, 2, 0, 3).contiguous().numpy()
            flat = values.reshape(-1)
            some = slice(*np.searchsorted(where, [low * plane, high * plane]))
            np.add.at(flat, where[some] - low * plane, value[some])
            some = slice(*np.searchsorted(held, [low * plane, high * plane]))
            flat[held[some] - low * plane] = 0
            flat /= scale
            out[low:high] = values
            total += float(flat @ flat)
        return total

    with one_thread(torch.device("cpu")):
        return float(np.sqrt(sum(team.run(slab, nx + 1))))
