"""Regions without cells at full scale: solid blocks with a stiffness of their own."""

from dataclasses import replace

import numpy as np
import pytest

from micro.cell.cellset import CellSet
from micro.cell.tensor import isotropic
from micro.runtime.errors import InputError
from multiscale.case.case import parse_case
from multiscale.case.voxels import check_full_scale, relative_modulus
from multiscale.lattice.lattice import Lattice
from multiscale.objective.compliance import ComplianceObjective
from multiscale.problem.problem import build_problem
from multiscale.problem.reduction import Reduction
from multiscale.run.run import run_case
from multiscale.solve.elasticity import SolverOptions
from multiscale.solve.voxels.team import Team
from multiscale.verify.bodies import with_bodies
from multiscale.verify.coarse_cells import CoarseLattice
from multiscale.verify.comparison import compare
from multiscale.verify.full_scale import solve_full_scale
from multiscale.verify.materials import VoxelLattice
from multiscale.verify.voxel_model import voxel_model

SOLID = isotropic(1.0, 0.3)


def make_case(poisson=0.3, young=0.155, cut=None, full_scale=None):
    """A beam of design elements between a soft wall, which it hangs from, and a hard one that is pulled."""
    left = {"type": "box", "min": [0, 0, 0], "max": [2, 2, 2]}
    right = {"type": "box", "min": [4, 0, 0], "max": [6, 2, 2]}
    return parse_case(
        {
            "case": {"name": "between"},
            "grid": {"elements": [6, 2, 2], "cell_size_mm": 2.0, "mirror": []},
            "base_material": {"young_modulus_mpa": 1000.0, "poisson": 0.3},
            "materials": {"bone": {"relative_young_modulus": young, "poisson": poisson}},
            "regions": [
                {"name": "all", "role": "design", "shape": {"type": "all"}},
                {"name": "wall", "role": "fixed", "material": "bone", "filled": False, "shape": left},
                {"name": "grip", "role": "fixed", "material": "solid", "filled": False, "shape": right},
            ],
            "loads": [
                {
                    "name": "bend",
                    "fixed": [{"where": "x-"}],
                    "tractions": [{"where": "x+", "vector_mpa": [0.3, 0.1, 0.0]}],
                }
            ],
            "objective": {"type": "compliance", "mass_limit": 0.9},
            "full_scale": full_scale or {},
        }
    )


def make_lattice(problem):
    """Solid cells in the design elements, nothing elsewhere."""
    octants = np.ones((1, 2, 2, 2), dtype=bool)
    cells = CellSet.from_octants(octants, SOLID[None])
    index = np.where(problem.design, 0, -1).astype(np.int32)
    return Lattice(cells, index, problem.cell_size_m, problem.young_pa, problem.poisson)


def test_a_multiple_of_the_solid_is_known_as_one():
    assert relative_modulus(0.155 * SOLID, 0.3) == pytest.approx(0.155)
    assert np.isnan(relative_modulus(isotropic(0.155, 0.28), 0.3))
    assert np.isnan(relative_modulus(np.array([0.3, 0.1, 0.05]), 0.3))


def test_bodies_are_blocks_of_voxels_with_their_own_stiffness():
    problem = build_problem(make_case())
    lattice = with_bodies(VoxelLattice.of(make_lattice(problem)), problem)
    assert np.allclose(
        lattice.tensors(), problem.tensor * ~problem.design[..., None] + SOLID * problem.design[..., None]
    )
    assert lattice.moduli == pytest.approx([0.0, 1.0, 0.155])
    model = voxel_model(lattice, Reduction(problem), Team(1))
    assert (model.solid[:8] == 2).all()
    assert (model.solid[8:] == 1).all()  # the grip is of the base material itself
    assert model.removed == 0
    assert sorted(lattice.material[:, 0, 0, 0]) == [1, 1, 2]


def test_work_is_that_of_the_refined_mesh():
    """Solid cells between two bodies: the voxels are the elements of a mesh four times finer."""
    case = make_case()
    problem = build_problem(case)
    lattice = make_lattice(problem)
    coarse = CoarseLattice(VoxelLattice.of(lattice))
    comparison = compare(case, problem, lattice, coarse, None)
    fine = ComplianceObjective(build_problem(case, refine=4), SolverOptions(rtol=1e-10))
    tensor = np.where(fine.reduction.problem.design[..., None], SOLID, fine.reduction.problem.tensor)
    exact = fine.value(fine.reduction.elements(tensor)).total
    for threads in (1, 2):
        team = Team(threads)
        full = solve_full_scale(
            case, problem, Reduction(problem), comparison.lattices["lattice"], team, rtol=1e-8
        )
        team.close()
        # Both solves are converged to 1e-8.
        assert comparison.objective.value_elsewhere(full.corners, full.work, None).total == pytest.approx(
            exact, rel=1e-6
        )
    soft = make_case(young=0.0155)
    other = replace(problem, tensor=build_problem(soft).tensor)
    softer = solve_full_scale(
        soft, other, Reduction(other), with_bodies(VoxelLattice.of(lattice), other), Team(1), rtol=1e-8
    )
    assert softer.work[0] > 5 * full.work[0]


def test_what_is_no_multiple_of_the_solid_is_refused():
    with pytest.raises(InputError, match=r"materials\.bone.*Poisson's ratio \(0\.3\)"):
        check_full_scale(make_case(poisson=0.2))
    check_full_scale(make_case())


def test_a_run_that_could_not_be_measured_does_not_begin(tmp_path):
    file = tmp_path / "case.toml"
    file.write_text(make_case(poisson=0.2, full_scale={"voxels_per_cell": 8}).to_toml(), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        run_case(file, tmp_path / "run")
    assert caught.value.key == "materials.bone"
    assert not (tmp_path / "run").exists()
