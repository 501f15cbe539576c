"""What a cell is optimised for: objectives and constraints as functions of its tensor, with derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from micro.cell import tensor
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError

ZENER = (0.95, 1.05)
"""Zener ratios that count as isotropic."""

_AIM = (0.965, 1.035)
"""Narrower bounds while designing: making the cell black and white moves the ratio a little."""


PENALTY = 10.0
"""Of a constraint's violation, in units of the loss: more than any multiplier met."""

ROBUST = 0.1
"""Shift of the projection's threshold at which a low Poisson's ratio has to hold too."""


@dataclass(frozen=True)
class Goal:
    """An objective to be minimised and constraints g(C) <= 0.

    Attributes
    ----------
    name : str
        bulk, shear, young, poisson or match.
    volume : float
        Solid fraction, the scale of the stiffnesses.
    target : tuple of three floats, optional
        The tensor to match.
    isotropic : bool
        Whether the Zener ratio is bound.
    stiffness : float
        Least Young's modulus (``poisson`` only; without it a cell would dissolve).
    nu : float
        Poisson's ratio of the base material.
    """

    name: str
    volume: float
    target: tuple[float, float, float] | None = None
    isotropic: bool = False
    stiffness: float = 0.005
    nu: float = tensor.POISSON

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise InputError(f"known are {', '.join(OBJECTIVES)}", key="objective", value=self.name)
        if not 0 < self.volume < 1:
            raise InputError("lies between 0 and 1", key="volume", value=self.volume)
        if (self.target is None) == (self.name == "match"):
            raise InputError("belongs to the objective 'match', and to it alone", key="target")
        if self.target is not None and not tensor.is_definite(self.target):
            raise InputError("C11, C12, C44 must be positive definite", key="target", value=self.target)

    @property
    def shifts(self) -> tuple[float, ...]:
        """By how much the projection's threshold is raised (the design eroded) or lowered (dilated).

        A low Poisson's ratio hangs on hinges, which a grey design makes of grey: they vanish where it
        becomes solid and void. A design that has to be good both eroded and dilated has none (the robust
        formulation of Wang, Lazarov and Sigmund 2011).
        """
        return (ROBUST, -ROBUST) if self.name == "poisson" else (0.0,)

    @property
    def monotone(self) -> bool:
        """Whether more material always helps, which optimality criteria rely on."""
        return self.name in ("bulk", "shear", "young") and not self.isotropic

    def value(self, C: Floats) -> float:
        """The property itself, in its own units: a modulus over E_s, Poisson's ratio, a tensor error."""
        if self.name == "match":
            return float(tensor.tensor_error(C, np.array(self.target)))
        return float(OBJECTIVES[self.name](mean_isotropic(C) if self.isotropic else C))

    def loss(self, C: Floats) -> float:
        """What is minimised, of the order of one."""
        if self.name == "match":
            return float((((C - np.array(self.target)) / tensor.PAPER_SPAN) ** 2).sum() * 100)
        value = self.value(C)
        return value if self.name == "poisson" else -value / self._scale

    def constraints(self, C: Floats) -> Floats:
        """Values <= 0 where they are met."""
        rows = []
        if self.isotropic:
            ratio = float(tensor.zener(C))
            rows += [ratio - _AIM[1], _AIM[0] - ratio]
        if self.name == "poisson":
            # By its logarithm, since stiffness falls through orders of magnitude.
            rows += [float(np.log(self.stiffness / max(float(tensor.young(C)), 1e-12)))]
        return np.array(rows)

    def merit(self, C: Floats, volume: float) -> float:
        """The loss, and a penalty on what violates the constraints on tensor and volume."""
        if not tensor.is_definite(C):
            return np.inf
        violations = np.maximum(np.append(self.constraints(C), volume / self.volume - 1), 0)
        return self.loss(C) + PENALTY * float(violations.sum())

    def met(self, C: Floats, volume: float) -> bool:
        """Whether a finished cell fulfils what was asked of its tensor and its volume.

        Volume and stiffness to one percent.
        """
        if self.name == "match":
            return True
        isotropic = not self.isotropic or ZENER[0] <= float(tensor.zener(C)) <= ZENER[1]
        stiff = self.name != "poisson" or float(tensor.young(C)) >= 0.99 * self.stiffness
        return isotropic and stiff and volume <= 1.01 * self.volume

    def derivatives(self, C: Floats) -> tuple[Floats, Floats]:
        """Of the loss (3,) and of the constraints (c, 3) by C."""
        # Smooth functions of three numbers of order one: central differences are exact to 1e-9.
        steps = 1e-5 * np.eye(3) * max(float(np.abs(C).max()), 1e-6)
        size = 2 * np.diag(steps)
        loss = np.array([self.loss(C + s) - self.loss(C - s) for s in steps]) / size
        rows = np.array([self.constraints(C + s) - self.constraints(C - s) for s in steps]) / size[:, None]
        return loss, rows.T

    @property
    def _scale(self) -> float:
        K, G = tensor.hashin_shtrikman(self.volume, self.nu)
        return {"bulk": float(K), "shear": float(G), "young": self.volume}[self.name]


def mean_isotropic(C: Floats) -> Floats:
    """The isotropic tensor of the same bulk modulus and of Reuss's mean of the two shear moduli; (3,).

    The least shear modulus that a mean over the directions can give.
    """
    K, tetragonal, shear = tensor.to_moduli(C)
    mean = 5 / (2 / tetragonal + 3 / shear)
    return np.asarray(tensor.from_moduli(np.array([K, mean, mean])))


OBJECTIVES: dict[str, Callable[[Floats], Floats]] = {
    "bulk": tensor.bulk,
    "shear": lambda C: C[..., 2],
    "young": tensor.young,
    "poisson": tensor.poisson,
    "match": lambda C: C,
}
"""Properties by the name of the objective."""
