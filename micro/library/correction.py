"""Moving cells made by formula toward target tensors, many at once.

A quasi-Newton method on Eq. 4's scaled residual, for each cell in a few coordinates: its volume fraction
(through the threshold) and the parameters of its family that move its surface in the most different ways.
The first Jacobian comes from differences at half the resolution, where a cell costs an eighth; later ones
from Broyden's rank-one update (1965), which with one coordinate is the secant method. Every trial is
evaluated at the cell's own resolution, must be connected, and replaces the cell only if it is nearer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from micro.cell import octant as cell, tensor
from micro.cell.chamber import chamber
from micro.families.families import GRAIN, LEADING, Family, shifted
from micro.families.solids import ABSENT
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.secant import broyden, least_norm, within
from micro.runtime.arrays import Bools, Floats

_VOLUME_STEP = 0.02
_SHAPE_STEP = 0.1
"""Differences: volume fraction, and parameters in units of the level's standard deviation. Large against
one voxel orbit, small against the curvature of C."""

_FINE = GRAIN**2
"""Grain of corrected parameters."""

_RTOL = 1e-4
"""Residual tolerance of a trial; the error in C is its square."""


@dataclass
class Search:
    """The search for one cell: where it is best, and what it knows of the slope.

    Attributes
    ----------
    family, n, target
        The formula, the resolution, C11, C12, C44 to reach.
    bounds : Bounds
        What is near enough, and by which measure cells are compared.
    params : array, shape (p,)
        Parameters of the best cell so far.
    C : array, shape (3,)
        Its tensor.
    octant : bool array (n, n, n) or None
        Its voxels, None while it is the start.
    active : list of int
        Parameters that are coordinates, after the volume.
    steps : array, shape (d,)
        Unit of each coordinate.
    jacobian : array, shape (3, d)
        dC by coordinate, in these units.
    """

    family: Family
    n: int
    target: Floats
    bounds: tensor.Bounds
    params: Floats
    C: Floats
    volume: float
    active: list[int]
    steps: Floats
    jacobian: Floats
    octant: Bools | None = None
    radius: float = 1.0

    @staticmethod
    def begin(
        family: Family,
        params: Floats,
        C: Floats,
        target: Floats,
        n: int,
        coordinates: int,
        bounds: tensor.Bounds,
    ) -> Search:
        """A search in at most ``coordinates`` coordinates.

        Parameters
        ----------
        family : Family
        params, C : arrays (p,), (3,)
            The start.
        target : array, shape (3,)
        n : int
            Voxels along the octant's edge.
        coordinates : int
        bounds : Bounds
            At which the cell is left alone.
        """
        params = np.array(params[: len(family.parameters)])
        coarse = chamber(_half(n))
        level = family.shape_level(params, coarse.n)
        unit = float(np.std(level)) or 1.0
        active = _coordinates(family, params, level, unit, coarse.n, coordinates - 1)
        steps = np.array([_VOLUME_STEP, *([_SHAPE_STEP * unit] * len(active))])
        volume = float(family.octant(params, n).mean())
        return Search(family, n, target, bounds, params, C, volume, active, steps, np.zeros((3, len(steps))))

    @property
    def error(self) -> float:
        """Error of the best cell by the measure of the bounds."""
        return float(self.bounds.error(self.C, self.target))

    @property
    def far(self) -> bool:
        """Whether it is still beyond them."""
        return self.error > self.bounds.tolerance

    def at(self, z: Floats, n: int) -> Floats:
        """Parameters a step z (d,), in units of ``steps``, away from the best cell."""
        params = self.params.copy()
        move = z * self.steps
        params[self.active] = np.round((params[self.active] + move[1:]) / _FINE) * _FINE
        return self.family.with_volume(params, float(np.clip(self.volume + move[0], 0.02, 0.98)), n)

    def propose(self) -> Floats:
        """The least-norm step that meets the target in the linear model, within the trust radius; (d,)."""
        slope = self.jacobian / tensor.PAPER_SPAN[:, None]
        z = least_norm(slope, (self.target - self.C) / tensor.PAPER_SPAN)
        return within(z, 2.0 * self.radius)

    def learn(self, z: Floats, change: Floats) -> None:
        """Broyden's update with the change of C (3,) that a step z showed."""
        if float(z @ z) > 1e-10:
            free = self.jacobian.any(axis=0)
            self.jacobian = np.where(free, broyden(self.jacobian, z, change), 0.0)


