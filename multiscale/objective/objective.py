"""What a design is judged by, and its sensitivity with respect to every element's tensor.

An :class:`Objective` gives each load a value v_l(u_l); :mod:`multiscale.objective.combination` makes one
number J of them. With ``K lambda_l = dJ/du_l`` the sensitivity is ``dJ/dC_i = - sum_l lambda_l^T K_i u_l``,
one more solve a load unless the problem is self-adjoint.

:class:`DistortionObjective` is the displacement distortion ``v = ||u - u_ref|| / ||u_ref||`` (L2 over the
nodes of the observed region, each node of the whole grid once); ``u_ref`` is the solution of the same grid
and loads with the reference material in every element, holes filled. Where a load has no supports both are
compared without rigid motion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar, Self

import numpy as np

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from multiscale.case.settings import Kind
from multiscale.objective.combination import Combination, Value
from multiscale.objective.correction import Correction
from multiscale.objective.field_measures import compare_fields
from multiscale.problem.grid import join_elements, nodes_of, split_elements
from multiscale.problem.problem import Problem
from multiscale.problem.reduction import ReducedLoad, Reduction
from multiscale.problem.rigid import RigidPart
from multiscale.solve.elasticity import Elasticity, SolverOptions

#: Reference solutions are computed once, so they are solved tightly.
_REFERENCE_RTOL = 1e-9


class Objective(ABC):
    """A function of tensor fields on the reduced grid of a problem.

    Parameters
    ----------
    problem : Problem
    options : SolverOptions
        ``rtol`` is the forward tolerance.
    adjoint_rtol : float
        Relative tolerance of the adjoint solves (1e-4 is enough for the gradient).
    combine : {"mean_square", "sum", "worst"}, optional
        How loads make up J; the problem's by default.
    axes : tuple of int, optional
        Mirrored axes to use; default all that the problem has.
    """

    quantity: ClassVar[str]
    """What is measured, in one word: the key of its figures in metrics and history."""
    exponent: ClassVar[int]
    """The optimiser is given J to this power, which makes it smooth (a norm squared is)."""

    def __init__(
        self,
        problem: Problem,
        options: SolverOptions | None = None,
        adjoint_rtol: float = 1e-4,
        combine: Kind | None = None,
        axes: tuple[int, ...] | None = None,
    ):
        self.problem = problem
        self.reduction = Reduction(problem, axes)
        self.options = options or SolverOptions()
        self.adjoint_rtol = adjoint_rtol
        self.loads: tuple[ReducedLoad, ...] = self.reduction.loads
        weights = tuple(load.weight for load in self.loads)
        self.combination = Combination(combine or problem.combine, weights)
        # Loads with the same supports (after the mirrors) share one operator.
        self._solves: list[int] = []
        self._operators: list[Elasticity] = []
        self._operator_of: list[Elasticity] = []
        for load in self.loads:
            for operator in self._operators:
                if np.array_equal(operator.constrained, load.constrained):
                    break
            else:
                operator = Elasticity(self.reduction.shape, load.constrained, self.options, log=self._solves)
                self._operators.append(operator)
            self._operator_of.append(operator)
        self._last: list[Floats | None] = [None] * len(self.loads)
        weight = self.reduction.node_weight * self.wanted_nodes
        self._rigid = [RigidPart(load.motions, weight) for load in self.loads]
        self.prepare()
        self.clear_log()

    split: int = 1
    """Elements of this objective's grid an edge of a cell: tensor fields are those of the cells."""

    def of_cells(self, split: int) -> Self:
        """The same on a grid whose cells are split into ``split`` elements an edge, one tensor a cell.

        Tensor fields that are given, and gradients, are those of the grid of cells; displacements and values
        stay those of the elements' grid.

        Parameters
        ----------
        split : int
        """
        other = copy(self)
        other.split = split
        other._last = list(self._last)
        return other

    reference: list[Floats] | None = None
    """Displacements that values are measured against, one field a load, if there are any."""

    @property
    def wanted_nodes(self) -> Bools:
        """(mx+1, my+1, mz+1): nodes of the reduced grid whose displacements make up the values."""
        return self.reduction.nodes(nodes_of(self.problem.solid))

    def sharpen(self, stage: int) -> None:  # noqa: B027  nothing to do is a fair default
        """Told which stage of a search begins: what is given to the optimiser may depend on it.

        Parameters
        ----------
        stage : int
            0 moves one tensor for all elements, those after it every element; 0 again when the search ends.
        """

    def prepare(self) -> None:  # noqa: B027  nothing to do is a fair default
        """What a kind of objective needs beside the operators, once they are there."""

    def correction(
        self, tensors: Floats, better: Sequence[Floats], reference: Sequence[Floats] | None, rtol: float
    ) -> Correction:
        """What a better model adds to this one at one tensor field.

        Parameters
        ----------
        tensors : array, shape (mx, my, mz, 3)
            What the better model was made of; reduced grid, zero in voids.
        better, reference : sequences of arrays (mx+1, my+1, mz+1, 3)
            The better model's displacements of the structure and of the reference, in element edges of this
            grid, one a load; those of :attr:`wanted_nodes` count.
        rtol : float
            Relative residual of the own model's solves.
        """
        wanted = self.wanted_nodes[..., None]
        self.forget()
        own = self.displacements(tensors, rtol)
        offset = tuple((b - u) * wanted for b, u in zip(better, own, strict=True))
        return Correction(offset, None if reference is None else tuple(r * wanted for r in reference))

    def corrected(self, correction: Correction) -> Self:
        """The same objective against a better model (:mod:`multiscale.objective.correction`).

        It shares operators and solver settings with this one, which stays as it is.
        """
        other = copy(self)
        other._last = list(self._last)
        other.aim(correction)
        return other

    def aim(self, correction: Correction) -> None:
        """Change what displacements are measured against; by :meth:`corrected`, on a copy.

        Raises
        ------
        TypeError
            If values are no distances of displacements, which a correction means nothing to.
        """
        raise TypeError(f"{self.quantity} is not corrected by displacements")

    @abstractmethod
    def measure(self, number: int, displacement: Floats) -> float:
        """The value of load ``number`` for its displacements on the reduced grid; not negative."""

    @abstractmethod
    def slope(self, number: int, displacement: Floats) -> Floats | None:
        """d value / du, a nodal field of the reduced grid; None where the value is stationary."""

    def adjoint(self, number: int, displacement: Floats) -> Floats | None:
        """The solution of ``K lambda = d value / du`` for the field assembled last."""
        right = self.slope(number, displacement)
        return None if right is None else self._operator_of[number].solve(right, rtol=self.adjoint_rtol)

    def solve(self, tensors: Floats, rtol: float) -> list[Floats]:
        """Displacements of every load from a cold start; warm starts stay as they are."""
        self._assemble(tensors)
        solutions = [
            operator.solve(load.force, load.prescribed, rtol=rtol)
            for operator, load in zip(self._operator_of, self.loads, strict=True)
        ]
        return [self.deformation(i, u) for i, u in enumerate(solutions)]

    def deformation(self, number: int, field: Floats) -> Floats:
        """A displacement field of a load without its rigid motion, where nothing holds the body."""
        return self._rigid[number].removed(field)

    def _assemble(self, tensors: Floats) -> None:
        for operator in self._operators:
            operator.assemble(split_elements(tensors, self.split))

    def displacements(self, tensors: Floats, rtol: float | None = None) -> list[Floats]:
        """Displacements of every load, reduced grid; ``tensors`` (mx, my, mz, 3), zero = void.

        Without supports they have no rigid motion (least squares over the observed nodes, or the solid's).
        """
        self._assemble(tensors)
        self._last = [
            operator.solve(load.force, load.prescribed, guess=guess, rtol=rtol)
            for operator, load, guess in zip(self._operator_of, self.loads, self._last, strict=True)
        ]
        return [self.deformation(i, u) for i, u in enumerate(self._last) if u is not None]

    def value_of(self, displacements: list[Floats]) -> Value:
        """J and the loads' values of given displacement fields (one a load, reduced grid)."""
        return self.combination.of(self.per_load(displacements))

    def per_load(self, displacements: list[Floats]) -> dict[str, float]:
        """The loads' values of given displacement fields."""
        return {load.name: self.measure(i, displacements[i]) for i, load in enumerate(self.loads)}

    def value_elsewhere(
        self, displacements: list[Floats], work: list[float], reference: list[Floats] | None
    ) -> Value:
        """J and the loads' values of another model of the structure, such as its voxels.

        Parameters
        ----------
        displacements : list of arrays (mx+1, my+1, mz+1, 3)
            At the reduced grid's nodes, in element edges; those of ``wanted_nodes`` count.
        work : list of float
            Of that model's forces on the reduced grid, E_s h^3.
        reference : list of arrays, optional
            That model's own solution of the reference.
        """
        return self.value_of(displacements)

    def joined(self, parts: Sequence[Value]) -> Value:
        """J of all loads from the values of parts of them, each the loads of one of :attr:`groups`."""
        found = {name: value for part in parts for name, value in part.per_load.items()}
        return self.combination.of({load.name: found[load.name] for load in self.loads})

    def value(self, tensors: Floats, rtol: float | None = None) -> Value:
        """J and the loads' values of a tensor field on the reduced grid (mx, my, mz, 3)."""
        return self.value_of(self.displacements(tensors, rtol))

    def value_and_gradient(self, tensors: Floats) -> tuple[Value, Floats]:
        """J and dJ/dC, shape (mx, my, mz, 3).

        The gradient is with respect to the tensors of the reduced grid's elements, that is, all
        mirror images of an element change together.
        """
        displacements = self.displacements(tensors)
        value = self.value_of(displacements)
        shares = self.combination.slopes(np.array(list(value.per_load.values())))
        gradient = np.zeros((*self.reduction.shape, 3))
        for i, (operator, share) in enumerate(zip(self._operator_of, shares, strict=True)):
            adjoint = self.adjoint(i, displacements[i])
            if adjoint is not None:
                gradient -= share * operator.energies(adjoint, displacements[i])
        return value, join_elements(gradient, self.split)

    def warm_starts(self) -> list[Floats | None]:
        """The displacements of each load that the next solve starts from; None starts cold."""
        return list(self._last)

    def start_from(self, displacements: list[Floats]) -> None:
        """Let the next solves start from these displacements, one field a load on the reduced grid."""
        self._last = list(displacements)

    def details(self, tensors: Floats, displacements: list[Floats]) -> dict[str, Any]:
        """Sections of metrics.json beside the values: further figures of the field that was solved last."""
        return {}

    def forget(self) -> None:
        """Drop the warm starts (before fields that have nothing to do with the last ones)."""
        self._last = [None] * len(self.loads)

    def clear_log(self) -> None:
        """Count the iterations of the solves from here on."""
        self._solves.clear()

    @property
    def operators(self) -> list[Elasticity]:
        """The operator of each load; loads with the same supports share one."""
        return list(self._operator_of)

    @property
    def groups(self) -> list[list[int]]:
        """Numbers of the loads of each operator: each has a matrix and a multigrid of its own."""
        return [
            [i for i, own in enumerate(self._operator_of) if own is operator] for operator in self._operators
        ]

    @property
    def unknowns(self) -> int:
        """Active degrees of freedom of the last assembled field (the largest operator)."""
        return max(operator.unknowns for operator in self._operators)

    @property
    def iterations(self) -> list[int]:
        """CG iterations of every solve since the set-up or :meth:`clear_log`, in their order."""
        return list(self._solves)


