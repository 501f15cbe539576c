"""What a case is for: its objective, what its designs are compared with, and how that is called."""

from __future__ import annotations

from dataclasses import dataclass

from multiscale.objective.compliance import ComplianceObjective
from multiscale.objective.objective import DistortionObjective, Objective
from multiscale.objective.target import TargetObjective


@dataclass(frozen=True)
class Purpose:
    """One kind of objective.

    Attributes
    ----------
    objective : type
        Its class; ``objective.quantity`` names its section of metrics.json and its history.
    baseline : str
        The structure that designs are compared with: "void" (no cloak), "uniform" (the best uniform cell
        of the same mass) or "start" (the initial material).
    labels : dict of str to str
        What the structures are called in figures and reports.
    """

    objective: type[Objective]
    baseline: str
    labels: dict[str, str]

    @property
    def quantity(self) -> str:
        """Short for ``objective.quantity``."""
        return self.objective.quantity

    @property
    def structures(self) -> tuple[str, ...]:
        """Keys of displacements.npz, in the order they are shown."""
        return tuple(self.labels)


PURPOSES = {
    "displacement_distortion": Purpose(
        DistortionObjective,
        "void",
        {
            "reference": "reference",
            "void": "hole, no cloak",
            "design": "cloak, designed",
            "lattice": "cloak, cells as built",
        },
    ),
    "compliance": Purpose(
        ComplianceObjective,
        "uniform",
        {
            "uniform": "best uniform cell",
            "design": "graded, designed",
            "lattice": "graded, cells as built",
        },
    ),
    "target_displacement": Purpose(
        TargetObjective,
        "start",
        {"start": "initial material", "design": "designed", "lattice": "cells as built"},
    ),
}
"""By ``objective.type`` of the case."""
