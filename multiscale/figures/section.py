"""The middle layer of a grid as something to draw on: quadrilaterals, triangles and outlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.tri import Triangulation
from numpy.typing import ArrayLike, NDArray

from micro.runtime.arrays import Bools, Floats


@dataclass(frozen=True, eq=False)
class Section:
    """The layer of elements across z in the middle of the grid; lengths in millimetres.

    Attributes
    ----------
    place : float
        Where it cuts the axis.
    layer_index, node_index : int
        Layer of elements and of nodes.
    points : array, shape (a+1, b+1, 2)
        The nodes, undeformed.
    quads : bool array, shape (a, b)
        Elements that are there.
    """

    place: float
    layer_index: int
    node_index: int
    points: Floats
    quads: Bools

    @classmethod
    def of(cls, present: Bools, cell_size_m: float) -> Section:
        """The middle of a grid where the elements ``present`` (nx, ny, nz) are there."""
        nx, ny, nz = present.shape
        edge = cell_size_m * 1e3
        ticks = [np.arange(count + 1) * edge for count in (nx, ny)]
        points = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1)
        layer, node = nz // 2, (nz + 1) // 2
        return cls(node * edge, layer, node, points, present[:, :, layer])

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height."""
        width, height = self.points[-1, -1]
        return float(width), float(height)

    @property
    def used(self) -> Bools:
        """Nodes of the elements that are there, (a+1, b+1)."""
        padded = np.pad(self.quads, 1)
        return padded[1:, 1:] | padded[1:, :-1] | padded[:-1, 1:] | padded[:-1, :-1]

    @property
    def name(self) -> str:
        """For a title: ``section z = 100 mm``."""
        return f"section z = {self.place:g} mm"

    def layer(self, field: NDArray) -> NDArray:
        """The section's part of an element field, (nx, ny, nz, ...) to (a, b, ...)."""
        return field[:, :, self.layer_index]

    def nodes(self, field: ArrayLike) -> NDArray:
        """The section's part of a node field, (nx+1, ny+1, nz+1, ...) to (a+1, b+1, ...)."""
        return np.asarray(field)[:, :, self.node_index]

    def triangulation(self, points: Floats) -> Triangulation:
        """Two triangles an element that is there, through (moved) points (a+1, b+1, 2)."""
        a, b = self.quads.shape
        number = np.arange((a + 1) * (b + 1)).reshape(a + 1, b + 1)
        p, q = number[:-1, :-1][self.quads], number[1:, :-1][self.quads]
        r, s = number[1:, 1:][self.quads], number[:-1, 1:][self.quads]
        triangles = np.concatenate([np.stack([p, q, r], axis=1), np.stack([p, r, s], axis=1)])
        return Triangulation(points[..., 0].ravel(), points[..., 1].ravel(), triangles)

    def outline(self, region: Bools, points: Floats, **style: Any) -> LineCollection:
        """Lines around a region of elements (nx, ny, nz), through (moved) points (a+1, b+1, 2)."""
        inside = np.pad(self.layer(region), 1)
        i, j = np.nonzero(inside[1:, 1:-1] != inside[:-1, 1:-1])
        across = np.stack([points[i, j], points[i, j + 1]], axis=1)
        i, j = np.nonzero(inside[1:-1, 1:] != inside[1:-1, :-1])
        along = np.stack([points[i, j], points[i + 1, j]], axis=1)
        return LineCollection(list(np.concatenate([across, along])), **({"capstyle": "round"} | style))

    def paint(self, ax: Axes, points: Floats, values: Floats, norm: Normalize, cmap: str) -> Any:
        """Colour the elements by node values (a+1, b+1), interpolated; returns what a colour bar needs.

        Parameters
        ----------
        ax : Axes
        points : array (a+1, b+1, 2)
        values : array (a+1, b+1)
        norm : Normalize
        cmap : str
        """
        # Nodes that no element uses may hold anything, NaN included.
        clean = np.where(self.used, values, float(norm.vmin or 0.0)).ravel()
        there = np.where(self.used[..., None], points, self.points)
        return ax.tripcolor(self.triangulation(there), clean, shading="gouraud", norm=norm, cmap=cmap)

    def fill(self, ax: Axes, colour: str) -> None:
        """One colour for the elements that are there."""
        mask = np.ma.masked_where(~self.quads, np.zeros(self.quads.shape))
        width, height = self.extent
        ax.imshow(
            mask.T,
            origin="lower",
            extent=(0, width, 0, height),
            interpolation="nearest",
            cmap=ListedColormap([colour]),
        )
