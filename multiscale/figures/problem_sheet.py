"""A picture of the problem before anything is solved: regions, supports, loads, mirror planes.

One row per load case: a view in space beside the three mid-sections. Supports
are hatched, tractions and prescribed displacements are arrows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from micro.runtime.files import atomic_path
from multiscale.figures.palette import (
    FORCE_COLOUR,
    MIRROR_COLOUR,
    MOVE_COLOUR,
    SUPPORT_COLOUR,
    region_colours,
    region_roles,
)
from multiscale.figures.problem_view import spread, views
from multiscale.problem.loads import LoadCase
from multiscale.problem.problem import Problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


# For each section: (its normal, the axis drawn to the right, the axis drawn upward).
SECTIONS = ((2, 0, 1), (0, 2, 1), (1, 0, 2))


def draw_problem(problem: Problem, path: str | Path) -> str | None:
    """Write the picture of a problem as PNG.

    Returns
    -------
    str or None
        Why the view in space is missing, or None when it is there.
    """
    from matplotlib.figure import Figure

    colours = region_colours(problem)
    images, reason = views(problem, colours)
    rows = len(problem.loads)
    columns = 4 if images else 3
    height = 4.6 * rows + 0.9
    figure = Figure(figsize=(4.5 * columns, height), dpi=110, facecolor="white")
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": 0.015 if images else 0.05,
            "right": 0.985,
            "top": 1 - 0.8 / height,
            "bottom": 0.9 / height,
            "wspace": 0.16,
            "hspace": 0.24,
            "width_ratios": ([1.35] if images else []) + [1, 1, 1],
        },
    )
    for row, load in enumerate(problem.loads):
        if images:
            axes[row, 0].imshow(images[row])
            axes[row, 0].set_axis_off()
        for axis, section in zip(axes[row, columns - 3 :], SECTIONS, strict=True):
            _draw_section(axis, problem, load, colours, section)
        axes[row, 0].set_title(f"Load '{load.name}'", loc="left", fontsize=12, fontweight="bold")
    _title_and_legend(figure, problem, colours)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return None if reason is None else f"because {reason}"


def _title_and_legend(figure: Figure, problem: Problem, colours: list[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    nx, ny, nz = problem.shape
    edge = problem.cell_size_m * 1e3
    figure.suptitle(
        f"{problem.name}   {nx} x {ny} x {nz} cells of {edge:g} mm   "
        f"({nx * edge:g} x {ny * edge:g} x {nz * edge:g} mm)",
        x=0.02,
        ha="left",
        fontsize=14,
        y=1 - 0.16 / figure.get_figheight(),
        va="top",
    )
    handles: list[Patch | Line2D] = []
    for name, role, colour in zip(problem.region_names, region_roles(problem), colours, strict=True):
        watched = ", observed" if name in problem.observed_names else ""
        handles.append(
            Patch(facecolor=colour, edgecolor="#555", label=f"{name} ({role.name.lower()}{watched})")
        )
    handles.append(Patch(facecolor="white", edgecolor=SUPPORT_COLOUR, hatch="/////", label="support"))
    if any(load.force.any() for load in problem.loads):
        handles.append(_arrow_handle(FORCE_COLOUR, "traction"))
    if any(load.value.any() for load in problem.loads):
        handles.append(_arrow_handle(MOVE_COLOUR, "prescribed displacement"))
    if problem.mirror_axes:
        handles.append(Line2D([], [], color=MIRROR_COLOUR, linestyle="-.", label="mirror plane used"))
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=11,
        bbox_to_anchor=(0.5, 0.05 / figure.get_figheight()),
    )


def _arrow_handle(colour: str, label: str) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=r"$\rightarrow$", markersize=16, linestyle="none", label=label)


# ---------------------------------------------------------------- sections
def _draw_section(
    axes: Axes, problem: Problem, load: LoadCase, colours: list[str], section: tuple[int, int, int]
) -> None:
    """The mid-section with normal ``section[0]``, seen along it."""
    from matplotlib.colors import ListedColormap

    normal, right, up = section
    middle = problem.shape[normal] // 2
    layer = min(middle, problem.shape[normal] - 1)
    region = _plane(problem.region, normal, layer, right, up)
    width, height = problem.shape[right], problem.shape[up]
    # Nearest-neighbour picture of the elements, and lines where regions meet.
    axes.imshow(
        region.T,
        origin="lower",
        extent=(0, width, 0, height),
        interpolation="nearest",
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        zorder=1,
    )
    if max(width, height) <= 80:
        lines: dict[str, Any] = {"color": "#ffffff", "linewidth": 0.35, "alpha": 0.6, "zorder": 2}
        axes.vlines(range(1, width), 0, height, **lines)
        axes.hlines(range(1, height), 0, width, **lines)
    _outline(axes, region)
    scale = max(problem.shape)
    _draw_supports(axes, problem, load, section, middle, scale)
    _draw_arrows(axes, problem, load, section, middle, scale)
    for axis in problem.mirror_axes:
        style: dict[str, Any] = {"color": MIRROR_COLOUR, "linestyle": "-.", "linewidth": 1.3, "zorder": 4}
        if axis == right:
            axes.axvline(width / 2, **style)
        elif axis == up:
            axes.axhline(height / 2, **style)
    # The same scale in every section of a row.
    half = 0.63 * scale
    axes.set(
        xlim=(width / 2 - half, width / 2 + half), ylim=(height / 2 - half, height / 2 + half), aspect="equal"
    )
    axes.set_title(f"section {'xyz'[normal]} = {middle}", fontsize=11)
    axes.set_xlabel(f"{'xyz'[right]} (elements)")
    axes.set_ylabel(f"{'xyz'[up]} (elements)", labelpad=1)
    axes.set_xticks(np.linspace(0, width, 5))
    axes.set_yticks(np.linspace(0, height, 5))
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _plane(values: NDArray, normal: int, index: int, right: int, up: int) -> NDArray:
    """The layer ``index`` along ``normal`` as (right, up, ...)."""
    layer = values.take(index, axis=normal)
    return layer if right < up else layer.swapaxes(0, 1)


def _outline(axes: Axes, region: NDArray) -> None:
    """Lines between elements of different regions and around the grid."""
    from matplotlib.collections import LineCollection

    padded = np.pad(region, 1, constant_values=-1)
    i, j = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    lines = [((a, b), (a, b + 1)) for a, b in zip(i, j, strict=True)]
    i, j = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    lines += [((a, b), (a + 1, b)) for a, b in zip(i, j, strict=True)]
    axes.add_collection(LineCollection(lines, colors="#333a44", linewidths=1.1, zorder=3, capstyle="round"))


def _draw_supports(
    axes: Axes, problem: Problem, load: LoadCase, section: tuple[int, int, int], middle: int, scale: int
) -> None:
    from matplotlib.patches import Rectangle

    normal, right, up = section
    held = _plane(load.fixed & (load.value == 0), normal, middle, right, up)
    moved = _plane(load.value != 0, normal, middle, right, up).any(-1)
    size = 0.05 * scale
    any_held = np.asarray(held.any(-1) & ~moved)
    drawn = np.zeros_like(any_held)
    width, height = any_held.shape
    # (edge nodes, rectangle of a run from..to along the edge)
    edges = (
        (np.s_[:, 0], lambda a, b: ((a, -size), b - a, size)),
        (np.s_[:, -1], lambda a, b: ((a, height - 1), b - a, size)),
        (np.s_[0, :], lambda a, b: ((-size, a), size, b - a)),
        (np.s_[-1, :], lambda a, b: ((width - 1, a), size, b - a)),
    )
    for edge, rectangle in edges:
        for start, stop in _runs(any_held[edge]):
            corner, w, h = rectangle(start, stop)
            axes.add_patch(
                Rectangle(
                    corner,
                    w,
                    h,
                    facecolor="white",
                    edgecolor=SUPPORT_COLOUR,
                    hatch="/////",
                    linewidth=1.0,
                    zorder=5,
                )
            )
            names = "".join("xyz"[c] for c in range(3) if held[edge][start : stop + 1, c].all())
            place = (corner[0] + w / 2, corner[1] + h / 2)
            label = "clamped" if names == "xyz" else ", ".join(f"$u_{c}$" for c in names) + " = 0"
            axes.annotate(
                label,
                place,
                fontsize=9,
                color=SUPPORT_COLOUR,
                ha="center",
                va="center",
                rotation=0 if w >= h else 90,
                zorder=7,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
            drawn[edge][start : stop + 1] = True
    rest = np.argwhere(any_held & ~drawn)
    if len(rest):
        axes.plot(rest[:, 0], rest[:, 1], "^", color=SUPPORT_COLOUR, markersize=4, zorder=6)


def _runs(mask: Bools) -> list[tuple[int, int]]:
    """First and last index of each run of two or more True."""
    steps = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(steps[::2], steps[1::2], strict=True) if b - a > 1]


def _draw_arrows(
    axes: Axes, problem: Problem, load: LoadCase, section: tuple[int, int, int], middle: int, scale: int
) -> None:
    normal, right, up = section
    for field, colour in ((load.force, FORCE_COLOUR), (load.value, MOVE_COLOUR)):
        largest = np.linalg.norm(field, axis=-1).max()
        if largest == 0:
            continue
        plane = _plane(field, normal, middle, right, up) / largest
        place = np.argwhere(np.linalg.norm(plane, axis=-1) > 1e-9)
        place = place[spread(place, scale)]
        outward = _outward(place, plane.shape[:2])
        for node, out in zip(place, outward, strict=True):
            vector = plane[tuple(node)]
            flat = np.array([vector[right], vector[up]])
            at = node + out * 0.045 * scale
            size = np.hypot(*flat)
            if size > 0.05:
                arrow = flat / size * 0.075 * scale
                # Pulling arrows leave the face, pushing ones end on it, shearing ones are centred.
                pull = float(np.dot(flat / size, out))
                tail = at - 0.5 * arrow + (0.5 * arrow if pull > 0.7 else -0.2 * arrow if pull < -0.7 else 0)
                axes.annotate(
                    "",
                    tail + arrow,
                    tail,
                    zorder=6,
                    arrowprops={
                        "arrowstyle": "-|>",
                        "color": colour,
                        "linewidth": 1.6,
                        "mutation_scale": 11,
                        "shrinkA": 0,
                        "shrinkB": 0,
                    },
                )
            if abs(vector[normal]) > 0.05:
                # Out of the paper a dot, into it a cross; the viewer looks against right x up.
                toward = vector[normal] * np.linalg.det(np.eye(3)[[right, up, normal]]) > 0
                axes.plot(*at, "o", markerfacecolor="white", markeredgecolor=colour, markersize=8, zorder=6)
                axes.plot(*at, "." if toward else "x", color=colour, markersize=5, zorder=7)


def _outward(place: NDArray, nodes: tuple[int, ...]) -> Floats:
    """Unit vectors away from the grid for nodes on one of its faces, zero elsewhere."""
    place = np.asarray(place, dtype=float).reshape(-1, len(nodes))
    last = np.array(nodes) - 1
    out = (place == last).astype(float) - (place == 0)
    # On an edge both would count: the load's own face is the one most of its nodes share.
    shared = np.abs(out.sum(0)).argmax() if len(out) else 0
    several = np.abs(out).sum(1) > 1
    out[several] *= np.eye(len(nodes))[shared]
    return out
