"""The gamut of a data set, with phi calibrated on cells that it was not learned from.

The slack is found with distances from the training cells from all over alone: it makes the share
:data:`COVERAGE` of the validation cells feasible, rather than of the training cells, which are feasible too
easily; the test cells then tell how well that holds. Cells sought beyond the edge
(:mod:`micro.dataset.widening`) take no part in it: they lie in rows, close behind each other and far from the
next row, and say nothing of how far from a known cell unknown ones can be expected. With this slack the
distances are taken from all cells, since what is known can be built, whichever part it belongs to (the slack
is raised until phi is nowhere negative at one of them), and closed by a larger radius (:data:`ROWS`): no
search gets along an edge of rows with gaps between them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from micro.cell.cellset import CellSet
from micro.cell.tensor import POISSON, scaled_moduli
from micro.dataset.dataset import PARTS, part
from micro.dataset.widening import beyond_edge
from micro.gamut.gamut import Gamut, closing_radius
from micro.gamut.least_volume import LeastVolume
from micro.runtime.arrays import Bools
from micro.runtime.errors import InputError

COVERAGE = 0.995
"""Share of the validation cells that are made feasible."""

SMOOTHING = 0.75
"""Of phi, in grid spacings. With 1 the corner at the solid is cut off by 0.004 (and one cell in 800 is), with
0.75 by 0.0005. With 0.5 the edge is rougher: the bracket's search ends at 118.8 N mm instead of 116.4."""

ALONE = 1 / 48
"""Distance in scaled moduli (half of that between v's knots) from which cells beyond the edge count for v."""

ROWS = 2.0
"""Closing radius of a set with cells beyond its edge, over that of its cells from all over. With 1 the
packaged set's gamut is all ridges: the cantilever's search stays at its best uniform cell (430 N mm), where
it comes to 298 to 310 with 1.5 and 2. What lies between the rows can be built, all but: of 60 tensors just
within the edge 59 are met within 1 % by the nearest cell when its surface moves, 60 with 1.5."""


def learn_gamut(cells: CellSet, *, coverage: float = COVERAGE, spacing: float = 1 / 96) -> Gamut:
    """Phi of a data set.

    Parameters
    ----------
    cells : CellSet
        A data set with its parts.
    coverage : float
        Share of the validation cells with phi >= 0.
    spacing : float
        Of the grid, in scaled moduli.

    Returns
    -------
    Gamut
        Its ``attrs`` hold ``feasible``: the shares of training, validation and test cells with phi >= 0 by
        distances from the training cells from all over alone.

    Raises
    ------
    InputError
        If ``coverage`` is no share, or the set has no parts.
    """
    if not 0 < coverage <= 1:
        raise InputError("lies between 0 and 1", key="coverage", value=coverage)
    parts = {name: part(cells, name) for name in PARTS}
    tensors = {name: some.C[~_beyond(some)] for name, some in parts.items()}
    if min(len(C) for C in tensors.values()) == 0:
        raise InputError("training, validation and test cells are needed to learn and check a gamut")
    radius = closing_radius(tensors["train"])
    bare = Gamut.fit(tensors["train"], radius=radius, slack=0.0, spacing=spacing, smoothing=SMOOTHING)
    slack = max(0.0, float(-np.quantile(bare.phi(tensors["validation"]), 1 - coverage)))
    feasible = {name: round(float((bare.phi(C) + slack >= 0).mean()), 4) for name, C in tensors.items()}
    closing = ROWS * radius if _beyond(cells).any() else radius

    def fitted_with(slack: float) -> Gamut:
        return Gamut.fit(
            cells.C, radius=closing, slack=slack, spacing=spacing, smoothing=SMOOTHING, poisson=cells.poisson
        )

    fitted = fitted_with(slack)
    outside = -float(fitted.phi(cells.C).min())
    if outside > 0:  # smoothing cuts corners off, the solid's most of all
        fitted = fitted_with(slack + outside)
    return Gamut(
        fitted.spline,
        fitted.radius,
        cells.digest(),
        {**fitted.attrs, "coverage": coverage, "feasible": feasible},
        cells.poisson,
    )


def learn_least_volume(cells: CellSet, **options: Any) -> LeastVolume:
    """v of a data set's training cells; ``attrs`` tell the share of each part's cells that lies below it.

    v is a quantile of volumes, so it rises where heavy cells become many. Those that :func:`~.widening.widen`
    found were looked for beyond the edge, whatever they weigh: they count where no other cell stands within
    :data:`ALONE`. (With all of them v rose by 0.008 on average where others do stand, and designs at a mass
    limit were up to 4 % softer for it.)

    Parameters
    ----------
    cells : CellSet
        A data set with its parts.
    **options
        For :meth:`LeastVolume.fit`.

    Raises
    ------
    InputError
        If the set has no parts, or is of another base material than the bound that v is measured from.
    """
    cells.require_poisson(POISSON)
    parts = {name: part(cells, name) for name in PARTS}
    train = parts["train"]
    rows = _weighed(train)
    fitted = LeastVolume.fit(train.C[rows], train.volume[rows], source=cells.digest(), **options)
    below = {
        name: round(float((some.volume < fitted.volume(some.C)).mean()), 4) for name, some in parts.items()
    }
    return LeastVolume(fitted.spline, fitted.source, {**fitted.attrs, "below": below})


def _weighed(train: CellSet) -> Bools:
    """Which training cells v is learned from, (m,)."""
    beyond = _beyond(train)
    m = scaled_moduli(train.C)
    return np.asarray(~beyond | (cKDTree(m[~beyond]).query(m)[0] > ALONE))


def _beyond(cells: CellSet) -> Bools:
    """Which cells were sought beyond the edge of the others, (m,); none if there are no others."""
    found = beyond_edge(cells)
    return found & ~found.all()
