"""The picture of a search for extreme cells: starts and ends against the bound, and the best cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from micro.cell import tensor
from micro.cell.picture import cell_image
from micro.data.packaged import load_dataset
from micro.explore.extreme import KINDS, Plan, Run, bound, ends
from micro.inverse import Goal
from micro.runtime.files import PathLike, atomic_path

_COLOURS = dict(zip(KINDS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
_LABELS = {
    "bulk": "bulk modulus / $E_s$",
    "shear": "shear modulus / $E_s$",
    "young": "Young's modulus / $E_s$",
    "poisson": "Poisson's ratio",
}
_SHOWN = 4


def save_figure(path: PathLike, plan: Plan, runs: Sequence[Run]) -> None:
    """Write a PNG: property against volume, property against stiffness or anisotropy, the best four cells."""
    from matplotlib.figure import Figure

    goal, cells = plan.goal, load_dataset()
    figure = Figure(figsize=(10, 6.4), dpi=110, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    above, below = parts
    by_volume, beside = above.subplots(1, 2)
    if goal.name == "poisson":
        across, name = tensor.young, "Young's modulus / $E_s$"
        beside.set_xscale("log")
        beside.axvline(goal.stiffness, color="k", ls=":", lw=1)
    else:
        across, name = tensor.zener, "Zener's ratio"
    near = np.abs(cells.volume - goal.volume) < 0.15
    values = np.array([goal.value(C) for C in cells.C[near]])
    for axis, x in ((by_volume, cells.volume[near]), (beside, across(cells.C[near]))):
        axis.plot(x, values, ".", color="0.85", ms=2, zorder=0, label="data set")
    for kind in KINDS:
        some = [r for r in runs if r.kind == kind]
        started = [(r.start_C, r.start_volume) for r in some if np.isfinite(r.start_C).all()]
        ended = [(r.C, r.volume) for r in some if r.octant is not None]
        for points, part, face in ((started, "starts", "none"), (ended, "ends", _COLOURS[kind])):
            if not points:
                continue
            C = np.array([p[0] for p in points])
            y = [goal.value(c) for c in C]
            style = {"ms": 4, "mfc": face, "color": _COLOURS[kind], "label": f"{kind}, {part}"}
            by_volume.plot([p[1] for p in points], y, "o", **style)
            beside.plot(across(C), y, "o", **style)
    if bound(goal) is not None:
        volumes = np.linspace(max(goal.volume - 0.15, 0.01), min(goal.volume + 0.15, 0.999), 50)
        upper = [bound(Goal(goal.name, v, isotropic=goal.isotropic)) for v in volumes]
        by_volume.plot(volumes, upper, "k--", lw=1, label="Hashin-Shtrikman")
    by_volume.set(xlabel="volume fraction", ylabel=_LABELS[goal.name])
    beside.set(xlabel=name, ylabel=_LABELS[goal.name])
    handles, labels = by_volume.get_legend_handles_labels()
    above.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=7)
    best = ends(plan, runs)
    for number, axis in enumerate(below.subplots(1, _SHOWN)):
        axis.set_axis_off()
        if number < len(best):
            axis.imshow(cell_image(best.octants(number), 260))
            value = goal.value(best.C[number])
            kind = KINDS[int(best.params[number, 0])]
            axis.set_title(f"{value:.3f} at volume {best.volume[number]:.3f}, {kind}", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
