"""What a lattice is compared with at full scale, and by which numbers.

==================== =================================== ===============================================
objective            structures                          value of the lattice
==================== =================================== ===============================================
distortion           reference, void, lattice            against the reference solved at full scale
compliance           best uniform cell, lattice          work of the voxels' forces, N mm
target displacement  lattice                             mismatch of the targeted cells' corners
==================== =================================== ===============================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from micro.cell.cellset import CellSet
from micro.data.packaged import load_dataset
from micro.library import retrieval as library
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from multiscale.case.case import Case
from multiscale.lattice.lattice import Lattice
from multiscale.objective.objective import Objective
from multiscale.objective.purpose import make_objective
from multiscale.problem.problem import Problem, Role
from multiscale.problem.reduction import Reduction
from multiscale.verify.bodies import with_bodies
from multiscale.verify.coarse_cells import CoarseLattice, Composites, coarse_lattice
from multiscale.verify.materials import VoxelLattice


def reference_cell(problem: Problem, lattice: Lattice) -> int:
    """The lattice's cell for the reference material: the one most used in fixed regions of that material.

    Raises
    ------
    InputError
        If no fixed region is of the reference material, so that no cell stands for it.
    """
    same = (problem.role == Role.FIXED) & np.isclose(problem.tensor, problem.reference).all(axis=-1)
    if not same.any():
        raise InputError(
            "no fixed region is of the reference material, so no cell can fill the reference lattice",
            key="objective.reference",
        )
    return int(np.bincount(lattice.index[same]).argmax())


def structures(problem: Problem, lattice: VoxelLattice) -> dict[str, VoxelLattice]:
    """The reference lattice without holes, the lattice without a design, and the lattice."""
    cell = reference_cell(problem, lattice)
    void = lattice.index.copy()
    void[problem.design] = cell
    whole = np.full_like(lattice.index, cell)
    parts = {"reference": whole, "void": void, "lattice": lattice.index}
    return {name: replace(lattice, index=index) for name, index in parts.items()}


def uniform_lattice(problem: Problem, lattice: Lattice, tensor: list[float]) -> Lattice:
    """The lattice with the data set's cell of a given tensor in every design element.

    Raises
    ------
    InputError
        If the data set has no such cell (it is not the one that the run was evaluated with), or not at the
        lattice's resolution.
    """
    known = load_dataset()
    rows, error = library.nearest(known, np.array([tensor]))
    if error[0, 0] > 1e-6 or known.n != lattice.cells.n:
        raise InputError(
            "the data set has no such cell: evaluate the run again", key="uniform.tensor", value=tensor
        )
    cells = CellSet.concat([lattice.cells, known.subset(rows[:, 0])])
    index = np.where(problem.design, len(lattice.cells), lattice.index)
    return replace(lattice, cells=cells, index=index)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The structures of a verification with their homogenised predictions.

    Attributes
    ----------
    objective : Objective
        Of the case, its reference that of ``lattices["reference"]``.
    lattices : dict of str to VoxelLattice
        At the voxels that are solved, in the order they are solved.
    predicted : dict of str to list of arrays
        Homogenised displacements from the cells' own tensors, reduced grid, one a load.
    wanted : bool array (mx+1, my+1, mz+1)
        Corners whose displacements are needed, reduced grid.
    """

    objective: Objective
    lattices: dict[str, VoxelLattice]
    predicted: dict[str, list[Floats]]
    wanted: Bools

    @property
    def quantity(self) -> str:
        """What is measured, in one word."""
        return self.objective.quantity

    @property
    def judged(self) -> dict[str, str]:
        """Keys of metrics by the structures that have a value: "distortion_void" of "void"."""
        names = [name for name in self.lattices if name != "reference"]
        return {name: self.quantity + ("" if name == "lattice" else f"_{name}") for name in names}


def difference(reduction: Reduction, wanted: Bools, a: Floats, b: Floats) -> float:
    """||a - b|| / ||b|| over the wanted corners, each of the whole grid once.

    Parameters
    ----------
    reduction : Reduction
    wanted : bool array (mx+1, my+1, mz+1)
    a, b : arrays (mx+1, my+1, mz+1, 3)
    """
    weight = reduction.node_weight * wanted

    def norm(field: Floats) -> float:
        return float(np.sqrt(np.einsum("xyz,xyzc,xyzc->", weight, field, field)))

    return norm(a - b) / norm(b)


def compare(
    case: Case,
    problem: Problem,
    original: Lattice,
    coarse: CoarseLattice,
    uniform: list[float] | None,
    known: Composites | None = None,
) -> Comparison:
    """Structures and predictions for a case's lattice, coarsened from ``original``.

    ``uniform`` is the tensor of the best uniform cell, of a compliance.

    Parameters
    ----------
    case : Case
    problem : Problem
    original : Lattice
        At its own resolution.
    coarse : CoarseLattice
    uniform : list of three floats or None
    known : Composites, optional
        Coarse cells that were worked out before.
    """
    lattice, per_cell = with_bodies(coarse.lattice, problem), coarse.lattice.per_cell
    purpose = case.objective.purpose
    rtol = case.solver.rtol_evaluate
    lattices = {"lattice": lattice}
    if purpose.has_reference:
        lattices = structures(problem, lattice)
        problem = replace(problem, reference=lattices["reference"].tensors())
    elif uniform is not None:
        best = coarse_lattice(uniform_lattice(problem, original, uniform), per_cell, known=known).lattice
        lattices = {"uniform": with_bodies(best, problem), **lattices}
    objective = make_objective(case, problem, rtol)
    predicted: dict[str, list[Floats]] = {}
    for name, part in lattices.items():
        if name == "reference":
            assert objective.reference is not None
            predicted[name] = objective.reference
            continue
        objective.forget()
        predicted[name] = objective.displacements(objective.reduction.elements(part.tensors()), rtol)
    return Comparison(objective, lattices, predicted, objective.wanted_nodes)
