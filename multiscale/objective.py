"""Displacement distortion and its sensitivity with respect to every element's tensor.

For one load the distortion is ``d = ||u - u_ref|| / ||u_ref||`` (L2 over the
nodes of the observed region, each node of the whole grid once); ``u_ref`` is
the solution of the same grid and loads with the reference material in every
element, holes filled. Several loads combine as the weighted power mean ::

    J = (sum_l w_l d_l^p / sum_l w_l)^(1/p)

(p = 2 is a mean square, large p approaches the worst load). The problem is
not self-adjoint: with ``K lambda_l = dJ/du_l`` the sensitivity is
``dJ/dC_i = - sum_l lambda_l^T K_i u_l``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multiscale.elasticity import Elasticity, SolverOptions
from multiscale.problem import Problem
from multiscale.reduction import ReducedLoad, Reduction

Array = NDArray[np.float64]

#: Reference solutions are computed once, so they are solved tightly.
_REFERENCE_RTOL = 1e-9


@dataclass(frozen=True)
class Distortion:
    """Distortions of one tensor field.

    Attributes
    ----------
    total : float
        The power mean over loads, J.
    per_load : dict of str to float
    """

    total: float
    per_load: dict[str, float]


class DistortionObjective:
    """Distortion of tensor fields on the reduced grid of a problem.

    Parameters
    ----------
    problem : Problem
    options : SolverOptions
        ``rtol`` is the forward tolerance.
    adjoint_rtol : float
        Relative tolerance of the adjoint solves (1e-4 is enough for the gradient).
    power : float
        Exponent p of the mean over loads.
    axes : tuple of int, optional
        Mirrored axes to use; default all that the problem has.
    """

    def __init__(
        self,
        problem: Problem,
        options: SolverOptions | None = None,
        adjoint_rtol: float = 1e-4,
        power: float = 2.0,
        axes: tuple[int, ...] | None = None,
    ):
        self.problem = problem
        self.reduction = Reduction(problem, axes)
        self.options = options or SolverOptions()
        self.adjoint_rtol = adjoint_rtol
        self.power = power
        self.loads: tuple[ReducedLoad, ...] = self.reduction.loads
        # Loads with the same supports (after the mirrors) share one operator.
        self._operators: list[Elasticity] = []
        self._operator_of: list[Elasticity] = []
        for load in self.loads:
            for operator in self._operators:
                if np.array_equal(operator.constrained, load.constrained):
                    break
            else:
                operator = Elasticity(self.reduction.shape, load.constrained, self.options)
                self._operators.append(operator)
            self._operator_of.append(operator)
        self._node_weight = self.reduction.node_weight * self.reduction.nodes(problem.observed_nodes)
        self.reference = self._solve_reference()
        self._reference_norm = [self._norm(u) for u in self.reference]
        for load, norm in zip(self.loads, self._reference_norm, strict=True):
            if norm == 0.0:
                raise ValueError(f"load {load.name!r} does not move the observed nodes of the reference")
        for operator in self._operators:
            operator.iterations.clear()
        self._last: list[Array | None] = [None] * len(self.loads)

    def _solve_reference(self) -> list[Array]:
        tensors = self.reduction.elements(self.problem.reference)
        for operator in self._operators:
            operator.assemble(tensors)
        return [
            operator.solve(load.force, load.prescribed, rtol=_REFERENCE_RTOL)
            for operator, load in zip(self._operator_of, self.loads, strict=True)
        ]

    def _norm(self, field: Array) -> float:
        return float(np.sqrt(np.einsum("xyz,xyzc,xyzc->", self._node_weight, field, field)))

    def displacements(self, tensors: Array, rtol: float | None = None) -> list[Array]:
        """Displacements of every load, reduced grid; ``tensors`` (mx, my, mz, 3), zero = void."""
        for operator in self._operators:
            operator.assemble(tensors)
        self._last = [
            operator.solve(load.force, load.prescribed, guess=guess, rtol=rtol)
            for operator, load, guess in zip(self._operator_of, self.loads, self._last, strict=True)
        ]
        return [u for u in self._last if u is not None]

    def distortion_of(self, displacements: list[Array]) -> Distortion:
        """Distortion of given displacement fields (one a load, reduced grid)."""
        values = [
            self._norm(u - r) / n
            for u, r, n in zip(displacements, self.reference, self._reference_norm, strict=True)
        ]
        return Distortion(self._mean(values), dict(zip([q.name for q in self.loads], values, strict=True)))

    def distortion(self, tensors: Array, rtol: float | None = None) -> Distortion:
        """Distortion of a tensor field on the reduced grid (mx, my, mz, 3)."""
        return self.distortion_of(self.displacements(tensors, rtol))

    def value_and_gradient(self, tensors: Array) -> tuple[Distortion, Array]:
        """Distortion and dJ/dC, shape (mx, my, mz, 3).

        The gradient is with respect to the tensors of the reduced grid's elements, that is, all
        mirror images of an element change together.
        """
        displacements = self.displacements(tensors)
        value = self.distortion_of(displacements)
        weights = np.array([load.weight for load in self.loads])
        gradient = np.zeros((*self.reduction.shape, 3))
        for i, (operator, load) in enumerate(zip(self._operator_of, self.loads, strict=True)):
            d = value.per_load[load.name]
            if d == 0.0:
                continue
            # dJ/dd_l of the power mean; dd/du = w (u - u_ref) / (d ||u_ref||^2)
            share = weights[i] / weights.sum() * (d / value.total) ** (self.power - 1.0)
            factor = share / (d * self._reference_norm[i] ** 2)
            right = factor * self._node_weight[..., None] * (displacements[i] - self.reference[i])
            adjoint = operator.solve(right, rtol=self.adjoint_rtol)
            gradient -= operator.energies(adjoint, displacements[i])
        return value, gradient

    def _mean(self, values: list[float]) -> float:
        d = np.array(values)
        w = np.array([load.weight for load in self.loads])
        top = d.max()
        if top == 0.0:
            return 0.0
        return float(top * (np.sum(w * (d / top) ** self.power) / w.sum()) ** (1.0 / self.power))

    def forget(self) -> None:
        """Drop the warm starts (before fields that have nothing to do with the last ones)."""
        self._last = [None] * len(self.loads)
        for operator in self._operators:
            operator.iterations.clear()

    @property
    def unknowns(self) -> int:
        """Active degrees of freedom of the last assembled field (the largest operator)."""
        return max(operator.unknowns for operator in self._operators)

    @property
    def iterations(self) -> list[int]:
        """CG iterations of every solve since the references."""
        return [n for operator in self._operators for n in operator.iterations]
