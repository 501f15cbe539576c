"""What tensor errors do to the objective: a quadratic model of J in the errors of all elements together.

The value of a load is a norm of its displacements (or grows with one), so its square is quadratic in them,
and they are nearly linear in small changes dC of the tensors. With A the Hessian of v^2/2 (Gauss-Newton) ::

    v^2 ~ (v0 + g . dC)^2 + sum_k (S_k . dC)^2

where g = dv/dC is the adjoint sensitivity and S_k are those of further displacement modes, A-orthonormal
and A-orthogonal to what g sees: one adjoint solve each. The modes span the responses to random errors of
the design elements (a randomised range finder, Halko, Martinsson and Tropp 2011) and to a uniform error of
every fixed material, which repeats in all its elements. Errors that cancel cost nothing in this model.

Where loads may be combined (any_load.py) those of one parity share their modes m_k, orthonormal on the
observed nodes: with ``y_ik = <m_k, d_i>``, linear in dC, the matrix of their differences is
``D_ij ~ sum_k y_ik y_jk``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from micro.cell.tensor import PAPER_SPAN
from micro.runtime.arrays import Bools, Floats
from multiscale.objective.any_load import AnyLoadObjective
from multiscale.objective.combination import Combination
from multiscale.objective.objective import Objective

#: Random error fields that the modes are drawn from.
_SAMPLES = 10
#: Their size as tensor error: where the model is used.
_SIZE = 0.01
#: Relative residual of the responses: they only have to span the right modes.
_RTOL = 1e-3
#: Modes of less than this share of the largest one's variance are left out.
_SMALLEST = 1e-4
#: Share of the variance along the present error below which the rest is rounding.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Influence:
    """The model around one tensor field of the reduced grid.

    Attributes
    ----------
    field : array, shape (mx, my, mz, 3)
    amplitude : list of arrays, shape (1 + modes,)
        For each load its value at ``field``, then zeros.
    sensitivity : list of arrays, shape (1 + modes, mx, my, mz, 3)
        For each load g and S_k; zero in voids.
    combination : Combination
    coupled : callable, optional
        Makes J of the amplitudes instead, where it is more than the loads' norms.
    """

    field: Floats
    amplitude: list[Floats]
    sensitivity: list[Floats]
    combination: Combination
    coupled: Callable[[list[Floats]], Floats] | None = None

    def amplitudes(self, tensors: Floats) -> list[Floats]:
        """Amplitudes (1 + modes,) of each load for another field (mx, my, mz, 3) with the same voids."""
        change = tensors - self.field
        return [
            a + np.tensordot(s, change, axes=4) for a, s in zip(self.amplitude, self.sensitivity, strict=True)
        ]

    def value(self, amplitudes: list[Floats]) -> Floats:
        """J, shape (...), of the loads' amplitudes (1 + modes, ...)."""
        if self.coupled is not None:
            return self.coupled(amplitudes)
        values = np.stack([np.sqrt(np.sum(a**2, axis=0)) for a in amplitudes])
        if len(values) == 1:
            return np.asarray(values[0] * self.combination.value(np.ones(1)))
        flat = values.reshape(len(values), -1)
        return np.array([self.combination.value(v) for v in flat.T]).reshape(values.shape[1:])


def influence(objective: Objective, field: Floats, design: Bools, *, seed: int = 0) -> Influence:
    """The model around a tensor field.

    Parameters
    ----------
    objective : Objective
    field : array, shape (mx, my, mz, 3)
        Reduced grid, zero in voids.
    design : bool array, shape (mx, my, mz)
        Elements that each have an error of their own.
    seed : int
        Of the random errors.

    Raises
    ------
    NotConverged
        If a solve fails.
    """
    errors = _error_fields(field, design, np.random.default_rng(seed))
    if isinstance(objective, AnyLoadObjective):
        return _any_load(objective, field, errors)
    displacements = objective.displacements(field)
    amplitude, sensitivity = [], []
    for i, (u, operator) in enumerate(zip(displacements, objective.operators, strict=True)):
        value, slope = objective.measure(i, u), objective.slope(i, u)
        slope = np.zeros_like(u) if slope is None else slope
        rights = [slope]
        images, responses = [], []
        for error in errors:
            w = operator.solve(-operator.apply(u, error), rtol=_RTOL)
            moved = objective.slope(i, u + w)
            # A w, from the gradients v dv/du of v^2/2 at both ends.
            image = -value * slope
            if moved is not None:
                image = image + objective.measure(i, u + w) * moved
            responses.append(w)
            images.append(image)
        rights += _orthonormal(responses, images, slope)
        rows = []
        for right in rights:
            rows.append(-operator.energies(operator.solve(right, rtol=objective.adjoint_rtol), u))
        amplitude.append(np.array([value, *([0.0] * (len(rows) - 1))]))
        sensitivity.append(np.stack(rows))
    return Influence(field, amplitude, sensitivity, objective.combination)


