"""The fundamental chamber of a cubic cell: where level sets are evaluated.

The mirror planes of a cubic cell (symmetry m-3m) cut it into 48 alike
chambers. With coordinates 0 < x, y, z < 1/2 from the cell's corner to its
centre, one chamber is x <= y <= z, a tetrahedron with the corners

    A = (0, 0, 0)        the cell's corner        B = (0, 0, 1/2)      an edge's midpoint
    C = (0, 1/2, 1/2)    a face's centre          D = (1/2, 1/2, 1/2)  the cell's centre

Every function on the chamber unfolds to one of full symmetry. And no image of
a point of the chamber is nearer to another point of the chamber than that
point itself (a property of reflection groups; Humphreys 1990, section 1.12), so
the distance to a set of struts or plates needs only the part of the set that
lies in the chamber.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micro.cell import fundamental_domain

Floats = NDArray[np.float64]

CORNERS: Floats = np.array([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5]])
"""The chamber's corners A, B, C, D, shape (4, 3)."""
CORNERS.setflags(write=False)

ORDERS = tuple((a, b, c) for c in range(1, 4) for b in range(c + 1) for a in range(b + 1))
"""Wave numbers h <= k <= l <= 3 of the symmetrised products of cosines, (0, 0, 0) left out."""


@dataclass(frozen=True)
class Chamber:
    """The voxels i <= j <= k of an octant of n: q = n (n+1) (n+2) / 6 points, in C order.

    Attributes
    ----------
    n : int
    points : array, shape (3, q)
        Voxel centres x <= y <= z, x = (i + 1/2) / (2 n), in units of the cell's edge.
    weights : int array, shape (q,)
        Number of the octant's voxels that each point stands for (1, 3 or 6).
    """

    n: int
    points: Floats
    weights: NDArray[np.int64]

    @cached_property
    def waves(self) -> Floats:
        """Mean over permutations of cos 2 pi h x cos 2 pi k y cos 2 pi l z for :data:`ORDERS`; (19, q)."""
        cosines = [[np.cos(2 * np.pi * order * c) for order in range(4)] for c in self.points]
        rows = []
        for order in ORDERS:
            turns = list(permutations(order))
            rows.append(np.mean([cosines[0][a] * cosines[1][b] * cosines[2][c] for a, b, c in turns], axis=0))
        return np.array(rows)

    def unfold(self, values: ArrayLike) -> NDArray:
        """The symmetric octant with these chamber values; (q,) to (n, n, n)."""
        _, rank = fundamental_domain(self.n)
        return np.asarray(values)[rank].reshape(self.n, self.n, self.n)

    def mean(self, values: ArrayLike) -> float:
        """Mean over the octant of chamber values (q,)."""
        return float(np.asarray(values, dtype=np.float64) @ self.weights / self.n**3)


@lru_cache(maxsize=8)
def chamber(n: int) -> Chamber:
    """The chamber of octants of n voxels an edge."""
    inside, rank = fundamental_domain(n)
    index = np.stack(np.unravel_index(inside, (n, n, n)))
    points = (index + 0.5) / (2 * n)
    weights = np.bincount(rank, minlength=len(inside))
    points.setflags(write=False)
    weights.setflags(write=False)
    return Chamber(n, points, weights)
