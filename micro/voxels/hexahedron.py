"""The trilinear hexahedron (hex8), a brick of any edges, for cubic materials.

Local node ``a = 4*dx + 2*dy + dz`` is the corner (dx, dy, dz); degree of
freedom ``3*a + component`` (drawn in ``docs/architecture.md``).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from micro.cell.tensor import isotropic
from micro.runtime.arrays import Floats
from micro.voxels.corners import CORNERS

#: Stiffness (6, 6) in Voigt order 11, 22, 33, 23, 13, 12 per unit C11, C12, C44: shape (3, 6, 6).
CUBIC_BASIS: Floats = np.zeros((3, 6, 6))
CUBIC_BASIS[0, [0, 1, 2], [0, 1, 2]] = 1.0
CUBIC_BASIS[1, :3, :3] = 1.0 - np.eye(3)
CUBIC_BASIS[2, [3, 4, 5], [3, 4, 5]] = 1.0


Edges = tuple[float, float, float]
CUBE: Edges = (1.0, 1.0, 1.0)


def strain_displacement(point: Floats, edges: Edges = CUBE) -> Floats:
    """B matrix (6, 24) of a brick at ``point`` (3,) in [0, 1]^3: Voigt strains, engineering shears."""
    corners = np.array(CORNERS)
    sign = 2.0 * corners - 1.0
    factor = np.where(corners == 1, point, 1.0 - point)  # (8, 3): one-dimensional hat functions
    gradient = np.empty((8, 3))
    for axis in range(3):
        others = [b for b in range(3) if b != axis]
        gradient[:, axis] = sign[:, axis] * factor[:, others].prod(axis=1) / edges[axis]
    b = np.zeros((6, 24))
    for axis in range(3):
        b[axis, axis::3] = gradient[:, axis]
    for row, (p, q) in enumerate(((1, 2), (0, 2), (0, 1)), start=3):
        b[row, p::3] = gradient[:, q]
        b[row, q::3] = gradient[:, p]
    return b


@cache
def element_matrices(edges: Edges = CUBE) -> Floats:
    """Stiffness matrices (3, 24, 24) of a brick per unit C11, C12, C44; of the unit cube by default.

    ``K_e = C11 K[0] + C12 K[1] + C44 K[2]``; a brick h times larger multiplies by h.
    Integrated by 2 x 2 x 2 Gauss points, which is exact on a brick.
    """
    point = 0.5 + np.array([-0.5, 0.5]) / np.sqrt(3.0)
    k = np.zeros((3, 24, 24))
    for x in point:
        for y in point:
            for z in point:
                b = strain_displacement(np.array([x, y, z]), edges)
                k += np.einsum("pi,cpq,qj->cij", b, CUBIC_BASIS, b) * (np.prod(edges) / 8.0)
    k = (k + k.transpose(0, 2, 1)) / 2.0
    k.setflags(write=False)
    return k


def unit_stiffness(nu: float, dtype: torch.dtype = torch.float64, edges: Edges = CUBE) -> Tensor:
    """Hex8 stiffness (24, 24) of a brick, a unit cube by default, of Young's modulus 1 and ratio ``nu``."""
    c, k = isotropic(1.0, nu), element_matrices(edges)
    return torch.from_numpy(c[0] * k[0] + c[1] * k[1] + c[2] * k[2]).to(dtype)
