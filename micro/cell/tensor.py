"""Cubic elasticity tensors as arrays ``(..., 3)`` = (C11, C12, C44).

Everything is in units of the base material's Young's modulus E_s, and works
elementwise on any leading shape. The three moduli of a cubic material,

    K = (C11 + 2 C12) / 3,   mu' = (C11 - C12) / 2,   G = C44,

are the eigenvalues of its stiffness (over 3, 2 and 1), so the tensor is
positive definite exactly when all three are positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError


def _tensor(C: ArrayLike) -> Floats:
    """``C`` as float64 with a last axis of three."""
    tensor = np.asarray(C, dtype=np.float64)
    if tensor.ndim == 0 or tensor.shape[-1] != 3:
        raise InputError("a cubic tensor has a last axis of length 3 (C11, C12, C44)", value=tensor.shape)
    return tensor


def isotropic(young: ArrayLike, poisson: ArrayLike) -> Floats:
    """Tensor of an isotropic material.

    Parameters
    ----------
    young : array_like, shape (...)
        Young's modulus, in units of E_s.
    poisson : array_like, shape (...)
        Poisson's ratio, strictly between -1 and 1/2.

    Returns
    -------
    array, shape (..., 3)

    Raises
    ------
    InputError
        If a modulus is not positive, or a ratio out of its range.

    Examples
    --------
    >>> isotropic(1.0, 0.3).round(4)
    array([1.3462, 0.5769, 0.3846])
    """
    young, poisson = np.broadcast_arrays(np.asarray(young, float), np.asarray(poisson, float))
    if np.any(young <= 0):
        raise InputError("Young's modulus must be positive", value=float(young.min()))
    if np.any((poisson <= -1) | (poisson >= 0.5)):
        raise InputError("Poisson's ratio must lie between -1 and 0.5")
    lame = young * poisson / ((1 + poisson) * (1 - 2 * poisson))
    shear = young / (2 * (1 + poisson))
    return np.stack([lame + 2 * shear, lame, shear], axis=-1)


POISSON = 0.3
"""Poisson's ratio of the base material where nothing else is said: that of the packaged cells."""

SOLID: Floats = isotropic(1.0, POISSON)
"""Tensor of the base material (E_s = 1, nu_s = 0.3), and the unit of scaled moduli for any base material."""
SOLID.setflags(write=False)

PAPER_RANGE: Floats = np.array([[0.0118, 1.3426], [-0.0924, 0.5749], [0.00043, 0.38379]])
"""Smallest and largest C11, C12, C44 of the founding paper's data, the scale of Eq. 4; shape (3, 2)."""
PAPER_RANGE.setflags(write=False)

PAPER_SPAN: Floats = PAPER_RANGE[:, 1] - PAPER_RANGE[:, 0]
"""Lengths of these ranges, the unit of each constant's error; shape (3,)."""
PAPER_SPAN.setflags(write=False)


def bulk(C: ArrayLike) -> Floats:
    """Bulk modulus K = (C11 + 2 C12) / 3; shape (...)."""
    C = _tensor(C)
    return (C[..., 0] + 2 * C[..., 1]) / 3


def tetragonal_shear(C: ArrayLike) -> Floats:
    """Shear modulus mu' = (C11 - C12) / 2 of the cube's diagonal planes; shape (...)."""
    C = _tensor(C)
    return (C[..., 0] - C[..., 1]) / 2


def young(C: ArrayLike) -> Floats:
    """Young's modulus along a cube axis, (C11 - C12)(C11 + 2 C12) / (C11 + C12); shape (...).

    Zero where the tensor is zero (void).
    """
    C = _tensor(C)
    numerator = (C[..., 0] - C[..., 1]) * (C[..., 0] + 2 * C[..., 1])
    return _ratio(numerator, C[..., 0] + C[..., 1], empty=0.0)


def poisson(C: ArrayLike) -> Floats:
    """Poisson's ratio for tension along a cube axis, C12 / (C11 + C12); shape (...), NaN for void."""
    C = _tensor(C)
    return _ratio(C[..., 1], C[..., 0] + C[..., 1], empty=np.nan)


