"""Preconditioners of the elasticity solve: multigrid on nested grids, or smoothed aggregation.

``gmg``
    geometric multigrid on nested DMDA grids, Galerkin coarse operators
    ``P^T A P`` whose interpolation has zero rows at constrained degrees of
    freedom, Chebyshev smoothing over node-block Jacobi, direct coarse solve;
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

#: A grid is coarsened while its coarsest level stays above this many unknowns.
_COARSE_UNKNOWNS = 3000
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


def choose_levels(shape: tuple[int, ...]) -> int:
    """Number of grids: halve while an axis keeps two elements and the coarsest grid is worth it."""
    elements = np.array(shape)
    levels = 1
    while 3 * np.prod(elements + 1.0) > _COARSE_UNKNOWNS and elements.min() >= 4:
        elements = -(-elements // 2)
        levels += 1
    return levels


class Multigrid:
    """Nested grids of one DMDA, their interpolations and Galerkin operators.

    Parameters
    ----------
    grid : PETSc.DMDA
        The finest; its elements divide by ``2 ** (levels - 1)`` along every axis.
    levels : int
        Two or more.
    smoothing : int
        Chebyshev steps before and after each coarse correction.
    """

    def __init__(self, grid: Any, levels: int, smoothing: int):
        self._grid = grid
        self._levels = levels
        self._smoothing = smoothing
        self._interpolation: list[Any] = []
        self._unmasked: list[Any] = []
        self._operators: list[Any] = []

    def update(self, matrix: Any, active: Any) -> None:
        """The operators of all levels for a new ``matrix``, whose active rows a vector marks by ones."""
        self._interpolate(active)
        coarse, self._operators = self._operators[1:], [matrix]
        for k, p in enumerate(self._interpolation):
            fine = self._operators[-1]
            product = fine.ptap(p, result=coarse[k]) if coarse else fine.ptap(p)
            fix_diagonal(product)
            self._operators.append(product)

    def _interpolate(self, mask: Any) -> None:
        """Interpolation between levels, with zero rows where a fine degree of freedom is not active."""
        if not self._unmasked:
            fine = self._grid
            for _ in range(self._levels - 1):
                coarse = fine.coarsen()
                p, _scaling = coarse.createInterpolation(fine)
                self._unmasked.append(p.convert(PETSc.Mat.Type.AIJ, PETSc.Mat()))
                fine = coarse
        for k, p in enumerate(self._unmasked):
            if len(self._interpolation) <= k:
                self._interpolation.append(p.copy())
            else:
                p.copy(self._interpolation[k], structure=PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
            self._interpolation[k].diagonalScale(L=mask)
            # A coarse degree of freedom is active if any active fine one hangs on it.
            coarse_mask = p.createVecRight()
            p.multTranspose(mask, coarse_mask)
            values = coarse_mask.getArray()
            values[:] = values > 1e-12
            mask = coarse_mask

    def configure(self, pc: Any) -> None:
        """Make a PC this multigrid; after the first :meth:`update`."""
        pc.setType(PETSc.PC.Type.MG)
        pc.setMGLevels(self._levels)
        pc.setMGType(PETSc.PC.MGType.MULTIPLICATIVE)
        for level in range(1, self._levels):
            pc.setMGInterpolation(level, self._interpolation[self._levels - 1 - level])
            smoother = pc.getMGSmoother(level)
            smoother.setType(PETSc.KSP.Type.CHEBYSHEV)
            smoother.setTolerances(max_it=self._smoothing)
            smoother.setNormType(PETSc.KSP.NormType.NONE)
            smoother.getPC().setType("pbjacobi")
        coarse = pc.getMGCoarseSolve()
        coarse.setType(PETSc.KSP.Type.PREONLY)
        direct(coarse.getPC())

    def hand_operators(self, pc: Any) -> None:
        """Give every level of a configured PC its operator."""
        for level, operator in enumerate(reversed(self._operators)):
            smoother = pc.getMGCoarseSolve() if level == 0 else pc.getMGSmoother(level)
            smoother.setOperators(operator, operator)


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


def fix_diagonal(matrix: Any) -> None:
    """Give empty rows (constrained, or reached by no active node) a diagonal of the matrix's scale."""
    diagonal = matrix.getDiagonal()
    scale = diagonal.max()[1]
    values = diagonal.getArray()
    # Galerkin products leave rounding-size entries where all contributions are masked.
    values[values <= 1e-14 * scale] = scale
    matrix.setDiagonal(diagonal)
