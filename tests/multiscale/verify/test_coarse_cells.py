"""Composite voxels: coarse cells keep their tensors, their contacts, and what a lattice of them does."""

from __future__ import annotations

import numpy as np
import pytest

from micro.cell.cellset import CellSet
from micro.cell.octant import is_symmetric
from micro.cell.tensor import relative_error, tensor_error
from micro.homogenize.octants import homogenize_octants
from micro.runtime.errors import InputError
from multiscale.case.case import parse_case
from multiscale.lattice.lattice import Lattice, coarsen, solid_fractions
from multiscale.problem.problem import build_problem
from multiscale.problem.reduction import Reduction
from multiscale.solve.voxels.team import Team
from multiscale.verify.coarse_cells import Composites, coarse_lattice, fitted
from multiscale.verify.full_scale import solve_full_scale
from multiscale.verify.materials import VoxelLattice


def plates(thickness, n=16):
    """Plates along x = y and its images: coarse thresholds cut them into voxels that meet at edges."""
    i, j, k = np.indices((n, n, n))
    near = [np.abs(a - b) < thickness for a, b in ((i, j), (j, k), (i, k))]
    return near[0] | near[1] | near[2]


def frame(thickness, n=16):
    """Bars along the cell's edges, thinner than a coarse voxel where ``thickness`` is 1."""
    return np.sort(np.indices((n, n, n)), axis=0)[1] < thickness


OCTANTS = np.stack([plates(2), plates(4), frame(1), frame(3), frame(16), frame(5)])
FINE = homogenize_octants(OCTANTS).C


def fractions(octants, k):
    return solid_fractions(octants, 2 * k).astype(float)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_coarse_octants_have_the_tensors_of_the_fine_ones(k):
    share = fractions(OCTANTS, k)
    moduli, C = fitted(share, FINE, 0.3)
    assert is_symmetric(moduli)
    assert np.array_equal(moduli > 0, share > 0)  # what is joined stays joined
    # Residual tolerance 5e-5, whose square is the error of C, in units of a cell's stiffest constant.
    assert np.abs(homogenize_octants(moduli).C - C).max() < 1e-6
    # Bars a fine voxel thick do not bend like composite ones of many moduli, let alone of the four that two
    # voxels an edge have; else half a step of 1.03 is left, evened out over the voxels.
    off = relative_error(C, FINE)
    assert off.max() < {2: 0.3, 4: 0.05, 8: 0.006}[k]
    assert off[:2].max() < 0.012
    assert np.allclose(moduli[4], 1.0)  # the solid is itself
    thresholded = homogenize_octants(coarsen(OCTANTS, 2 * k)[:2]).C
    assert (off[:2] < 0.2 * relative_error(thresholded, FINE[:2])).all()


def test_a_coarse_octant_does_not_depend_on_those_beside_it():
    """Solutions of a reference are kept by content: its cell has to come out the same in any lattice."""
    share = fractions(OCTANTS, 4)
    together, _ = fitted(share, FINE, 0.3)
    alone = np.concatenate([fitted(share[i : i + 1], FINE[i : i + 1], 0.3)[0] for i in range(len(share))])
    assert np.array_equal(together, alone)


def test_a_coarse_lattice_has_its_own_tensors():
    cells = CellSet.from_octants(OCTANTS, FINE)
    lattice = Lattice(cells, np.array([[[0, 2], [2, 0]], [[-1, 3], [0, 4]]]), 1e-3, 1e9, 0.3)
    known = Composites(0.3)
    coarse = coarse_lattice(lattice, 8, known=known)
    voxels = coarse.lattice
    assert voxels.per_cell == 8
    assert list(voxels.moduli[:2]) == [0.0, 1.0]
    solved = homogenize_octants(voxels.moduli[voxels.material]).C
    assert np.abs(solved - voxels.cells.C).max() < 1e-6
    used = FINE[[0, 2, 3, 4]]
    solid = voxels.index[voxels.solid]
    assert coarse.error_mean == pytest.approx(tensor_error(voxels.cells.C, used)[solid].mean())
    assert coarse.relative_max == pytest.approx(relative_error(voxels.cells.C, used)[solid].max())
    assert voxels.solid_volume_m3 == lattice.solid_volume_m3  # what is printed is the lattice, not its model
    part = voxels.materials(voxels.index)
    whole = lattice.fractions(per_cell=8)
    assert np.array_equal(part > 0, whole > 0)
    assert np.array_equal(part == 1, (voxels.moduli[part] == 1.0))
    again = coarse_lattice(lattice, 8, known=known).lattice
    assert again.digest() == voxels.digest()
    with pytest.raises(InputError, match="voxels per cell"):
        coarse_lattice(lattice, 6)


