"""Spaces of loads that nobody has to list: the six uniform far-field stresses, and their first moments.

Every stress field is in equilibrium without body forces, so that its tractions on the block's faces are in
equilibrium too, and exact for a uniform isotropic block: linear fields are compatible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from multiscale.case.boundary import FarField, Load
from multiscale.case.shapes import Table

WORST_LOAD = "worst_load"
"""What the worst combination is called beside the loads of the basis."""

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Axes of the components in Voigt order."""


class LoadSpace(Table):
    """A basis of loads, added to the listed ones."""

    far_field: Literal["stresses", "moments"]
    """"stresses": the six uniform stresses of 1 MPa; "moments": these, and their first moments, of 1 MPa at
    the faces: six bendings (a normal stress that grows across its axis) and three twists (a shear that grows
    across its plane; torsions are their differences)."""

    def loads(self) -> tuple[Load, ...]:
        """The basis."""
        return far_field_basis(moments=self.far_field == "moments")


def far_field_basis(*, moments: bool = False) -> tuple[Load, ...]:
    """The six uniform stresses of 1 MPa as load cases; with ``moments`` the nine first moments too."""
    loads = []
    for number, (a, b) in enumerate(_VOIGT):
        loads.append(_load(f"stress_{'xyz'[a]}{'xyz'[b]}", number, None))
    if moments:
        for number, (a, b) in enumerate(_VOIGT):
            for along in (c for c in range(3) if c not in (a, b)):
                kind = "bending" if a == b else "twist"
                loads.append(_load(f"{kind}_{'xyz'[a]}{'xyz'[b]}_along_{'xyz'[along]}", number, along))
    return tuple(loads)


def _load(name: str, number: int, along: int | None) -> Load:
    stress = tuple(1.0 if i == number else 0.0 for i in range(6))
    field = FarField.model_validate({"stress_mpa": stress, "along": None if along is None else "xyz"[along]})
    return Load(name=name, far_field=field)


def combination_text(amplitudes: Mapping[str, float]) -> str:
    """A combination in words, the largest first: ``1.00 stress_yy - 0.98 stress_xx``; none below 0.005."""
    shown = sorted(((load, a) for load, a in amplitudes.items() if abs(a) >= 0.005), key=lambda p: -abs(p[1]))
    text = "".join(f" {'-' if a < 0 else '+'} {abs(a):.2f} {load}" for load, a in shown)
    return text.removeprefix(" + ").removeprefix(" ")
