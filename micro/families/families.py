"""Cells by formula: families of level sets with the full cubic symmetry m-3m.

A family's level set on the chamber (:mod:`micro.cell.chamber`) is

    field(x) = level(x; shape parameters) - threshold - tilt_axis a(x) - tilt_diagonal d(x),

solid where positive, with a = (cos 2 pi x + cos 2 pi y + cos 2 pi z) / 3 and d the mean of the products
of two of these cosines. Raising the threshold thins every cell; the two tilts move material between
corner, edges, faces and centre. These three leading parameters, alike in all families, are what
:func:`micro.library.retrieval.correct` adjusts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from micro.cell import octant as cell
from micro.cell.chamber import ORDERS, Chamber, chamber
from micro.families import solids
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError

Draw = Callable[[np.random.Generator], Floats]

LEADING = ("threshold", "tilt_axis", "tilt_diagonal")
"""The leading parameters that all families share."""

GRAIN = 2.0**-12
"""Shape parameters are drawn as multiples of this: few digits, so that they compress."""

_AXIS, _DIAGONAL = ORDERS.index((0, 0, 1)), ORDERS.index((0, 1, 1))


@dataclass(frozen=True)
class Family:
    """Cells that share a formula.

    Attributes
    ----------
    name : str
    parameters : tuple of str
        Names of all parameters, :data:`LEADING` first.
    level : callable
        (chamber, shape parameters) -> level values (q,).
    draw : callable
        rng -> random shape parameters.
    """

    name: str
    parameters: tuple[str, ...]
    level: Callable[[Chamber, Floats], Floats]
    draw: Draw

    def shape_level(self, params: ArrayLike, n: int) -> Floats:
        """The level alone, leading parameters left out, on the chamber of n; shape (q,)."""
        return self.level(chamber(n), self._values(params)[len(LEADING) :])

    def chamber_field(self, params: ArrayLike, n: int) -> Floats:
        """Level set at the chamber's voxels; shape (q,)."""
        return shifted(self.shape_level(params, n), self._values(params)[: len(LEADING)], n)

    def field(self, params: ArrayLike, n: int) -> Floats:
        """Level set on an octant's voxel centres x = (i + 1/2) / (2n), solid where positive; (n, n, n).

        ``params`` may carry NaN beyond the family's own parameters (as a CellSet stores them).

        Raises
        ------
        InputError
            If there are too few parameters, or one is not finite.
        """
        return chamber(n).unfold(self.chamber_field(params, n))

    def octant(self, params: ArrayLike, n: int) -> Bools:
        """The solid of :meth:`field` without loose pieces; bool (n, n, n)."""
        return cell.largest_component(self.field(params, n) > 0)

    def with_volume(self, params: Floats, volume: float, n: int) -> Floats:
        """These parameters with the threshold that gives about the solid fraction ``volume``; (p,)."""
        params = params.copy()
        params[0] = 0.0
        params[0] = threshold_for_volume(self.chamber_field(params, n), volume, n)
        return params

    def sample(self, rng: np.random.Generator, volume: float, n: int = 32) -> Floats:
        """Random parameters whose threshold gives about the solid fraction ``volume``; shape (p,)."""
        shape = np.round(self.draw(rng) / GRAIN) * GRAIN
        params = self.with_volume(np.concatenate([np.zeros(len(LEADING)), shape]), volume, n)
        # A finer grain: a threshold may fall on a plateau of levels and must stay between two.
        params[0] = np.round(params[0] / GRAIN**2) * GRAIN**2
        return params

    def _values(self, params: ArrayLike) -> Floats:
        values = np.asarray(params, dtype=np.float64)[: len(self.parameters)]
        if values.shape != (len(self.parameters),) or not np.isfinite(values).all():
            reason = f"{len(self.parameters)} finite parameters are needed"
            raise InputError(reason, key=self.name, value=values.tolist())
        return values


def shifted(level: ArrayLike, leading: ArrayLike, n: int) -> Floats:
    """The level set for a level (q,) and the three leading parameters; shape (q,)."""
    threshold, axis, diagonal = np.asarray(leading, dtype=np.float64)
    waves = chamber(n).waves
    return np.asarray(level - threshold - axis * waves[_AXIS] - diagonal * waves[_DIAGONAL])


