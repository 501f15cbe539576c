"""An objective that does not come with the program: how far the observed nodes move, in mm (rms)."""

from __future__ import annotations

import numpy as np

from multiscale.case.purpose import START, Purpose
from multiscale.objective.objective import Objective

PURPOSE = Purpose(
    type="deflection",
    objective="deflection:DeflectionObjective",
    quantity="deflection",
    baseline=START,
    labels={"start": "initial material", "design": "designed", "lattice": "cells as built"},
    needs=("observe",),
    heading="Deflection of the observed nodes, root mean square:",
    caption="Deflection: initial material, design, refined mesh, as built.",
    unit="mm",
    forces_only=True,
)


class DeflectionObjective(Objective):
    """``v = (sum w |u|^2 / sum w)^(1/2)`` over the observed nodes, each of the whole grid once."""

    quantity = "deflection"
    exponent = 2

    @property
    def wanted_nodes(self):
        return self.reduction.nodes(self.problem.observed_nodes)

    def prepare(self):
        weight = self.reduction.node_weight * self.wanted_nodes
        self._weight = (weight / weight.sum())[..., None]
        self._mm = 1e3 * self.problem.cell_size_m

    def measure(self, number, displacement):
        return self._mm * float(np.sqrt(np.sum(self._weight * displacement**2)))

    def slope(self, number, displacement):
        return self._mm**2 * self._weight * displacement / self.measure(number, displacement)
