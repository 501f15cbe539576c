"""A voxel model in slabs on ranks: what each holds is that part of the whole model."""

from __future__ import annotations

#: Each of three ranks compares its slab, of one or two cells, with the whole model that it makes as well.
SCRIPT = """
import numpy as np
from micro.cell.cellset import CellSet
from micro.runtime.errors import InputError
from multiscale.case.case import parse_case
from multiscale.lattice.lattice import Lattice
from multiscale.problem.problem import build_problem
from multiscale.problem.reduction import Reduction
from multiscale.solve.voxels.slabs import make_team
from multiscale.solve.voxels.team import Team
from multiscale.verify.materials import VoxelLattice
from multiscale.verify.voxel_model import corner_displacements, forces, prescribed, voxel_model

V = 4
case = parse_case({
    "case": {"name": "block"},
    "grid": {"elements": [5, 3, 2], "cell_size_mm": 1.0, "mirror": []},
    "base_material": {"young_modulus_mpa": 1000.0, "poisson": 0.3},
    "materials": {"m": {"tensor": [0.6, 0.2, 0.2]}},
    "regions": [
        {"name": "block", "role": "fixed", "material": "m", "shape": {"type": "all"}},
        {"name": "part", "role": "design", "shape": {"type": "box", "min": [1, 0, 0], "max": [2, 3, 2]}},
    ],
    "loads": [{
        "name": "all",
        "displacements": [{"where": "y-", "x_mm": 0.1, "y_mm": 0.0, "z_mm": -0.2}],
        "tractions": [{"where": face, "vector_mpa": [1.0, 2.0, 3.0]} for face in ("x-", "x+", "y+")],
        "body_forces": [{"vector_n_mm3": [0.5, 0.0, -1.0]}],
    }],
    "objective": {"type": "displacement_distortion", "observe": ["block"], "reference": "m"},
})
problem = build_problem(case)
reduction = Reduction(problem)
load = reduction.loads[0]
octants = np.ones((3, 2, 2, 2), dtype=bool)
octants[0, 0, 0, 0] = False  # the cell's corners are void
octants[1] = False
octants[1, 1, 1, 1] = True  # a cube in the cell's middle that touches nothing
cells = CellSet.from_octants(octants, np.ones((3, 3)))
held = np.full((5, 3, 2), 1)
held[0] = 2  # a tower on the floor holds a bridge across both cuts, with what hangs from its far end
held[:, 2] = 0
held[4, 1] = 2
loose = np.full((5, 3, 2), 2)
loose[:, 1] = 1  # the bridge has no tower
team = make_team(1, 5, V)
own, planes = team.layers(5 * V), team.span(0)


def dense(sparse, shape):
    out = np.zeros(shape)
    np.add.at(out.reshape(-1), *sparse)
    return out


for index, removed in ((held, (4 * 4 - 2) * 8), (loose, 10 * 8 + 10 * 64)):
    lattice = VoxelLattice.of(Lattice(cells, index, 1e-3, 1e9, 0.3))
    whole, mine = (voxel_model(lattice, reduction, t) for t in (Team(), team))
    assert (mine.solid == whole.solid[own]).all()
    assert mine.removed == whole.removed == removed, (mine.removed, whole.removed)
    assert mine.unknowns == whole.unknowns
    shape = 5 * V + 1, 3 * V + 1, 3, 2 * V + 1
    part = mine.solid.shape[0] + 1, *shape[1:]
    moved = dense(prescribed(load, whole), shape)
    assert moved.any() and (dense(prescribed(load, mine), part) == moved[planes]).all()
    if index is loose:
        for model in (mine, whole):  # said by every rank, also by those whose own cells are solid
            try:
                forces(case, 0, problem, reduction, model)
            except InputError as error:
                assert "4 loaded cells have no solid" in str(error), str(error)
        continue
    u = np.random.default_rng(1).standard_normal(shape)
    wanted = np.zeros((6, 4, 3), dtype=bool)
    wanted[:, 2:] = True
    found, averaged = corner_displacements(u[planes], mine, load, wanted)
    expected, count = corner_displacements(u, whole, load, wanted)
    assert averaged == count == 18 + 6, (averaged, count)
    assert np.abs(found - expected).max() < 1e-14
    # Every cell can be loaded.
    lattice = VoxelLattice.of(Lattice(cells, np.where(index == 1, 0, index), 1e-3, 1e9, 0.3))
    whole, mine = (voxel_model(lattice, reduction, t) for t in (Team(), team))
    total = dense(forces(case, 0, problem, reduction, whole), shape)
    difference = dense(forces(case, 0, problem, reduction, mine), part) - total[planes]
    assert total.any() and np.abs(difference).max() < 1e-14 * np.abs(total).max()
team.close()
"""


def test_slabs_are_parts_of_the_whole(run_ranks, root):
    done = run_ranks(3, "-c", SCRIPT, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
