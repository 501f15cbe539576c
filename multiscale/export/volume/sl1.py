"""SL1: what PrusaSlicer hands to resin printers, and what UVtools and uv3dp make other printers' files of.

A zip of one picture a layer, of ``config.ini`` (the job) and of ``prusaslicer.ini`` (the printer's screen),
as PrusaSlicer's own writer and reader have it (libslic3r/Format/SL1.cpp): 8-bit greyscale, since its reader
takes nothing else, seen from above with y upwards; the screen is the stack's own size, neither turned nor
mirrored. How long a layer is exposed belongs to a printer and a resin: it is left to the program that opens
the file.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from micro.runtime.arrays import Bools
from micro.runtime.files import PathLike, atomic_path
from micro.runtime.progress import Progress, unheard
from multiscale.export.volume.png import png
from multiscale.export.volume.printer_slices import PrinterGrid, Stack, stack_pictures
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice


def write_sl1(
    lattice: Lattice, path: PathLike, block: Block, grid: PrinterGrid, *, progress: Progress = unheard
) -> Stack:
    """Write a block on a printer's grid as SL1, atomically; slices that are alike are made once.

    Parameters
    ----------
    lattice : Lattice
    path : path
    block : Block
    grid : PrinterGrid
    progress : Progress, optional
    """
    name, pixels = Path(path).stem, 0
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as package:
        for k, (content, count) in enumerate(stack_pictures(lattice, block, grid, layer_picture)):
            package.writestr(f"{name}{k:05d}.png", content)  # compressed already
            pixels += count
            progress(k + 1, grid.shape[2])
        volume = pixels * float(np.prod(grid.steps))
        (nx, ny, nz), (dx, dy, dz) = grid.shape, grid.steps
        job = {"action": "print", "jobDir": name, "layerHeight": dz, "usedMaterial": volume / 1000}
        package.writestr("config.ini", _ini(job | {"numFade": 0, "numSlow": 0, "numFast": nz}))
        screen = {
            "printer_technology": "SLA",
            "display_orientation": "landscape",
            "display_mirror_x": 0,
            "display_mirror_y": 0,
            "display_pixels_x": nx,
            "display_pixels_y": ny,
            "display_width": nx * dx,
            "display_height": ny * dy,
            "max_print_height": nz * dz,
            "layer_height": dz,
            "initial_layer_height": dz,
        }
        package.writestr("prusaslicer.ini", _ini(screen))
    return Stack(Path(path).stat().st_size, volume)


def layer_picture(image: Bools) -> bytes:
    """PNG of a slice (pixels along y, along x), the uppermost row the highest y."""
    return png(image[::-1].astype(np.uint8) * 255)


def _ini(values: dict[str, object]) -> str:
    shown = {key: f"{value:.9g}" if isinstance(value, float) else value for key, value in values.items()}
    return "".join(f"{key} = {value}\n" for key, value in shown.items())
