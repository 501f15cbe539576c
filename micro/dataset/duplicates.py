"""Cells of nearly the same shape: all pairs whose similarity (Eq. 5) exceeds a threshold.

The similarity of two cells is their common solid over the geometric mean of their solids. With bits on
the fundamental domain, each weighted by the number of voxels that it stands for (1, 3 or 6), the common
solid of many pairs is one matrix product. The common solid is at most the smaller of the two, so the
similarity is at most the square root of the volumes' ratio: sorted by volume, only a band is compared.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from micro.cell.chamber import chamber
from micro.runtime.arrays import Bytes, Floats, Singles
from micro.shape.space import half_period

ALIKE = 0.98
"""Above this similarity two cells count as the same shape."""


def near_duplicates(packed: Bytes, n: int, *, threshold: float = ALIKE, block: int = 512) -> NDArray[np.intp]:
    """Pairs of cells that are alike as they are, or after a shift of one by half a period.

    Parameters
    ----------
    packed : uint8 array, shape (m, bytes)
        Octants of n (:func:`micro.cell.chamber.pack`).
    threshold : float
        Similarity (Eq. 5) that a pair must exceed.
    block : int
        Cells that are unpacked at a time.

    Returns
    -------
    int array, shape (pairs, 2)
        Rows of ``packed``, the first smaller than the second; each pair once.
    """
    weights = chamber(n).weights.astype(np.float32)
    mirrored = half_period(n)
    # float32 counts voxels exactly below 2^24, an octant of n = 256.
    solid = _counts(packed, weights, block)
    order = np.argsort(solid, kind="stable")
    count = solid[order]
    found: list[NDArray[np.intp]] = [np.empty((0, 2), np.intp)]
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        bits = _bits(packed[rows], len(weights))
        # The shift is its own inverse and keeps the weights: shifting one of the two is enough.
        both = np.concatenate([bits, bits[:, mirrored]]) * weights
        end = int(np.searchsorted(count, count[start + len(rows) - 1] / threshold**2, side="right"))
        for first in range(start, end, block):
            columns = order[first : min(first + block, end)]
            common = both @ _bits(packed[columns], len(weights)).T
            common = np.maximum(common[: len(rows)], common[len(rows) :])
            alike = common > threshold * np.sqrt(np.outer(solid[rows], solid[columns]))
            a, b = np.nonzero(alike)
            later = a + start < b + first
            found.append(np.stack([rows[a[later]], columns[b[later]]], axis=1))
    return np.sort(np.concatenate(found), axis=1)


def fingerprints(packed: Bytes, n: int) -> NDArray[np.uint64]:
    """A 64-bit hash of each cell's bits (BLAKE2b), the same for the cell shifted by half a period; (m,)."""
    mirrored = half_period(n)
    shifted = np.packbits(np.unpackbits(packed, axis=1, count=len(mirrored))[:, mirrored], axis=1)
    # A sum (modulo 2^64) is even over its range, which the smaller of the two would not be.
    return _hashes(packed) + _hashes(shifted)


def _hashes(packed: Bytes) -> NDArray[np.uint64]:
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in packed]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _bits(packed: Bytes, count: int) -> Singles:
    return np.unpackbits(packed, axis=1, count=count).astype(np.float32)


def _counts(packed: Bytes, weights: Singles, block: int) -> Floats:
    parts = [_bits(packed[i : i + block], len(weights)) @ weights for i in range(0, len(packed), block)]
    return np.concatenate([np.empty(0), *parts]).astype(np.float64)
