"""A lattice some of whose elements have voxels of their own, which no octant can hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike
from multiscale.lattice.block import Block, Triple
from multiscale.lattice.lattice import Lattice, coarsen


@dataclass(frozen=True, eq=False)
class ChangedLattice(Lattice):
    """A lattice with other voxels in some elements: for exports and printability; it is not saved.

    Tensors and index stay those of the cells as they were; kinds, voxels and densities are the changed ones.

    Attributes
    ----------
    variants : bool array, shape (v, 2n, 2n, 2n)
        Whole cells that differ from all octants.
    variant : int32 array, shape (nx, ny, nz)
        Which of them an element has; -1 for none.
    """

    variants: Bools = field(default_factory=lambda: np.zeros((0, 1, 1, 1), dtype=bool))
    variant: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=np.int32))

    @classmethod
    def of(cls, lattice: Lattice, cells: Mapping[Triple, Bools]) -> ChangedLattice:
        """``lattice`` with whole cells (2n, 2n, 2n) in some of its elements; equal ones are kept once."""
        variant = np.full(lattice.shape, -1, dtype=np.int32)
        known: dict[bytes, int] = {}
        variants: list[Bools] = []
        for where, voxels in cells.items():
            key = np.packbits(voxels).tobytes()
            if key not in known:
                known[key] = len(variants)
                variants.append(voxels)
            variant[where] = known[key]
        size = lattice.voxels_per_cell
        voxels_of_variants = np.array(variants, dtype=bool).reshape(-1, size, size, size)
        return cls.extended(lattice, variants=voxels_of_variants, variant=variant)

    @property
    def kinds(self) -> NDArray[np.int32]:
        """Cells by number, and variants after them."""
        return np.where(self.variant >= 0, len(self.cells) + self.variant, self.index).astype(np.int32)

    def voxels_of(self, kind: int) -> Bools:
        """The octant (n, n, n) of a cell, or the whole (2n, 2n, 2n) of a variant."""
        own = len(self.cells)
        return self.cells.octants(kind) if kind < own else np.asarray(self.variants[kind - own])

    def densities(self) -> Floats:
        """Solid volume fraction of each element as changed, (nx, ny, nz)."""
        own = self.variants.mean(axis=(1, 2, 3)) if len(self.variants) else np.zeros(0)
        return np.where(self.variant >= 0, np.append(own, 0.0)[self.variant], super().densities())

    def digest(self) -> str:
        """SHA-256 of the lattice and of what was changed in it."""
        sha = hashlib.sha256(super().digest().encode())
        sha.update(np.packbits(self.variants).tobytes())
        sha.update(self.variant.astype("<i4").tobytes())
        return sha.hexdigest()

    def save(self, path: PathLike) -> None:
        """Refused: the file format has octants only.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("a lattice with changed cells is exported, not saved", file=path)

    def _patterns(self, block: Block, per_cell: int | None) -> tuple[NDArray[np.intp], Bools]:
        local, patterns = super()._patterns(block, per_cell)
        variant = self.variant[block.slices]
        used, number = np.unique(variant, return_inverse=True)
        own = self.variants[used[used >= 0]]
        if not len(own):
            return local, patterns
        size = self.voxels_per_cell if per_cell is None else per_cell
        number = np.reshape(number, block.shape) - int(used[0] < 0)
        local = np.where(variant >= 0, len(patterns) + number, local)
        # A whole cell is coarsened as an octant of twice the size.
        return local, np.concatenate([patterns, coarsen(own, 2 * size)])
