"""What the report's view in space is fed with: the lattice as it is stored, and fields by element.

The index map, the unique cells' octants (one bit a voxel of their fundamental domain) and one byte an element
for each field, each deflated and as base64. ``data/viewer.js`` reads it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray

from micro.cell.chamber import pack, packed_bytes
from micro.cell.tensor import tensor_error
from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.voxels.corners import CORNERS
from multiscale.figures.palette import region_colours
from multiscale.lattice.contact import neighbours
from multiscale.lattice.lattice import Lattice, coarsen
from multiscale.problem.problem import Problem

#: Bytes that the octants may take before they are sent coarser (what deflate leaves is about the same).
OCTANT_BYTES = 3_000_000
#: Largest octant edge: a row of voxels is one word of 32 bits in the viewer.
LARGEST_OCTANT = 32
#: Elements and unique cells the viewer's textures hold.
LARGEST_EDGE = 512


@dataclass(frozen=True, eq=False)
class Field:
    """A number for every element.

    Attributes
    ----------
    name : str
    values : array, shape (nx, ny, nz)
        NaN where there is none.
    unit : str
    log : bool
        Show the logarithm: values that are not positive have none.
    palette : str
        A colour map of matplotlib.
    """

    name: str
    values: NDArray
    unit: str = ""
    log: bool = False
    palette: str = "viridis"


def scene(problem: Problem, lattice: Lattice, fields: Sequence[Field]) -> dict[str, Any]:
    """Everything the viewer needs, as JSON values.

    Parameters
    ----------
    problem : Problem
    lattice : Lattice
        Filled, on the problem's grid.
    fields : sequence of Field

    Raises
    ------
    InputError
        If the lattice is not on the problem's grid, or larger than the viewer can hold.
    """
    if lattice.shape != problem.shape:
        raise InputError("the lattice is not on the case's grid", key="lattice", value=lattice.shape)
    if max(lattice.shape) > LARGEST_EDGE:
        raise InputError(
            f"the view holds at most {LARGEST_EDGE} elements an edge", key="grid", value=lattice.shape
        )
    solid = lattice.solid
    n, octants = _octants(lattice)
    names = list(problem.region_names)
    filled = sorted(int(r) for r in np.unique(problem.region[solid]))
    shown = [quantised(field, solid) for field in fields]
    regions = {
        "name": "region",
        "unit": "",
        "palette": "regions",
        "categories": names,
        "data": deflated(np.where(solid, problem.region + 1, 0).astype(np.uint8)),
    }
    palettes = {name: _palette(name) for name in {str(field["palette"]) for field in shown}}
    palettes["regions"] = _colours([to_rgb(c) for c in region_colours(problem)])
    return {
        "shape": list(lattice.shape),
        "cells": len(lattice.cells),
        "solid": int(solid.sum()),
        "n": n,
        "voxels": lattice.voxels_per_cell,
        "index": deflated((lattice.index + 1).astype("<u4")),
        "octants": octants,
        "region": deflated(problem.region.astype(np.uint8)),
        "regions": names,
        "filled": filled,
        "fields": [*shown, regions],
        "palettes": palettes,
    }


def run_fields(
    problem: Problem, lattice: Lattice, design: Floats, displacements: Mapping[str, NDArray]
) -> list[Field]:
    """The fields of a run.

    Parameters
    ----------
    problem : Problem
    lattice : Lattice
    design : array, shape (nx, ny, nz, 3)
        Designed tensors, in units of E_s.
    displacements : mapping
        LOAD.STRUCTURE to (nx+1, ny+1, nz+1, 3), in element edges.
    """
    built, solid = lattice.tensors(), lattice.solid
    fields = []
    for tensors, made in ((design, "designed"), (built, "as built")):
        for i, name in enumerate(("C11", "C12", "C44")):
            fields.append(Field(f"{name}, {made}", tensors[..., i], "E_s"))
    fields.append(Field("solid volume fraction", lattice.densities()))
    error = 100 * tensor_error(
        np.where(solid[..., None], built, 1.0), np.where(solid[..., None], design, 1.0)
    )
    fields.append(
        Field("tensor error, cell against design", np.where(solid, error, np.nan), "%", True, "magma")
    )
    labels = {"void": "without cloak", "design": "designed", "lattice": "as built"}
    for load in dict.fromkeys(key.rpartition(".")[0] for key in displacements):
        if f"{load}.reference" not in displacements:
            continue
        reference = displacements[f"{load}.reference"]
        for structure, label in labels.items():
            local = 100 * local_distortion(displacements[f"{load}.{structure}"], reference, problem)
            fields.append(Field(f"distortion {load}, {label}", local, "%", True, "magma"))
    fields.append(Field("least contact with a neighbour", 100 * least_contact(lattice), "% of face"))
    return fields


def local_distortion(u: ArrayLike, reference: ArrayLike, problem: Problem) -> Floats:
    """|u - u_ref| over the root mean square of |u_ref|, mean of an element's nodes; NaN if not observed.

    The root mean square is over the observed nodes, as in
    :func:`multiscale.figures.field_figures.distortion_figure`.
    """
    wanted = np.asarray(reference, dtype=np.float64)
    scale = np.sqrt((wanted[problem.observed_nodes] ** 2).sum(-1).mean())
    at_nodes = np.linalg.norm(np.asarray(u, dtype=np.float64) - wanted, axis=-1) / scale
    nx, ny, nz = problem.shape
    mean = sum(at_nodes[i : i + nx, j : j + ny, k : k + nz] for i, j, k in CORNERS)
    return np.where(problem.observed, np.asarray(mean) / 8, np.nan)


def least_contact(lattice: Lattice) -> Floats:
    """Least contact area of an element's interfaces, as a fraction of the face; NaN without neighbours."""
    least = np.full(lattice.shape, np.inf)
    for axis, area in enumerate(lattice.contacts().areas):
        known = np.where(np.isnan(area), np.inf, area)
        for side in neighbours(least, axis):
            np.minimum(side, known, out=side)
    return np.where(np.isfinite(least), least, np.nan)


