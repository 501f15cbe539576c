"""What no cells are built in, as voxels: solid blocks of a stiffness of their own.

A region with ``filled = false`` (bone, a wall) is there already. At full scale each of its elements is a
block of solid voxels, of a multiple of the base material's stiffness (:mod:`multiscale.verify.materials`);
other materials are refused before a run begins (:mod:`multiscale.case.voxels`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from micro.cell.cellset import CellSet
from multiscale.case.voxels import relative_modulus
from multiscale.problem.problem import Problem
from multiscale.verify.materials import VoxelLattice


def with_bodies(lattice: VoxelLattice, problem: Problem) -> VoxelLattice:
    """The lattice with a solid block, of its own tensor, in every element without cells.

    Parameters
    ----------
    lattice : VoxelLattice
        Void there.
    problem : Problem
    """
    bare = problem.solid & ~problem.filled
    if not bare.any():
        return lattice
    tensors, kind = np.unique(problem.tensor[bare], axis=0, return_inverse=True)
    n = lattice.cells.n
    blocks = CellSet.from_octants(
        np.ones((len(tensors), n, n, n), dtype=bool), tensors, family="body", poisson=lattice.poisson
    )
    index = lattice.index.copy()
    index[bare] = len(lattice.cells) + kind.reshape(-1)
    return replace(lattice.with_blocks(blocks, relative_modulus(tensors, lattice.poisson)), index=index)
