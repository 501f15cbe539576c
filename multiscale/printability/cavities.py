"""Void that nothing can leave: where powder or resin stays.

What is not joined to the outside in the graph of the void's pieces
(:mod:`multiscale.lattice.piece_graph`) is enclosed: exact on the voxels. Void elements are one piece each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from micro.runtime.progress import Progress, unheard
from multiscale.lattice.lattice import Lattice
from multiscale.lattice.piece_graph import piece_graph


@dataclass(frozen=True)
class Cavities:
    """Enclosed void of a lattice.

    Attributes
    ----------
    count : int
        Cavities, those that reach over several elements counted once.
    volume_mm3, largest_mm3, median_mm3 : float
        Of all, of the largest, of the middle one (a few voxels: pockets that the cells' resolution leaves).
    elements : int
        Elements with a part of a cavity.
    cells : int
        Unique cells in use with a cavity that reaches none of their faces.
    elements_by_themselves : int
        Elements filled with one of these.
    """

    count: int
    volume_mm3: float
    largest_mm3: float
    median_mm3: float
    elements: int
    cells: int
    elements_by_themselves: int


def find_cavities(lattice: Lattice, *, progress: Progress = unheard) -> Cavities:
    """Enclosed void of a whole lattice; beyond its boundary all is open."""
    graph = piece_graph(lattice, void=True, progress=progress)
    # The first node is the corner of the layer around the lattice.
    sizes = np.delete(graph.sizes, graph.label[0])
    closed = graph.label != graph.label[0]
    pitch = 1e3 * lattice.cell_size_m / lattice.voxels_per_cell
    return Cavities(
        count=len(sizes),
        volume_mm3=float(sizes.sum()) * pitch**3,
        largest_mm3=float(sizes.max(initial=0.0)) * pitch**3,
        median_mm3=float(np.median(sizes)) * pitch**3 if len(sizes) else 0.0,
        elements=len(np.unique(graph.element[closed])),
        cells=int(graph.inner.sum()),
        elements_by_themselves=int(graph.inner[graph.index].sum()),
    )
