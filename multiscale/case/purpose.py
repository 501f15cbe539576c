"""What a case can be for: of every kind of objective, all that other rooms need to know.

The list stands here, below everything else, because the case file is validated by it and reading one must
not start a solver; the class that computes is named, and loaded when it is needed
(:func:`multiscale.objective.purpose.objective_class`). A new objective is one module with a subclass of
:class:`multiscale.objective.objective.Objective`, and one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Baseline:
    """The structure that designs are compared with.

    Attributes
    ----------
    name : str
        Its key in metrics.json and displacements.npz.
    label : str
        What tables call it.
    said : str
        How a sentence goes on after the quantity: "distortion *without cloak* 0.34".
    """

    name: str
    label: str
    said: str


VOID = Baseline("void", "without a cloak", "without cloak")
"""The reference material instead of the design, holes left open."""
START = Baseline("start", "initial material", "of the initial material")
"""The material that the design starts from."""
UNIFORM = Baseline("uniform", "best uniform cell, as heavy as built", "of the best uniform cell")
"""One cell for all design elements: the data set's best of the lattice's mass."""


@dataclass(frozen=True)
class Purpose:
    """One kind of objective.

    Attributes
    ----------
    type : str
        ``objective.type`` of the case file.
    objective : str
        Its class as "module:Class".
    quantity : str
        What is measured, in one word: its section of metrics.json and its column of the history.
    baseline : Baseline
    labels : mapping of str to str
        What figures call the structures, by their keys of displacements.npz, in the order they are shown;
        with a "reference" there are figures of the differences from it.
    needs : tuple of str
        Keys of the case's table ``objective`` that it needs. The others mean nothing to it, but for
        ``mass_limit``, which every objective may have.
    heading, caption : str
        Of the report's tiles, and of the figure that shows the values.
    unit : str
        Of the values; fractions, shown as percent, have none.
    figure : str
        Name of the figure that shows the values, if it is not the quantity.
    forces_only : bool
        Whether loads may prescribe no displacements.
    weighted : bool
        Whether the loads' weights mean something.
    combinations : tuple of str
        What ``objective.combine`` may be.
    corrected : bool
        Whether designs can be corrected by a better model's displacements.
    """

    type: str
    objective: str
    quantity: str
    baseline: Baseline
    labels: Mapping[str, str]
    needs: tuple[str, ...]
    heading: str
    caption: str
    unit: str = ""
    figure: str = ""
    forces_only: bool = False
    weighted: bool = True
    combinations: tuple[str, ...] = ("mean_square", "sum", "worst")
    corrected: bool = True

    @property
    def structures(self) -> tuple[str, ...]:
        """Keys of displacements.npz, in the order they are shown."""
        return tuple(self.labels)

    @property
    def has_reference(self) -> bool:
        """Whether values are measured against a solution of the reference material."""
        return "reference" in self.labels

    @property
    def picture(self) -> str:
        """Name of the figure that shows the values."""
        return self.figure or self.quantity


PURPOSES: dict[str, Purpose] = {}
"""By ``objective.type`` of the case, in the order of registration."""


def register(purpose: Purpose) -> Purpose:
    """Let case files ask for a purpose; the same type replaces the earlier one."""
    PURPOSES[purpose.type] = purpose
    return purpose


_CLOAK: dict[str, Any] = {
    "quantity": "distortion",
    "baseline": VOID,
    "labels": {
        "reference": "reference",
        "void": "hole, no cloak",
        "design": "cloak, designed",
        "lattice": "cloak, cells as built",
    },
    "needs": ("observe", "reference"),
    "figure": "distortions",
}
"""What all cloaks have in common."""

register(
    Purpose(
        type="displacement_distortion",
        objective="multiscale.objective.objective:DistortionObjective",
        heading="Displacement distortion over the observed region:",
        caption="Distortion without a cloak, as designed, on a refined mesh, and with the cells as built.",
        **_CLOAK,
    )
)
register(
    Purpose(
        type="any_load",
        objective="multiscale.objective.any_load:AnyLoadObjective",
        heading="Displacement distortion over the observed region, any combination of the loads:",
        caption="Distortion by load of the basis; the worst combination can be worse than each of them.",
        weighted=False,
        combinations=("worst", "mean_square"),
        **_CLOAK,
    )
)
register(
    Purpose(
        type="compliance",
        objective="multiscale.objective.compliance:ComplianceObjective",
        quantity="compliance",
        baseline=UNIFORM,
        labels={
            "uniform": "best uniform cell",
            "design": "graded, designed",
            "lattice": "graded, cells as built",
        },
        needs=("mass_limit",),
        heading="Compliance, the work of the loads:",
        caption="Compliance of the best uniform cell of the same mass, and of the graded part.",
        unit="N mm",
        forces_only=True,
        # A factor or an addend of the work does not move the stiffest design of one load.
        corrected=False,
    )
)
register(
    Purpose(
        type="target_displacement",
        objective="multiscale.objective.target:TargetObjective",
        quantity="mismatch",
        baseline=START,
        labels={"start": "initial material", "design": "designed", "lattice": "cells as built"},
        needs=("targets",),
        heading="Distance from the target displacement, relative:",
        caption="Distance from the target displacement: initial material, design, refined mesh, as built.",
    )
)
