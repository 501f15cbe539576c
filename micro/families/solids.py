"""Levels of struts, plates, holes and their unions: a size minus a distance, in units of the cell's edge.

Each level function takes a chamber and its shape parameters; each ``draw_``
function draws such parameters. A part whose radius or half-thickness is
:data:`ABSENT` is not there.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from micro.cell.chamber import CORNERS, Chamber
from micro.runtime.arrays import Bools, Floats

ABSENT = -1.0
"""Half-thickness or radius of a part that is not there."""

EDGES = tuple(combinations(range(4), 2))
"""The chamber's edges AB, AC, AD, BC, BD, CD: simple cubic, fcc and bcc struts and their duals."""

STRUTS = 5
"""Most struts of a graph."""

_STRUT = ("x0", "y0", "z0", "x1", "y1", "z1", "r0", "r1")

TRUSS = ("blend", *("edge_" + "ABCD"[a] + "ABCD"[b] for a, b in EDGES), *(f"node_{c}" for c in "ABCD"))
GRAPH = ("blend", *(f"strut{s}_{part}" for s in range(STRUTS) for part in _STRUT))
PLATES = (
    "blend",
    "plate_face",
    "plate_middle",
    "plate_xy",
    "plate_yz",
    "plate_octahedral",
    "octahedral_offset",
)
HOLLOW = ("blend", *(f"radius_{c}" for c in "ABCD"), *(f"power_{c}" for c in "ABCD"))
HYBRID = (*TRUSS, *PLATES[1:])


def _segment_level(points: Floats, ends: Floats, radii: Floats) -> Floats:
    """Radius minus distance for a conical strut between ``ends`` (2, 3) with end radii (2,)."""
    offset = [c - e for c, e in zip(points, ends[0], strict=True)]
    along = ends[1] - ends[0]
    length = float(along @ along)
    position = np.zeros_like(points[0])
    if length > 0:
        position = np.clip(sum(o * a for o, a in zip(offset, along, strict=True)) / length, 0.0, 1.0)
    distance = np.sqrt(sum((o - position * a) ** 2 for o, a in zip(offset, along, strict=True)))
    return np.asarray(radii[0] + (radii[1] - radii[0]) * position - distance)


def _ball_level(points: Floats, centre: Floats, radius: float, power: float) -> Floats:
    """Radius minus the p-norm distance to ``centre``: an octahedron (1), a ball (2), towards a cube."""
    distance = sum(np.abs(c - o) ** power for c, o in zip(points, centre, strict=True)) ** (1 / power)
    return np.asarray(radius - distance)


def _mirror_levels(points: Floats) -> tuple[Floats, ...]:
    """Minus the distance to the cell's faces, its mid-planes, and its two sets of diagonal planes."""
    x, y, z = points
    root = np.sqrt(2.0)
    return -x, -(0.5 - z), -(y - x) / root, -(z - y) / root


def _octahedral_level(points: Floats, offset: float) -> Floats:
    """Minus the distance to the planes +-x +-y +-z = +-offset and their periodic images."""
    x, y, z = points
    nearest = np.full_like(x, np.inf)
    for signed in (x + y + z, -x + y + z, x - y + z, x + y - z):
        for shift in (-offset, offset):
            gap = np.abs((signed + shift + 0.5) % 1.0 - 0.5)
            nearest = np.minimum(nearest, gap)
    return -nearest / np.sqrt(3.0)


def _union(levels: list[Floats], blend: float) -> Floats:
    """Largest level, rounded over the length ``blend`` where two meet (0: sharp)."""
    if blend <= 0:
        return np.asarray(np.max(levels, axis=0))
    stacked = np.array(levels) / blend
    top = stacked.max(axis=0)
    return np.asarray(blend * (top + np.log(np.exp(stacked - top).sum(axis=0))))


def _truss_levels(points: Floats, edges: Floats, nodes: Floats) -> list[Floats]:
    levels = [
        _segment_level(points, CORNERS[list(edge)], np.array([radius, radius]))
        for edge, radius in zip(EDGES, edges, strict=True)
        if radius > ABSENT
    ]
    levels += [
        _ball_level(points, corner, radius, 2.0)
        for corner, radius in zip(CORNERS, nodes, strict=True)
        if radius > ABSENT
    ]
    return levels


def truss(grid: Chamber, shape: Floats) -> Floats:
    """Shape: blend, six edge radii, four node radii."""
    return _union(_truss_levels(grid.points, shape[1:7], shape[7:11]), shape[0])


def _drawn(rng: np.random.Generator, chosen: Bools, low: float, high: float) -> Floats:
    """Sizes of the parts chosen, one at least; the others are absent."""
    chosen[rng.integers(len(chosen))] = True
    sizes = np.full(len(chosen), ABSENT)
    sizes[chosen] = rng.uniform(low, high, chosen.sum())
    return sizes


