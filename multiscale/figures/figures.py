"""The figures of a run: one function a figure, arrays in, PNG out.

Fields are drawn on the mid-section across one axis (z unless told otherwise),
lengths in millimetres, tensors in units of the base material's Young's modulus
E_s. Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from multiscale.design.mass import LIMIT_TOLERANCE
from multiscale.figures.section import Section
from multiscale.figures.style import (
    ACCENT,
    COMPONENTS,
    DESIGN,
    FAINT,
    INK,
    LIBRARY,
    UNSEEN,
    PathLike,
    add_title,
    new_figure,
    number_axis,
    panels,
    percent_axis,
    percent_ticks,
    round_factor,
    save,
    section_axes,
    tidy,
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
    axis: int = 2,
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
    axis : int
        Normal of the section through the middle of the grid.
    """
    sections = [Section.of(s.solid, axis, cell_size_m) for s in solutions]
    moved = [section.nodes(s.displacement) for section, s in zip(sections, solutions, strict=True)]
    size = [np.linalg.norm(u, axis=-1) * cell_size_m * 1e3 for u in moved]
    largest = max(float(v[s.used].max()) for v, s in zip(size, sections, strict=True))
    norm = Normalize(0, largest or 1.0)
    extent = max(sections[0].extent)
    factor = round_factor(0.16 * extent / largest) if largest else 1.0
    figure, axes = panels(len(solutions), sections[0])
    mappable: Any = None
    for ax, solution, section, u, value in zip(axes, solutions, sections, moved, size, strict=True):
        across = u[..., list(section.directions)] * cell_size_m * 1e3 * factor
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
    axis: int = 2,
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
    axis : int
        Normal of the section through the middle of the grid.
    """
    wanted = np.asarray(reference, dtype=np.float64)
    nodes = nodes_of(observed)
    scale = float(np.sqrt((wanted[nodes] ** 2).sum(-1).mean()))
    if not scale > 0:
        raise InputError("the reference does not move in the observed region", key="reference")
    differences = [np.linalg.norm(s.displacement - wanted, axis=-1) / scale for s in solutions]
    total = [float(np.sqrt((d[nodes] ** 2).mean())) for d in differences]
    section = Section.of(observed, axis, cell_size_m)
    top = max(float(section.nodes(d)[section.used].max()) for d in differences) or 1.0
    lowest = min([t for t in total if t > 0] or [top])
    norm = LogNorm(max(lowest / 20, top * 1e-5), top)
    figure, axes = panels(len(solutions), section)
    mappable: Any = None
    for ax, solution, difference, share in zip(axes, solutions, differences, total, strict=True):
        there = Section.of(solution.solid & ~observed, axis, cell_size_m)
        there.fill(ax, UNSEEN)
        value = np.clip(section.nodes(difference), norm.vmin, None)
        mappable = section.paint(ax, section.points, value, norm, "magma")
        gone = ~solution.solid
        ax.add_collection(section.outline(gone, section.points, colors=INK, linewidths=1.6))
        ax.set_title(f"{solution.label}: distortion {100 * share:.2f} %")
        section_axes(ax, section, margin=0.02)
    bar = figure.colorbar(mappable, ax=axes, shrink=0.82, pad=0.015, extend="min")
    bar.set_label(r"$|u - u_\mathrm{ref}|\;/\;\mathrm{rms}\,|u_\mathrm{ref}|$")
    percent_ticks(bar.ax, subs=(1, 3))
    handles = [
        Patch(facecolor=UNSEEN, edgecolor=FAINT, label="not observed"),
        Line2D([], [], color=INK, linewidth=1.6, label="hole"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    add_title(figure, title, section.name)
    return save(figure, path)


def tensor_figure(
    path: PathLike,
    tensors: ArrayLike,
    *,
    solid: Bools,
    design: Bools,
    cell_size_m: float,
    title: str = "",
    axis: int = 2,
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
    axis : int
        Normal of the section through the middle of the grid.
    """
    field = np.asarray(tensors, dtype=np.float64)
    section = Section.of(solid, axis, cell_size_m)
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


