"""What the pieces of neighbouring cells hang by: the narrowest passage between them.

The solid of a cell's face falls into patches, the sections of its struts and walls. Where a patch P of one
face and patches Q of the other meet, the passage is what solid both share, and its *hold* the share of the
smaller section that passes ::

    hold(P) = |P and Q| / min(|P|, |Q|)

1 where the smaller lies wholly on the larger. The mean overlap of an interface hides a strut that hangs by
a voxel among others that fit; a print loses it first, and it swings in a full-scale model. A patch that
meets nothing ends freely: it hangs by nothing here, and counts in the overlap alone.

As cells are mirror symmetric, a face's patches are those of its octant's n x n outer voxels, and a hold
needs working out once per pair of cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats, Ints
from multiscale.lattice.contact import Interface, Pairs, face_words, facing_voxels, interfaces_of

#: Hold below which pieces hang by little.
WEAK = 0.25
#: Patches of an octant's face that are told apart, the largest ones: 1 of 200 cells of the data set has more.
_PATCHES = 6
_PAIRS_AT_ONCE = 1 << 14


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of faces, the largest first.

    Attributes
    ----------
    words : uint64 array, shape (m, patches, words)
        Their voxels (:func:`multiscale.lattice.contact.face_words`); empty ones fill up.
    area : int array, shape (m, patches)
    """

    words: NDArray[np.uint64]
    area: Ints

    @classmethod
    def of(cls, faces: Bools) -> Patches:
        """The patches of octants' faces (m, n, n), joined along voxels' edges."""
        masks = np.zeros((len(faces), _PATCHES, *faces.shape[1:]), dtype=bool)
        for mask, face in zip(masks, faces, strict=True):
            labels = cc3d.connected_components(face.astype(np.uint8), connectivity=4)
            size = np.bincount(labels.reshape(-1))[1:]
            for place, label in enumerate(np.argsort(-size, kind="stable")[:_PATCHES]):
                mask[place] = labels == label + 1
        words = face_words(masks.reshape(-1, *faces.shape[1:])).reshape(len(faces), _PATCHES, -1)
        return cls(words, facing_voxels(words, words))

    def least_hold(self, a: Ints, b: Ints) -> Floats:
        """The least hold of pairs of cells, 1 where nothing meets.

        Parameters
        ----------
        a, b : int arrays
            Cells, broadcast against each other.
        """
        a, b = np.broadcast_arrays(a, b)
        both = facing_voxels(self.words[a][..., :, None, :], self.words[b][..., None, :, :])
        holds = [self._holds(both, self.area[a], self.area[b])]
        holds.append(self._holds(both.swapaxes(-1, -2), self.area[b], self.area[a]))
        return np.asarray(np.minimum(*holds))

    @staticmethod
    def _holds(both: Ints, own: Ints, other: Ints) -> Floats:
        """Least hold (...) of patches of areas ``own`` on those of ``other``; ``both`` (..., own, other)."""
        passed = both.sum(axis=-1)
        met = np.minimum(own, ((both > 0) * other[..., None, :]).sum(axis=-1))
        return np.asarray(np.where(passed > 0, passed / np.maximum(met, 1), 1.0).min(axis=-1))


@dataclass(frozen=True, eq=False)
class Holds:
    """What the pieces of a lattice hang by.

    Attributes
    ----------
    weak : int
        Interfaces with a hold below :data:`WEAK`.
    least : float
        The least hold; 1 if all sections pass whole.
    weakest : tuple of (Interface, float)
        The pairs of cells of least hold, with one place and the hold of each.
    """

    weak: int
    least: float
    weakest: tuple[tuple[Interface, float], ...]


def find_holds(index: NDArray[np.int32], faces: Bools, *, weakest: int = 10) -> Holds:
    """What neighbours in a lattice hang by.

    Parameters
    ----------
    index : int32 array, shape (nx, ny, nz)
        Unique cell of each element, -1 for void.
    faces : bool array, shape (m, n, n)
        Outer face of each unique cell's octant.
    weakest : int
        How many pairs to list.
    """
    pairs = Pairs.of(index, len(faces))
    a, b = pairs.ends
    unlike = np.flatnonzero(pairs.unlike)
    patches, hold = Patches.of(faces), np.ones(len(a))
    for start in range(0, len(unlike), _PAIRS_AT_ONCE):
        some = unlike[start : start + _PAIRS_AT_ONCE]
        hold[some] = patches.least_hold(a[some], b[some])
    listed = np.argsort(hold, kind="stable")[:weakest]
    found = interfaces_of(pairs, faces, listed)
    return Holds(
        int(pairs.counts[hold < WEAK].sum()),
        float(hold.min(initial=1.0)),
        tuple(zip(found, hold[listed].tolist(), strict=True)),
    )
