"""Slices at a printer's own pitch and layer height: 1-bit PNG, a pixel solid where its centre is.

Pixels are told by the cells' level sets (:mod:`multiscale.export.volume.level_sets`), not by the nearest
voxel. A slice is made at a time, from a plane of each cell that it cuts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path, write_json
from micro.runtime.progress import Progress, unheard
from multiscale.export.volume.level_sets import KEEP_BYTES, LevelSets, positions
from multiscale.export.volume.png import png
from multiscale.export.volume.slice_kernels import PixelAxis, fill_layer
from multiscale.export.volume.slices import MANIFEST, manifest
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import VOID, Lattice

BYTES_PER_PIXEL = 1.3  # the picture, and its bits to be compressed
PROGRAM_BYTES = 480_000_000  # the command with its libraries, measured
MOST_PIXELS = 500_000_000  # of a slice: as many bytes are in memory
MOST_LAYERS = 200_000
_DISK = 0.9  # of what is free
_FINEST = 1e-3  # mm
_FEWEST = 4  # pixels or layers along a cell's edge
_SAMPLED = (0.15, 0.4, 0.7)  # heights, in shares of the block's, at which slices are made to know their size
_LAYER_BYTES = 512  # of a file's place on the disk, beyond its content, on average


@dataclass(frozen=True)
class PrinterGrid:
    """A block of a lattice on a printer's grid.

    Attributes
    ----------
    pixel_mm : tuple of two float
        Pitch along x and along y.
    layer_mm : float
    shape : tuple of three int
        Pixels along x and y, layers along z. Pixel (0, 0) of layer 0 begins at the block's corner; one whose
        centre lies beyond the block's end is left out.
    """

    pixel_mm: tuple[float, float]
    layer_mm: float
    shape: tuple[int, int, int]

    @classmethod
    def of(
        cls, lattice: Lattice, block: Block, pixel_mm: tuple[float, float], layer_mm: float
    ) -> PrinterGrid:
        """The grid of a block.

        Parameters
        ----------
        lattice : Lattice
        block : Block
        pixel_mm : tuple of two floats
            Pitch along x and y.
        layer_mm : float
            Layer height.

        Raises
        ------
        InputError
            If a length is below a micrometre, or above a quarter of a cell's edge.
        """
        edge = 1e3 * lattice.cell_size_m
        named = (("--pixel", pixel_mm[0]), ("--pixel", pixel_mm[1]), ("--layer", layer_mm))
        for key, value in named:
            if not _FINEST <= value <= edge / _FEWEST:
                raise InputError(
                    f"is a length in mm from {_FINEST:g} to a quarter of a cell's edge, {edge / _FEWEST:.4g}",
                    key=key,
                    value=value,
                )
        steps = (*pixel_mm, layer_mm)
        nx, ny, nz = (
            max(1, int(np.ceil(count * edge / step - 0.5 - 1e-9)))
            for count, step in zip(block.shape, steps, strict=True)
        )
        return cls(pixel_mm, layer_mm, (nx, ny, nz))

    @property
    def steps(self) -> tuple[float, float, float]:
        """Pitch along x and y, layer height, in mm."""
        return (*self.pixel_mm, self.layer_mm)


@dataclass(frozen=True)
class Stack:
    """What was written: bytes, and the volume of its solid pixels in mm3."""

    written: int
    volume_mm3: float


def printer_slices(
    lattice: Lattice, block: Block, grid: PrinterGrid, layers: NDArray[np.integer] | None = None
) -> Iterator[Bools]:
    """Slices of a block, the lowest first: bool (pixels along y, pixels along x).

    ``layers`` are the numbers of those wanted, ascending; all by default.

    Parameters
    ----------
    lattice : Lattice
    block : Block
    grid : PrinterGrid
    layers : int array, optional
        Numbers of the slices wanted, ascending; all by default.
    """
    for maker in _makers(lattice, block, grid, layers):
        yield maker.image()


@dataclass(frozen=True, eq=False)
class _Maker:
    """One slice, not made yet; ``key`` is the same for slices that are alike."""

    key: tuple[int, float]
    image: Callable[[], Bools]


def _makers(
    lattice: Lattice, block: Block, grid: PrinterGrid, layers: NDArray[np.integer] | None = None
) -> Iterator[_Maker]:
    size, edge = lattice.voxels_per_cell, 1e3 * lattice.cell_size_m
    x, y, z = (
        _axis(count, step, elements, edge, size)
        for count, step, elements in zip(grid.shape, grid.steps, block.shape, strict=True)
    )
    sets = LevelSets(lattice)
    kinds = lattice.kinds[block.slices]
    element, plain, number = -1, True, -1
    used, local = np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.int64)
    for layer in range(grid.shape[2]) if layers is None else layers.tolist():
        if z.element[layer] != element:
            before = kinds[:, :, element] if element >= 0 else None
            element = int(z.element[layer])
            here = kinds[:, :, element]
            if before is None or not np.array_equal(before, here):
                number += 1
            used, local = np.unique(here, return_inverse=True)
            local = np.reshape(local, here.shape)
            plain = bool((here < len(lattice.cells)).all())
        place = float(z.sample[layer] + z.weight[layer]) + 0.5

        def image(used: NDArray = used, local: NDArray = local, place: float = place) -> Bools:
            solid = used[used != VOID]
            planes = sets.planes(solid, place)
            if len(solid) < len(used):  # void is the first
                planes = np.concatenate([np.full((1, size, size), -1.0, dtype=np.float32), planes])
            out = np.empty((grid.shape[1], grid.shape[0]), dtype=np.bool_)
            fill_layer(planes, local, x, y, out)
            return out

        # A cell is its own mirror image, unless it was changed.
        alike = min(place, size - place) if plain else place
        yield _Maker((number, round(alike, 5)), image)


def _axis(count: int, step: float, elements: int, edge: float, size: int) -> PixelAxis:
    centre = (np.arange(count, dtype=np.float64) + 0.5) * (step / edge)
    element = np.minimum(centre.astype(np.int32), elements - 1)
    sample, weight = positions((centre - element) * size, size)
    return PixelAxis(element, sample, weight)


def slice_memory(lattice: Lattice, block: Block, grid: PrinterGrid) -> int:
    """Bytes that are needed to make a stack, at any one time."""
    used = len(np.unique(lattice.kinds[block.slices]))
    sets = min(KEEP_BYTES, 4 * used * lattice.cells.n**3)
    return PROGRAM_BYTES + sets + round(BYTES_PER_PIXEL * grid.shape[0] * grid.shape[1])


def stack_bytes(
    lattice: Lattice, block: Block, grid: PrinterGrid, picture: Callable[[Bools], bytes] = png
) -> int:
    """Size that a stack will about have, from three slices of it.

    Parameters
    ----------
    lattice : Lattice
    block : Block
    grid : PrinterGrid
    picture : callable, optional
        As :func:`stack_pictures`.
    """
    layers = np.unique([int(share * grid.shape[2]) for share in _SAMPLED])
    sizes = [len(picture(image)) for image in printer_slices(lattice, block, grid, layers)]
    return round(grid.shape[2] * (float(np.mean(sizes)) + _LAYER_BYTES))


def check_stack(grid: PrinterGrid, disk: int, path: Path) -> None:
    """Refuse a stack that no slice of fits into memory, or that the disk has no place for.

    Raises
    ------
    InputError
    """
    pixels = grid.shape[0] * grid.shape[1]
    if pixels > MOST_PIXELS:
        raise InputError(
            f"{pixels:,} pixels a slice are more than the {MOST_PIXELS:,} allowed: a smaller --region or a "
            "coarser --pixel",
            key="--pixel",
            value=grid.pixel_mm,
        )
    if grid.shape[2] > MOST_LAYERS:
        raise InputError(
            f"{grid.shape[2]:,} layers are more than the {MOST_LAYERS:,} allowed: a smaller --region or "
            "a coarser --layer",
            key="--layer",
            value=grid.layer_mm,
        )
    place = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if disk > _DISK * free:
        raise InputError(
            f"about {disk / 1e9:.3g} GB are more than the disk has place for ({free / 1e9:.3g} GB are free)",
            key="--out",
            value=str(path),
        )


def write_printer_slices(
    lattice: Lattice, path: PathLike, block: Block, grid: PrinterGrid, *, progress: Progress = unheard
) -> Stack:
    """Write a directory of slices with ``manifest.json``, atomically; slices that are alike are made once.

    A picture's column is x; its row is y, the uppermost row the lowest y; white is solid.

    Parameters
    ----------
    lattice : Lattice
    path : path
    block : Block
    grid : PrinterGrid
    progress : Progress, optional
    """
    written, pixels = 0, 0
    with atomic_path(path) as temporary:
        temporary.mkdir()
        for k, (content, count) in enumerate(stack_pictures(lattice, block, grid, png)):
            written += (temporary / f"slice_{k:05d}.png").write_bytes(content)
            pixels += count
            progress(k + 1, grid.shape[2])
        volume = pixels * float(np.prod(grid.steps))
        said = manifest(lattice, block, grid.shape, grid.pixel_mm, grid.layer_mm) | {"solid_mm3": volume}
        write_json(temporary / MANIFEST, said)
        written += (temporary / MANIFEST).stat().st_size
    return Stack(written, volume)


def stack_pictures(
    lattice: Lattice, block: Block, grid: PrinterGrid, picture: Callable[[Bools], bytes]
) -> Iterator[tuple[bytes, int]]:
    """``picture`` of every slice, the lowest first, and its solid pixels; those alike are made once.

    Parameters
    ----------
    lattice : Lattice
    block : Block
    grid : PrinterGrid
    picture : callable
        From a slice, bool (pixels along y, pixels along x), to the bytes of its picture.
    """
    known: dict[float, tuple[bytes, int]] = {}
    number = -1
    for slice in _makers(lattice, block, grid):
        if slice.key[0] != number:  # other elements: what is known is of no more use
            number = slice.key[0]
            known.clear()
        if slice.key[1] not in known:
            image = slice.image()
            known[slice.key[1]] = picture(image), int(np.count_nonzero(image))
        yield known[slice.key[1]]