def property_space_figure(
    path: PathLike,
    library: ArrayLike,
    design: ArrayLike,
    phi: Callable[[Floats], Floats],
    *,
    material: ArrayLike | None = None,
    title: str = "",
    resolution: int = 96,
) -> Path:
    """Library and design in the space of (C11, C12, C44), seen along each axis, with the gamut's edge.

    The line is the silhouette of the gamut: where the greatest phi along the line of sight is 0.

    Parameters
    ----------
    path : path
        PNG to write; an SVG goes beside it.
    library : array, shape (m, 3)
    design : array, shape (d, 3)
        In units of E_s, both.
    phi : callable
        (..., 3) to (...), not negative where feasible.
    material : array, shape (3,), optional
        The surroundings.
    title : str
    resolution : int
        Samples along each axis for the silhouette.
    """
    cells = np.asarray(library, dtype=np.float64).reshape(-1, 3)
    chosen = np.asarray(design, dtype=np.float64).reshape(-1, 3)
    everything = np.concatenate([cells, chosen])
    low, high = everything.min(axis=0), everything.max(axis=0)
    room = 0.08 * np.maximum(high - low, 1e-3)
    ticks = [np.linspace(a, b, resolution) for a, b in zip(low - room, high + room, strict=True)]
    values = phi(np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1))
    figure = new_figure((15, 5.2))
    for ax, (x, y) in zip(figure.subplots(1, 3), ((0, 1), (0, 2), (1, 2)), strict=True):
        ax.scatter(cells[:, x], cells[:, y], s=5, color=LIBRARY, linewidths=0, zorder=1, rasterized=True)
        ax.scatter(
            chosen[:, x],
            chosen[:, y],
            s=11,
            color=DESIGN,
            alpha=0.55,
            linewidths=0,
            zorder=3,
            rasterized=True,
        )
        silhouette = values.max(axis=3 - x - y)
        if silhouette.min() < 0 < silhouette.max():
            ax.contour(ticks[x], ticks[y], silhouette.T, [0.0], colors=ACCENT, linewidths=1.4, zorder=2)
        if material is not None:
            point = np.asarray(material)
            ax.scatter(
                point[x],
                point[y],
                s=130,
                marker="*",
                color="#f2b134",
                edgecolors=INK,
                linewidths=0.7,
                zorder=4,
            )
        ax.set_xlabel(f"{COMPONENTS[x]} / $E_s$")
        ax.set_ylabel(f"{COMPONENTS[y]} / $E_s$")
        tidy(ax, grid=True)
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 6}
    handles = [
        Line2D([], [], color=LIBRARY, label=f"library, {len(cells):,} cells", **dot),
        Line2D([], [], color=DESIGN, label=f"design, {len(chosen):,} elements", **dot),
        Line2D([], [], color=ACCENT, label=r"edge of the gamut, $\varphi = 0$ (silhouette)"),
    ]
    if material is not None:
        star: dict[str, Any] = {"linestyle": "none", "marker": "*", "markersize": 12}
        handles.append(
            Line2D([], [], color="#f2b134", markeredgecolor=INK, label="surrounding material", **star)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    add_title(figure, title, "")
    return save(figure, path, vector=True)


def convergence_figure(
    path: PathLike,
    records: Sequence[Mapping[str, Any]],
    *,
    title: str = "",
    quantity: str = "distortion",
    unit: str = "",
    mass_limit: float | None = None,
) -> Path:
    """Objective and feasibility over the evaluations of an optimisation, its stages shaded.

    Parameters
    ----------
    path : path
        PNG to write; an SVG goes beside it.
    records : sequence of mappings
        In order, each with ``stage``, ``quantity``, ``constraint`` (feasible where <= 0), and
        optionally ``kind`` (``"projection"`` marks the projected design that ends a stage).
    title : str
    quantity : str
        What is minimised.
    unit : str
        Of its values; those without one are fractions.
    mass_limit : float, optional
        Designs whose ``density`` exceeds it (by more than its tolerance) are drawn, but are not the least.

    Raises
    ------
    InputError
        If there are no records.
    """
    if not records:
        raise InputError("there is no history to draw", key="history")
    count = np.arange(1, len(records) + 1)
    distortion = np.array([float(r[quantity]) for r in records])
    say = _say(unit)
    constraint = np.array([float(r["constraint"]) for r in records])
    projected = np.array([r.get("kind") == "projection" for r in records])
    figure = new_figure((10, 6.4))
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]})
    counted = np.isfinite(distortion)
    if mass_limit is not None:
        counted &= np.array([float(r.get("density", 0.0)) for r in records]) <= mass_limit * (
            1 + LIMIT_TOLERANCE
        )
    best = np.minimum.accumulate(np.where(counted, distortion, np.inf))
    upper.semilogy(count, distortion, ".-", color=DESIGN, linewidth=0.8, markersize=4, label="evaluation")
    upper.semilogy(count, best, color=INK, linewidth=1.4, drawstyle="steps-post", label="least so far")
    upper.set_ylabel(_axis_label(quantity, unit))
    if unit:
        number_axis(upper, distortion)
    else:
        percent_axis(upper, distortion)
    lower.axhline(0, color=INK, linewidth=0.8)
    lower.plot(count, constraint, ".-", color=ACCENT, linewidth=0.8, markersize=4)
    lower.set_ylabel("constraint\n" + r"margin $-\,\min\,\varphi$")
    lower.set_xlabel("evaluation")
    for ax, values in ((upper, distortion), (lower, constraint)):
        if projected.any():
            ax.plot(
                count[projected],
                values[projected],
                "D",
                markerfacecolor="white",
                markeredgecolor=INK,
                markersize=6,
                zorder=4,
                clip_on=False,
                label="projected onto the gamut",
            )
        tidy(ax, grid=True)
    start = 0
    for order, (stage, members) in enumerate(groupby(records, key=lambda r: r["stage"])):
        stop = start + len(list(members))
        for ax in (upper, lower):
            if order % 2 == 0:
                ax.axvspan(start + 0.5, stop + 0.5, color="#f1f4f8", zorder=0, linewidth=0)
        label = f"stage {stage}" if stop - start > 0.06 * len(records) else f"{stage}"
        upper.annotate(
            label,
            ((start + stop + 1) / 2, 1),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=9,
        )
        start = stop
    # Rounding at the edge of the gamut is not worth a magnifying glass.
    deepest, highest = np.nanmin(constraint), np.nanmax(constraint)
    room = 0.1 * max(highest - deepest, 1e-2)
    lower.set_ylim(min(deepest, 0.0) - room, max(highest, 0.0) + room)
    lower.set_xlim(0.5, len(records) + 0.5)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    upper.legend(frameon=False, loc="upper right")
    add_title(figure, title, f"{quantity} {say(distortion[0])} at the start, {say(best[-1])} at best")
    return save(figure, path, vector=True)