def threshold_for_volume(chamber_field: ArrayLike, volume: float, n: int) -> float:
    """The shift t for which the octant's voxels with field > t fill about the fraction ``volume``."""
    values = np.asarray(chamber_field, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    filled = np.cumsum(chamber(n).weights[order]) / n**3
    at = min(int(np.searchsorted(filled, volume)), len(order) - 2)
    # Plateaus (a plate's layers): go to the end of the plateau that crosses the volume.
    below = values[order[at:]] < values[order[at]]
    step = int(np.argmax(below)) if below.any() else len(below) - 1
    return float(values[order[at]] + values[order[at + step]]) / 2


def _solid_wave(grid: Chamber, shape: Floats) -> Floats:
    return shape @ grid.waves


def _sheet_wave(grid: Chamber, shape: Floats) -> Floats:
    return -np.abs(shape[1:] @ grid.waves - shape[0])


def _draw_coefficients(rng: np.random.Generator) -> Floats:
    """Normal coefficients that decay with the wave number, more or less steeply, at unit variance."""
    norms = np.array([np.linalg.norm(order) for order in ORDERS])
    weights = rng.standard_normal(len(ORDERS)) * norms ** -rng.uniform(0.5, 3.0)
    weights[rng.random(len(ORDERS)) < rng.uniform(0.0, 0.7)] = 0.0
    if not weights.any():
        weights[0] = 1.0
    return _unit(weights)


def _unit(weights: Floats) -> Floats:
    """Coefficients scaled to unit standard deviation over the cell."""
    grid = chamber(16)
    values = weights @ grid.waves
    return weights / np.sqrt(grid.mean(values**2) - grid.mean(values) ** 2)


# Nodal approximations of minimal surfaces with mirror symmetry (von Schnering and Nesper 1991;
# Michielsen and Kole 2003) by coefficients of the symmetrised waves: a cyclic sum of three terms is
# three times the mean, a product of all three cosines its own mean.
MINIMAL_SURFACES: dict[str, dict[tuple[int, int, int], float]] = {
    "schwarz-p": {(0, 0, 1): 3.0},
    "i-wp": {(0, 1, 1): 6.0, (0, 0, 2): -3.0},
    "neovius": {(0, 0, 1): 9.0, (1, 1, 1): 4.0},
    "f-rd": {(1, 1, 1): 4.0, (0, 2, 2): -3.0},
    "o,c-to": {(0, 1, 1): 1.8, (0, 0, 1): -1.2},
}


def minimal_surface(name: str) -> Floats:
    """Wave coefficients of a minimal surface's nodal approximation at unit variance; shape (19,).

    Raises
    ------
    InputError
        If there is no surface of that name.
    """
    if name not in MINIMAL_SURFACES:
        raise InputError(f"known surfaces are {', '.join(MINIMAL_SURFACES)}", key="surface", value=name)
    terms = MINIMAL_SURFACES[name]
    return _unit(np.array([terms.get(order, 0.0) for order in ORDERS]))


def _draw_surface(rng: np.random.Generator) -> Floats:
    """One minimal surface, or a blend of two, of either sign."""
    names = list(MINIMAL_SURFACES)
    first, second = (minimal_surface(names[i]) for i in rng.choice(len(names), 2, replace=False))
    blend = rng.choice([0.0, rng.random()])
    mixed = (1 - blend) * first + rng.choice([-1.0, 1.0]) * blend * second
    return rng.choice([-1.0, 1.0]) * _unit(mixed)


def _sheet(draw: Draw) -> Draw:
    return lambda rng: np.concatenate([[rng.uniform(-1.2, 1.2)], draw(rng)])


def _clad(grid: Chamber, shape: Floats) -> Floats:
    """Plates joined to a trigonometric solid. Shape: middle, coefficients, then the plates' shape."""
    count = len(ORDERS)
    # A tenth brings a wave of unit variance to the size of a distance in cell edges.
    wave = 0.1 * (shape[1 : 1 + count] @ grid.waves - shape[0])
    return np.maximum(wave, solids.plates(grid, shape[1 + count :]))


def _draw_clad(rng: np.random.Generator) -> Floats:
    return np.concatenate([[rng.uniform(-0.5, 1.5)], _draw_coefficients(rng), solids.draw_plates(rng)])


def _wavy(grid: Chamber, shape: Floats) -> Floats:
    """Plates whose thickness varies in waves. Shape: coefficients (in edge lengths), the plates' shape."""
    count = len(ORDERS)
    return shape[:count] @ grid.waves + solids.plates(grid, shape[count:])


def _draw_wavy(rng: np.random.Generator) -> Floats:
    return np.concatenate([rng.uniform(0.0, 0.05) * _draw_coefficients(rng), solids.draw_plates(rng)])


def wavy_from_plates(params: Floats) -> Floats:
    """The parameters of ``wavy`` that give the same cell as these of ``plates``."""
    lead, count = len(LEADING), len(FAMILIES["plates"].parameters)
    return np.concatenate([params[:lead], np.zeros(len(ORDERS)), params[lead:count]])


_WAVES = tuple(f"a{a}{b}{c}" for a, b, c in ORDERS)

FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        Family("trig-solid", LEADING + _WAVES, _solid_wave, _draw_coefficients),
        Family("trig-sheet", (*LEADING, "middle", *_WAVES), _sheet_wave, _sheet(_draw_coefficients)),
        Family("tpms-solid", LEADING + _WAVES, _solid_wave, _draw_surface),
        Family("tpms-sheet", (*LEADING, "middle", *_WAVES), _sheet_wave, _sheet(_draw_surface)),
        Family("truss", LEADING + solids.TRUSS, solids.truss, solids.draw_truss),
        Family("graph", LEADING + solids.GRAPH, solids.graph, solids.draw_graph),
        Family("shell", LEADING + solids.GRAPH, solids.shell, solids.draw_graph),
        Family("plates", LEADING + solids.PLATES, solids.plates, solids.draw_plates),
        Family("hollow", LEADING + solids.HOLLOW, solids.hollow, solids.draw_hollow),
        Family("hybrid", LEADING + solids.HYBRID, solids.hybrid, solids.draw_hybrid),
        Family("clad", (*LEADING, "middle", *_WAVES, *solids.PLATES), _clad, _draw_clad),
        Family("wavy", (*LEADING, *_WAVES, *solids.PLATES), _wavy, _draw_wavy),
    )
}
"""All families by name."""


def family(name: str) -> Family:
    """The family called ``name``.

    Raises
    ------
    InputError
        If there is no family of that name.
    """
    if name not in FAMILIES:
        raise InputError(f"unknown family; known are {', '.join(FAMILIES)}", key="family", value=name)
    return FAMILIES[name]
