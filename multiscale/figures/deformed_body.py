"""A body in space under a load, deformed, coloured by how far it is from its reference; arrays in, PNG out.

A section shows what happens in its plane; the worst load of a space may bend or twist the body out of any.
What is drawn are the faces of solid elements that look towards the eye, the farthest first, each in one
colour: no graphics driver is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from micro.runtime.arrays import Bools, Floats
from micro.runtime.files import PathLike
from multiscale.figures.field_figures import Solution, difference_bar, difference_scale, relative_differences
from multiscale.figures.style import FAINT, UNSEEN, add_title, new_figure, round_factor, save

VIEW = np.array([0.42, -0.62, 0.66]) / np.linalg.norm([0.42, -0.62, 0.66])
"""From the body to the eye: the faces x+, y- and z+ are seen."""
_LIGHT = (0.94, 0.86, 1.0)
"""Brightness of faces across x, y and z."""


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces of solid elements that look towards the eye.

    Attributes
    ----------
    element : int array (f, 3)
    axis : int array (f,)
        Across which they lie.
    corners : int array (f, 4, 3)
        Nodes, in order around the face.
    """

    element: np.ndarray
    axis: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, solid: Bools) -> Faces:
        """Of the solid elements (nx, ny, nz) of a grid."""
        elements, axes, corners = [], [], []
        padded = np.pad(solid, 1)
        inside = tuple(slice(1, -1) for _ in range(3))
        for axis in range(3):
            side = 1 if VIEW[axis] > 0 else -1
            beyond = np.roll(padded, -side, axis=axis)[inside]
            element = np.argwhere(solid & ~beyond)
            first, second = (np.eye(3, dtype=int)[a] for a in range(3) if a != axis)
            base = element + (side > 0) * np.eye(3, dtype=int)[axis]
            elements.append(element)
            axes.append(np.full(len(element), axis))
            corners.append(np.stack([base, base + first, base + first + second, base + second], axis=1))
        return cls(np.concatenate(elements), np.concatenate(axes), np.concatenate(corners))

    def at(self, field: Floats) -> Floats:
        """Values (f, 4, ...) of a node field at the corners."""
        i, j, k = np.moveaxis(self.corners, -1, 0)
        return np.asarray(field[i, j, k])


def deformed_figure(
    path: PathLike,
    reference: ArrayLike,
    solutions: Sequence[Solution],
    *,
    observed: Bools,
    cell_size_m: float,
    title: str = "",
) -> Path:
    """The reference and solutions side by side, deformed by one factor, on one scale of colours.

    The colour is that of :func:`multiscale.figures.field_figures.distortion_figure`, of which the root mean
    square over the observed nodes is the distortion above each panel.

    Parameters
    ----------
    path : path
        PNG to write.
    reference : array, shape (nx+1, ny+1, nz+1, 3)
        u_ref, in element edges.
    solutions : sequence of Solution
        Usually void and cloak.
    observed : bool array, shape (nx, ny, nz)
        Elements whose nodes are observed; other faces are grey.
    cell_size_m : float
    title : str

    Raises
    ------
    InputError
        If the reference does not move.
    """
    wanted = np.asarray(reference, dtype=np.float64)
    differences, total = relative_differences(wanted, solutions, observed)
    shape = np.array(observed.shape)
    bodies = [Solution("reference", wanted, np.ones(observed.shape, dtype=bool)), *solutions]
    faces = [Faces.of(body.solid) for body in bodies]
    moves = [f.at(body.displacement) for f, body in zip(faces, bodies, strict=True)]
    largest = max(float(np.linalg.norm(u, axis=-1).max()) for u in moves)
    factor = round_factor(0.16 * shape.max() / largest) if largest else 1.0
    values = [f.at(d).mean(axis=1) for f, d in zip(faces[1:], differences, strict=True)]
    seen = [observed[tuple(f.element.T)] for f in faces]
    norm = difference_scale([v[s] for v, s in zip(values, seen[1:], strict=True)], total)
    frame = _frame(shape)
    places = [f.corners + factor * u for f, u in zip(faces, moves, strict=True)]
    room = np.concatenate([_flat(p).reshape(-1, 2) for p in places] + [frame.reshape(-1, 2)])
    low, high = room.min(axis=0), room.max(axis=0)
    width, height = high - low
    figure = new_figure((4.5 * len(bodies) + 1.2, min(12.0, 4.2 * height / width + 1.4)))
    axes = list(np.atleast_1d(figure.subplots(1, len(bodies))))
    for number, (ax, body, face, place) in enumerate(zip(axes, bodies, faces, places, strict=True)):
        colours = np.tile(to_rgb(UNSEEN), (len(face.axis), 1))
        if number:
            shown, value = seen[number], values[number - 1]
            colours[shown] = colormaps["magma"](norm(np.clip(value[shown], norm.vmin, None)))[:, :3]
        colours *= np.take(_LIGHT, face.axis)[:, None]
        order = np.argsort(place.mean(axis=1) @ VIEW)
        # Edges of the faces' own colour: no seams of the background between them.
        ax.add_collection(
            PolyCollection(
                list(_flat(place[order])),
                facecolors=colours[order],
                edgecolors=colours[order],
                linewidths=0.3,
            )
        )
        ax.add_collection(LineCollection(list(frame), colors=FAINT, linewidths=0.9, linestyles=(0, (4, 3))))
        ax.set_title(f"{body.label}: distortion {100 * total[number - 1]:.2f} %" if number else body.label)
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        ax.set_axis_off()
    difference_bar(figure, axes, ScalarMappable(norm, "magma"))
    handles = [
        Patch(facecolor=UNSEEN, edgecolor=FAINT, label="not observed, or the reference"),
        Line2D([], [], color=FAINT, linestyle=(0, (4, 3)), label="undeformed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    size = " × ".join(f"{n * cell_size_m * 1e3:g}" for n in shape)
    add_title(figure, title, f"{size} mm, deformation × {factor:g}")
    return save(figure, path)


def _flat(points: Floats) -> Floats:
    """Points (..., 3) as the eye sees them, (..., 2): z is up."""
    right = np.cross([0.0, 0.0, 1.0], VIEW)
    right /= np.linalg.norm(right)
    return np.stack([points @ right, points @ np.cross(VIEW, right)], axis=-1)


def _frame(shape: np.ndarray) -> Floats:
    """The block's nine edges that the eye sees, undeformed, flat: (9, 2, 2)."""
    hidden = np.where(VIEW > 0, 0, 1)
    ends = []
    for axis in range(3):
        for a in (0, 1):
            for b in (0, 1):
                start = np.insert(np.array([a, b]), axis, 0)
                end = start + np.eye(3, dtype=int)[axis]
                if not (np.array_equal(start, hidden) or np.array_equal(end, hidden)):
                    ends.append([start, end])
    return _flat(np.array(ends) * shape)
