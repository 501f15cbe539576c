"""How the figures look: colours, axes, titles, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from micro.runtime.arrays import Floats
from micro.runtime.files import PathLike, atomic_path
from multiscale.figures.section import Section

DPI = 160
INK = "#2b3440"
FAINT = "#9aa4b2"
UNSEEN = "#e6e9ee"
DESIGN = "#0b6fb8"
LIBRARY = "#b9c0cb"
ACCENT = "#d1373f"
COMPONENTS = ("$C_{11}$", "$C_{12}$", "$C_{44}$")


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure of ``size`` inches that knows no global state."""
    return Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")


def panels(count: int, section: Section, bars: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with a row of ``count`` panels of the section's proportions, each with its bar if ``bars``."""
    width, height = section.extent
    each, wide = (5.2, 3.5) if bars else (4.5, 3.8)
    size = each * count + (0 if bars else 1.2), min(12.0, wide * height / width + (1.2 if bars else 1.5))
    figure = new_figure(size)
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def section_axes(ax: Axes, section: Section, margin: float) -> None:
    """Equal axes in millimetres around a section, with a margin as a fraction of its size."""
    width, height = section.extent
    room = margin * max(width, height)
    ax.set(xlim=(-room, width + room), ylim=(-room, height + room), aspect="equal")
    ax.set_xlabel("x (mm)")
    ax.set_ylabel("y (mm)")
    tidy(ax)


def tidy(ax: Axes, grid: bool = False, which: Any = "both") -> None:
    """Light axes: two spines, and faint grid lines if asked."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.tick_params(colors=INK)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(True, axis=which, color="#e6e9ee", linewidth=0.8)


def percent_axis(ax: Axes, values: Floats, room: tuple[float, float] = (1.3, 1.3)) -> None:
    """A logarithmic vertical axis around the positive ones of ``values``, labelled in percent."""
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive):
        ax.set_ylim(positive.min() / room[0], positive.max() * room[1])
    percent_ticks(ax)


def number_axis(ax: Axes, values: Floats, room: tuple[float, float] = (1.3, 1.3)) -> None:
    """A logarithmic vertical axis around the positive ones of ``values``, labelled with plain numbers."""
    percent_axis(ax, values, room)
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}")


def percent_ticks(ax: Axes, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    """Ticks of a logarithmic vertical axis at ``subs`` times powers of ten, in percent."""
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    ax.yaxis.set_minor_formatter(NullFormatter())


def round_factor(value: float) -> float:
    """The nearest of 1, 2, 5, 10, 20, ... not above ``value``, for a legible statement; 1 at least."""
    if value <= 1:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)) * power)


def add_title(figure: Figure, title: str, note: str) -> None:
    """A title and a note beside it; either may be empty."""
    text = " · ".join(part for part in (title, note) if part)
    if text:
        figure.suptitle(text, fontsize=13, color=INK)


def save(figure: Figure, path: PathLike, *, vector: bool = False) -> Path:
    """Write a figure as PNG, atomically; with ``vector`` as SVG beside it too, for papers."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    if vector:
        # Without a date and with ids of its own content the same figure gives the same file.
        with (
            atomic_path(Path(path).with_suffix(".svg")) as temporary,
            rc_context({"svg.hashsalt": "multiscale"}),
        ):
            figure.savefig(temporary, format="svg", metadata={"Date": None})
    return Path(path)
