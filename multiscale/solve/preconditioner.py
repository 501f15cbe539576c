"""Preconditioners of the elasticity solve: multigrid on nested grids, or smoothed aggregation.

``gmg``
    geometric multigrid on nested DMDA grids, Galerkin coarse operators
    ``P^T A P`` whose interpolation has zero rows at constrained degrees of
    freedom, Chebyshev smoothing over node-block Jacobi, direct coarse solve;
    the finest grid's matrix is never assembled;
``gamg``
    smoothed aggregation (PETSc GAMG) with the rigid body modes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from micro.runtime.arrays import Floats
from multiscale.solve.petsc import PETSc

PREFIX = {"gmg": "multiscale_gmg_", "gamg": "multiscale_gamg_"}
"""What PETSc's options for either carry in front (-multiscale_gamg_mg_levels_pc_type ...)."""

# The default estimate of the largest eigenvalue (ten steps of CG, shared with the smoothed aggregation)
# comes out too low for strong contrasts, and the smoother indefinite.
_GAMG_DEFAULTS = {
    "pc_gamg_use_sa_esteig": "false",
    "mg_levels_ksp_type": "chebyshev",
    "mg_levels_pc_type": "jacobi",
    "mg_levels_ksp_max_it": "3",
    "mg_levels_esteig_ksp_type": "gmres",
    "mg_levels_ksp_chebyshev_esteig_steps": "20",
    "mg_levels_ksp_chebyshev_esteig": "0,0.05,0,1.2",
}


def aggregation(pc: Any, matrix: Any, modes: list[Any]) -> None:
    """Make a PC smoothed aggregation of ``matrix``; the ``modes`` (vectors) come out orthonormal."""
    for i, mode in enumerate(modes):
        for other in modes[:i]:
            mode.axpy(-other.dot(mode), other)
        mode.normalize()
    matrix.setNearNullSpace(PETSc.NullSpace().create(vectors=modes, comm=matrix.getComm()))
    pc.setType(PETSc.PC.Type.GAMG)
    defaults = PETSc.Options(PREFIX["gamg"])
    for key, value in _GAMG_DEFAULTS.items():
        if key not in defaults:
            defaults[key] = value


def rigid_body_modes(nodes: tuple[int, ...]) -> list[Floats]:
    """The six rigid body motions of a grid of so many nodes an axis, each (*nodes, 3)."""
    axes = [np.arange(m, dtype=float) for m in nodes]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - (np.array(nodes) - 1) / 2
    modes = [np.broadcast_to(e, (*nodes, 3)) for e in np.eye(3)]
    for a, b in ((0, 1), (1, 2), (2, 0)):
        mode = np.zeros((*nodes, 3))
        mode[..., a], mode[..., b] = -x[..., b], x[..., a]
        modes.append(mode)
    return modes


def direct(pc: Any) -> None:
    """A direct solve on every rank, whatever their number."""
    if pc.getComm().getSize() == 1:
        pc.setType(PETSc.PC.Type.CHOLESKY)
        pc.setFactorOrdering("nd")
    else:
        pc.setType(PETSc.PC.Type.REDUNDANT)
