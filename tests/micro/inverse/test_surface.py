"""The surface of an octant as a designer moves it."""

import numpy as np

from micro.homogenize.sensitivity import sensitivities
from micro.inverse.surface import Surface


def test_a_solid_cell_has_no_surface_to_move():
    """A quantile of no voxels at all was a traceback (the stiffest cell at volume 0.95, n = 15)."""
    octant = np.ones((6, 6, 6), dtype=bool)
    surface = Surface.of(octant, sensitivities(octant[None]).gradient[0])
    nothing = np.zeros(len(surface.level))
    assert surface.size(nothing) == 0
    np.testing.assert_array_equal(surface.typical, 1.0)
