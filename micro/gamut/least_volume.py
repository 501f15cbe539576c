"""How light a cell of a given tensor can be: v(C), a smooth lower bound of the volume fraction.

Of the many cells of one tensor, those that waste no solid matter. v is the ``quantile`` of the volumes of
known cells around a tensor, a function of the scaled moduli m = (K/K_s, mu'/G_s, G/G_s): v = b + s with
b(K) the volume at which Hashin and Shtrikman's (1963) upper bound of the bulk modulus reaches K, below which
no cell can be, and a tricubic B-spline s that minimises (quantile smoothing; Koenker, Ng and Portnoy 1994)

    mean_i rho(V_i - b - s(m_i)) + smoothing * mean (second differences of its coefficients c)^2
    + ridge * mean c^2,    rho(r) = q r for r > 0, (q - 1) r otherwise,

so a share q of the cells lies below v, and far from all cells v goes back to b. In v the excess s is
replaced by log(1 + exp(s / w)) w, w = 0.005, which is never negative. Iteratively reweighted least
squares solve it: each step is a weighted fit with weights rho(r) / r^2, by conjugate gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.tensor import SCALE, scaled_moduli
from micro.gamut.spline import TricubicSpline, basis_weights
from micro.gamut.spline_file import load_spline, save_spline
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError, NotConverged
from micro.runtime.files import PathLike

#: Volume fraction by which cells may be heavier than v(C): lighter ones alone are too few.
EXCESS = 0.01


FORMAT = "cubic-least-volume"
VERSION = 1
_JACOBIAN: Floats = tensor.moduli_jacobian() / SCALE[:, None]
#: Residuals below this count as this in the weights of the reweighted fit.
_SMALLEST_RESIDUAL = 2e-3
#: Weight of the coefficients themselves: small beside the cells, decisive where there are none.
_RIDGE = 0.02
_STEPS = 40
#: Width over which the excess above the bound is rounded off at zero, a volume fraction.
_ROUNDING = 0.005


@dataclass(frozen=True, eq=False)
class LeastVolume:
    """The volume fraction of the lightest known cells of a tensor.

    Attributes
    ----------
    spline : TricubicSpline
        v over scaled moduli.
    source : str
        Digest of the :class:`micro.cell.cellset.CellSet` it was learned from.
    attrs : dict
        How it was made and how well it is calibrated.
    """

    spline: TricubicSpline
    source: str
    attrs: dict[str, Any]

    @staticmethod
    def fit(
        C: ArrayLike,
        volume: ArrayLike,
        *,
        quantile: float = 0.05,
        spacing: float = 1 / 24,
        smoothing: float = 1.0,
        source: str = "",
        attrs: dict[str, Any] | None = None,
    ) -> LeastVolume:
        """Learn v from the tensors (m, 3) and volume fractions (m,) of known cells.

        Parameters
        ----------
        C, volume : array_like
        quantile : float
            Share of the cells that lie below v.
        spacing : float
            Of the spline's knots, in scaled moduli.
        smoothing : float
            Weight of the second differences.
        source, attrs
            Provenance.

        Raises
        ------
        InputError
            If there are fewer than 50 cells, or tensors and volumes do not fit together.
        NotConverged
            If a weighted fit fails.
        """
        m, V = scaled_moduli(C), np.asarray(volume, dtype=np.float64)
        if m.ndim != 2 or V.shape != (len(m),) or len(m) < 50:
            raise InputError("learned from at least 50 tensors (m, 3) and volumes (m,)", value=m.shape)
        if not 0 < quantile < 1:
            raise InputError("lies between 0 and 1", key="quantile", value=quantile)
        origin = np.full(3, -2 * spacing)
        shape = (int(np.ceil(1 / spacing)) + 5,) * 3
        bulk = origin[0] + spacing * np.arange(shape[0])
        base = np.broadcast_to(_bulk_bound(bulk)[:, None, None], shape)
        excess = V - _bulk_bound(m[:, 0])
        fitted = _fit(_basis(m, origin, spacing, shape), excess, quantile, _penalty(shape, smoothing))
        axes = [origin[a] + spacing * np.arange(1, shape[a] - 1) for a in range(3)]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        above = np.zeros(shape)
        inner = (_basis(nodes, origin, spacing, shape) @ fitted).reshape([n - 2 for n in shape])
        above[1:-1, 1:-1, 1:-1] = np.logaddexp(0.0, inner / _ROUNDING) * _ROUNDING
        for axis in range(3):  # the outermost layers, beyond every cell, go on as their neighbours
            ends = np.moveaxis(above, axis, 0)
            ends[0], ends[-1] = ends[1], ends[-2]
        spline = TricubicSpline.interpolate(base + above, origin, spacing)
        made = {"cells": len(m), "quantile": quantile, "smoothing": smoothing, **(attrs or {})}
        return LeastVolume(spline, source, made)

    def volume(self, C: ArrayLike) -> Floats:
        """v of tensors (..., 3); shape (...)."""
        return self.spline.value(scaled_moduli(C))

    def evaluate(self, C: ArrayLike) -> tuple[Floats, Floats]:
        """v (...) and dv/dC (..., 3) together."""
        value, slope = self.spline.evaluate(scaled_moduli(C))
        return value, slope @ _JACOBIAN

    def light(self, cells: CellSet, excess: float) -> NDArray[np.intp]:
        """Rows of the cells that are no heavier than v of their own tensor by ``excess``."""
        return np.flatnonzero(cells.volume <= self.volume(cells.C) + excess)

    def save(self, path: PathLike) -> None:
        """Write as safetensors with JSON metadata, atomically."""
        save_spline(path, self.spline, kind=FORMAT, version=VERSION, source=self.source, attrs=self.attrs)

    @staticmethod
    def load(path: PathLike) -> LeastVolume:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is missing, of another kind or version, or damaged.
        """
        spline, source, attrs, _ = load_spline(path, kind=FORMAT, version=VERSION)
        return LeastVolume(spline, source, attrs)


