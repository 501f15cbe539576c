"""Mirror planes through the middle of the grid, and what they let us leave out.

Reflecting a displacement field at the plane with normal n sends u(x) to
R u(x'), with x' the mirror image of x and R = I - 2 n n^T. A load is

- **symmetric** (+1) when its reflection is the load itself. So is its
  solution: on the plane the *normal* component is zero, the tangential ones
  are free;
- **antisymmetric** (-1) when its reflection is its negative. On the plane the
  *tangential* components are zero, the normal one is free.

Either way half the model, with that condition on the plane, gives the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from multiscale.problem.loads import AXIS_NAMES, LoadCase, TargetField

# Forces are sums of quarter tractions: mirrored nodes agree up to the order of a few additions.
MIRROR_RTOL = 1e-12


def reflect(field: Floats, axis: int) -> Floats:
    """A nodal vector field (nx+1, ny+1, nz+1, 3) reflected at the grid's mid-plane of ``axis``."""
    mirrored = np.flip(field, axis=axis).copy()
    mirrored[..., axis] *= -1
    return mirrored


def parity(load: LoadCase, axis: int) -> int | None:
    """Whether a load is symmetric (+1), antisymmetric (-1) or neither (None) about a mid-plane.

    Supports must be mirror symmetric either way; forces and prescribed displacements decide. The
    condition on the plane: +1 fixes the normal component, -1 the two tangential ones.
    """
    if not np.array_equal(np.flip(load.fixed, axis=axis), load.fixed):
        return None
    for sign in (1, -1):
        if all(_close(reflect(field, axis), sign * field) for field in (load.force, load.value)):
            return sign
    return None


def plane_components(sign: int, axis: int) -> tuple[int, ...]:
    """Displacement components that are zero on the mirror plane of ``axis`` for a load of this parity."""
    return (axis,) if sign > 0 else tuple(c for c in range(3) if c != axis)


def mirror_obstacle(
    axis: int,
    role: NDArray[np.int8],
    tensor: Floats,
    observed: Bools,
    loads: Sequence[LoadCase],
    targets: Sequence[TargetField] = (),
) -> str | None:
    """Why the mid-plane of ``axis`` can't halve the model, or None when it can.

    Parameters
    ----------
    axis : int
    role : int array (nx, ny, nz)
    tensor : array (nx, ny, nz, 3)
    observed : bool array (nx, ny, nz)
    loads : sequence of LoadCase
    targets : sequence of TargetField, optional
    """
    if role.shape[axis] % 2:
        return f"{role.shape[axis]} elements along {AXIS_NAMES[axis]} is an odd number"
    for what, values in (("regions", role), ("materials", tensor), ("observed regions", observed)):
        if not np.array_equal(np.flip(values, axis=axis), values):
            return f"the {what} are not mirror symmetric"
    for load in loads:
        if parity(load, axis) is None:
            return f"load '{load.name}' is neither symmetric nor antisymmetric"
    for load, target in zip(loads, targets, strict=False):
        sign = parity(load, axis)
        if not np.array_equal(np.flip(target.mask, axis=axis), target.mask) or not _close(
            reflect(target.value, axis), (sign or 1) * target.value
        ):
            return f"the target of load '{load.name}' has not that load's symmetry"
    return None


def _close(a: Floats, b: Floats) -> bool:
    return float(np.abs(a - b).max()) <= MIRROR_RTOL * float(np.abs(b).max())
