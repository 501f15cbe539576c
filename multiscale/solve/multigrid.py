"""Geometric multigrid of the elasticity solve: nested DMDA grids, the finest one without a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from micro.voxels.corners import CORNERS
from micro.voxels.galerkin import interpolation
from micro.voxels.hexahedron import element_matrices
from multiscale.solve.elements import Elements, corner_values, fix_diagonal
from multiscale.solve.petsc import PETSc
from multiscale.solve.preconditioner import direct

#: A grid is coarsened while its coarsest level stays above this many unknowns.
_COARSE_UNKNOWNS = 3000


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

    The finest grid's matrix is not assembled. Of an element of the next grid, P^T K P is linear in the
    tensors of its eight children, 24 numbers; operators of further grids are PETSc's products.

    Parameters
    ----------
    elements : Elements
        Of the finest grid.
    padded : (mx, my, mz)
        Its elements and those of void that it is continued by: they divide by ``2 ** (levels - 1)``.
    levels : int
        Two or more.
    smoothing : int
        Chebyshev steps before and after each coarse correction.
    """

    def __init__(self, elements: Elements, padded: tuple[int, ...], levels: int, smoothing: int):
        self._elements = elements
        self._grids = [elements.grid]
        while len(self._grids) < levels:
            self._grids.append(self._grids[-1].coarsen())
        self._padded = padded
        self._coarse = Elements(self._grids[1], tuple(m // 2 for m in padded))
        self._smoothing = smoothing
        self._interpolation: list[Any] = []
        self._unmasked: list[Any] = []
        self._active: Bools | None = None
        self.diagonal = _block_diagonal(elements.grid)
        self._operators: list[Any] = [self.diagonal]

    def update(self, tensors: Floats, active: Bools, mask: Any) -> None:
        """The operators of all grids.

        Parameters
        ----------
        tensors : array (mx, my, mz, 3)
            Of the finest grid's elements, those that pad it left out.
        active : bool array (mx+1, my+1, mz+1, 3)
            Degrees of freedom that are neither held nor in the void.
        mask : PETSc.Vec
            Ones at the active ones, zeros elsewhere.
        """
        if self._active is None or not np.array_equal(active, self._active):
            self._interpolate(mask)
            self._active = active
        _set_blocks(self.diagonal, node_blocks(tensors, active, self._elements))
        coarse = self._operators[1:]
        first = coarse[0] if coarse else self._grids[1].createMat()
        widths = [(0, m - n) for m, n in zip(self._padded, tensors.shape[:3], strict=True)]
        parents = _Parents(
            np.pad(tensors, [*widths, (0, 0)]), np.pad(active, [*widths, (0, 0)]), self._coarse
        )
        self._coarse.assemble(first, parents.solid, parents.stiffness)
        self._operators = [self.diagonal, first]
        for k, p in enumerate(self._interpolation[1:], start=1):
            fine = self._operators[-1]
            product = fine.ptap(p, result=coarse[k]) if coarse else fine.ptap(p)
            fix_diagonal(product)
            self._operators.append(product)

    def _interpolate(self, mask: Any) -> None:
        """Interpolation between levels, with zero rows where a fine degree of freedom is not active."""
        if not self._unmasked:
            for fine, coarse in pairwise(self._grids):
                p, _scaling = coarse.createInterpolation(fine)
                self._unmasked.append(p.convert(PETSc.Mat.Type.AIJ, PETSc.Mat()))
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
        pc.setMGLevels(len(self._grids))
        pc.setMGType(PETSc.PC.MGType.MULTIPLICATIVE)
        for level, transfer in enumerate(reversed(self._interpolation), start=1):
            pc.setMGInterpolation(level, transfer)
            smoother = pc.getMGSmoother(level)
            smoother.setType(PETSc.KSP.Type.CHEBYSHEV)
            smoother.setTolerances(max_it=self._smoothing)
            smoother.setNormType(PETSc.KSP.NormType.NONE)
            smoother.getPC().setType("pbjacobi")
        coarse = pc.getMGCoarseSolve()
        coarse.setType(PETSc.KSP.Type.PREONLY)
        direct(coarse.getPC())

    def hand_operators(self, pc: Any, finest: Any) -> None:
        """Give every level of a configured PC its operator; the finest one multiplies by ``finest``."""
        for level, operator in enumerate(reversed(self._operators)):
            smoother = pc.getMGCoarseSolve() if level == 0 else pc.getMGSmoother(level)
            smoother.setOperators(finest if operator is self.diagonal else operator, operator)


class _Parents:
    """The elements of the grid that is half as fine as the finest, by their eight children.

    Parameters
    ----------
    tensors : array (2 mx, 2 my, 2 mz, 3)
    active : bool array (2 mx + 1, ..., 3)
    coarse : Elements
        Of the (mx, my, mz).
    """

    def __init__(self, tensors: Floats, active: Bools, coarse: Elements):
        own = [slice(2 * part.start, 2 * part.stop) for part in coarse.own]
        nodes = active[tuple(slice(part.start, part.stop + 1) for part in own)]
        free = corner_values(nodes)
        children = tensors[tuple(own)]
        self._tensors = np.stack([_child(children, place) for place in CORNERS], axis=1)  # (n, 8, 3)
        self._free = np.stack([_child(free, place) for place in CORNERS], axis=1)  # (n, 8, 24)
        solid = np.any(self._tensors != 0.0, axis=2)
        self.solid = np.flatnonzero(np.any(solid, axis=1))
        self._held = np.any(solid & ~np.all(self._free, axis=2), axis=1)

    def stiffness(self, e: NDArray[np.intp]) -> Floats:
        """P^T K P (n, 24, 24) of some elements, with zero rows of P where a child is held."""
        basis = _children_basis()
        k = (self._tensors[e].reshape(len(e), 24) @ basis.reshape(24, 576)).reshape(-1, 24, 24)
        held = np.flatnonzero(self._held[e])
        k[held] = 0.0
        for child, place in enumerate(CORNERS):
            p = self._free[e[held], child, :, None] * interpolation(place)
            own = (self._tensors[e[held], child] @ element_matrices().reshape(3, 576)).reshape(-1, 24, 24)
            k[held] += np.swapaxes(p, 1, 2) @ own @ p
        return k


@cache
def _children_basis() -> Floats:
    """P^T K P (8, 3, 24, 24) of a child, by its place, of each unit tensor."""
    k = element_matrices()
    basis = np.stack([interpolation(place).T @ k @ interpolation(place) for place in CORNERS])
    basis.setflags(write=False)
    return basis


def _child(field: NDArray[Any], place: Sequence[int]) -> NDArray[Any]:
    """Every other element's values, (n, ...)."""
    some = field[tuple(slice(d, None, 2) for d in place)]
    return some.reshape(-1, *some.shape[3:])


def node_blocks(tensors: Floats, active: Bools, elements: Elements) -> Floats:
    """Blocks (n, 3, 3) of the stiffness' diagonal at the nodes that a rank owns; ones where not active.

    Parameters
    ----------
    tensors : array (mx, my, mz, 3)
    active : bool array (mx+1, my+1, mz+1, 3)
    elements : Elements
    """
    count = tuple(part.stop - part.start for part in elements.nodes)
    # Void before the first node and up to where the grid ends: around each node are eight elements.
    widths = [(1, max(part.stop - m, 0)) for part, m in zip(elements.nodes, elements.shape, strict=True)]
    padded = np.pad(tensors, [*widths, (0, 0)])
    out = np.zeros((*count, 9))
    for a, corner in enumerate(CORNERS):
        around = [
            slice(part.start + 1 - d, part.stop + 1 - d)
            for part, d in zip(elements.nodes, corner, strict=True)
        ]
        own = slice(3 * a, 3 * a + 3)
        out += padded[tuple(around)] @ element_matrices()[:, own, own].reshape(3, 9)
    free = elements.at_own_nodes(active)
    blocks = out.reshape(*count, 3, 3) * free[..., None] * free[..., None, :]
    blocks[..., range(3), range(3)] += 1 - free
    return blocks.reshape(-1, 3, 3)


def _block_diagonal(grid: Any) -> Any:
    """A matrix of one block a node."""
    sizes = grid.createGlobalVec().getSizes()
    matrix = PETSc.Mat().createAIJ((sizes, sizes), 3, nnz=(3, 0), comm=grid.getComm())
    # What is known to be definite has its smoother's bound estimated by conjugate gradients.
    matrix.setOption(PETSc.Mat.Option.SPD, True)
    return matrix


def _set_blocks(matrix: Any, blocks: Floats) -> None:
    first, last = (n // 3 for n in matrix.getOwnershipRange())
    columns = np.arange(first, last, dtype=PETSc.IntType)
    matrix.setValuesBlockedCSR(np.arange(last - first + 1, dtype=PETSc.IntType), columns, blocks)
    matrix.assemble()
