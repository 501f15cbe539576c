"""What the generator returns: cells with the tensors asked for and foretold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micro.cell.chamber import unpack
from micro.cell.tensor import POISSON
from micro.homogenize.octants import OctantResult, homogenize_octants
from micro.runtime.arrays import Floats, Singles
from micro.runtime.progress import Progress, unheard


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
    packed: NDArray[np.uint8]
    target: NDArray[np.intp]
    predicted: Floats
    raw_clean: Floats
    connected: NDArray[np.bool_]
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

    def octants(self) -> NDArray[np.bool_]:
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