def _say(unit: str) -> Callable[[float], str]:
    """How a value of a unit is written; fractions have none."""
    return (lambda v: f"{v:.4g}") if unit else (lambda v: f"{100 * v:.3g} %")


def _axis_label(quantity: str, unit: str) -> str:
    return f"{quantity} ({unit}) (log scale)" if unit else f"{quantity} (log scale)"


def summary_figure(
    path: PathLike,
    distortions: Mapping[str, float | Mapping[str, float]],
    *,
    title: str = "",
    quantity: str = "distortion",
    unit: str = "",
) -> Path:
    """Distortion of void, design, refined design and lattice as bars; in groups for several loads.

    Parameters
    ----------
    path : path
        PNG to write; an SVG goes beside it.
    distortions : mapping
        Label to fraction; or load case to such a mapping.
    title : str
    quantity : str
        What is shown.
    unit : str
        Of its values; those without one are fractions.
    """
    groups: dict[str, dict[str, float]] = {}
    for name, value in distortions.items():
        if isinstance(value, Mapping):
            groups[name] = {label: float(v) for label, v in value.items()}
        else:
            groups.setdefault("", {})[name] = float(value)
    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    if not labels or any(v < 0 for group in groups.values() for v in group.values()):
        raise InputError(
            "distortions are fractions, at least one", key="distortions", value=dict(distortions)
        )
    say = _say(unit)
    palette = dict(
        zip(labels, [FAINT, DESIGN, "#5aa6d8", "#e08a1e", "#3aa794", "#7d6bb0"] * len(labels), strict=False)
    )
    alone = len(groups) == 1
    figure = new_figure((max(6.0, 1.5 * len(labels) * len(groups) ** 0.85), 4.6))
    ax = figure.subplots()
    width = 0.7 if alone else 0.8 / len(labels)
    places = []
    for order, group in enumerate(groups.values()):
        for rank, label in enumerate(labels):
            if label not in group:
                continue
            place = rank if alone else order + (rank - (len(labels) - 1) / 2) * width
            places.append(place)
            value = group[label]
            ax.bar(place, value, 0.92 * width, color=palette[label], zorder=2)
            ax.annotate(
                say(value) if alone or unit else f"{100 * value:.3g}",
                (place, value),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=10 if alone else 8,
            )
    everything = np.array([v for group in groups.values() for v in group.values() if v > 0])
    ax.set_yscale("log")
    (number_axis if unit else percent_axis)(ax, everything, room=(2.0, 1.6))
    if alone:
        ax.set_xticks(range(len(labels)), labels)
    else:
        ax.set_xticks(range(len(groups)), list(groups))
        handles = [Patch(color=palette[label], label=label) for label in labels]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(labels), frameon=False)
    ax.set_ylabel(_axis_label(quantity, unit))
    tidy(ax, grid=True, which="y")
    add_title(figure, title, "")
    return save(figure, path, vector=True)
