"""Charts of a run: its tensors in property space, its convergence, its values; arrays in, PNG out.

Tensors are in units of the base material's Young's modulus E_s. Nothing here touches matplotlib's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike
from multiscale.design.mass import LIMIT_TOLERANCE
from multiscale.figures.style import (
    ACCENT,
    COMPONENTS,
    DESIGN,
    FAINT,
    INK,
    LIBRARY,
    add_title,
    new_figure,
    number_axis,
    percent_axis,
    save,
    tidy,
)


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
    flat: dict[str, Any] = {"linewidths": 0, "rasterized": True}
    for ax, (x, y) in zip(figure.subplots(1, 3), ((0, 1), (0, 2), (1, 2)), strict=True):
        ax.scatter(cells[:, x], cells[:, y], s=5, color=LIBRARY, zorder=1, **flat)
        ax.scatter(chosen[:, x], chosen[:, y], s=11, color=DESIGN, alpha=0.55, zorder=3, **flat)
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
    """Distortions (void, design, refined design, lattice, full scale) as bars; in groups for several loads.

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

    Raises
    ------
    InputError
        If there is nothing to show.
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
