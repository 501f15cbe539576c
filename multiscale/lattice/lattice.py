"""The lattice: a macro grid filled with cells, kept as unique cells and an index map.

A 40^3 grid of 128^3-voxel cells would be 1.3e11 voxels; here it is one
:class:`~micro.cell.cellset.CellSet` of the cells that occur and one int32 per
element. Whatever needs voxels expands a block, or goes layer by layer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from micro.cell.cellset import CellSet
from micro.cell.octant import cell_from_octant, connectivity
from micro.runtime.arrays import Bools, Floats, Singles
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path
from multiscale.lattice.block import Block, Triple
from multiscale.lattice.components import component_volumes
from multiscale.lattice.contact import Contacts, find_contacts
from multiscale.lattice.holds import Holds, find_holds

FORMAT = "multiscale-lattice"
VERSION = 1
VOID = -1

_CHUNK = 64  # elements an edge: a chunk of the index map is 1 MB before compression


@dataclass(frozen=True, eq=False)
class Lattice:
    """A grid of cells.

    Attributes
    ----------
    cells : CellSet
        The unique cells.
    index : int32 array, shape (nx, ny, nz), read-only
        Which cell fills each element; -1 is void.
    cell_size_m : float
        Edge of an element, in metres.
    young_pa, poisson : float
        Base material.
    attrs : mapping
        Anything else worth keeping (JSON values): name, case hash, how it was filled.

    Raises
    ------
    InputError
        If the index map points outside ``cells``, or a physical value is out of range.
    """

    cells: CellSet
    index: NDArray[np.int32]
    cell_size_m: float
    young_pa: float
    poisson: float
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given: ArrayLike = self.index
        index = np.array(given, copy=True, order="C")
        if index.ndim != 3 or index.size == 0 or not np.issubdtype(index.dtype, np.integer):
            raise InputError(
                "the index map is an integer array (nx, ny, nz)",
                key="index",
                value=(index.dtype.name, index.shape),
            )
        if index.min() < VOID or index.max() >= len(self.cells):
            raise InputError(
                f"the index map holds -1 (void) or a cell from 0 to {len(self.cells) - 1}",
                key="index",
                value=(int(index.min()), int(index.max())),
            )
        index = index.astype(np.int32)
        index.setflags(write=False)
        object.__setattr__(self, "index", index)
        for key in ("cell_size_m", "young_pa"):
            value = getattr(self, key)
            if not (np.isfinite(value) and value > 0):
                raise InputError("must be a positive number", key=key, value=value)
        if not -1 < self.poisson < 0.5:
            raise InputError("must lie between -1 and 0.5", key="poisson", value=self.poisson)
        self.cells.require_poisson(self.poisson)

    @property
    def shape(self) -> Triple:
        """Elements along each axis."""
        nx, ny, nz = self.index.shape
        return (nx, ny, nz)

    @property
    def voxels_per_cell(self) -> int:
        """Voxels along a cell's edge, 2n."""
        return 2 * self.cells.n

    @property
    def solid(self) -> Bools:
        """Elements that hold a cell, bool (nx, ny, nz)."""
        return self.index != VOID

    @property
    def kinds(self) -> NDArray[np.int32]:
        """Which voxels (:meth:`voxels_of`) each element has, (nx, ny, nz); -1 is void."""
        return self.index

    def voxels_of(self, kind: int) -> Bools:
        """The voxels of a kind: the octant (n, n, n) of a cell."""
        return self.cells.octants(kind)

    def tensors(self) -> Floats:
        """The cells' own homogenised tensors, (nx, ny, nz, 3) in units of E_s; zero in the void."""
        return np.concatenate([self.cells.C, np.zeros((1, 3))])[self.index]

    def densities(self) -> Floats:
        """Solid volume fraction of each element, (nx, ny, nz); zero in the void."""
        return np.append(self.cells.volume, 0.0)[self.index]

    @property
    def solid_volume_m3(self) -> float:
        """Volume of base material in the whole lattice, in cubic metres."""
        return float(self.densities().sum() * self.cell_size_m**3)

    @classmethod
    def extended(cls, lattice: Lattice, **more: Any) -> Self:
        """A lattice as one of this class, with the fields that it has besides."""
        return cls(**{f.name: getattr(lattice, f.name) for f in fields(Lattice)}, **more)

    def compact(self) -> Self:
        """The same lattice without the cells that no element uses."""
        used, index = np.unique(self.index, return_inverse=True)
        offset = int(used[0] == VOID)
        renumbered = (np.reshape(index, self.index.shape) - offset).astype(np.int32)
        return self.of_rows(used[offset:], renumbered)

    def of_rows(self, rows: NDArray[np.integer], index: NDArray[np.int32]) -> Self:
        """The same with some rows of its unique cells only, and an index map into those.

        Parameters
        ----------
        rows : int array
        index : int array (nx, ny, nz)
        """
        return replace(self, cells=self.cells.subset(rows), index=index)

    # -- voxels ---------------------------------------------------------------------------------

    def layers(
        self, block: Block | None = None, *, per_cell: int | None = None, axis: int = 0
    ) -> Iterator[Bools]:
        """Voxels of a block, one layer of elements at a time along ``axis``.

        Parameters
        ----------
        block : Block, optional
            The whole lattice by default.
        per_cell : int, optional
            Voxels along a cell's edge; 2n by default. Coarser: an even divisor of 2n, and a
            coarse voxel is solid where at least half of it is.
        axis : {0, 1, 2}
            Direction of travel.

        Yields
        ------
        bool array
            Shape (ni, nj, nk) * per_cell, with one element along ``axis``.
        """
        block = self._inside(block)
        local, patterns = self._patterns(block, per_cell)
        size = patterns.shape[-1]
        for i in range(block.shape[axis]):
            layer = np.take(local, [i], axis=axis)
            shape = tuple(count * size for count in layer.shape)
            yield patterns[layer].transpose(0, 3, 1, 4, 2, 5).reshape(shape)

    def voxels(self, block: Block | None = None, *, per_cell: int | None = None) -> Bools:
        """Voxels of a block as one array, bool (ni, nj, nk) * per_cell; only the block is expanded.

        Parameters are those of :meth:`layers`.
        """
        block = self._inside(block)
        size = self.voxels_per_cell if per_cell is None else per_cell
        layers = self.layers(block, per_cell=per_cell)  # refuses a bad per_cell before anything is allocated
        first = next(layers)
        out = np.empty((block.shape[0] * size, *first.shape[1:]), dtype=bool)
        out[:size] = first
        for i, layer in enumerate(layers, start=1):
            out[i * size : (i + 1) * size] = layer
        return out

    def fractions(self, block: Block | None = None, *, per_cell: int) -> Singles:
        """Solid fraction of coarse voxels, float32 (ni, nj, nk) * per_cell: what :meth:`voxels` rounds."""
        block = self._inside(block)
        local, octants = self._octants(block)
        cells = cell_from_octant(solid_fractions(octants, per_cell))
        shape = tuple(count * per_cell for count in block.shape)
        return cells[local].transpose(0, 3, 1, 4, 2, 5).reshape(shape)

    def _inside(self, block: Block | None) -> Block:
        if block is None:
            return Block.whole(self.shape)
        block.check_inside(self.shape)
        return block

    def _patterns(self, block: Block, per_cell: int | None) -> tuple[NDArray[np.intp], Bools]:
        """Full cells that occur in a block (the first is void), and the block's map into them."""
        local, octants = self._octants(block)
        size = self.voxels_per_cell if per_cell is None else per_cell
        return local, cell_from_octant(coarsen(octants, size))

    def _octants(self, block: Block) -> tuple[NDArray[np.intp], Bools]:
        """Octants that occur in a block (the first is void), and the block's map into them."""
        used, local = np.unique(self.index[block.slices], return_inverse=True)
        n = self.cells.n
        octants = np.concatenate([np.zeros((1, n, n, n), dtype=bool), self.cells.octants(used[used != VOID])])
        return np.reshape(local, block.shape) + int(used[0] != VOID), octants

    # -- how it hangs together --------------------------------------------------------------------

    def disconnected_cells(self) -> NDArray[np.intp]:
        """Unique cells that are not one piece meeting all their faces, and that some element uses."""
        used = np.unique(self.index[self.solid])
        return np.array(
            [c for c in used if not connectivity(self.cells.octants(int(c))).connected], dtype=np.intp
        )

    def contacts(self, weakest: int = 10) -> Contacts:
        """Contact between all neighbouring cells; see :class:`~multiscale.lattice.contact.Contacts`."""
        return find_contacts(self.index, self.cells.faces(), weakest=weakest)

    def holds(self, weakest: int = 10) -> Holds:
        """What neighbouring cells' pieces hang by; see :mod:`multiscale.lattice.holds`."""
        return find_holds(self.index, self.cells.faces(), weakest=weakest)

    def component_volumes(self) -> Floats:
        """Solid volume of each connected piece of the lattice, in elements, largest first."""
        return component_volumes(self.index, self.cells)

    def components(self) -> int:
        """Number of 6-connected pieces of the whole lattice's voxels."""
        return len(self.component_volumes())

    # -- on disk ----------------------------------------------------------------------------------

    def save(self, path: PathLike) -> None:
        """Write the lattice as a Zarr directory, atomically.

        The group carries format, version, units and a digest of the content; the index map is
        compressed, and the cells' octants are bit-packed by :class:`~micro.cell.cellset.CellSet`.
        """
        with atomic_path(path) as temporary:
            attributes = {
                "format": FORMAT,
                "version": VERSION,
                "cell_size_m": float(self.cell_size_m),
                "young_pa": float(self.young_pa),
                "poisson": float(self.poisson),
                "digest": self.digest(),
                "attrs": json.loads(json.dumps(dict(self.attrs), allow_nan=False)),
            }
            group = zarr.create_group(temporary, attributes=attributes)
            chunks = tuple(min(_CHUNK, size) for size in self.shape)
            array = group.create_array(
                "index", shape=self.shape, dtype="int32", chunks=chunks, fill_value=VOID
            )
            array[:] = self.index
            self.cells.save(temporary / "cells")

    @classmethod
    def load(cls, path: PathLike) -> Lattice:
        """Read a lattice written by :meth:`save`.

        Raises
        ------
        InputError
            If the path holds no lattice, one of a newer version, or a damaged one.
        """
        path = Path(path)
        if not path.is_dir():
            raise InputError("there is no lattice here", file=path)
        try:
            group = zarr.open_group(path, mode="r")
            attributes: dict[str, Any] = dict(group.attrs)
        except Exception as error:  # zarr has no common base for what it raises on a foreign or torn store
            raise InputError(f"not a readable Zarr group ({_first_line(error)})", file=path) from error
        if attributes.get("format") != FORMAT:
            raise InputError(
                f"not a lattice: its format should be {FORMAT!r}", file=path, value=attributes.get("format")
            )
        if attributes.get("version") != VERSION:
            raise InputError(
                f"this program reads lattices of version {VERSION}",
                file=path,
                value=attributes.get("version"),
            )
        try:
            index = np.asarray(group["index"])
            cells = CellSet.load(path / "cells")
            lattice = cls(
                cells,
                index,
                float(attributes["cell_size_m"]),
                float(attributes["young_pa"]),
                float(attributes["poisson"]),
                dict(attributes["attrs"]),
            )
            digest = attributes["digest"]
        except Exception as error:  # the same: codecs and stores raise whatever they like
            raise InputError(f"the lattice is damaged ({_first_line(error)})", file=path) from error
        # Zarr reads a chunk that is gone as fill values, so only the digest notices.
        if lattice.digest() != digest:
            raise InputError("the lattice is damaged: its content does not match its digest", file=path)
        return lattice

    def digest(self) -> str:
        """SHA-256 of everything but ``attrs``: the lattice's identity."""
        header = [FORMAT, self.shape, float(self.cell_size_m), float(self.young_pa), float(self.poisson)]
        sha = hashlib.sha256(json.dumps([*header, self.cells.digest()]).encode())
        sha.update(self.index.astype("<i4", copy=False).tobytes())
        return sha.hexdigest()


