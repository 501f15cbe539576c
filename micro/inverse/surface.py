"""Moving the surface of a binary cell by shape derivatives.

Under a displacement v of the surface along its outward normal a constant of the homogenised tensor changes
by the integral of its energy density times v (a free boundary's shape derivative; Allaire, Jouve and
Toader 2004, section 3). On voxels: a level field holds the octant as {level > 0} with slope one per voxel
at the surface; added to it, v moves the surface, and the voxels that change sides change the tensor by
about the density of the solid next to them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from micro.cell import octant as cell
from micro.cell.chamber import chamber
from micro.cell.tensor import PAPER_SPAN
from micro.homogenize.secant import broyden
from micro.runtime.arrays import Bools, Floats
from micro.shape.derivative import SMOOTH, carried_over, level_field, voxel_rates

_SKIN = 1.5
"""Level up to which a voxel counts as near the surface."""

_NOISE = 2e-3
"""Predicted changes (in units of Eq. 4's ranges) below this teach a model little."""


@dataclass(frozen=True)
class Surface:
    """A binary octant ready to move, on the voxels i <= j <= k of its fundamental domain.

    Attributes
    ----------
    octant : bool array, shape (n, n, n)
    level : array, shape (q,)
        The level field.
    rate : array, shape (3, q)
        Estimated change of C11, C12, C44 if an orbit of voxels becomes solid (a void one) or void
        (a solid one, then times -1).
    velocities : array, shape (3, q)
        Smooth densities of the three constants, of the order of one near the surface.
    typical : array, shape (3,)
        What they were divided by.
    """

    octant: Bools
    level: Floats
    rate: Floats
    velocities: Floats
    typical: Floats

    @staticmethod
    def of(octant: Bools, gradient: Floats) -> Surface:
        """From an octant and its dC / d(modulus), (3, n, n, n)."""
        grid = chamber(len(octant))
        level = grid.fold(level_field(octant))
        smooth = grid.fold(carried_over(gradient, octant, SMOOTH))
        rate: Floats = grid.fold(voxel_rates(gradient, octant)) * grid.weights
        skin = np.abs(smooth[:, np.abs(level) < _SKIN])
        typical = np.quantile(skin, 0.75, axis=1) if skin.size else np.zeros(3)  # a solid cell has no surface
        typical = np.where(typical > 0, typical, 1.0)
        return Surface(octant, level, rate, smooth / typical[:, None], typical)

    def size(self, displacement: Floats) -> Floats:
        """Largest displacement near the surface, in voxels; (..., q) to (...)."""
        return np.abs(displacement[..., np.abs(self.level) < _SKIN]).max(axis=-1, initial=0.0)

    def moved(self, displacement: Floats) -> Bools:
        """The octant after a displacement (q,) of its surface in voxels, loose pieces left out."""
        solid = chamber(len(self.octant)).unfold(self.level + displacement > 0)
        return cell.largest_component(solid)

    def part(self, some: Bools) -> Surface:
        """Some of its voxels (q,), such as those that a displacement may take to the other side."""
        return replace(
            self, level=self.level[some], rate=self.rate[:, some], velocities=self.velocities[:, some]
        )

    def predicted(self, displacement: Floats) -> Floats:
        """Changes of (C11, C12, C44) by what displacements (..., q) remove, and add; (..., 2, 3)."""
        before, after = self.level > 0, self.level + displacement > 0
        removed, added = (
            flips.astype(np.float64) @ self.rate.T for flips in (before & ~after, after & ~before)
        )
        return np.stack([-removed, added], axis=-2)

    def learned(self, model: Floats, displacement: Floats, change: Floats) -> Floats:
        """A model (3, 6) of the change of C by what is removed and added, after a change (3,) was seen."""
        predicted = (self.predicted(displacement) / PAPER_SPAN).ravel()
        return broyden(model, predicted, change / PAPER_SPAN, _NOISE)

    def near(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """A random half of the voxel orbits at the surface: the next attempt looks at another half."""
        return np.flatnonzero((np.abs(self.level) < 0.8) & (rng.random(len(self.level)) < 0.5))

    def slope(self, basis: Floats) -> Floats:
        """Change of C per unit of each displacement field of ``basis`` (b, q); (3, b)."""
        near = np.abs(self.level) < 1.0
        return self.rate[:, near] @ basis[:, near].T / 2
