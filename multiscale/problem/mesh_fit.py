"""Whether a mesh lies on the grid as meant: a file in metres or inches is off by orders of magnitude."""

from __future__ import annotations

import numpy as np

from micro.runtime.errors import InputError
from multiscale.case.case import Case
from multiscale.case.shapes import meshes_in

_LEAST = 0.5  # elements that a body spans at least
_INSIDE = 0.1  # share of its bounding box within the grid
_UNITS = {"metres": 1e3, "inches": 25.4, "centimetres": 10.0, "mm": 1.0, "micrometres": 1e-3}


def check_meshes(case: Case) -> None:
    """Refuse meshes that are smaller than an element, or mostly outside the grid.

    Raises
    ------
    InputError
        With the mesh's extent, the grid's, and the unit that would fit.
    """
    grid = np.array(case.grid.elements, dtype=float)
    for index, region in enumerate(case.regions):
        for mesh in meshes_in(region.shape):
            corners = mesh.triangles.reshape(-1, 3)
            low, high = corners.min(axis=0), corners.max(axis=0)
            size = high - low
            within = np.prod(
                np.clip(np.minimum(high, grid) - np.maximum(low, 0.0), 0.0, None) / np.maximum(size, 1e-300)
            )
            if size.max() >= _LEAST and within >= _INSIDE:
                continue
            span = " x ".join(f"{v:.4g}" for v in size)
            what = (
                f"spans {span} elements, less than one"
                if size.max() < _LEAST
                else f"spans {span} elements from ({', '.join(f'{v:.4g}' for v in low)}), {1 - within:.0%} "
                f"of its bounding box outside the grid of {' x '.join(f'{v:g}' for v in grid)}"
            )
            raise InputError(
                f"the mesh {what}; {_advice(case, size / mesh.scale, grid)}",
                file=case.path(mesh.file),
                key=f"regions[{index}].shape.scale",
                value=mesh.scale,
            )


def _advice(case: Case, size: np.ndarray, grid: np.ndarray) -> str:
    """The scale for the unit in which a body of that size (in the file's units) fits the grid best."""
    cell = case.grid.cell_size_mm
    fitting = {
        unit: mm / cell for unit, mm in _UNITS.items() if 1 <= (size * mm / cell).max() <= 2 * grid.max()
    }
    said = [f"scale = {scale:.4g} if the file is in {unit}" for unit, scale in fitting.items()]
    return f"{' or '.join(said) or 'no usual unit makes it fit'}; offset puts its origin"
