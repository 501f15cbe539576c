"""Feasible tensors: one aggregated constraint, a penalty, and a projection that can be differentiated.

**Constraint.** With v_e = margin - phi(C_e) the mean form of the Kreisselmeier-Steinhauser
function (1979) ::

    g = max(v) + log(mean exp(sharpness (v - max v))) / sharpness

approaches max(v) from below.

**Penalty.** Where a constraint is not kept, ``mean max(0, v)^2``, of every element by itself.

**Projection.** In the metric of the scaled moduli m = (K/K_s, mu'/G_s, G/G_s) the nearest
feasible point p of m satisfies ``p = m + t grad phi(p)``, ``phi(p) = margin``. Differentiating both,

    [ I - t H   -grad phi ] [dp]   [dm]
    [ grad phi^T     0    ] [dt] = [ 0],        H = Hessian of phi at p,

and the pull-back of a gradient solves the (symmetric) system with the gradient on the right. So the
optimiser can evaluate feasible designs only, instead of projecting what it found afterwards.
"""

from __future__ import annotations

import numpy as np

from micro.cell import tensor
from micro.cell.cellset import require_poisson
from micro.data.packaged import load_gamut
from micro.gamut.gamut import Gamut
from micro.runtime.arrays import Bools, Floats
from multiscale.case.case import Case
from multiscale.case.settings import GAMUT_SOURCES

#: phi above minus this counts as feasible: rounding of the projection.
FEASIBILITY_TOLERANCE = 1e-9


def count_violations(phi: Floats, margin: float) -> int:
    """How many of the values of phi fall short of the margin."""
    return int(np.count_nonzero(phi < margin - FEASIBILITY_TOLERANCE))


def feasibility(phi: Floats, margin: float, weight: int = 1) -> dict[str, float]:
    """What metrics say of phi of the design elements (N,), each of which stands for ``weight`` of them."""
    return {"violations": weight * count_violations(phi, margin), "phi_min": float(phi.min())}


def case_gamut(case: Case) -> Gamut:
    """The feasible tensors of a case: packaged ones, or those of the file that it names.

    Raises
    ------
    InputError
        If the file holds no gamut, or one of cells of another base material.
    """
    source = case.gamut.source
    if source in GAMUT_SOURCES:
        return load_gamut("dataset" if source == "dataset" else "library")
    file = case.path(source)
    gamut = Gamut.load(file)
    require_poisson("the gamut's cells", gamut.poisson, case.base_material.poisson, file)
    return gamut


def aggregate(violation: Floats, sharpness: float) -> tuple[float, Floats]:
    """Mean Kreisselmeier-Steinhauser value of ``violation`` (N,) and its derivative (N,)."""
    top = violation.max()
    weight = np.exp(sharpness * (violation - top))
    return float(top + np.log(weight.mean()) / sharpness), weight / weight.sum()


class FeasibilityConstraint:
    """g(C) <= 0 over N tensors."""

    def __init__(self, gamut: Gamut, margin: float, sharpness: float):
        self.gamut = gamut
        self.margin = margin
        self.sharpness = sharpness

    def value(self, tensors: Floats) -> float:
        """The aggregate, feasible when <= 0."""
        return aggregate(self.margin - self.gamut.phi(tensors), self.sharpness)[0]

    def value_and_gradient(self, tensors: Floats) -> tuple[float, Floats]:
        """The aggregate and its derivative dg/dC (N, 3)."""
        value, weight = aggregate(self.margin - self.gamut.phi(tensors), self.sharpness)
        return value, -weight[:, None] * self.gamut.gradient(tensors)


class FeasibilityPenalty:
    """The mean square by which phi of N tensors falls short of the margin."""

    def __init__(self, gamut: Gamut, margin: float):
        self.gamut = gamut
        self.margin = margin

    def value_and_gradient(self, tensors: Floats) -> tuple[float, Floats]:
        """The mean square and its derivative (N, 3)."""
        short = np.maximum(0.0, self.margin - self.gamut.phi(tensors))
        slope = -2.0 / len(tensors) * short
        return float(np.mean(short**2)), slope[:, None] * self.gamut.gradient(tensors)


#: d(C11, C12, C44) / d(scaled moduli), the chain rule between the two coordinates.
_TENSOR_OF_SCALED: Floats = tensor.from_scaled_moduli(np.eye(3)).T


