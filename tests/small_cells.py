"""Random cells of low resolution for tests."""

import numpy as np

from micro.families.families import FAMILIES


def octants(count: int, n: int, seed: int = 0) -> np.ndarray:
    """Cells of random formula with both solid and void."""
    rng = np.random.default_rng(seed)
    names, found = list(FAMILIES), []
    while len(found) < count:
        family = FAMILIES[names[rng.integers(len(names))]]
        octant = family.octant(family.sample(rng, rng.uniform(0.2, 0.8), n), n)
        if 0 < octant.mean() < 1:
            found.append(octant)
    return np.stack(found)