def _basis(m: Floats, origin: Floats, spacing: float, shape: tuple[int, int, int]) -> sparse.csr_array:
    """The spline's values at points (q, 3) as a matrix (q, coefficients), 64 entries a row."""
    position = (m - origin) / spacing
    knot = np.clip(np.floor(position).astype(np.int64), 1, np.array(shape) - 3)
    t = position - knot
    index = knot[:, :, None] + np.arange(-1, 3)
    x, y, z = (basis_weights(t[:, a]) for a in range(3))
    weight = x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]
    i, j, k = (index[:, a] for a in range(3))
    column = (i[:, :, None, None] * shape[1] + j[:, None, :, None]) * shape[2] + k[:, None, None, :]
    rows = np.repeat(np.arange(len(m)), 64)
    return sparse.csr_array((weight.ravel(), (rows, column.ravel())), shape=(len(m), int(np.prod(shape))))


def _bulk_bound(K: Floats) -> Floats:
    """Volume whose Hashin-Shtrikman bound is K (in units of the solid's); linear continuation below 0."""
    solid, shear = float(SCALE[0]), float(SCALE[2])
    slope = (4 * shear + 3 * solid) / (4 * shear)
    positive = np.maximum(K, 0.0)
    return positive * slope / (1 + (slope - 1) * positive) + np.minimum(K, 0.0) * slope


def _penalty(shape: tuple[int, int, int], smoothing: float) -> sparse.csr_array:
    rough = _roughness(shape)
    size = int(np.prod(shape))
    return sparse.csr_array(
        smoothing / rough.shape[0] * (rough.T @ rough) + _RIDGE / size * sparse.eye_array(size)
    )


def _fit(basis: sparse.csr_array, wanted: Floats, quantile: float, penalty: sparse.csr_array) -> Floats:
    """Coefficients of the quantile fit of values (q,) by the columns of ``basis``."""
    coefficients = np.zeros(basis.shape[1])
    transposed, squared = basis.T.tocsr(), basis.multiply(basis).T.tocsr()
    for _ in range(_STEPS):
        residual = wanted - basis @ coefficients
        share = np.where(residual > 0, quantile, 1 - quantile)
        weight = share / np.maximum(np.abs(residual), _SMALLEST_RESIDUAL) / len(wanted)

        def normal(c: Floats, weight: Floats = weight) -> Floats:
            return transposed @ (weight * (basis @ c)) + penalty @ c

        system = LinearOperator(penalty.shape, matvec=normal, dtype=np.float64)
        scale = sparse.diags_array(1 / (squared @ weight + penalty.diagonal()))
        # Not solved further than the next weights deserve.
        found, _ = cg(
            system, transposed @ (weight * wanted), x0=coefficients, rtol=1e-3, maxiter=150, M=scale
        )
        step = float(np.quantile(np.abs(basis @ (found - coefficients)), 0.99))
        coefficients = found
        if step < 1e-3:
            return coefficients
    raise NotConverged(f"the quantile fit still moves by {step:.1e} after {_STEPS} steps")


def _roughness(shape: tuple[int, int, int]) -> sparse.csr_array:
    """All second differences of a grid of coefficients along the axes, as a matrix."""
    parts = []
    for axis, n in enumerate(shape):
        bend = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(n - 2, n))
        factors = [bend if a == axis else sparse.eye_array(size) for a, size in enumerate(shape)]
        parts.append(sparse.kron(sparse.kron(factors[0], factors[1]), factors[2]))
    return sparse.csr_array(sparse.vstack(parts))
