"""From a grey design to a connected cell of solid and void, with a tensor of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from micro.cell import octant as cell
from micro.cell.chamber import chamber
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants
from micro.runtime.arrays import Bools, Floats

_MORE = (1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.25)
"""Shares of the volume that are tried for a connected cell."""


@dataclass(frozen=True)
class BinaryCell:
    """A connected binary octant (n, n, n) and its homogenised C (3,), exact void."""

    octant: Bools
    C: Floats

    @property
    def volume(self) -> float:
        """Solid fraction."""
        return float(self.octant.mean())


def threshold(density: Floats, n: int, volume: float) -> Bools:
    """The densest orbits (of q) up to the solid fraction ``volume``, without loose pieces; (n, n, n)."""
    grid = chamber(n)
    order = np.argsort(-density, kind="stable")
    filled = np.cumsum(grid.weights[order]) / n**3
    count = int(np.searchsorted(filled, volume + 0.5 / n**3, side="right"))
    solid = np.zeros(len(density), dtype=bool)
    solid[order[:count]] = True
    return cell.largest_component(grid.unfold(solid))


def binary_cell(density: Floats, n: int, volume: float, nu: float, rtol: float = 1e-4) -> BinaryCell | None:
    """The design as solid and void; None if it hangs together in no way or carries nothing.

    Where the densest voxels up to the volume are in pieces, the next denser ones join them: what the volume
    then exceeds is for the surface to give back.

    Parameters
    ----------
    density : array
        On the octant's fundamental domain.
    n : int
        Voxels along the octant's edge.
    volume : float
        Solid fraction.
    nu : float
        Poisson's ratio of the base material.
    rtol : float
        Of the homogenisation.
    """
    for more in _MORE:
        octant = threshold(density, n, min(volume * more, 1.0))
        if octant.any() and cell.connectivity(octant).connected:
            break
    else:
        return None
    result = homogenize_octants(octant, nu=nu, rtol=rtol)
    return BinaryCell(octant, result.C[0]) if result.status[0] == Status.OK else None
