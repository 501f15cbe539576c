"""Choosing one candidate cell per group so that neighbours touch.

Every group g has candidates c with a tensor error e(g, c). Two neighbouring
groups g, h meet at w(g, h) interfaces. The choice minimises ::

    sum_g size_g e(g, c_g) + weight * sum_{g<h} w(g, h) miss(c_g, c_h)

where ``miss`` is 1 - overlap, plus a large penalty when the contact area is
below what is asked. Iterated conditional modes (Besag 1986): sweep over the
groups, give each its best candidate while the others stand still, until no
group changes. Each step lowers the sum, so it ends; the result is a local
minimum and deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from multiscale.contact import face_words, facing_voxels, neighbours

Array = NDArray[np.float64]

#: Cost of an interface below the asked contact, in units of a fully missed overlap.
_PENALTY = 1e3
#: More sweeps than any observed run needs (usually fewer than ten).
_SWEEPS = 50


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen candidate of each group and what is left wrong.

    Attributes
    ----------
    choice : int array (m,)
        Column of the candidate chosen for each group.
    weak : int array
        Groups that keep an interface below the asked contact.
    sweeps : int
    """

    choice: NDArray[np.int64]
    weak: NDArray[np.int64]
    sweeps: int


def interface_counts(label: NDArray[np.int64], groups: int) -> sparse.csr_array:
    """w (m, m), symmetric: interfaces between groups; ``label`` (nx, ny, nz), -1 for no element."""
    rows, columns = [], []
    for axis in range(3):
        a, b = neighbours(label, axis)
        both = (a >= 0) & (b >= 0) & (a != b)
        rows += [a[both], b[both]]
        columns += [b[both], a[both]]
    r, c = np.concatenate(rows), np.concatenate(columns)
    return sparse.coo_array((np.ones(len(r)), (r, c)), shape=(groups, groups)).tocsr()


class FaceTable:
    """Contact area and overlap between cells' faces, as whole rows on demand.

    Parameters
    ----------
    faces : bool array (m, n, n)
    """

    def __init__(self, faces: NDArray[np.bool_]):
        self._words = face_words(faces)
        self._own = facing_voxels(self._words, self._words)
        self._voxels = faces[0].size

    def miss(self, a: NDArray[np.int64], b: int, min_contact: float) -> Array:
        """Cost (len(a),) of cell ``b`` beside each of the cells ``a``."""
        both = facing_voxels(self._words[a], self._words[b])
        smaller = np.minimum(self._own[a], self._own[b])
        overlap = np.divide(both, smaller, out=np.zeros(len(a)), where=smaller > 0)
        return 1.0 - overlap + _PENALTY * (both < max(1.0, min_contact * self._voxels))


def select(
    candidates: NDArray[np.int64],
    errors: Array,
    size: NDArray[np.int64],
    counts: sparse.csr_array,
    faces: NDArray[np.bool_],
    min_contact: float,
    weight: float,
) -> Selection:
    """Choose a candidate for every group.

    Parameters
    ----------
    candidates : int array (m, k)
        Cells (rows of ``faces``) by group, best tensor first; -1 is no candidate.
    errors : array (m, k)
        Their tensor errors.
    size : int array (m,)
    counts : sparse array (m, m)
        From :func:`interface_counts`.
    faces : bool array (cells, n, n)
    min_contact : float
        Contact area asked of every interface, as a fraction of the face.
    weight : float
        Tensor error that one fully missed interface is worth.
    """
    table = FaceTable(faces)
    cost = np.where(candidates >= 0, errors * size[:, None], np.inf)
    choice = np.argmin(cost, axis=1)
    order = np.argsort(-size, kind="stable")
    sweeps, changed = 0, True
    while changed and sweeps < _SWEEPS:
        changed, sweeps = False, sweeps + 1
        for g in order:
            total = cost[g] + weight * _interface_cost(g, candidates, choice, counts, table, min_contact)
            best = int(np.argmin(total))
            if total[best] < total[choice[g]] - 1e-12:
                choice[g], changed = best, True
    weak = [
        g
        for g in order
        if _interface_cost(g, candidates, choice, counts, table, min_contact)[choice[g]] >= _PENALTY
    ]
    return Selection(choice, np.array(sorted(weak), dtype=np.int64), sweeps)


def _interface_cost(
    g: int,
    candidates: NDArray[np.int64],
    choice: NDArray[np.int64],
    counts: sparse.csr_array,
    table: FaceTable,
    min_contact: float,
) -> Array:
    """Cost (k,) of each candidate of ``g`` at the interfaces with its neighbours' present choices."""
    start, stop = counts.indptr[g], counts.indptr[g + 1]
    out = np.zeros(candidates.shape[1])
    for h, count in zip(counts.indices[start:stop], counts.data[start:stop], strict=True):
        out += count * table.miss(candidates[g], int(candidates[h, choice[h]]), min_contact)
    return out
