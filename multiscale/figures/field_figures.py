"""Figures of a run's fields on mid-sections: displacements, distortions, tensors; arrays in, PNG out.

A section is across z; lengths are in millimetres, tensors in units of the base material's Young's
modulus E_s. Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike
from multiscale.figures.section import Section
from multiscale.figures.style import (
    ACCENT,
    COMPONENTS,
    FAINT,
    INK,
    UNSEEN,
    add_title,
    panels,
    percent_ticks,
    round_factor,
    save,
    section_axes,
)
from multiscale.problem.grid import nodes_of


@dataclass(frozen=True, eq=False)
class Solution:
    """A displacement field to draw.

    Attributes
    ----------
    label : str
    displacement : array, shape (nx+1, ny+1, nz+1, 3)
        In element edges; whatever stands at nodes without a solid element is ignored.
    solid : bool array, shape (nx, ny, nz)
        Elements that are there.
    """

    label: str
    displacement: Floats
    solid: Bools


# ------------------------------------------------------------------------------- fields


def displacement_figure(
    path: PathLike,
    solutions: Sequence[Solution],
    *,
    hole: Bools,
    design: Bools,
    cell_size_m: float,
    title: str = "",
) -> Path:
    """Displacement magnitude of several solutions side by side, on one colour scale, drawn deformed.

    Parameters
    ----------
    path : path
        PNG to write.
    solutions : sequence of Solution
        Usually reference, void and cloak.
    hole, design : bool arrays, shape (nx, ny, nz)
        Outlined, in the deformed section of every solution.
    cell_size_m : float
    title : str
    """
    sections = [Section.of(s.solid, cell_size_m) for s in solutions]
    moved = [section.nodes(s.displacement) for section, s in zip(sections, solutions, strict=True)]
    size = [np.linalg.norm(u, axis=-1) * cell_size_m * 1e3 for u in moved]
    largest = max(float(v[s.used].max()) for v, s in zip(size, sections, strict=True))
    norm = Normalize(0, largest or 1.0)
    extent = max(sections[0].extent)
    factor = round_factor(0.16 * extent / largest) if largest else 1.0
    figure, axes = panels(len(solutions), sections[0])
    mappable: Any = None
    for ax, solution, section, u, value in zip(axes, solutions, sections, moved, size, strict=True):
        across = u[..., :2] * cell_size_m * 1e3 * factor
        points = section.points + across
        mappable = section.paint(ax, points, value, norm, "viridis")
        ax.add_collection(section.outline(design, points, colors=ACCENT, linewidths=1.1))
        # A hole yet to be cut is a white line on the colours.
        filled = bool((solution.solid & hole).any())
        line = {"colors": "white", "linestyles": (0, (3, 2))} if filled else {"colors": INK}
        ax.add_collection(section.outline(hole, points, linewidths=1.6, **line))
        whole = np.ones_like(hole)
        ax.add_collection(
            section.outline(whole, section.points, colors=FAINT, linewidths=0.8, linestyles=(0, (4, 3)))
        )
        ax.set_title(solution.label)
        section_axes(ax, section, margin=0.17)
    bar = figure.colorbar(mappable, ax=axes, shrink=0.82, pad=0.015)
    bar.set_label("displacement |u| (mm)")
    handles = [Line2D([], [], color=INK, linewidth=1.6, label="hole")] if hole.any() else []
    handles += [
        Line2D([], [], color=ACCENT, linewidth=1.1, label="design region"),
        Line2D([], [], color=FAINT, linestyle=(0, (4, 3)), label="undeformed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    add_title(figure, title, f"{sections[0].name}, deformation × {factor:g}")
    return save(figure, path)


def distortion_figure(
    path: PathLike,
    reference: ArrayLike,
    solutions: Sequence[Solution],
    *,
    observed: Bools,
    cell_size_m: float,
    title: str = "",
) -> Path:
    """Where solutions differ from the reference: |u - u_ref| over the root mean square of |u_ref|.

    With that scale the root mean square of the colour over the observed nodes of the
    whole grid is the distortion, which is written above each panel.

    Parameters
    ----------
    path : path
        PNG to write.
    reference : array, shape (nx+1, ny+1, nz+1, 3)
        u_ref, in element edges.
    solutions : sequence of Solution
        Usually void and cloak.
    observed : bool array, shape (nx, ny, nz)
        Elements whose nodes are observed; elsewhere nothing is coloured.
    cell_size_m : float
    title : str

    Raises
    ------
    InputError
        If the reference does not move.
    """
    differences, total = relative_differences(reference, solutions, observed)
    section = Section.of(observed, cell_size_m)
    norm = difference_scale([section.nodes(d)[section.used] for d in differences], total)
    figure, axes = panels(len(solutions), section)
    mappable: Any = None
    for ax, solution, difference, share in zip(axes, solutions, differences, total, strict=True):
        there = Section.of(solution.solid & ~observed, cell_size_m)
        there.fill(ax, UNSEEN)
        value = np.clip(section.nodes(difference), norm.vmin, None)
        mappable = section.paint(ax, section.points, value, norm, "magma")
        gone = ~solution.solid
        ax.add_collection(section.outline(gone, section.points, colors=INK, linewidths=1.6))
        ax.set_title(f"{solution.label}: distortion {100 * share:.2f} %")
        section_axes(ax, section, margin=0.02)
    difference_bar(figure, axes, mappable)
    handles = [
        Patch(facecolor=UNSEEN, edgecolor=FAINT, label="not observed"),
        Line2D([], [], color=INK, linewidth=1.6, label="hole"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    add_title(figure, title, section.name)
    return save(figure, path)


def relative_differences(
    reference: ArrayLike, solutions: Sequence[Solution], observed: Bools
) -> tuple[list[Floats], list[float]]:
    """|u - u_ref| of every node over the root mean square of |u_ref|, and the distortions that it makes.

    Parameters
    ----------
    reference : array, shape (nx+1, ny+1, nz+1, 3)
    solutions : sequence of Solution
    observed : bool array, shape (nx, ny, nz)

    Raises
    ------
    InputError
        If the reference does not move.
    """
    wanted, nodes = np.asarray(reference, dtype=np.float64), nodes_of(observed)
    scale = float(np.sqrt((wanted[nodes] ** 2).sum(-1).mean()))
    if not scale > 0:
        raise InputError("the reference does not move in the observed region", key="reference")
    differences = [np.linalg.norm(s.displacement - wanted, axis=-1) / scale for s in solutions]
    return differences, [float(np.sqrt((d[nodes] ** 2).mean())) for d in differences]


def difference_scale(shown: Sequence[Floats], total: Sequence[float]) -> LogNorm:
    """Colours of relative differences that are shown, down to a twentieth of the least distortion."""
    top = max((float(v.max()) for v in shown if v.size), default=1.0) or 1.0
    lowest = min([t for t in total if t > 0] or [top])
    return LogNorm(max(lowest / 20, top * 1e-5), top)


def difference_bar(figure: Figure, axes: Sequence[Axes], mappable: Any) -> None:
    """The colour bar of relative differences."""
    bar = figure.colorbar(mappable, ax=axes, shrink=0.82, pad=0.015, extend="min")
    bar.set_label(r"$|u - u_\mathrm{ref}|\;/\;\mathrm{rms}\,|u_\mathrm{ref}|$")
    percent_ticks(bar.ax, subs=(1, 3))


def tensor_figure(
    path: PathLike,
    tensors: ArrayLike,
    *,
    solid: Bools,
    design: Bools,
    cell_size_m: float,
    title: str = "",
) -> Path:
    """C11, C12 and C44 of every element on the mid-section, each on its own scale.

    Parameters
    ----------
    path : path
        PNG to write.
    tensors : array, shape (nx, ny, nz, 3)
        In units of E_s.
    solid, design : bool arrays, shape (nx, ny, nz)
        Elements that are there, and those that were designed (outlined).
    cell_size_m : float
    title : str
    """
    field = np.asarray(tensors, dtype=np.float64)
    section = Section.of(solid, cell_size_m)
    figure, axes = panels(3, section, bars=True)
    for component, ax in enumerate(axes):
        values = np.ma.masked_where(~section.layer(solid), section.layer(field[..., component]))
        width, height = section.extent
        image = ax.imshow(
            values.T, origin="lower", extent=(0, width, 0, height), interpolation="nearest", cmap="viridis"
        )
        ax.add_collection(section.outline(design, section.points, colors="white", linewidths=1.1))
        ax.add_collection(section.outline(~solid, section.points, colors=INK, linewidths=1.6))
        bar = figure.colorbar(image, ax=ax, shrink=0.82, pad=0.03)
        bar.set_label(f"{COMPONENTS[component]} / $E_s$")
        inside = field[design, component] if design.any() else field[solid, component]
        ax.set_title(f"{COMPONENTS[component]}: design {inside.min():.3f} to {inside.max():.3f}")
        section_axes(ax, section, margin=0.02)
    add_title(figure, title, section.name)
    return save(figure, path)


# ------------------------------------------------------------------------------- charts