class FeasibleProjection:
    """Nearest feasible tensors, and the transpose of the projection's derivative.

    Parameters
    ----------
    gamut : Gamut
        Its ``project`` must be the nearest point in scaled moduli.
    margin : float
        phi >= margin afterwards.

    Notes
    -----
    An optimiser moves its variables a little at a time, so the last result is a good start: Newton's
    method on the two equations above takes three or four steps from there. Elements for which it does not
    arrive at a feasible minimum go to the gamut's own, global search.
    """

    #: Newton steps at most, and the residual (in scaled moduli) at which they stop.
    _NEWTON = 12
    _RESIDUAL = 1e-9
    #: Aimed at beyond the margin, so that rounding does not end outside.
    _INSIDE = 2e-9

    def __init__(self, gamut: Gamut, margin: float):
        self.gamut = gamut
        self.margin = margin
        self._last: Floats | None = None

    def forward(self, tensors: Floats) -> Floats:
        """The nearest tensors (N, 3) with phi >= margin; feasible ones stay as they are."""
        out = tensors.copy()
        bad = np.flatnonzero(self.gamut.phi(tensors) < self.margin)
        if self._last is not None and len(self._last) == len(tensors) and len(bad):
            found, good = self._newton(tensors[bad], self._last[bad])
            out[bad[good]] = found[good]
            bad = bad[~good]
        if len(bad):
            out[bad] = self.gamut.project(tensors[bad], self.margin)
        self._last = out.copy()
        return out

    def backward(self, tensors: Floats, projected: Floats, gradient: Floats) -> Floats:
        """dJ/dC (N, 3) at ``tensors`` from dJ/dC at ``projected = forward(tensors)``."""
        m, p = tensor.scaled_moduli(tensors), tensor.scaled_moduli(projected)
        moved = np.flatnonzero(np.linalg.norm(p - m, axis=-1) > 1e-9)
        out = gradient.copy()
        if len(moved) == 0:
            return out
        m, p = m[moved], p[moved]
        normal = self._gradient(p)
        system = self._system(p, normal, _multiplier(m, p, normal))
        right = np.zeros((len(moved), 4, 1))
        right[:, :3, 0] = gradient[moved] @ _TENSOR_OF_SCALED
        pulled = _solve(system, right)[:, :3, 0]
        out[moved] = pulled @ np.linalg.inv(_TENSOR_OF_SCALED)
        return out

    def _newton(self, tensors: Floats, start: Floats) -> tuple[Floats, Bools]:
        """Newton's method from ``start``: tensors (q, 3) and which of them are feasible minima."""
        m, p = tensor.scaled_moduli(tensors), tensor.scaled_moduli(start)
        normal = self._gradient(p)
        multiplier = _multiplier(m, p, normal)
        left = np.arange(len(m))
        for _ in range(self._NEWTON):
            q, g, t = p[left], normal[left], multiplier[left]
            residual = np.zeros((len(left), 4, 1))
            residual[:, :3, 0] = q - m[left] - t[:, None] * g
            phi = self.gamut.phi(tensor.from_scaled_moduli(q))
            residual[:, 3, 0] = self.margin + self._INSIDE - phi
            far = np.abs(residual).max(axis=(1, 2)) > self._RESIDUAL
            left = left[far]
            if len(left) == 0:
                break
            step = _solve(self._system(q[far], g[far], t[far]), -residual[far])[..., 0]
            # A step beyond the projection's own reach has left the basin.
            step *= np.minimum(1.0, 0.05 / np.maximum(np.abs(step[:, :3]).max(axis=1), 1e-12))[:, None]
            p[left] += step[:, :3]
            multiplier[left] = np.clip(multiplier[left] + step[:, 3], -1.0, 1.0)
            normal[left] = self._gradient(p[left])
        found = tensor.from_scaled_moduli(p)
        good = np.ones(len(m), bool)
        good[left] = False
        good &= (multiplier > 0) & (self.gamut.phi(found) >= self.margin)
        good[good] = self._is_minimum(p[good], normal[good], multiplier[good])
        return found, good

    def _is_minimum(self, p: Floats, normal: Floats, multiplier: Floats) -> Bools:
        """Whether I - t H is positive definite on the tangent plane (a saddle solves the equations too)."""
        form = np.eye(3) - multiplier[:, None, None] * self._hessian(p)
        unit = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        tangent = np.eye(3) - unit[:, :, None] * unit[:, None, :]
        reduced = tangent @ form @ tangent + unit[:, :, None] * unit[:, None, :]
        return np.asarray(np.linalg.eigvalsh(reduced)[:, 0] > 1e-3)

    def _system(self, p: Floats, normal: Floats, multiplier: Floats) -> Floats:
        """The symmetric 4 x 4 systems of the module's docstring (second row negated), (q, 4, 4)."""
        system = np.zeros((len(p), 4, 4))
        system[:, :3, :3] = np.eye(3) - multiplier[:, None, None] * self._hessian(p)
        system[:, :3, 3] = -normal
        system[:, 3, :3] = -normal
        return system

    def _gradient(self, m: Floats) -> Floats:
        """dphi/dm at scaled moduli (N, 3)."""
        return self.gamut.gradient(tensor.from_scaled_moduli(m)) @ _TENSOR_OF_SCALED

    def _hessian(self, m: Floats) -> Floats:
        """d2phi/dm2 at scaled moduli, (N, 3, 3)."""
        hessian = self.gamut.hessian(tensor.from_scaled_moduli(m))
        return _TENSOR_OF_SCALED.T @ hessian @ _TENSOR_OF_SCALED


def _solve(systems: Floats, right: Floats) -> Floats:
    """Solutions (q, 4, 1) of regular systems; zero where a system is singular.

    That happens where the boundary's centre of curvature meets the point: the nearest point jumps there
    and has no derivative, so Newton stays where it is and the element's gradient is left out.
    """
    regular = np.abs(np.linalg.det(systems)) > 1e-12
    out = np.zeros_like(right)
    out[regular] = np.linalg.solve(systems[regular], right[regular])
    return out


def _multiplier(m: Floats, p: Floats, normal: Floats) -> Floats:
    """t of ``p - m = t normal`` in the least squares sense, (q,)."""
    length = np.maximum(np.einsum("ei,ei->e", normal, normal), 1e-12)
    return np.einsum("ei,ei->e", p - m, normal) / length