def test_at_its_own_resolution_a_lattice_is_itself():
    lattice = Lattice(CellSet.from_octants(OCTANTS, FINE), np.arange(4).reshape(1, 2, 2), 1e-3, 1e9, 0.3)
    same = coarse_lattice(lattice, 32)
    assert same.error_max == same.relative_max == 0.0
    assert np.array_equal(same.lattice.materials(lattice.index) > 0, lattice.voxels())
    assert list(same.lattice.moduli) == [0.0, 1.0]


def test_materials_are_told_apart_by_their_moduli_alone():
    cells = CellSet.from_octants(OCTANTS[:1], FINE[:1])
    lattice = Lattice(cells, np.zeros((1, 1, 1), dtype=int), 1e-3, 1e9, 0.3)
    moduli = np.full((1, 2, 2, 2), 0.5)
    one = VoxelLattice.of(lattice, moduli)
    more = one.with_blocks(cells, np.array([0.25])).compact()  # a block that no element uses
    assert more.digest() == one.digest()
    moduli[0, 0, 0, 0] = 0.25
    assert VoxelLattice.of(lattice, moduli).digest() != one.digest()
    with pytest.raises(InputError, match="255 materials at most"):
        one.with_blocks(CellSet.concat([cells] * 254), np.linspace(0.1, 0.4, 254))


@pytest.mark.parametrize(("chosen", "most"), [([0, 0], 0.02), ([5, 5], 0.04), ([0, 1], 0.05)])
def test_coarse_voxels_move_as_the_fine_ones_do(chosen, most):
    """A small block sheared: its cells' corners at 8 voxels a cell against those at 32.

    What is left is at the free sides, where the voxels that a surface cuts through show, and where unlike
    cells meet.
    """
    case = parse_case(
        {
            "case": {"name": "block"},
            "grid": {"elements": [4, 4, 2], "cell_size_mm": 1.0, "mirror": []},
            "base_material": {"young_modulus_mpa": 1000.0, "poisson": 0.3},
            "materials": {"m": {"tensor": [0.6, 0.2, 0.2]}},
            "regions": [
                {"name": "block", "role": "fixed", "material": "m", "shape": {"type": "all"}},
                {
                    "name": "part",
                    "role": "design",
                    "shape": {"type": "box", "min": [2, 0, 0], "max": [4, 4, 2]},
                },
            ],
            "loads": [
                {
                    "name": "shear",
                    "fixed": [{"where": "y-"}],
                    "tractions": [{"where": "y+", "vector_mpa": [1.0, 0.5, 0.0]}],
                }
            ],
            "objective": {"type": "displacement_distortion", "observe": ["block"], "reference": "m"},
        }
    )
    problem = build_problem(case)
    reduction = Reduction(problem)
    cells = CellSet.from_octants(OCTANTS[chosen], FINE[chosen])
    index = np.indices(problem.shape).sum(axis=0) % 2

    def moved(voxels=8, octants=None):
        lattice = Lattice(cells, index, 1e-3, 1e9, 0.3)
        model = (
            coarse_lattice(lattice, voxels).lattice if octants is None else VoxelLattice.of(lattice, octants)
        )
        return solve_full_scale(case, problem, reduction, model, Team(1), rtol=1e-6).corners[0]

    exact, coarse, finer = (moved(voxels) for voxels in (32, 8, 16))
    off, less = (np.linalg.norm(u - exact) / np.linalg.norm(exact) for u in (coarse, finer))
    assert off < most
    assert less < off / 1.5  # about first order, from where Richardson's extrapolation goes on
    assert np.linalg.norm(finer + (finer - coarse) / 2 - exact) < less * np.linalg.norm(exact)
    # Every voxel that holds something solid: what comes apart least when voxels are of one material.
    full = moved(octants=(fractions(cells.octants(), 4) > 0).astype(float))
    assert np.linalg.norm(full - exact) > 4 * off * np.linalg.norm(exact)