def _any_load(objective: AnyLoadObjective, field: Floats, errors: list[Floats]) -> Influence:
    """The model of loads that may be combined, parity by parity."""
    displacements = objective.displacements(field)
    amplitude: list[Floats] = [np.zeros(0)] * len(displacements)
    sensitivity: list[Floats] = [np.zeros(0)] * len(displacements)
    for block in objective.blocks:
        operator = objective.operators[block[0]]
        differences = [objective.difference(i, displacements[i]) for i in block]
        responses = []
        for i in block:
            for error in errors:
                w = operator.solve(-operator.apply(displacements[i], error), rtol=_RTOL)
                responses.append(objective.deformation(i, w))
        modes = _observed_modes(objective, differences, responses)
        adjoints = [operator.solve(objective.weigh(m), rtol=objective.adjoint_rtol) for m in modes]
        for i, d in zip(block, differences, strict=True):
            amplitude[i] = np.array([np.sum(objective.weigh(m) * d) for m in modes])
            sensitivity[i] = np.stack([-operator.energies(a, displacements[i]) for a in adjoints])
    return Influence(field, amplitude, sensitivity, objective.combination, objective.of_amplitudes)


def _observed_modes(
    objective: AnyLoadObjective, differences: list[Floats], responses: list[Floats]
) -> list[Floats]:
    """Orthonormal modes on the observed nodes that span the present differences and the main responses."""
    first = _span(objective, differences, _ROUNDING)
    rest = []
    for w in responses:
        w = w - sum(np.sum(objective.weigh(m) * w) * m for m in first)
        size = np.sqrt(np.sum(objective.weigh(w) * w))
        if size > 0:
            rest.append(w / size)  # each response counts alike
    return first + _span(objective, rest, _SMALLEST)


def _span(objective: AnyLoadObjective, fields: list[Floats], smallest: float) -> list[Floats]:
    """Principal modes of fields on the observed nodes, those above a share of the first one's variance."""
    if not fields:
        return []
    values, vectors = np.linalg.eigh(objective.gram(fields))
    keep = np.flatnonzero(values > smallest * values[-1])[::-1]
    stacked = np.stack(fields)
    return [np.tensordot(vectors[:, k] / np.sqrt(values[k]), stacked, axes=1) for k in keep]


def _error_fields(field: Floats, design: Bools, rng: np.random.Generator) -> list[Floats]:
    """Random errors of the design elements, and uniform ones of each fixed material."""
    out = []
    for _ in range(_SAMPLES):
        error = np.zeros_like(field)
        error[design] = _SIZE * PAPER_SPAN * rng.standard_normal((int(design.sum()), 3))
        out.append(error)
    fixed = np.any(field != 0, axis=-1) & ~design
    for material in np.unique(field[fixed], axis=0):
        same = fixed & (field == material).all(axis=-1)
        for component in range(3):
            error = np.zeros_like(field)
            # Small against every modulus of a soft material, so that it stays positive definite.
            error[same, component] = _SIZE * min(PAPER_SPAN[component], material[0])
            out.append(error)
    return out


def _orthonormal(responses: list[Floats], images: list[Floats], slope: Floats) -> list[Floats]:
    """A times the A-orthonormal modes of the responses, without their part along the present error.

    ``images`` are A w of the responses w; ``slope`` is A r of the A-unit present error r.
    """
    w = np.stack([x.ravel() for x in responses])
    aw = np.stack([x.ravel() for x in images])
    along = w @ slope.ravel()
    aw = aw - along[:, None] * slope.ravel()
    gram = w @ aw.T
    gram = (gram + gram.T) / 2
    if np.diag(gram).max() <= _ROUNDING * float(np.square(along).max()):
        return []  # a value that is linear in the displacements has no other modes
    # Each response counts alike, whatever its size: a uniform error moves far more than random ones.
    scale = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
    values, vectors = np.linalg.eigh(gram * np.outer(scale, scale))
    keep = values > _SMALLEST * max(float(values.max()), 0.0)
    shape = slope.shape
    return [
        ((vectors[:, k] * scale / np.sqrt(values[k])) @ aw).reshape(shape) for k in np.flatnonzero(keep)[::-1]
    ]