class DistortionObjective(Objective):
    """How far the observed nodes are from where they would be in the reference material; no unit.

    Raises
    ------
    InputError
        If a load does not move the observed nodes of the reference.
    """

    quantity = "distortion"
    exponent = 2
    reference: list[Floats]

    @property
    def wanted_nodes(self) -> Bools:
        """(mx+1, my+1, mz+1): the observed nodes of the reduced grid."""
        return self.reduction.nodes(self.problem.observed_nodes)

    def prepare(self) -> None:
        """As :meth:`Objective.prepare`.

        Raises
        ------
        InputError
            If a load does not move the observed nodes of the reference.
        """
        self._node_weight = self.reduction.node_weight * self.wanted_nodes
        self.reference = self.solve(self.reduction.elements(self.problem.reference), _REFERENCE_RTOL)
        self._reference_norm = [self._norm(u) for u in self.reference]
        for load, norm in zip(self.loads, self._reference_norm, strict=True):
            if norm == 0.0:
                raise InputError(
                    "does not move the observed nodes of the reference", key="loads", value=load.name
                )
        self.forget()

    def details(self, tensors: Floats, displacements: list[Floats]) -> dict[str, Any]:
        """Further measures of the cloak, by load (:mod:`multiscale.objective.field_measures`)."""
        return {
            "measures": {
                load.name: self.measures(tensors, i, displacements[i], self.reference[i])
                for i, load in enumerate(self.loads)
            }
        }

    def measures(self, tensors: Floats, number: int, u: Floats, reference: Floats) -> dict[str, float]:
        """``strain_deviation`` and ``energy_mismatch`` of a field with the parity of load ``number``.

        Parameters
        ----------
        tensors : array (mx, my, mz, 3)
        number : int
            Of the load.
        u, reference : arrays (mx+1, my+1, mz+1, 3)
            Displacements of the field and of the reference.
        """
        observed, plain = (
            self.reduction.elements(a) for a in (self.problem.observed, self.problem.reference)
        )
        return compare_fields(self._operator_of[number], observed, (tensors, plain), (u, reference))

    def aim(self, correction: Correction) -> None:
        """As :meth:`Objective.aim`: the target is ``U_ref - (U - u)``, the measure ``||U_ref||``."""
        assert correction.reference is not None
        self.reference = [r - o for r, o in zip(correction.reference, correction.offset, strict=True)]
        self._reference_norm = [
            self._norm(self.deformation(i, r)) for i, r in enumerate(correction.reference)
        ]

    def _norm(self, field: Floats) -> float:
        return float(np.sqrt(np.einsum("xyz,xyzc,xyzc->", self._node_weight, field, field)))

    def difference(self, number: int, displacement: Floats) -> Floats:
        """``u - u_ref``, :meth:`deformation`; reduced grid."""
        return self.deformation(number, displacement - self.reference[number])

    def measure(self, number: int, displacement: Floats) -> float:
        """``||u - u_ref|| / ||u_ref||``."""
        return self._norm(self.difference(number, displacement)) / self._reference_norm[number]

    def value_elsewhere(
        self, displacements: list[Floats], work: list[float], reference: list[Floats] | None
    ) -> Value:
        """As :meth:`Objective.value_elsewhere`: against the other model's own reference."""
        assert reference is not None
        return self.combination.of(self.values_against(displacements, reference))

    def values_against(self, displacements: list[Floats], reference: list[Floats]) -> dict[str, float]:
        """The loads' values against another model's reference."""
        return {
            load.name: self._norm(self.deformation(i, u - r)) / self._norm(self.deformation(i, r))
            for i, (load, u, r) in enumerate(zip(self.loads, displacements, reference, strict=True))
        }

    def slope(self, number: int, displacement: Floats) -> Floats | None:
        """``w (u - u_ref) / (v ||u_ref||^2)``."""
        v = self.measure(number, displacement)
        if v == 0.0:
            return None
        factor = 1.0 / (v * self._reference_norm[number] ** 2)
        # Taking rigid motion out is an orthogonal projection in this norm, so its transpose adds nothing.
        return factor * self._node_weight[..., None] * self.difference(number, displacement)
