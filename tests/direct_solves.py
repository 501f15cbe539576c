"""Known tensors, and assembled direct solves to compare with."""

from __future__ import annotations

from itertools import product

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from micro.cell.tensor import SOLID
from micro.voxels.hexahedron import element_matrices

#: Schwarz-P by an independent code: N -> (C11, C12, C44), void stiffness 1e-6, double precision.
SCHWARZ_P = {
    32: (0.1225049, 0.0119755, 0.0197972),
    64: (0.1224117, 0.0118907, 0.0198362),
    128: (0.1230898, 0.0120040, 0.0200359),
}


def direct_cell(moduli: NDArray[np.float64]) -> NDArray[np.float64]:
    """Homogenised (6, 6) of a periodic cell by assembly and factorisation, nu = 0.3.

    Unsupported nodes are held; a weak spring (1e-11 of the diagonal) holds pieces that could float.
    """
    k = np.tensordot(SOLID, element_matrices(), axes=1)
    shape = moduli.shape
    index = np.stack(np.indices(shape), axis=-1).reshape(-1, 3)
    rho = moduli.reshape(-1)
    corners = np.array(list(product((0, 1), repeat=3)))
    at = index[:, None] + corners  # (elements, 8, 3)
    nodes = np.ravel_multi_index(np.moveaxis(at % shape, -1, 0), shape)
    dofs = (3 * nodes[..., None] + np.arange(3)).reshape(-1, 24)
    count = 3 * moduli.size
    rows, columns = np.repeat(dofs, 24, axis=1).ravel(), np.tile(dofs, (1, 24)).ravel()
    A = sp.csc_matrix(((rho[:, None] * k.ravel()).ravel(), (rows, columns)), shape=(count, count))
    u = np.zeros((6, len(rho), 8, 3))
    for i in range(3):
        u[i, ..., i] = at[..., i]
    for load, (i, j) in ((3, (1, 2)), (4, (0, 2)), (5, (0, 1))):
        u[load, ..., i], u[load, ..., j] = at[..., j] / 2, at[..., i] / 2
    u = u.reshape(6, -1, 24)
    diagonal = A.diagonal()
    held = np.flatnonzero(diagonal > 0)
    lu = splu(A[held][:, held] + sp.diags(1e-11 * diagonal[held], format="csc"))
    total = u.copy()
    for load in range(6):
        force = np.bincount(dofs.ravel(), ((u[load] @ k) * rho[:, None]).ravel(), minlength=count)
        w = np.zeros(count)
        w[held] = -lu.solve(force[held])
        total[load] += w[dofs]
    return np.einsum("ief,fg,jeg,e->ij", total, k, total, rho) / moduli.size


def direct_octant(octant: NDArray) -> NDArray[np.float64]:
    """(C11, C12, C44) of an octant: rollers, assembly and factorisation, nu = 0.3."""
    moduli = octant.astype(float)
    n = len(moduli)
    k = np.tensordot(SOLID, element_matrices(), axes=1)
    index = np.argwhere(moduli > 0)
    rho = moduli[moduli > 0]
    at = index[:, None] + np.array(list(product((0, 1), repeat=3)))
    nodes = np.ravel_multi_index(np.moveaxis(at, -1, 0), (n + 1,) * 3)
    dofs = (3 * nodes[..., None] + np.arange(3)).reshape(-1, 24)
    count = 3 * (n + 1) ** 3
    rows, columns = np.repeat(dofs, 24, axis=1).ravel(), np.tile(dofs, (1, 24)).ravel()
    A = sp.csc_matrix(((rho[:, None] * k.ravel()).ravel(), (rows, columns)), shape=(count, count))
    x = np.stack(np.indices((n + 1,) * 3))
    ends = (x == 0) | (x == n)
    axial, shear = np.zeros((2, 3, *x.shape[1:]))
    axial[0] = x[0]
    shear[0], shear[1] = x[1] / 2, x[0] / 2
    fixed_shear = np.stack([ends[1], ends[0], ends[0] | ends[1] | ends[2]])
    solved = []
    for affine, fixed in ((axial, ends), (shear, fixed_shear)):
        u = np.moveaxis(affine, 0, -1).ravel().copy()
        free = ~np.moveaxis(fixed, 0, -1).ravel() & (A.diagonal() > 0)
        f = -(A @ u)[free]
        part = A[free][:, free]
        u[free] += splu(part + sp.diags(1e-11 * part.diagonal(), format="csc")).solve(f)
        solved.append(u)
    image = np.moveaxis(solved[0].reshape(*x.shape[1:], 3), (0, 1), (1, 0))[..., [1, 0, 2]].ravel()
    return np.array([solved[0] @ A @ solved[0], image @ A @ solved[0], solved[1] @ A @ solved[1]]) / n**3
