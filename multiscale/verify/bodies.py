"""What no cells are built in, as voxels: solid blocks of a stiffness of their own.

A region with ``filled = false`` (bone, a wall) is there already. At full scale each of its elements is a
block of solid voxels. Its material is a multiple of the base material's stiffness, so that one voxel matrix,
scaled, serves both; other ones are refused before a run begins.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from micro.cell.cellset import CellSet
from micro.cell.tensor import isotropic
from micro.runtime.arrays import Floats, Ints
from multiscale.case.case import Case
from multiscale.lattice.lattice import Lattice
from multiscale.problem.problem import Problem

#: What the family of such a block's cell is called.
BODY = "body"
#: How far the components of a multiple of the base material's tensor may be from that, relatively.
_ALIKE = 1e-3


def relative_modulus(tensor: Floats, poisson: float) -> Floats:
    """Which multiple of the base material's tensor (..., 3) is, in E_s; NaN where it is none.

    Parameters
    ----------
    tensor : array (..., 3)
    poisson : float
        Of the base material.
    """
    ratio = np.asarray(tensor) / isotropic(1.0, poisson)
    mean = ratio.mean(axis=-1)
    alike = np.abs(ratio - mean[..., None]).max(axis=-1) <= _ALIKE * mean
    return np.where(alike, mean.round(12), np.nan)


def check_full_scale(case: Case) -> None:
    """Refuse what can't be put onto voxels.

    That is a region without cells whose stiffness is no multiple of the base material's, and a pressure in a
    hole.

    Raises
    ------
    InputError
        Naming the key.
    """
    for region in case.regions:
        if region.filled or region.material is None:
            continue
        tensor = case.tensor_of(region.material)
        if np.isnan(relative_modulus(np.array(tensor), case.base_material.poisson)):
            raise case.error(
                f"materials.{region.material}",
                f"region {region.name!r} has no cells, and at full scale must be isotropic with the base "
                f"material's Poisson's ratio ({case.base_material.poisson:g})",
                list(tensor),
            )
    for index, load in enumerate(case.load_cases):
        for number, pressure in enumerate(load.pressures):
            if pressure.region is not None:
                raise case.error(
                    f"loads[{index}].pressures[{number}].region",
                    "pressures in holes are not put onto voxels: their walls are not the cells' own",
                )


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
