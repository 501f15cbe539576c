"""Many cells on one picture: a row a target, each with its tensor error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from micro.cell.cellset import CellSet
from micro.cell.picture import cell_image
from micro.cell.tensor import tensor_error
from micro.runtime.files import PathLike, atomic_path

_ROWS, _COLUMNS = 8, 8
_PIXELS = 160


def save_sheet(path: PathLike, cells: CellSet, targets: ArrayLike) -> None:
    """Write a PNG with the first cells of the first targets (at most 8 by 8).

    Parameters
    ----------
    path : path
    cells : CellSet
        Generated ones: the first parameter is the row of the target.
    targets : array_like, shape (q, 3)
        NaN where no tensor was asked for.
    """
    from matplotlib.figure import Figure

    wanted = np.asarray(targets, dtype=np.float64)
    of = cells.params[:, 0].astype(int)
    shown = np.unique(of)[:_ROWS]
    columns = min(_COLUMNS, max(int((of == t).sum()) for t in shown))
    figure = Figure(figsize=(1.5 * columns + 0.2, 1.75 * len(shown) + 0.2), dpi=110)
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for line, target in zip(axes, shown, strict=True):
        for axis in line:
            axis.set_axis_off()
        asked = np.isfinite(wanted[target]).all()
        for axis, row in zip(line, np.flatnonzero(of == target), strict=False):
            axis.imshow(cell_image(cells.octants(int(row)), _PIXELS))
            error = float(tensor_error(cells.C[row], wanted[target])) if asked else np.nan
            axis.set_title(f"{100 * error:.2f} %" if asked else f"V {cells.volume[row]:.2f}", fontsize=7)
        if asked:
            name = ", ".join(f"{c:.3f}" for c in wanted[target])
            line[0].text(0.0, -0.06, name, transform=line[0].transAxes, fontsize=7)
    figure.subplots_adjust(0.01, 0.03, 0.99, 0.96, 0.03, 0.2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