def zener(C: ArrayLike) -> Floats:
    """Zener's anisotropy ratio 2 C44 / (C11 - C12) (1 is isotropic); shape (...), NaN for void."""
    C = _tensor(C)
    return _ratio(2 * C[..., 2], C[..., 0] - C[..., 1], empty=np.nan)


def _ratio(numerator: Floats, denominator: Floats, *, empty: float) -> Floats:
    out = np.full(np.shape(numerator), empty, dtype=np.float64)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)[()]


BORN = ("C11 > C12", "C11 + 2 C12 > 0", "C44 > 0")
"""The stability criteria of a cubic material (Born 1940), in the order of :func:`born_margins`."""


def born_margins(C: ArrayLike) -> Floats:
    """What each criterion of :data:`BORN` says is positive, C11 - C12, C11 + 2 C12, C44; shape (..., 3)."""
    C = _tensor(C)
    return np.stack([C[..., 0] - C[..., 1], C[..., 0] + 2 * C[..., 1], C[..., 2]], axis=-1)


def is_definite(C: ArrayLike) -> Bools:
    """Whether tensors (..., 3) are finite and positive definite, as of every stable material; shape (...)."""
    C = _tensor(C)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(C).all(axis=-1) & (born_margins(C) > 0).all(axis=-1))


_TO_MODULI: Floats = np.array([[1 / 3, 2 / 3, 0], [1 / 2, -1 / 2, 0], [0, 0, 1]])
_FROM_MODULI: Floats = np.array([[1, 4 / 3, 0], [1, -2 / 3, 0], [0, 0, 1]])


def to_moduli(C: ArrayLike) -> Floats:
    """(C11, C12, C44) to (K, mu', G); shape (..., 3) to (..., 3)."""
    return _tensor(C) @ _TO_MODULI.T


def from_moduli(M: ArrayLike) -> Floats:
    """(K, mu', G) to (C11, C12, C44), the inverse of :func:`to_moduli`; shape (..., 3) to (..., 3)."""
    return _tensor(M) @ _FROM_MODULI.T


SCALE: Floats = to_moduli(SOLID)
"""The solid's (K, mu', G), by which moduli are scaled."""
SCALE.setflags(write=False)


def scaled_moduli(C: ArrayLike) -> Floats:
    """Tensors (..., 3) as (K/K_s, mu'/G_s, G/G_s); the solid is (1, 1, 1)."""
    return to_moduli(C) / SCALE


def from_scaled_moduli(m: ArrayLike) -> Floats:
    """The inverse of :func:`scaled_moduli`; (..., 3)."""
    return from_moduli(np.asarray(m, dtype=np.float64) * SCALE)


def moduli_jacobian() -> Floats:
    """d(K, mu', G) / d(C11, C12, C44), the constant 3x3 matrix behind :func:`to_moduli`."""
    return _TO_MODULI.copy()


def stiffness_matrix(C: ArrayLike) -> Floats:
    """Voigt matrix (11, 22, 33, 23, 13, 12; engineering shears); shape (..., 3) to (..., 6, 6)."""
    C = _tensor(C)
    matrix = np.zeros((*C.shape[:-1], 6, 6))
    matrix[..., :3, :3] = C[..., 1, None, None]
    normal, shear = np.arange(3), np.arange(3, 6)
    matrix[..., normal, normal] = C[..., 0, None]
    matrix[..., shear, shear] = C[..., 2, None]
    return matrix


def tensor_error(C: ArrayLike, C_ref: ArrayLike) -> Floats:
    """Difference of two tensors: the founding paper's Eq. 4.

    The mean over C11, C12, C44 of the absolute difference divided by the
    range in the paper's data (:data:`PAPER_RANGE`). Symmetric in its arguments.

    Parameters
    ----------
    C, C_ref : array_like, shape (..., 3)
        Broadcast against each other.

    Returns
    -------
    array, shape (...)
        A fraction (0.01 is one percent).
    """
    return (np.abs(_tensor(C) - _tensor(C_ref)) / PAPER_SPAN).mean(axis=-1)


