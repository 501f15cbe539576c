"""SVX (Simple Voxels 1.0): a zip of density slices and a manifest, in metres.

The format's own reader (AbFab3D) takes 8-bit greyscale only and slices normal to y whatever the manifest
says, so that is what is written: a picture's column is x, its row z, both ascending from the upper left.
"""

from __future__ import annotations

import zipfile
from xml.etree import ElementTree

import numpy as np

from micro.runtime.arrays import Bools
from micro.runtime.files import PathLike, atomic_path
from micro.runtime.progress import Progress, unheard
from multiscale.export.volume.png import png
from multiscale.export.volume.slices import pictures
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

_SLICES = "density/slice%04d.png"


def write_svx(
    lattice: Lattice,
    path: PathLike,
    block: Block | None = None,
    *,
    per_cell: int | None = None,
    progress: Progress = unheard,
) -> None:
    """Write a block's voxels as SVX, atomically; density 255 is solid, 0 void.

    Parameters and errors are those of :func:`multiscale.export.volume.slices.write_slices`.

    Parameters
    ----------
    lattice, path, block, per_cell, progress
        As :func:`multiscale.export.volume.slices.write_slices`.
    """
    block = Block.of(block, lattice.shape)
    per_cell = lattice.voxels_per_cell if per_cell is None else per_cell
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as package:
        package.writestr("manifest.xml", _manifest(lattice, block, per_cell))
        stack = pictures(lattice, block, per_cell=per_cell, axis=1, picture=density_picture)
        for k, content in enumerate(stack):
            # Pictures are compressed: once is enough.
            package.writestr(_SLICES % k, content)
            progress(k + 1, block.shape[1] * per_cell)


def density_picture(plane: Bools) -> bytes:
    """PNG of a layer's density, 8 bits a voxel."""
    return png(plane.astype(np.uint8) * 255)


def _manifest(lattice: Lattice, block: Block, per_cell: int) -> bytes:
    edge = lattice.cell_size_m
    grid = ElementTree.Element(
        "grid", version="1.0", voxelSize=repr(edge / per_cell), subvoxelBits="8", slicesOrientation="Y"
    )
    for axis, size, low in zip("XYZ", block.shape, block.lower, strict=True):
        grid.set(f"gridSize{axis}", str(size * per_cell))
        grid.set(f"origin{axis}", repr(low * edge))
    channels = ElementTree.SubElement(grid, "channels")
    ElementTree.SubElement(channels, "channel", type="DENSITY", bits="8", slices=_SLICES)
    materials = ElementTree.SubElement(grid, "materials")
    ElementTree.SubElement(materials, "material", id="1", urn="urn:shapeways:materials/1")
    metadata = ElementTree.SubElement(grid, "metadata")
    ElementTree.SubElement(metadata, "entry", key="author", value="multiscale")
    return ElementTree.tostring(grid, encoding="utf-8", xml_declaration=True)
