"""Mirror planes: solving on a half, a quarter or an eighth of the grid.

A mirrored axis is cut at its middle and the *upper* half is kept, so that the
plane is the reduced grid's low face. A load that is even under the reflection
(parity +1) has no normal displacement on the plane; an odd one (-1) has no
tangential displacement there. The design is mirrored, whatever the loads'
parities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from multiscale.lattice.contact import neighbours
from multiscale.problem import grid
from multiscale.problem.problem import LoadCase, Problem, parity
from multiscale.problem.rigid import determinate_pins, motion_parity, rigid_motions
from multiscale.problem.symmetry import plane_components, reflect


@dataclass(frozen=True)
class ReducedLoad:
    """A load case on the reduced grid; arrays (mx+1, my+1, mz+1, 3).

    ``parities`` holds +1 or -1 for each mirrored axis (see :class:`Reduction`); ``motions``
    (k, mx+1, my+1, mz+1, 3) the rigid motions that a load without supports leaves free. They are
    held by statically determinate ``pins``, part of ``constrained``, whose reactions vanish.
    """

    name: str
    weight: float
    constrained: Bools
    prescribed: Floats
    force: Floats
    parities: tuple[int, ...]
    motions: Floats
    pins: Bools


class Reduction:
    """The part of a problem that is left after its mirror planes are used.

    Attributes
    ----------
    axes : tuple of int
        Mirrored axes.
    shape : (mx, my, mz)
        Elements of the reduced grid.
    node_weight : array (mx+1, my+1, mz+1)
        How many nodes of the whole grid a reduced node stands for.
    element_weight : int
        How many elements of the whole grid a reduced element stands for.
    loads : tuple of ReducedLoad
    """

    def __init__(self, problem: Problem, axes: tuple[int, ...] | None = None):
        self.problem = problem
        self.axes = tuple(problem.mirror_axes if axes is None else axes)
        self.shape: tuple[int, int, int] = tuple(  # type: ignore[assignment]
            m // 2 if a in self.axes else m for a, m in enumerate(problem.shape)
        )
        self.element_weight = 2 ** len(self.axes)
        weight = np.full([m + 1 for m in self.shape], float(self.element_weight))
        for axis in self.axes:
            weight[_plane(axis, 3)] /= 2.0
        self.node_weight = weight
        self.loads = tuple(self._reduce(load) for load in problem.loads)

    def _reduce(self, load: LoadCase) -> ReducedLoad:
        fixed, value, force = (self.nodes(a) for a in (load.fixed, load.value, load.force))
        signs = []
        for axis in self.axes:
            sign = parity(load, axis)
            if sign is None:
                raise ValueError(
                    f"load {load.name!r} is neither even nor odd under the mirror of axis {axis}"
                )
            signs.append(sign)
            plane = _plane(axis, 4)
            # The plane's nodes carry the force of both halves.
            force[plane] /= 2.0
            for c in plane_components(sign, axis):
                fixed[(*plane[:3], c)] = True
                value[(*plane[:3], c)] = 0.0
        motions = self._free_motions(load, tuple(signs))
        pins = determinate_pins(motions, self.nodes(grid.nodes_of(self.problem.solid)))
        return ReducedLoad(load.name, load.weight, fixed | pins, value, force, tuple(signs), motions, pins)

    def _free_motions(self, load: LoadCase, signs: tuple[int, ...]) -> Floats:
        """Rigid motions that neither supports nor the conditions on mirror planes hold."""
        chosen = [
            m
            for m in range(6)
            if load.free
            and all(motion_parity(m, axis) == sign for axis, sign in zip(self.axes, signs, strict=True))
        ]
        return rigid_motions(self.problem.shape, chosen)[(slice(None), *self._upper())].copy()

    # -------------------------------------------------- whole -> reduced
    def nodes(self, field: NDArray) -> NDArray:
        """Copy of the reduced part of a whole node field (nx+1, ny+1, nz+1, ...)."""
        return field[self._upper()].copy()

    def elements(self, field: NDArray) -> NDArray:
        """Copy of the reduced part of a whole element field (nx, ny, nz, ...)."""
        return field[self._upper()].copy()

    def symmetric_elements(self, field: Floats, counted: Bools, file: str | Path) -> Floats:
        """The reduced part of an element field (nx, ny, nz, c), mirror symmetric where it counts.

        Raises
        ------
        InputError
            If it is not, naming the ``file`` it came from.
        """
        reduced = self.elements(field)
        whole = self.expand_elements(reduced)
        # A file of single precision is symmetric to its last digit only.
        if not np.allclose(whole[counted], field[counted], rtol=1e-6, atol=1e-9):
            raise InputError(
                "the field is not mirror symmetric as the case is: [grid] mirror = [] solves the whole model",
                file=file,
            )
        return reduced

    def _upper(self) -> tuple[slice, ...]:
        return tuple(slice(m // 2 if a in self.axes else 0, None) for a, m in enumerate(self.problem.shape))

    # -------------------------------------------------- reduced -> whole
    def expand_elements(self, field: NDArray) -> NDArray:
        """The whole element field of a mirror-symmetric reduced one."""
        for axis in self.axes:
            field = np.concatenate([np.flip(field, axis), field], axis=axis)
        return field

    def expand_displacement(self, field: Floats, load: ReducedLoad) -> Floats:
        """The whole displacement field (nx+1, ny+1, nz+1, 3) of a reduced one under ``load``."""
        for axis, sign in zip(self.axes, load.parities, strict=True):
            mirrored, _ = neighbours(sign * reflect(field, axis), axis)
            field = np.concatenate([mirrored, field], axis=axis)
        return field


def _plane(axis: int, ndim: int) -> tuple:
    """Index of the low face of ``axis`` in an array of ``ndim`` dimensions."""
    return tuple(0 if a == axis else slice(None) for a in range(ndim))
