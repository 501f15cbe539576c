"""Rigid-body motions of a grid: which a mirror plane leaves free, how to hold them, how to take them out.

A body under forces in equilibrium needs no support. Its solution is known up to a rigid motion; three nodes
held in a statically determinate way (six components in all, fewer where mirror planes hold some) pick one
solution, and since the forces are in equilibrium the reactions there vanish: the strains are those of the
free body, whichever components are held. What is compared has its own rigid motion taken out by least
squares, so that nothing is left of that choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from micro.runtime.arrays import Bools, Floats
from multiscale.problem import grid

#: A force or moment above this share of what its terms add up to is not in equilibrium (rounding of sums).
EQUILIBRIUM_RTOL = 1e-9


def rigid_motions(size: grid.Size, which: Sequence[int] = range(6)) -> Floats:
    """Rigid motions about the grid's centre, (k, nx+1, ny+1, nz+1, 3): 0 to 2 shifts, 3 to 5 turns."""
    half = np.array(size) / 2
    x = np.stack(np.broadcast_arrays(*grid.nodes(size)), axis=-1) - half
    motions = np.zeros((len(which), *x.shape))
    for row, motion in enumerate(which):
        if motion < 3:
            motions[row, ..., motion] = 1.0
        else:
            motions[row] = np.cross(np.eye(3)[motion - 3], x)
    return motions


def motion_parity(motion: int, axis: int) -> int:
    """+1 or -1 of a motion of :func:`rigid_motions` about a mid-plane, as of loads (symmetry.py)."""
    shift, own = motion < 3, motion % 3 == axis
    return -1 if shift == own else 1


def imbalance(force: Floats, size: grid.Size) -> tuple[float, float]:
    """Resultant force and moment about the centre of nodal forces, each relative to what adds up to it."""
    work = rigid_motions(size) * force
    sums = np.abs(work.sum(axis=(1, 2, 3, 4)))
    terms = np.abs(work).sum(axis=(1, 2, 3, 4))
    return tuple(  # type: ignore[return-value]
        float(np.linalg.norm(sums[part]) / max(float(terms[part].max()), 1e-300))
        for part in (slice(0, 3), slice(3, 6))
    )


def determinate_pins(motions: Floats, nodes: Bools) -> Bools:
    """Components to hold against the given motions, one a motion.

    Parameters
    ----------
    motions : array (k, mx+1, my+1, mz+1, 3)
        Linearly independent; held components of the motions are zero there.
    nodes : bool array (mx+1, my+1, mz+1)
        Nodes that may be held.

    Returns
    -------
    bool array (mx+1, my+1, mz+1, 3)
        Chosen one after the other, each where what is left of the motions moves most (Gram-Schmidt with
        column pivoting): far apart, so that small forces there hold the body.
    """
    held = np.zeros((*nodes.shape, 3), dtype=bool)
    if not len(motions):
        return held
    left = (motions * nodes[..., None]).reshape(len(motions), -1).copy()
    # Shifts and turns alike, whatever the grid's size.
    left /= np.abs(left).max(axis=1, keepdims=True)
    for _ in range(len(motions)):
        column = int(np.argmax(np.round(np.sum(left**2, axis=0), 9)))  # rounded: the same on every rank
        direction = left[:, column] / np.linalg.norm(left[:, column])
        left -= np.outer(direction, direction @ left)
        held.reshape(-1)[column] = True
    return held


class RigidPart:
    """The least-squares rigid motion of displacements in a weighted norm of nodes.

    Parameters
    ----------
    motions : array (k, mx+1, my+1, mz+1, 3)
    weight : array (mx+1, my+1, mz+1)
        Of each node, zero where it does not count; the motions must differ on those that count.
    """

    def __init__(self, motions: Floats, weight: Floats):
        self._motions = motions
        self._weighted = motions * weight[..., None]
        self._gram = np.tensordot(self._weighted, motions, axes=([1, 2, 3, 4], [1, 2, 3, 4]))

    def removed(self, field: Floats) -> Floats:
        """A displacement field (mx+1, my+1, mz+1, 3) without its rigid motion."""
        if not len(self._motions):
            return field
        share = np.linalg.solve(self._gram, np.tensordot(self._weighted, field, axes=4))
        return np.asarray(field - np.tensordot(share, self._motions, axes=1))
