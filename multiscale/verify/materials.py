"""A lattice as voxels of several materials: the base material's stiffness times a factor each.

One voxel matrix, scaled, serves all of them. Factors other than one have the composite voxels of cells at
fewer voxels than their own (:mod:`multiscale.verify.coarse_cells`), and solid blocks that stand for regions
without cells (:mod:`multiscale.verify.bodies`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.cell.octant import cell_from_octant
from micro.runtime.arrays import Bytes, Floats
from micro.runtime.errors import InputError
from multiscale.lattice.lattice import Lattice

#: Materials that voxels of a byte can tell apart, void among them.
_MOST = 256


@dataclass(frozen=True, eq=False)
class VoxelLattice(Lattice):
    """A lattice as it is solved voxel by voxel.

    Attributes
    ----------
    material : uint8 array (cells, k, k, k)
        Octants of the unique cells, 2k voxels along a cell's edge: what each voxel is of, 0 for the void, 1
        for the base material. ``cells.C`` are these octants' tensors; volumes and faces are the cells' own.
    moduli : array (materials,)
        Stiffness of the materials by the base material's; 0 and 1 come first.
    """

    material: Bytes = field(kw_only=True)
    moduli: Floats = field(kw_only=True)

    @staticmethod
    def of(lattice: Lattice, moduli: Floats | None = None) -> VoxelLattice:
        """A lattice with moduli (cells, k, k, k) for its unique cells' voxels, 0 for the void.

        By default the voxels that the cells have, of the base material.

        Raises
        ------
        InputError
            If there are more than 255 different moduli.
        """
        known, material = np.array([0.0, 1.0]), lattice.cells.octants().view(np.uint8)
        if moduli is not None:
            known, material = _numbered(known, moduli)
        return VoxelLattice.extended(lattice, material=material, moduli=known)

    @property
    def per_cell(self) -> int:
        """Voxels along a cell's edge as they are solved."""
        return 2 * self.material.shape[1]

    def of_rows(self, rows: NDArray[np.integer], index: NDArray[np.int32]) -> Self:
        """See :meth:`multiscale.lattice.lattice.Lattice.of_rows`."""
        return replace(super().of_rows(rows, index), material=self.material[rows])

    def with_blocks(self, cells: CellSet, modulus: Floats) -> Self:
        """The same with further unique cells, each a solid block of a modulus of its own.

        Parameters
        ----------
        cells : CellSet
        modulus : array (blocks,)

        Raises
        ------
        InputError
            If there are more than 255 materials.
        """
        moduli, code = _numbered(self.moduli, modulus)
        blocks = np.ones((len(cells), *self.material.shape[1:]), dtype=np.uint8) * code[:, None, None, None]
        return replace(
            self,
            cells=CellSet.concat([self.cells, cells]),
            material=np.concatenate([self.material, blocks]),
            moduli=moduli,
        )

    def digest(self) -> str:
        """SHA-256 of all that a solution depends on, whatever numbers the materials have."""
        own = hashlib.sha256(super().digest().encode())
        own.update(self.moduli.astype("<f4")[self.material].tobytes())
        return own.hexdigest()

    def materials(self, index: NDArray[np.integer]) -> Bytes:
        """The voxels of an index map (nx, ny, nz), uint8 (nx, ny, nz) * per_cell.

        Parameters
        ----------
        index : int array
        """
        void = np.zeros((1, *self.material.shape[1:]), dtype=np.uint8)
        used, local = np.unique(index, return_inverse=True)
        # -1, the void, is the last.
        whole = cell_from_octant(np.concatenate([self.material, void])[used])
        size = self.per_cell
        out = np.empty([n * size for n in index.shape], dtype=np.uint8)
        for i, layer in enumerate(local.reshape(index.shape)):  # one at a time, which bounds the memory
            part = whole[layer].transpose(2, 0, 3, 1, 4)
            out[i * size : (i + 1) * size] = part.reshape(size, *out.shape[1:])
        return out


def _numbered(known: Floats, values: Floats) -> tuple[Floats, Bytes]:
    """Moduli with those that are new at their end, and the number of each value among them."""
    moduli = np.concatenate([known, np.setdiff1d(values, known)])
    if len(moduli) > _MOST:
        raise InputError(
            f"voxels are of {_MOST - 1} materials at most, those of regions without cells among them",
            key="regions",
            value=len(moduli) - 1,
        )
    order = np.argsort(moduli)
    return moduli, order[np.searchsorted(moduli, values, sorter=order)].astype(np.uint8)
