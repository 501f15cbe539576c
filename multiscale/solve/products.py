"""Products with the stiffness, element by element: what conjugate gradients and the smoother multiply by.

An assembled matrix of this stencil has 243 numbers a node to read, and reading them is what a product takes.
Here an element has its tensor's three.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from micro.runtime.arrays import Bools, Floats
from micro.voxels.kernels.product import walsh_coefficients
from multiscale.solve.element_kernels import tensor_product
from multiscale.solve.elements import Elements
from multiscale.solve.petsc import PETSc

_UNITS = np.stack([walsh_coefficients(unit, np.float64) for unit in np.eye(3)])


def by_rows(tensors: Floats) -> Floats:
    """Element tensors (nx, ny, nz, 3) as (3, nx, ny, nz), each row in one piece."""
    return np.ascontiguousarray(np.moveaxis(tensors, -1, 0))


def internal_forces(tensors: Floats, u: Floats) -> Floats:
    """Nodal forces (nx+1, ny+1, nz+1, 3) of displacements of that shape, nothing held.

    Parameters
    ----------
    tensors : array (3, nx, ny, nz)
        See :func:`by_rows`.
    u : array (nx+1, ny+1, nz+1, 3)
    """
    rows = np.ascontiguousarray(np.swapaxes(u, 2, 3))
    forces = np.zeros_like(rows)
    tensor_product(rows, tensors, _UNITS, forces)
    return np.swapaxes(forces, 2, 3)


class Shell:
    """What PETSc asks of such a matrix: the context of a ``Mat`` of type Python.

    It does not keep the products. PETSc frees at once what was dropped before, and loses what is dropped by
    that: the vectors and the grid that products hold, if the matrix were the last to hold them.

    Parameters
    ----------
    products : ElementProducts
    """

    def __init__(self, products: ElementProducts):
        self._products = weakref.ref(products)

    def mult(self, _matrix: Any, x: Any, y: Any) -> None:
        """y = K x (called by PETSc)."""
        products = self._products()
        assert products is not None, "the operator is gone"
        products.mult(x, y)


class ElementProducts:
    """Products with a matrix that is never assembled.

    Parameters
    ----------
    elements : Elements
    """

    def __init__(self, elements: Elements):
        self._elements = elements
        self._input, self._output = elements.grid.createLocalVec(), elements.grid.createLocalVec()
        self._idle = elements.grid.createGlobalVec()

    def update(self, tensors: Floats, active: Bools, mask: Any) -> None:
        """Take new element tensors.

        Parameters
        ----------
        tensors : array (mx, my, mz, 3)
        active : bool array (mx+1, my+1, mz+1, 3)
            Degrees of freedom that are neither held nor in the void; at others the matrix is the identity.
        mask : PETSc.Vec
            Ones at the active ones, zeros elsewhere.
        """
        self._tensors, self._active = by_rows(tensors[self._elements.own]), active[self._elements.corners]
        mask.copy(self._idle)
        self._idle.scale(-1.0)
        self._idle.shift(1.0)

    def mult(self, x: Any, y: Any) -> None:
        """y = K x."""
        elements = self._elements
        shape, where = (*elements.local_shape, 3), elements.local_corners
        elements.grid.globalToLocal(x, self._input)
        self._output.set(0.0)
        if self._tensors.size:
            u = self._input.getArray(readonly=True).reshape(shape)[where] * self._active
            self._output.getArray().reshape(shape)[where] = internal_forces(self._tensors, u) * self._active
        y.pointwiseMult(self._idle, x)
        elements.grid.localToGlobal(self._output, y, addv=PETSc.InsertMode.ADD_VALUES)
