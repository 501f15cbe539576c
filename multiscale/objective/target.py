"""Target displacement: some nodes shall move as prescribed when the load acts (shape morphing).

``v = ||u - u*|| / ||u*||`` over the targeted displacement components, each node of the whole grid once.
"""

from __future__ import annotations

import numpy as np

from micro.runtime.arrays import Floats
from multiscale.objective.correction import Correction
from multiscale.objective.objective import Objective


class TargetObjective(Objective):
    """How far the targeted nodes are from where they should be, relative to the wanted move; no unit."""

    quantity = "mismatch"
    exponent = 2

    def prepare(self) -> None:
        """As :meth:`Objective.prepare`."""
        assert len(self.problem.targets) == len(self.loads)
        nodes = self.reduction.nodes
        self._wanted = [nodes(target.value) for target in self.problem.targets]
        self._weight = [
            self.reduction.node_weight[..., None] * nodes(target.mask) for target in self.problem.targets
        ]
        self._norm = [
            float(np.sqrt(np.sum(w * u**2))) for w, u in zip(self._weight, self._wanted, strict=True)
        ]

    def aim(self, correction: Correction) -> None:
        """As :meth:`Objective.aim`: ``u* - (U - u)`` is wanted, relative to u* as before."""
        self._wanted = [w - o for w, o in zip(self._wanted, correction.offset, strict=True)]

    def measure(self, number: int, displacement: Floats) -> float:
        """``||u - u*|| / ||u*||``."""
        difference = displacement - self._wanted[number]
        return float(np.sqrt(np.sum(self._weight[number] * difference**2))) / self._norm[number]

    def slope(self, number: int, displacement: Floats) -> Floats | None:
        """``w (u - u*) / (v ||u*||^2)``."""
        v = self.measure(number, displacement)
        if v == 0.0:
            return None
        difference = displacement - self._wanted[number]
        return self._weight[number] * difference / (v * self._norm[number] ** 2)