def run(searches: list[Search], steps: int, nu: float) -> None:
    """Advance all searches until they are within their bounds or ``steps`` trials are done.

    Parameters
    ----------
    searches : list of Search
    steps : int
    nu : float
        Poisson's ratio of the base material.
    """
    _differences([s for s in searches if s.far], nu)
    for _ in range(steps):
        active = [s for s in searches if s.far and s.radius > 1e-2]
        if not active:
            return
        _advance(active, nu)


def _half(n: int) -> int:
    return max(4, n // 2)


def _coordinates(family: Family, params: Floats, level: Floats, unit: float, n: int, count: int) -> list[int]:
    """Greedy choice of parameters by how much they move the surface beyond what those chosen can.

    What matters of a parameter is its change of the level near the zero level; the constant (the
    threshold's) is taken first, and each next one has the largest part orthogonal to the chosen.
    """
    lead = len(LEADING)
    near = np.abs(shifted(level, params[:lead], n)) < 0.5 * unit
    weight = np.sqrt(chamber(n).weights[near])
    start = shifted(level, params[:lead], n)[near]
    moves: dict[int, Floats] = {}
    for i in range(1, len(params)):
        if params[i] != ABSENT:
            moved = params.copy()
            moved[i] += _SHAPE_STEP * unit
            moves[i] = (family.chamber_field(moved, n)[near] - start) * weight
    basis = [weight / np.linalg.norm(weight)] if near.any() else []
    chosen: list[int] = []
    smallest = 0.02 * _SHAPE_STEP * unit * float(np.linalg.norm(weight))
    while len(chosen) < count and moves:
        moves = {i: m - sum(float(m @ b) * b for b in basis[-1:]) for i, m in moves.items()}
        best = max(moves, key=lambda i: float(np.linalg.norm(moves[i])))
        size = float(np.linalg.norm(moves[best]))
        if size <= smallest:
            break
        basis.append(moves.pop(best) / size)
        chosen.append(best)
    return chosen


def _differences(searches: list[Search], nu: float) -> None:
    """First Jacobians by one-sided differences at half the resolution, all in one batch."""
    if not searches:
        return
    octants, places = [], []
    for number, search in enumerate(searches):
        n = _half(search.n)
        sign = -1.0 if search.volume > 0.5 else 1.0
        for axis in range(-1, len(search.steps)):
            z = np.zeros(len(search.steps))
            if axis >= 0:
                z[axis] = sign if axis == 0 else 1.0
            octant = search.family.octant(search.at(z, n), n)
            octants.append(octant)
            places.append((number, axis, sign, float(octant.mean())))
    result = homogenize_octants(np.stack(octants), nu=nu, rtol=1e-3)
    base: dict[int, tuple[Floats, float]] = {}
    for (number, axis, _, volume), C, status in zip(places, result.C, result.status, strict=True):
        search = searches[number]
        if axis < 0:
            base[number] = (C if status == Status.OK else np.full(3, np.nan), volume)
            continue
        C0, volume0 = base[number]
        step = (volume - volume0) / search.steps[0]
        usable = status == Status.OK and np.isfinite(C0).all()
        if axis > 0 and usable:
            # A volume is met to one voxel orbit or layer only: what is left of it is not the parameter's.
            search.jacobian[:, axis] = C - C0 - search.jacobian[:, 0] * step
        elif usable and abs(step) > 0.2:
            search.jacobian[:, 0] = (C - C0) / step
        elif axis == 0:
            # Bending-dominated scaling, stiffness as the square of density (Gibson and Ashby 1997).
            search.jacobian[:, 0] = 2 * search.C / search.volume * search.steps[0]


def _advance(searches: list[Search], nu: float) -> None:
    """One trial of each search, homogenised in one batch."""
    trials = []
    for search in searches:
        z = search.propose()
        params = search.at(z, search.n)
        octant = search.family.octant(params, search.n)
        if cell.connectivity(octant).connected:
            z[0] = (octant.mean() - search.volume) / search.steps[0]
            trials.append((search, z, params, octant))
        else:
            search.radius *= 0.3
    if not trials:
        return
    result = homogenize_octants(np.stack([t[3] for t in trials]), nu=nu, rtol=_RTOL)
    for (search, z, params, octant), C, status in zip(trials, result.C, result.status, strict=True):
        if status != Status.OK:
            search.radius *= 0.3
            continue
        search.learn(z, C - search.C)
        if search.bounds.error(C, search.target) < search.error:
            search.params, search.C, search.octant = params, C, octant
            search.volume = float(octant.mean())
            search.radius = min(1.0, 1.5 * search.radius)
        else:
            search.radius = 0.5 * min(search.radius, float(np.abs(z).max()) / 2)