_MANDEL: Floats = np.array([3.0, 6.0, 12.0])
"""How often the squares of C11, C12, C44 stand in the Mandel matrix's Frobenius norm."""


def stretched(C: ArrayLike) -> Floats:
    """The constants scaled so that their Euclidean norm is :func:`frobenius`; shape (..., 3)."""
    return _tensor(C) * np.sqrt(_MANDEL)


def frobenius(C: ArrayLike) -> Floats:
    """Frobenius norm of the Mandel matrix, sqrt(3 C11^2 + 6 C12^2 + 3 (2 C44)^2); shape (...).

    It is that of the fourth-order tensor, which does not depend on the axes.
    """
    return np.linalg.norm(stretched(C), axis=-1)


def relative_error(C: ArrayLike, C_ref: ArrayLike) -> Floats:
    """Difference of two tensors over the second one, ||C - C_ref|| / ||C_ref|| (:func:`frobenius`).

    What :func:`tensor_error` hides in soft cells, whose constants are small against the ranges of Eq. 4.

    Parameters
    ----------
    C, C_ref : array_like, shape (..., 3)
        Broadcast against each other; ``C_ref`` not zero.

    Returns
    -------
    array, shape (...)
        A fraction (0.01 is one percent).
    """
    return frobenius(_tensor(C) - _tensor(C_ref)) / frobenius(C_ref)


@dataclass(frozen=True)
class Bounds:
    """How far a cell's tensor may be from the wanted one, by both measures.

    Attributes
    ----------
    tolerance : float
        Of :func:`tensor_error`.
    relative : float
        Of :func:`relative_error`; infinity leaves it free.
    """

    tolerance: float
    relative: float = np.inf

    def error(self, C: ArrayLike, C_ref: ArrayLike) -> Floats:
        """The tensor error (Eq. 4), or the relative one over its bound times the other's, if larger; (...).

        So it is at most ``tolerance`` exactly where both bounds are kept.
        """
        share = self.tolerance / self.relative
        return np.maximum(tensor_error(C, C_ref), share * relative_error(C, C_ref))

    def scaled(self, factor: float) -> Bounds:
        """Both bounds times a factor."""
        return Bounds(factor * self.tolerance, factor * self.relative)


def hashin_shtrikman(volume: ArrayLike, poisson: Any = 0.3) -> tuple[Floats, Floats]:
    """Upper Hashin-Shtrikman bounds of an isotropic solid-void mixture.

    Hashin and Shtrikman (1963), eqs. 4.1 to 4.4, with a void second phase. The bulk bound holds
    for cubic cells too; the shear bound for isotropic ones.

    Parameters
    ----------
    volume : array_like, shape (...)
        Solid volume fraction in [0, 1].
    poisson : float
        Poisson's ratio of the solid, whose Young's modulus is 1.

    Returns
    -------
    K_upper, G_upper : arrays, shape (...)

    Raises
    ------
    InputError
        If a volume fraction lies outside [0, 1].
    """
    volume = np.asarray(volume, dtype=np.float64)
    if np.any((volume < 0) | (volume > 1)):
        raise InputError("a volume fraction lies between 0 and 1")
    K_upper, G_upper = upper_bounds(volume, poisson)
    return K_upper[()], G_upper[()]


def upper_bounds(volume: Any, poisson: float) -> tuple[Any, Any]:
    """The bounds of :func:`hashin_shtrikman`, of arrays and torch tensors (...) alike, unchecked."""
    solid = isotropic(1.0, poisson)
    K, G = float(bulk(solid)), float(solid[2])
    # The textbook form K + (1-V) / (-1/K + 3V/(3K+4G)) cleared of its fractions, exact at V = 0 and 1.
    K_upper = 4 * K * G * volume / (4 * G + 3 * K * (1 - volume))
    a = 6 * (K + 2 * G) / (5 * (3 * K + 4 * G))
    return K_upper, G * (1 - (1 - volume) / (1 - a * volume))
