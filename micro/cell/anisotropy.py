"""What a stiffness matrix (6, 6) says: engineering constants, nearest cubic and isotropic tensors.

Voigt order 11, 22, 33, 23, 13, 12 with engineering shears. Distances are taken in the
Frobenius norm of the fourth-order tensor, in which the projections onto the cubic and the
isotropic tensors (same axes) are orthogonal.
"""

from __future__ import annotations

import numpy as np

from micro.cell.tensor import stiffness_matrix
from micro.runtime.arrays import Floats

_KELVIN = np.array([1.0, 1.0, 1.0, np.sqrt(2), np.sqrt(2), np.sqrt(2)])


def tensor_norm(C: Floats) -> float:
    """Frobenius norm of the fourth-order tensor behind a Voigt matrix (6, 6)."""
    return float(np.linalg.norm(C * np.outer(_KELVIN, _KELVIN)))


def nearest_cubic(C: Floats) -> Floats:
    """(C11, C12, C44) of the cubic tensor nearest to C (6, 6), by the means over equivalent entries."""
    off = (C[0, 1] + C[0, 2] + C[1, 2] + C[1, 0] + C[2, 0] + C[2, 1]) / 6
    return np.array([np.trace(C[:3, :3]) / 3, off, np.trace(C[3:, 3:]) / 3])


def nearest_isotropic(C: Floats) -> Floats:
    """(C11, C12, C44) of the isotropic tensor nearest to C (6, 6).

    Its bulk modulus is that of the nearest cubic tensor; its shear modulus weighs the cubic ones
    (C11 - C12)/2 and C44 by the two and three dimensions of their eigenspaces.
    """
    c11, c12, c44 = nearest_cubic(C)
    bulk = (c11 + 2 * c12) / 3
    shear = (2 * (c11 - c12) / 2 + 3 * c44) / 5
    return np.array([bulk + 4 * shear / 3, bulk - 2 * shear / 3, shear])


def distance(C: Floats, cubic: Floats) -> float:
    """Relative distance of C (6, 6) from a tensor (C11, C12, C44); 0 for a zero tensor."""
    size = tensor_norm(C)
    return tensor_norm(C - stiffness_matrix(cubic)) / size if size > 0 else 0.0


def engineering_constants(C: Floats) -> dict[str, float] | None:
    """Young's moduli, shear moduli and Poisson's ratios along the axes, from the compliance.

    Poisson's ratio ``nu_ij`` is -strain_j / strain_i under tension along i. None where C has no
    inverse (a cell that does not carry every load).
    """
    size = np.abs(C).max()
    if size == 0 or np.linalg.eigvalsh((C + C.T) / 2)[0] <= 1e-9 * size:
        return None
    S = np.linalg.inv(C)
    out = {f"E{i + 1}": 1 / S[i, i] for i in range(3)}
    out |= {name: 1 / S[i, i] for name, i in (("G23", 3), ("G13", 4), ("G12", 5))}
    for i in range(3):
        for j in range(3):
            if i != j:
                out[f"nu{i + 1}{j + 1}"] = -S[j, i] / S[i, i]
    return {name: float(value) for name, value in out.items()}
