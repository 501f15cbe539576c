"""The picture of a sequence: its cells, and their properties beside the path."""

from __future__ import annotations

from typing import Any

import numpy as np

from micro.cell import tensor
from micro.cell.picture import cell_image
from micro.explore.sequence import Sequence
from micro.runtime.files import PathLike, atomic_path


def save_figure(path: PathLike, sequence: Sequence) -> None:
    """Write a PNG: every cell, then moduli along the sequence and the fit of neighbours."""
    from matplotlib.figure import Figure

    cells = sequence.cells
    count = len(cells)
    figure = Figure(figsize=(max(9.0, 1.25 * count), 4.6), dpi=110, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    above, below = parts
    for axis, octant, v in zip(above.subplots(1, count), cells.octants(), cells.volume, strict=True):
        axis.imshow(cell_image(octant, 200))
        axis.set_title(f"V {v:.2f}", fontsize=8)
        axis.set_axis_off()
    moduli, fit = below.subplots(1, 2)
    at = np.arange(count)
    own, asked = tensor.to_moduli(cells.C), tensor.to_moduli(sequence.targets)
    for column, name in enumerate(("K", "$\\mu'$", "G")):
        (line,) = moduli.plot(at, own[:, column], "o", ms=4, label=name)
        if np.isfinite(asked).all():
            moduli.plot(at, asked[:, column], "-", lw=1, color=line.get_color())
    moduli.set(xlabel="cell", ylabel="modulus / $E_s$", yscale="log")
    moduli.legend(frameon=False)
    between = at[:-1] + 0.5
    fit.plot(between, sequence.likeness, "o-", ms=4, label="similarity of neighbours")
    fit.plot(between, sequence.nested, "--", lw=1, color="tab:blue", label="their volumes allow")
    fit.plot(between, sequence.faces, "s-", ms=4, color="tab:orange", label="overlap of their faces")
    fit.plot(between, sequence.faces_by_area, "--", lw=1, color="tab:orange", label="their areas allow")
    fit.set(xlabel="between cells", ylim=(0, 1.02))
    fit.legend(frameon=False, fontsize=8, loc="lower left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
