"""Cells that continue a given face: guidance of the sampler, and steps that leave the face alone.

The face of a cell is a layer of its level set, so a linear function of the coordinates. Every estimate of
the sampler is pulled onto the wanted face by a damped least-squares step; the network makes the rest of the
cell to go with it, at the noise that is left (guidance by a linear observation; Kawar et al. 2022). Later
steps toward the target tensor are confined to directions in which the face stays.
"""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from micro.cell.chamber import chamber
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.shape.distance import mirrored_distance, saturated
from micro.shape.space import ShapeSpace

_DAMPING = 0.02
"""Of the least-squares step, relative to the mean square of the face's response to the coordinates."""

_DEPTH = 1.5
"""Distance from the pattern's edge, in voxels, beyond which the face may be what it likes."""

_HELD = 0.05
"""Share of its largest response to a direction above which the face counts as moved by it."""


class FaceLayer:
    """The outer face of a space's cells: which of its points, and how they answer to the coordinates.

    Parameters
    ----------
    space : ShapeSpace
    """

    def __init__(self, space: ShapeSpace):
        n = space.n
        i, j, k = chamber(n).voxels
        self.n, self.points = n, np.flatnonzero(i == 0)
        self.row, self.column = j[self.points], k[self.points]
        self.response = space.basis[:, self.points].astype(np.float64)
        self.mean = space.mean[self.points].astype(np.float64)
        weight = np.where(self.row == self.column, 1.0, 2.0)
        gram = (self.response * weight) @ self.response.T
        damping = _DAMPING * np.trace(gram) / len(gram)
        self.pull = (weight[:, None] * self.response.T) @ np.linalg.inv(gram + damping * np.eye(len(gram)))
        values, vectors = np.linalg.eigh(gram)
        moved = vectors[:, values > _HELD**2 * values[-1]]
        self._moving = moved @ moved.T

    def free(self, yielding: float = 0.0) -> Floats:
        """How readily steps take each direction, (d, d).

        A projector onto those that leave the face as it is, if it does not yield.
        """
        return np.eye(len(self._moving)) - (1.0 - yielding) * self._moving


@lru_cache(maxsize=4)
def face_layer(space: ShapeSpace) -> FaceLayer:
    """That of a space; it takes a second and a half to find for 512 coordinates."""
    return FaceLayer(space)


class FaceGuide:
    """Wanted faces of m cells.

    Parameters
    ----------
    space : ShapeSpace
    faces : bool array, shape (m, r, r)
        Outer faces of octants (:meth:`micro.cell.cellset.CellSet.faces`), at any resolution r.

    Raises
    ------
    InputError
        If the faces are not bool, square and symmetric.
    """

    def __init__(self, space: ShapeSpace, faces: ArrayLike):
        wanted = np.asarray(faces)
        if wanted.dtype != bool or wanted.ndim != 3 or wanted.shape[1] != wanted.shape[2]:
            raise InputError("faces are a bool array (m, r, r)", key="faces", value=wanted.shape)
        if (wanted != wanted.transpose(0, 2, 1)).any():
            raise InputError("faces are symmetric about their diagonal", key="faces")
        self._layer = layer = face_layer(space)
        at = ((np.arange(layer.n) + 0.5) * wanted.shape[1] / layer.n).astype(int)
        pattern = wanted[:, at][:, :, at]
        self._wanted = np.stack([_levels(p, layer.n) for p in pattern])[:, layer.row, layer.column]

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        """Coordinates (b, d) of cells ``rows`` (b,) pulled onto their faces."""
        # Products by torch, as the network's: numpy's threads and torch's would take turns waiting for each
        # other at every step (three times slower on two cores).
        at = z.double().cpu()
        level = (at @ torch.from_numpy(self._layer.response)).numpy() + self._layer.mean
        wanted = self._wanted[rows.cpu().numpy()]
        # Deeper in the solid or the void than asked for is as good.
        beyond = level * np.sign(wanted) > np.abs(wanted)
        missing = torch.from_numpy(np.where(beyond, 0.0, wanted - level))
        return (at + missing @ torch.from_numpy(self._layer.pull)).to(z)

    def mismatch(self, solids: Bools) -> Floats:
        """Of octants (m, n, n, n) at the space's resolution: 1 - overlap (Eq. 5) of face and wanted one."""
        own = chamber(solids.shape[-1]).fold(solids)[:, self._layer.points]
        wanted = self._wanted > 0
        both = (own & wanted).sum(axis=1)
        either = np.sqrt(own.sum(axis=1) * wanted.sum(axis=1))
        return np.where(either > 0, 1 - both / np.maximum(either, 1), 1.0)

    def repeated(self, draws: int) -> FaceGuide:
        """The same for ``draws`` candidates of every cell, one after the other."""
        return self.rows(np.repeat(np.arange(len(self._wanted)), draws))

    def rows(self, index: NDArray[np.intp]) -> FaceGuide:
        """The same for some of the cells."""
        other = copy.copy(self)
        other._wanted = self._wanted[index]
        return other


def _levels(pattern: Bools, n: int) -> Floats:
    """Saturated signed distance (n, n) of a face, within the face and to its mirror images."""
    return saturated(np.clip(mirrored_distance(pattern, 4), -_DEPTH, _DEPTH), n)
