"""Tractions of far-field stresses on the faces of the block.

Where a hole meets a face, the face's solid carries what the whole face would: the traction is scaled by a
linear function of the position that keeps its resultant and its first moments, so that a uniform stress stays
in equilibrium.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from multiscale.case.boundary import FACES, FarField
from multiscale.problem import grid


def far_field_tractions(
    field: FarField, solid: Bools, file: Path | None = None, key: str = "far_field"
) -> Iterator[tuple[str, Floats, Floats]]:
    """Face, weights of its quads (a, b), and force per area in MPa at weight 1, of every loaded face.

    Parameters
    ----------
    field : FarField
    solid : bool array (nx, ny, nz)
    file : Path or None
    key : str

    Raises
    ------
    InputError
        If a face has too little solid to carry its share; names the ``file`` and ``key`` of the load.
    """
    for face in FACES:
        axis, side = grid.face_axis(face)
        vector = field.matrix()[axis] * (1 if side else -1)
        if not vector.any():
            continue
        carried = carried_by(grid.on_face(solid, face))
        if carried is None:
            raise InputError("too little solid there to carry it", file=file, key=key, value=face)
        weights = carried
        if field.along is not None:
            along = "xyz".index(field.along)
            ramp = (np.arange(solid.shape[along]) + 0.5) / solid.shape[along] * 2 - 1
            # The face's own axis can't be the ramp's: no stress on its planes then (checked in the case).
            first = next(a for a in range(3) if a != axis) == along
            weights = weights * (ramp[:, None] if first else ramp[None, :])
        yield face, weights, vector


def carried_by(solid: Bools) -> Floats | None:
    """Weights (a, b) of a face's solid quads with the area and the first moments of the whole face.

    None if they can't have them: too few are solid.
    """
    a, b = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in solid.shape), indexing="ij")
    basis = np.stack([np.ones_like(a), a, b])
    gram = np.einsum("iab,jab,ab->ij", basis, basis, solid.astype(float))
    if np.linalg.matrix_rank(gram) < 3:
        return None
    share = np.linalg.solve(gram, [float(a.size), 0.0, 0.0])
    return np.asarray(np.tensordot(share, basis, axes=1) * solid)
