"""Exact solves where multigrid is slow: against the operator itself, symmetry, and what they gain."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from micro.cell.tensor import SOLID
from micro.runtime.memory import trim
from multiscale.solve.voxels import regions
from multiscale.solve.voxels.local_solves import LocalSolves, balanced
from multiscale.solve.voxels.multigrid import Multigrid, coarse_masks
from multiscale.solve.voxels.regions import Site, planned
from multiscale.solve.voxels.solve import solve
from multiscale.solve.voxels.team import Team


@pytest.fixture(scope="module")
def hierarchy():
    """Random voxels of two materials held at one end, in one piece by a solid plate along them."""
    rng = np.random.default_rng(0)
    solid = (rng.random((13, 10, 21)) < 0.6).astype(np.uint8)
    solid *= rng.integers(1, 3, solid.shape, dtype=np.uint8)
    solid[:, 0] = 1
    fixed = np.zeros((14, 11, 22, 3), dtype=bool)
    fixed[0] = True
    fixed[..., 0, 2] = True
    return Multigrid(solid, SOLID, [fixed], Team(1), (0.0, 1.0, 0.3))


def marked(level, *boxes):
    nodes = np.zeros(level.inverse[:, :, 0].shape, dtype=bool)
    for box in boxes:
        nodes[tuple(slice(a, b) for a, b in box)] = True
    return nodes & (level.inverse[:, :, 0] > 0)


def solves_of(hierarchy, nodes, team, limit=np.inf):
    finest = hierarchy.levels[0]
    site = Site(nodes, finest.index, finest.fixed)
    return LocalSolves.of(site, hierarchy.stiffness, hierarchy.moduli, team, limit)


def noise(level, seed):
    u = np.random.default_rng(seed).standard_normal(level.nodes).astype(np.float32)
    u.reshape(-1)[level.fixed] = 0
    return u * (level.inverse > 0)


BOXES = (((0, 5), (0, 6), (0, 7)), ((7, 12), (2, 10), (9, 16)), ((2, 6), (3, 9), (17, 22)))


@pytest.mark.parametrize("largest", [20000, 60])
def test_nothing_is_left_in_the_regions(hierarchy, monkeypatch, largest):
    """After z += P (r - A z) the residual vanishes in them, and z is as it was outside, on any threads."""
    monkeypatch.setattr(regions, "_LARGEST", (largest,))
    finest = hierarchy.levels[0]
    nodes = marked(finest, *BOXES)
    before = nodes.copy()
    r, found = noise(finest, 1), []
    for threads in (1, 2):
        team = Team(threads)
        local = solves_of(hierarchy, nodes, team)
        z = noise(finest, 2)
        local.finish(r, z)
        found.append(z)
        team.close()
    assert np.array_equal(nodes, before)
    assert np.array_equal(*found)
    moved = z != noise(finest, 2)
    if largest == 20000:
        assert local.unknowns > 1000
        free = np.ones(finest.nodes, dtype=bool)
        free.reshape(-1)[finest.fixed] = False
        assert np.array_equal(moved.any(axis=2), (nodes[:, :, None] & free).any(axis=2))
    else:
        assert max(len(region.dofs) for region in local.regions) <= 3 * largest
        assert not moved[~np.broadcast_to(nodes[:, :, None], moved.shape)].any()
    left = np.zeros_like(z)
    finest.product(z, left, Team(1), r)
    # Float32, and pieces that hang by little: rounding times the condition of a region.
    assert np.abs(left[moved]).max() < 1e-4 * np.abs(r).max()


def test_like_regions_share_a_factor():
    cell = np.random.default_rng(3).random((6, 6, 6)) < 0.7
    cell[:, 2:4, 2:4] = True
    solid = np.tile(cell, (3, 1, 2)).astype(np.uint8)
    hierarchy = Multigrid(solid, SOLID, [np.zeros((19, 7, 13, 3), dtype=bool)], Team(1))
    finest = hierarchy.levels[0]
    boxes = [((i, i + 4), (1, 6), (k, k + 4)) for i in (1, 7, 13) for k in (1, 7)]
    nodes = marked(finest, *boxes)
    local = solves_of(hierarchy, nodes, Team(1))
    assert len(local.regions) == 1
    assert local.unknowns == 6 * len(local.regions[0].dofs)


def test_factors_keep_to_their_memory(hierarchy, monkeypatch):
    """With less than all of them need, they are cut smaller; those of most places for their size stay."""
    finest = hierarchy.levels[0]
    nodes = marked(finest, *BOXES)
    args = hierarchy, nodes, Team(1)
    whole = solves_of(*args)
    assert len(whole.regions) == 3
    sizes = [region.factor.values.nbytes for region in whole.regions]
    assert whole.nbytes == sum(sizes)
    some = solves_of(*args, sizes[0] + sizes[1] + sizes[2] // 2)  # none is large enough to be cut
    assert some.nbytes == sizes[0] + sizes[1]
    r, z = noise(finest, 1), noise(finest, 2)
    some.finish(r, z)
    assert np.count_nonzero((z != noise(finest, 2)).any(axis=2)) < np.count_nonzero(nodes)
    monkeypatch.setattr(regions, "_LARGEST", (20000, 200, 60))
    some = solves_of(*args, 0.8 * sum(sizes))
    assert 60 < max(len(region.dofs) for region in some.regions) // 3 <= 200
    assert 0 < some.nbytes <= 0.8 * sum(sizes)
    cut = solves_of(*args, sizes[2] // 4)
    assert max(len(region.dofs) for region in cut.regions) // 3 <= 60
    assert 0 < cut.nbytes <= sizes[2] // 4
    none = solves_of(*args, 0.0)
    assert none.unknowns == none.nbytes == 0
    none.finish(r, z)


@pytest.mark.parametrize(("mine", "theirs"), [(0.0, 0.0), (0.0, 1e5), (3e4, 1e4)])
def test_two_ranks_share_all_regions(hierarchy, mine, theirs):
    """Each is taken by one of them, whoever looks; what both have is as near as one region allows."""
    finest = hierarchy.levels[0]
    nodes = marked(finest, *BOXES)
    ((*plans,),) = planned([Site(nodes, finest.index, finest.fixed)], np.inf, Team(1))
    plans += plans[:2]  # equal ones
    here = balanced(plans, mine, theirs, first=True)
    there = balanced(plans, theirs, mine, first=False)
    assert sorted(map(id, here + there)) == sorted(map(id, plans))
    sizes = [mine + sum(p.nbytes for p in here), theirs + sum(p.nbytes for p in there)]
    assert abs(sizes[0] - sizes[1]) <= max(abs(mine - theirs), max(p.nbytes for p in plans))


def test_making_factors_leaves_little_but_the_factors():
    """A block of solid, 4,900 nodes in a region: the heap keeps nothing of what its making took."""
    solid = np.ones((16, 16, 16), dtype=np.uint8)
    hierarchy = Multigrid(solid, SOLID, [np.zeros((17, 17, 17, 3), dtype=bool)], Team(1))
    finest = hierarchy.levels[0]
    process, nodes = psutil.Process(), marked(finest, ((0, 17), (0, 17), (0, 17)))
    small = marked(finest, ((0, 3), (0, 3), (0, 3)))  # compiles what is to be run
    solves_of(hierarchy, small, Team(1))
    trim()
    before = process.memory_info().rss
    local = solves_of(hierarchy, nodes, Team(1))
    assert len(local.regions) == 1
    assert process.memory_info().rss - before < 1.3 * local.nbytes + 10e6


def test_the_cycle_stays_symmetric_and_positive(hierarchy):
    """For residuals that vanish in the regions, which is all that the iteration meets."""
    finest = hierarchy.levels[0]
    nodes = marked(finest, *BOXES)
    hierarchy.local = solves_of(hierarchy, nodes, Team(1))
    a, b = (noise(finest, seed) * ~nodes[:, :, None] for seed in (3, 4))
    ma, mb = np.zeros_like(a), np.zeros_like(b)
    hierarchy.precondition(a, ma)
    hierarchy.precondition(b, mb)
    hierarchy.local = None
    ab, ba, aa, bb = ((x.astype(np.float64) * y).sum() for x, y in ((a, mb), (b, ma), (a, ma), (b, mb)))
    assert aa > 0 < bb
    assert abs(ab - ba) < 1e-5 * np.sqrt(aa * bb)


def flags(loose):
    """A frame of thick struts; ``loose``: with plates in some of its openings that hang by a voxel."""
    near = np.arange(33)[:-1] % 16 < 6
    strut = near[:, None, None].astype(int) + near[None, :, None] + np.resize(near, 48)[None, None, :]
    solid = (strut >= 2).astype(np.uint8)
    if loose:
        for x, y, z in ((0, 0, 0), (1, 1, 1), (0, 1, 2)):
            plate = slice(16 * x + 7, 16 * x + 14), slice(16 * y + 7, 16 * y + 14), 16 * z + 3
            solid[plate] = 1
            solid[16 * x + 7, 16 * y + 6, 16 * z + 3] = 1
    held = np.zeros((5, 5, 7, 3), dtype=bool)
    held[..., 0, :] = True
    return solid, coarse_masks(held, 8)


def pulled(loose, search=True):
    """Solution under a force on every solid node of some planes, and the hierarchy."""
    solid, fixed = flags(loose)
    team = Team(1)
    multigrid = Multigrid(solid, SOLID, fixed, team)
    multigrid.searched = not search
    finest = multigrid.levels[0]
    force = np.zeros(finest.nodes)
    force[:, :, 0] = 1e-3 * (finest.inverse[:, :, 0] > 0)
    where = np.flatnonzero(force)
    nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    solution = solve(multigrid, SOLID, (where, force.reshape(-1)[where]), nothing, team, rtol=1e-6)
    return solution, multigrid


def test_plates_that_hang_by_a_voxel_are_found_and_solved():
    plain, _ = pulled(True, search=False)
    helped, multigrid = pulled(True)
    assert multigrid.local is not None
    # The plates are a small part of the solid.
    assert multigrid.local.unknowns < 0.3 * np.count_nonzero(multigrid.levels[0].inverse) * 3
    assert helped.iterations < 0.3 * plain.iterations
    # Both to 1e-6 of the load; plates that swing freely magnify what is left.
    assert np.abs(helped.u - plain.u).max() < 1e-3 * np.abs(plain.u).max()


def test_where_multigrid_is_fast_nothing_is_searched():
    _, multigrid = pulled(False)
    assert not multigrid.searched
    assert multigrid.local is None
