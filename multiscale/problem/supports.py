"""Are the supports enough? Rigid-body motions that a load case leaves free."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from micro.runtime.arrays import Bools
from micro.runtime.errors import InputError
from multiscale.problem import grid
from multiscale.problem.loads import LoadCase
from multiscale.problem.rigid import EQUILIBRIUM_RTOL, imbalance


def free_motions(fixed: Bools, part: Bools) -> int:
    """How many of the six rigid-body motions of a part its supports leave free.

    Parameters
    ----------
    fixed : bool (nx+1, ny+1, nz+1, 3)
        Prescribed components.
    part : bool (nx, ny, nz)
        Elements of one connected part.
    """
    held = fixed & grid.nodes_of(part)[..., None]
    index = np.argwhere(held)
    if not len(index):
        return 6
    component = index[:, 3]
    # Centred and scaled, so that the rank below does not depend on where the grid's origin is.
    position = index[:, :3] - np.mean(np.argwhere(part), axis=0) - 0.5
    position /= max(part.shape)
    rows = np.zeros((len(index), 6))
    rows[np.arange(len(index)), component] = 1
    for turn in range(3):
        spin = np.zeros(3)
        spin[turn] = 1
        rows[:, 3 + turn] = np.cross(spin, position)[np.arange(len(index)), component]
    return 6 - int(np.linalg.matrix_rank(rows.T @ rows, tol=1e-10))


def check_supported(load: LoadCase, solid: Bools, file: str | Path | None, key: str) -> None:
    """Raise InputError unless every part of the structure is held against all rigid-body motions.

    A load without any support must be in equilibrium by itself, and the structure in one part. Elements
    belong to one part when they share faces: what hangs on an edge or a corner is a hinge.

    Parameters
    ----------
    load : LoadCase
    solid : bool array (nx, ny, nz)
    file : path or None
    key : str
        Of the load in the file.

    Raises
    ------
    InputError
        Naming what is loose, or out of equilibrium.
    """
    from scipy import ndimage  # half of the start-up time of a command that finds a mistake earlier

    parts, count = ndimage.label(solid)
    fixed = load.fixed
    if load.free and count == 1:
        force, moment = imbalance(load.force, grid.element_size(load.force))
        if max(force, moment) <= EQUILIBRIUM_RTOL:
            return
        what = "forces" if force > EQUILIBRIUM_RTOL else "moments"
        raise InputError(
            f"there are no supports, and the {what} are not in equilibrium (they leave "
            f"{max(force, moment):.1e} of their sum of magnitudes): give supports, for example "
            'fixed = [{ where = "y-" }], or balance the load',
            file=file,
            key=key,
        )
    for number in range(1, count + 1):
        part = parts == number
        free = free_motions(fixed, part)
        if free == 0:
            continue
        if count > 1:
            low = np.argwhere(part)[0].tolist()
            what = f"a part of the structure ({int(part.sum())} elements, one at {low}) that touches no other"
        else:
            what = "the structure"
        raise InputError(
            f"the supports leave {what} free to move ({free} of 6 rigid-body motions): fix more components "
            '(both shifts and turns), for example fixed = [{ where = "y-" }]',
            file=file,
            key=key,
        )
