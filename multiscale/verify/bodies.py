"""What no cells are built in, as voxels: solid blocks of a stiffness of their own.

A region with ``filled = false`` (bone, a wall) is there already. At full scale each of its elements is a
block of solid voxels. Its material is a multiple of the base material's stiffness, so that one voxel matrix,
scaled, serves both; other ones are refused before a run begins (:mod:`multiscale.case.voxels`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from micro.cell.cellset import CellSet
from micro.runtime.arrays import Floats, Ints
from multiscale.case.voxels import relative_modulus
from multiscale.lattice.lattice import Lattice
from multiscale.problem.problem import Problem

#: What the family of such a block's cell is called.
BODY = "body"


def with_bodies(lattice: Lattice, problem: Problem) -> Lattice:
    """The lattice with a solid block, of its own tensor, in every element without cells.

    Parameters
    ----------
    lattice : Lattice
        Void there.
    problem : Problem
    """
    bare = problem.solid & ~problem.filled
    if not bare.any():
        return lattice
    tensors, kind = np.unique(problem.tensor[bare], axis=0, return_inverse=True)
    n = lattice.cells.n
    blocks = CellSet.from_octants(
        np.ones((len(tensors), n, n, n), dtype=bool), tensors, family=BODY, poisson=lattice.poisson
    )
    index = lattice.index.copy()
    index[bare] = len(lattice.cells) + kind.reshape(-1)
    return replace(lattice, cells=CellSet.concat([lattice.cells, blocks]), index=index)


def moduli(lattice: Lattice) -> tuple[Ints, Floats]:
    """What the cells of a lattice are made of.

    Returns
    -------
    material : int array (cells,)
        1 for the base material, further numbers for bodies.
    moduli : array (materials + 1,)
        Stiffness of each by the base material's; 0 for the void comes first.
    """
    own = np.array([name == BODY for name in lattice.cells.family])
    value = np.where(own, relative_modulus(lattice.cells.C, lattice.poisson), 1.0)
    others = np.setdiff1d(value, 1.0)
    material = np.where(value == 1.0, 1, 2 + np.searchsorted(others, value))
    return material, np.concatenate([[0.0, 1.0], others])
