"""Where a cycle is slow: blocks of voxels that keep most of a noise, or swing nearly freely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Bytes, Floats
from multiscale.solve.voxels import local_kernels
from multiscale.solve.voxels.team import Field, Team

Codes = NDArray[np.uint64]

#: Edge of the blocks of voxels that are judged, in voxels.
_EDGE = 4
#: Plain cycles on noise, then steps of Chebyshev's iteration that damp modes whose Rayleigh quotient under
#: the cycle lies between these bounds and leave those below.
_PLAIN, _STEPS, _DAMPED = 1, 4, (0.2, 1.0)
#: Cycles that a search takes.
SEARCH_CYCLES = _PLAIN + _STEPS
#: A block is slow if it keeps this many times the median energy, or moves so much; at most this share each.
_ABOVE, _SHARE = 5.0, 0.08


def slow_nodes(
    levels: list[Any],
    stiffness: Floats,
    moduli: Floats,
    precondition: Callable[[Field, Field], None],
    team: Team,
    room: Sequence[Field],
) -> Bools | None:
    """Nodes around the blocks of voxels where the cycle leaves most of a noise; None if nowhere.

    A piece that swings strains only where it hangs, but has to be free as a whole for its region to swing:
    blocks count by their energy and by how far they move.

    Energies and motions are averaged over blocks with the same surroundings, so that like places are judged
    alike. All ranks call this at once, and judge by the blocks of all.

    Parameters
    ----------
    levels : list of Level
    stiffness : array (24, 24)
    moduli : array (materials + 1,)
    precondition : callable
        One cycle: from a residual to a correction, in place.
    team : Team
    room : sequence of four float32 fields
        Of the finest grid, to work in.
    """
    finest = levels[0]
    if len(levels) < 4:
        return None
    e, r, z, step = room
    finest.noise(e)
    for _ in range(_PLAIN):
        finest.product(e, r, team)
        precondition(r, z)
        team.combine(z, -1.0, e)
    low, high = _DAMPED
    middle, half = (high + low) / 2, (high - low) / 2
    rho = half / middle
    for k in range(_STEPS):
        finest.product(e, r, team)
        precondition(r, z)
        if k == 0:
            step[:] = 0
            team.combine(z, -1 / middle, step)
        else:
            new = 1 / (2 * middle / half - rho)
            team.combine(z, -2 * new / half, step, new * rho)
            rho = new
        team.combine(step, 1.0, e)
    blocks = levels[2].index.shape
    energy, motion = np.zeros(blocks), np.zeros(blocks)
    team.run(
        lambda i, j: local_kernels.block_motion(
            e, finest.index, moduli, stiffness, _EDGE, energy, motion, i, j
        ),
        len(energy),
    )
    solid, kind = _surroundings(finest.index, team)
    marked = np.zeros(blocks, dtype=bool)
    for values in (energy, motion):
        marked[solid] |= _slow(values[solid], kind[solid], team)
    nodes = np.zeros(finest.inverse.shape[:2] + finest.inverse.shape[3:], dtype=bool)
    for block in np.argwhere(marked):
        nodes[tuple(slice(_EDGE * b, _EDGE * (b + 1) + 1) for b in block)] = True
    nodes &= finest.inverse[:, :, 0] > 0
    return nodes if nodes.any() else None


def _slow(values: Floats, kind: Codes, team: Team) -> Bools:
    """Which blocks have a value, averaged over their kind, that is large among those of all ranks."""
    kinds, own, count = np.unique(kind, return_inverse=True, return_counts=True)
    rows = np.empty(len(kinds), dtype=[("kind", np.uint64), ("count", np.int64), ("sum", np.float64)])
    rows["kind"], rows["count"], rows["sum"] = kinds, count, np.bincount(own, weights=values)
    table = team.gathered(rows)
    kinds, row = np.unique(table["kind"], return_inverse=True)
    number = np.bincount(row, weights=table["count"])
    mean = np.bincount(row, weights=table["sum"]) / np.maximum(number, 1)
    every = np.repeat(mean, number.astype(np.int64))
    if len(every) == 0:
        return np.zeros(len(values), dtype=bool)
    least = max(_ABOVE * float(np.median(every)), float(np.quantile(every, 1 - _SHARE)))
    return mean[np.searchsorted(kinds, kind)] > least


def _surroundings(voxels: Bytes, team: Team) -> tuple[Bools, Codes]:
    """Which blocks hold solid, and codes, equal where the 27 blocks around are, the block among them."""
    rng = np.random.default_rng(0)
    inside = rng.integers(1, 2**63, size=_EDGE**3, dtype=np.uint64)
    factor = rng.integers(1, 2**63, size=27, dtype=np.uint64)
    padded = np.pad(voxels, [(0, -n % _EDGE) for n in voxels.shape])
    nx, ny, nz = (n // _EDGE for n in padded.shape)
    code = np.empty((nx, ny, nz), dtype=np.uint64)  # 0 is void
    for i in range(nx):
        layer = padded[_EDGE * i : _EDGE * (i + 1)].reshape(_EDGE, ny, _EDGE, nz, _EDGE)
        code[i] = layer.transpose(1, 3, 0, 2, 4).reshape(ny, nz, -1).astype(np.uint64) @ inside
    around = np.pad(code, 1)
    for plane, beyond in zip((0, -1), team.swap(code[:1], code[-1:]), strict=True):
        if beyond is not None:
            around[plane, 1:-1, 1:-1] = beyond[0]
    total = np.zeros_like(code)
    for number, (dx, dy, dz) in enumerate(np.ndindex(3, 3, 3)):
        total += factor[number] * around[dx : dx + nx, dy : dy + ny, dz : dz + nz]
    return code > 0, total
