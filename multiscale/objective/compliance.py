"""Compliance: the work of the loads, c = f . u. Small is stiff.

The value of a load is the work that its forces do on the whole grid, in N mm. It is self-adjoint: with
``dc/du = f`` the adjoint solution is u itself, so that ``dc/dC_i = - u^T K_i u`` needs no further solve.
"""

from __future__ import annotations

import numpy as np

from micro.runtime.arrays import Floats
from multiscale.objective.combination import Value
from multiscale.objective.objective import Objective


class ComplianceObjective(Objective):
    """The work of each load's forces, N mm; loads must have no prescribed displacement other than zero."""

    quantity = "compliance"
    exponent = 1

    def prepare(self) -> None:
        """As :meth:`Objective.prepare`."""
        if any(np.any(load.prescribed) for load in self.loads):
            raise ValueError("compliance is the work of forces: no displacement may be prescribed")
        newton_mm = self.problem.young_pa * self.problem.cell_size_m**3 * 1e3
        #: From the reduced grid's E_s h^3 to the whole grid's N mm.
        self.scale = self.reduction.element_weight * newton_mm

    def measure(self, number: int, displacement: Floats) -> float:
        """``f . u``, N mm."""
        return self.scale * float(np.sum(self.loads[number].force * displacement))

    def slope(self, number: int, displacement: Floats) -> Floats | None:
        """``f``."""
        return self.scale * self.loads[number].force

    def value_elsewhere(
        self, displacements: list[Floats], work: list[float], reference: list[Floats] | None
    ) -> Value:
        """As :meth:`Objective.value_elsewhere`: the work of the other model's own forces."""
        return self.combination.of(
            {load.name: self.scale * w for load, w in zip(self.loads, work, strict=True)}
        )

    def adjoint(self, number: int, displacement: Floats) -> Floats | None:
        """The displacement itself."""
        return self.scale * displacement
