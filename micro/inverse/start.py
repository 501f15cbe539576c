"""Initial density fields of one cell.

``cos`` and ``sin`` are trigonometric, prod cos 2 pi k x and prod |sin 2 pi k x| over the axes (a sine is odd
about the mirror planes; its modulus is its mirrored continuation) or their means over the axes; the minimal
surfaces are those of :mod:`micro.families.families`; ``noise`` is white noise smoothed by the filter;
``waves`` a random trigonometric sum; ``walls`` is high on the cell's faces and falls towards a cavity like a
rounded cube; ``plates`` are plates on the faces and mid-planes and octahedral ones, whose mix is nearly
isotropic and nearly as stiff as can be (Tancogne-Dejean et al. 2018). A field becomes a density between 0 and
1 about the wanted volume.
"""

from __future__ import annotations

import numpy as np

from micro.cell.chamber import chamber
from micro.families import solids
from micro.families.families import FAMILIES, MINIMAL_SURFACES, minimal_surface, threshold_for_volume
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError

_CONTRAST = 0.25
"""Standard deviation of the starting density: far from black and white, so that all may change."""

STARTS = ("cos", "cos-product", "sin", "sin-product", "waves", "noise", "walls", "plates", *MINIMAL_SURFACES)
"""Names of initial fields."""


_PLATES: Floats = np.array([0.01, 0.045, 0.045, solids.ABSENT, solids.ABSENT, 0.03, 0.5])
"""Blend; half-thicknesses on faces, mid-planes, two diagonal sets, octahedral planes; their offset."""


def default_start(objective: str, isotropic: bool) -> tuple[str, int]:
    """Name and seed of the field that leads far for an objective; measured, see docs/method.md."""
    return _DEFAULTS.get((objective, isotropic), ("schwarz-p", 0))


_DEFAULTS = {
    ("bulk", False): ("walls", 0),
    ("bulk", True): ("plates", 0),
    ("young", True): ("plates", 0),
    ("shear", True): ("plates", 0),
    ("poisson", False): ("waves", 3),
    ("poisson", True): ("waves", 2),
}


def start_density(name: str, n: int, volume: float, *, wave: int = 1, sign: int = 1, seed: int = 0) -> Floats:
    """Initial density on the chamber of n, of mean about ``volume``; (q,) in [0, 1].

    Parameters
    ----------
    name : str
        One of :data:`STARTS`.
    n : int
    volume : float
    wave : int
        Wave number k of ``cos`` and ``sin``.
    sign : int
        -1 exchanges solid and void.
    seed : int
        Of ``noise`` and ``waves``.

    Raises
    ------
    InputError
        If there is no such field or the wave number is too large for n.
    """
    if name not in STARTS:
        raise InputError(f"known are {', '.join(STARTS)}", key="start", value=name)
    if not 1 <= wave <= max(1, n // 4):
        raise InputError(f"lies between 1 and n / 4 = {n // 4}", key="wave", value=wave)
    return as_density(sign * _field(name, n, wave, seed), n, volume)


def as_density(field: Floats, n: int, volume: float) -> Floats:
    """A field (q,) shifted and scaled to a density about ``volume``, kept within 0 and 1."""
    spread = float(np.std(field))
    if spread == 0:
        return np.full(len(field), volume)
    scaled = (field - threshold_for_volume(field, volume, n)) * (_CONTRAST / spread)
    return np.clip(0.5 + scaled, 0.0, 1.0)


def _field(name: str, n: int, wave: int, seed: int) -> Floats:
    grid = chamber(n)
    rng = np.random.default_rng(seed)
    if name in MINIMAL_SURFACES:
        return np.asarray(minimal_surface(name) @ grid.waves)
    if name == "waves":
        return np.asarray(FAMILIES["trig-solid"].draw(rng) @ grid.waves)
    if name == "noise":
        return rng.standard_normal(len(grid.weights))
    if name == "walls":
        return np.asarray(((0.5 - grid.points) ** 6).sum(axis=0) ** (1 / 6))
    if name == "plates":
        return solids.plates(grid, _PLATES)
    turn = np.cos if name.startswith("cos") else np.sin
    factors = turn(2 * np.pi * wave * grid.points)
    if name.startswith("sin"):
        factors = np.abs(factors)
    return np.asarray(factors.prod(axis=0) if name.endswith("product") else factors.mean(axis=0))
