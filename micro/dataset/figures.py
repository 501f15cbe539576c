"""The data card's pictures: where the cells lie in property space, as a whole and source by source."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.runtime.arrays import Bools, Floats
from micro.runtime.files import PathLike, atomic_path

Stage = tuple[str, Bools]
"""A name, and which cells it brought."""

COLOURS = {
    "pool": "#3b75af",
    "library": "#4a4a4a",
    "active": "#2f9e6e",
    "edge": "#8e5ea2",
    "extremes": "#c43d2f",
}
"""Kinds of sources in the order of drawing: the many first."""


def projections(cells: CellSet) -> list[tuple[str, str, Floats, Floats]]:
    """The card's five views: (x label, y label, x (m,), y (m,))."""
    C, V = cells.C, cells.volume
    return [
        ("C11", "C12", C[:, 0], C[:, 1]),
        ("C11", "C44", C[:, 0], C[:, 2]),
        ("V", "K", V, tensor.bulk(C)),
        ("V", "G", V, C[:, 2]),
        ("V", "nu", V, tensor.poisson(C)),
    ]


def coverage(cells: CellSet, kinds: NDArray[np.str_], path: PathLike) -> None:
    """All cells in the five views, coloured by the kind of their source (m,), with the bounds."""
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplots(2, 3)
    for ax, view in zip(axes.flat, projections(cells), strict=False):
        for kind in (k for k in COLOURS if (kinds == k).any()):
            rows = kinds == kind
            ax.plot(view[2][rows], view[3][rows], ".", ms=1.6, mew=0, color=COLOURS[kind], label=kind)
        _decorate(ax, view[0], view[1], cells.poisson)
    handles, labels = axes.flat[2].get_legend_handles_labels()
    axes.flat[5].axis("off")
    axes.flat[5].legend(handles, labels, loc="center", markerscale=6, frameon=False)
    _write(figure, path)


def rounds(cells: CellSet, stages: list[Stage], path: PathLike) -> None:
    """A row for each stage: what was there before (grey) over what it added (red), in the five views."""
    figure = Figure(figsize=(10, 1.75 * len(stages)), layout="constrained")
    axes = figure.subplots(len(stages), 5, squeeze=False)
    before = np.zeros(len(cells), dtype=bool)
    for row, (name, added) in enumerate(stages):
        for ax, view in zip(axes[row], projections(cells), strict=True):
            # What lies where cells were before is hidden by them: red is new ground.
            ax.plot(view[2][added], view[3][added], ".", ms=2, mew=0, color=COLOURS["extremes"])
            ax.plot(view[2][before], view[3][before], ".", ms=2, mew=0, color="#c9c9c9")
            _decorate(ax, view[0], view[1], cells.poisson)
            ax.tick_params(labelsize=6)
            if row < len(stages) - 1:
                ax.set_xlabel("")
        axes[row, 0].set_title(f"{name}: +{int(added.sum())}", fontsize=8, loc="left")
        before |= added
    _write(figure, path)


def resolution(resolutions: list[int], C: Floats, families: list[str], path: PathLike) -> None:
    """Moduli (shapes, resolutions, 3) against the finest ones, a line for each shape.

    Parameters
    ----------
    resolutions : list of int
    C : array, shape (shapes, resolutions, 3)
    families : list of str
        Of the shapes.
    path : path
        Picture to write.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    moduli = tensor.to_moduli(C)
    for ax, i, name in zip(figure.subplots(1, 3), range(3), ("K", "mu'", "G"), strict=True):
        for shape in range(len(families)):
            ax.plot(
                resolutions, moduli[shape, :, i] / moduli[shape, -1, i], ".-", lw=0.7, ms=3, color="#3b75af"
            )
        ax.set_xscale("log", base=2)
        ax.set_xticks(resolutions, [str(n) for n in resolutions])
        ax.set(xlabel="n", ylabel=f"{name} / {name} at n = {resolutions[-1]}")
        ax.axhline(1, color="#888888", lw=0.6)
    _write(figure, path)


def _decorate(ax: Axes, x: str, y: str, nu: float) -> None:
    """Labels, the same limits in every picture, and the Hashin-Shtrikman bounds over the volume."""
    ax.set_xlabel(x, labelpad=1)
    ax.set_ylabel(y, labelpad=1)
    limits = {
        "C11": (0, 1.4),
        "C12": (-0.15, 0.6),
        "C44": (0, 0.4),
        "V": (0, 1),
        "K": (0, 0.85),
        "G": (0, 0.4),
        "nu": (-1, 0.5),
    }
    ax.set(xlim=limits[x], ylim=limits[y])
    if x == "V":
        volume = np.linspace(0, 1, 101)
        K, G = tensor.hashin_shtrikman(volume, nu)
        # Poisson's ratio of an isotropic material at both bounds; each alone leaves -1 .. 1/2 open.
        both = tensor.poisson(tensor.from_moduli(np.stack([K, G, G], axis=-1))[1:])
        y_values = {"K": K, "G": G, "nu": np.concatenate([[np.nan], both])}[y]
        ax.plot(volume, y_values, color="black", lw=0.8)


def _write(figure: Figure, path: PathLike) -> None:
    with atomic_path(path) as temporary:
        # Without the time and version that matplotlib adds: the same cells give the same file.
        figure.savefig(
            temporary, dpi=90, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True}
        )
