"""Cells as the generator delivers them: the largest component of a level set, drained if asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micro.cell.cellset import CellSet
from micro.cell.chamber import pack, unpack
from micro.cell.octant import connectivity, largest_component
from micro.cell.tensor import POISSON
from micro.diffusion.weights import Model
from micro.generator.steering import predict
from micro.homogenize.octants import OctantResult, homogenize_octants
from micro.runtime.arrays import Bools, Bytes, Floats, Singles
from micro.runtime.progress import Progress, unheard
from micro.shape.channels import drained
from micro.shape.distance import signed_distance

CLEAN = 0.99
"""Share of a sample's solid in its largest component from which it counts as one piece."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Generated cells, not homogenised yet.

    Attributes
    ----------
    n : int
        Resolution of the octants.
    z : float32 array, shape (m, d)
        Coordinates in the shape space.
    packed : uint8 array, shape (m, bytes)
        Octants as bits (:func:`micro.cell.chamber.pack`), the largest component of each level set.
    target : int array, shape (m,)
        Row of the targets that each cell was made for.
    predicted : array, shape (m, 3)
        The surrogate's tensors.
    raw_clean : array, shape (m,)
        Share of the solid in the largest component before the rest was dropped.
    connected : bool array, shape (m,)
        Whether the cell meets its faces and mid-planes.
    poisson : float
        Poisson's ratio of the base material that the tensors hold for.
    open : bool
        Whether cells were asked for that enclose no void: those that do are drained as they are delivered.
    """

    n: int
    z: Singles
    packed: Bytes
    target: NDArray[np.intp]
    predicted: Floats
    raw_clean: Floats
    connected: Bools
    poisson: float = POISSON
    open: bool = False

    def __len__(self) -> int:
        return len(self.z)

    def rows(self, index: ArrayLike) -> Samples:
        """Some of the samples."""
        return joined([self], self.n, np.asarray(index, dtype=np.intp))

    def moved(self, first: int) -> Samples:
        """The same with ``first`` added to the rows of their targets."""
        return replace(self, target=self.target + first)

    def octants(self) -> Bools:
        """Octants, bool (m, n, n, n)."""
        return unpack(self.packed, self.n)

    def homogenize(
        self, rtol: float = 1e-3, device: str = "cpu", progress: Progress = unheard
    ) -> OctantResult:
        """The cells' own tensors (:func:`micro.homogenize.octants.homogenize_octants`)."""
        return homogenize_octants(
            self.octants(), nu=self.poisson, rtol=rtol, device=device, progress=progress
        )


def joined(parts: list[Samples], n: int, index: Any = slice(None)) -> Samples:
    """Samples of several batches as one, in the order of ``index``."""
    names = ("z", "packed", "target", "predicted", "raw_clean", "connected")
    arrays = {name: np.concatenate([getattr(p, name) for p in parts])[index] for name in names}
    return Samples(n, **arrays, poisson=parts[0].poisson, open=parts[0].open)


def generated(samples: Samples, octants: Bools, C: Floats, trials: ArrayLike, good: Bools) -> CellSet:
    """The good ones as a set; parameters: row of the target, number of the sample, homogenisations.

    Parameters
    ----------
    samples : Samples
    octants, C : arrays, shapes (m, n, n, n), (m, 3)
        As they were homogenised.
    trials, good : arrays, shape (m,)
        Homogenisations spent, and which cells are kept.
    """
    params = np.stack([samples.target, np.arange(len(samples)), trials], axis=1).astype(np.float64)
    return CellSet.from_octants(
        octants[good], C[good], family="generated", params=params[good], poisson=samples.poisson
    )


class Solids(NamedTuple):
    """Cells of coordinates.

    Attributes
    ----------
    z : array, shape (m, d)
    solid : bool array, shape (m, n, n, n)
        Octants: the largest component of each level set.
    clean : array, shape (m,)
        Its share of the raw solid.
    touches : bool array, shape (m,)
        Whether it meets face and mid-plane.
    """

    z: Singles
    solid: Bools
    clean: Floats
    touches: Bools


class Delivery:
    """Makes cells of a model's coordinates (m, d)."""

    def __init__(self, model: Model):
        self._model = model

    def solids(self, z: Singles, n: int, open: bool = False) -> Solids:
        """Octants of n, drained if open cells are asked for."""
        levels = self._model.space.levels(z, n)
        raw = levels > 0
        found = [connectivity(octant) for octant in raw]
        pairs = zip(raw, found, strict=True)
        solid = np.stack([o if c.components == 1 else largest_component(o) for o, c in pairs])
        if open:
            solid = np.stack([drained(o, level) for o, level in zip(solid, levels, strict=True)])
        clean = np.array([c.largest_fraction for c in found])
        touches = np.array([c.touches_face and c.touches_middle for c in found], dtype=bool)
        return Solids(z, solid, clean, touches)

    def redistanced(self, z: Singles, open: bool = False) -> Solids:
        """Coordinates of the signed distance of each solid, at the space's resolution, and what it was."""
        space = self._model.space
        found = self.solids(z, space.n, open)
        return found._replace(z=space.encode(signed_distance(found.solid)))

    def octants(self, z: Singles, n: int, open: bool = False) -> tuple[Bools, Bools]:
        """Octants as they are delivered, and whether they are connected."""
        found = self.solids(z, n, open)
        return found.solid, found.touches & found.solid.any(axis=(1, 2, 3))

    def samples(self, z: Singles, target: NDArray[np.intp], n: int, open: bool = False) -> Samples:
        """Cells with the surrogate's tensors.

        Parameters
        ----------
        z : array, shape (m, d)
        target : int array, shape (m,)
            Row of the targets that each is made for.
        n : int
            Voxels along the octants' edge.
        open : bool
            Whether closed cells are drained.
        """
        found, predicted = self.solids(z, n, open), predict(self._model.surrogate, z)
        connected = found.touches & found.solid.any(axis=(1, 2, 3))
        model = self._model
        return Samples(
            n, z, pack(found.solid), target, predicted, found.clean, connected, model.poisson, open
        )
