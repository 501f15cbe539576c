"""Settings and cells of a generator that trains in seconds."""

import numpy as np
from small_cells import octants

from micro.cell import octant as cell
from micro.cell.cellset import CellSet
from micro.dataset import dataset
from micro.homogenize.octants import homogenize_octants
from micro.training.data import Settings

SMALL = Settings(
    dimension=12,
    width=32,
    depth=2,
    batch=64,
    rate=1e-2,
    samples=64 * 200,
    surrogate_samples=64 * 200,
    surrogate_width=32,
    surrogate_depth=1,
)


def small_data(count: int = 80) -> CellSet:
    """Homogenised cells of random formula, a fifth of them for validation."""
    solid = np.stack([o for o in octants(count, 8, seed=5) if cell.connectivity(o).connected])
    cells = CellSet.from_octants(solid, homogenize_octants(solid, rtol=1e-2).C)
    part = np.zeros(len(cells), int)
    part[::5] = 1
    return dataset.with_provenance(cells, ["library"] * len(cells), part, {})