def coarsen(octants: Bools, per_cell: int) -> Bools:
    """Octants at ``per_cell`` voxels a cell: a coarse voxel is solid where at least half of it is.

    Shapes and errors as for :func:`solid_fractions`.
    """
    if per_cell == 2 * octants.shape[1]:
        return octants
    return solid_fractions(octants, per_cell) >= 0.5


def resolutions(n: int) -> list[int]:
    """Voxels along a cell's edge that octants of n can be coarsened to, ascending; the last is their own."""
    return [2 * k for k in range(1, n + 1) if n % k == 0]


def solid_fractions(octants: Bools, per_cell: int) -> Singles:
    """Solid fraction of the coarse voxels of octants, at ``per_cell`` voxels a cell.

    Parameters
    ----------
    octants : bool array, shape (m, n, n, n)
    per_cell : int
        An even divisor of 2n.

    Returns
    -------
    float32 array, shape (m, per_cell/2, per_cell/2, per_cell/2)

    Raises
    ------
    InputError
        If ``per_cell`` is not such a divisor.
    """
    m, n = octants.shape[:2]
    size = per_cell // 2
    if per_cell not in resolutions(n):
        allowed = ", ".join(map(str, resolutions(n)))
        raise InputError(f"voxels per cell must be one of {allowed}", key="per_cell", value=per_cell)
    step = n // size
    counts = octants.reshape(m, size, step, size, step, size, step).sum(axis=(2, 4, 6), dtype=np.int32)
    return (counts / step**3).astype(np.float32)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