def draw_truss(rng: np.random.Generator) -> Floats:
    """A few struts along the chamber's edges, with balls at some of its corners."""
    edges = _drawn(rng, rng.random(6) < rng.uniform(0.2, 0.6), 0.02, 0.16)
    nodes = np.full(4, ABSENT)
    balls = rng.random(4) < 0.3
    nodes[balls] = rng.uniform(0.05, 0.3, balls.sum())
    return np.concatenate([[rng.choice([0.0, rng.uniform(0.005, 0.04)])], edges, nodes])


def graph(grid: Chamber, shape: Floats) -> Floats:
    """Shape: blend, then for each strut two ends (3 + 3) and two radii; radius ABSENT leaves it out."""
    levels = []
    for strut in shape[1:].reshape(STRUTS, 8):
        if strut[6] > ABSENT:
            levels.append(_segment_level(grid.points, strut[:6].reshape(2, 3), strut[6:]))
    return _union(levels, shape[0])


def draw_graph(rng: np.random.Generator) -> Floats:
    """A random tree of struts between points of the chamber's corners, edges, faces and interior.

    The parametrisation of Panetta et al. (2015, "Elastic textures"): a point may move only within the
    part of the chamber it belongs to, so that the unfolded graph stays connected where struts share it.
    """
    simplices = [s for size in (1, 2, 3, 4) for s in combinations(range(4), size)]
    corners = [simplices[i] for i in rng.permutation(len(simplices))[: rng.integers(2, STRUTS + 2)]]
    # The centres of the parts give the classical frames (Kelvin's among them), other points the rest.
    spread = 1e6 if rng.random() < 0.3 else 2.0
    vertices = np.array([rng.dirichlet(np.full(len(s), spread)) @ CORNERS[list(s)] for s in corners])
    radii = rng.uniform(0.02, 0.14, len(vertices))
    if rng.random() < 0.5:
        radii[:] = radii.mean()
    struts = np.zeros((STRUTS, 8))
    struts[:, 6:] = ABSENT
    pairs = [(int(rng.integers(b)), b) for b in range(1, len(vertices))]
    spare = [p for p in combinations(range(len(vertices)), 2) if p not in pairs]
    rng.shuffle(spare)
    pairs += spare[: int(rng.integers(0, STRUTS - len(pairs) + 1))]
    for row, (a, b) in zip(struts, pairs, strict=False):
        row[:3], row[3:6], row[6], row[7] = vertices[a], vertices[b], radii[a], radii[b]
    return np.concatenate([[rng.choice([0.0, rng.uniform(0.005, 0.04)])], struts.ravel()])


def _plate_levels(points: Floats, halves: Floats, octahedral: float, offset: float) -> list[Floats]:
    levels = [
        half + level for half, level in zip(halves, _mirror_levels(points), strict=True) if half > ABSENT
    ]
    if octahedral > ABSENT:
        levels.append(octahedral + _octahedral_level(points, offset))
    return levels


def plates(grid: Chamber, shape: Floats) -> Floats:
    """Shape: blend, half-thicknesses on faces, mid-planes, two diagonal sets, octahedral, its offset."""
    return _union(_plate_levels(grid.points, shape[1:5], shape[5], shape[6]), shape[0])


def draw_plates(rng: np.random.Generator) -> Floats:
    """Plates on a few of the five sets of planes."""
    halves = _drawn(rng, rng.random(5) < rng.uniform(0.2, 0.6), 0.01, 0.09)
    offset = rng.choice([0.0, 0.5, rng.uniform(0.0, 0.5)])
    return np.concatenate([[rng.choice([0.0, rng.uniform(0.003, 0.03)])], halves, [offset]])


def hollow(grid: Chamber, shape: Floats) -> Floats:
    """A block less p-norm holes at the corners A to D. Shape: blend, four radii, four powers."""
    holes = [
        _ball_level(grid.points, corner, radius, power)
        for corner, radius, power in zip(CORNERS, shape[1:5], shape[5:9], strict=True)
        if radius > ABSENT
    ]
    return -_union(holes, shape[0])


def draw_hollow(rng: np.random.Generator) -> Floats:
    """Holes of one to four kinds, between octahedra and cubes."""
    radii = _drawn(rng, rng.random(4) < 0.5, 0.1, 0.5)
    blend = rng.choice([0.0, rng.uniform(0.005, 0.05)])
    return np.concatenate([[blend], radii, 2.0 ** rng.uniform(0.2, 3.0, 4)])


def hybrid(grid: Chamber, shape: Floats) -> Floats:
    """Struts, nodes and plates together. Shape: blend, edges (6), nodes (4), plates (5), offset."""
    levels = _truss_levels(grid.points, shape[1:7], shape[7:11])
    return _union(levels + _plate_levels(grid.points, shape[11:15], shape[15], shape[16]), shape[0])


def draw_hybrid(rng: np.random.Generator) -> Floats:
    """A random truss with random plates."""
    return np.concatenate([draw_truss(rng), draw_plates(rng)[1:]])


def shell(grid: Chamber, shape: Floats) -> Floats:
    """The skin of a truss graph, hollow inside: minus the distance to its surface."""
    return -np.abs(graph(grid, shape))