def quantised(field: Field, solid: Bools) -> dict[str, Any]:
    """A field as one byte an element: 0 for none, 1 to 255 evenly over the range found in ``solid``."""
    values = np.asarray(field.values, dtype=np.float64)
    there = solid & np.isfinite(values) & ((values > 0) if field.log else True)
    low, high = (float(values[there].min()), float(values[there].max())) if there.any() else (0.0, 1.0)
    if field.log:
        low = max(low, high * 1e-4) if there.any() else 1e-4
        place = np.log(np.clip(np.where(there, values, high), low, high) / low)
        span = np.log(high / low)
    else:
        place, span = np.where(there, values, low) - low, high - low
    steps = np.rint(254 * place / span) if span > 0 else np.zeros(values.shape)
    return {
        "name": field.name,
        "unit": field.unit,
        "log": field.log,
        "palette": field.palette,
        "low": low,
        "high": high,
        "data": deflated(np.where(there, 1 + steps, 0).astype(np.uint8)),
    }


def deflated(array: NDArray) -> str:
    """An array's bytes, deflated (zlib), as base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def _octants(lattice: Lattice) -> tuple[int, str]:
    """Octant edge and packed octants, halved until they are small enough."""
    n = lattice.cells.n
    count = len(lattice.cells)
    while n % 2 == 0 and n > 4 and (n > LARGEST_OCTANT or count * packed_bytes(n) > OCTANT_BYTES):
        n //= 2
    if n > LARGEST_OCTANT:
        raise InputError(
            f"the view shows octants of at most {LARGEST_OCTANT} voxels, or twice that by a power of two",
            key="lattice",
            value=lattice.cells.n,
        )
    # A few at a time: unpacked, thousands of cells take gigabytes.
    parts = [
        pack(coarsen(lattice.cells.octants(np.arange(start, min(start + 256, count))), 2 * n))
        for start in range(0, count, 256)
    ]
    return n, deflated(np.concatenate(parts))


def _palette(name: str) -> str:
    return _colours(colormaps[name](np.linspace(0, 1, 256))[:, :3])


def _colours(rgb: ArrayLike) -> str:
    """256 colours as base64; the rest of a shorter list stays black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    given = np.rint(255 * np.asarray(rgb, dtype=np.float64)).astype(np.uint8)
    table[: len(given)] = given
    return base64.b64encode(table.tobytes()).decode()
