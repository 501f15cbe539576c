"""Signed distances: exact for plates, those of the whole cell, the same by either transform."""

import numpy as np
from small_cells import octants

from micro.cell import octant as cell
from micro.cell.chamber import fundamental_domain
from micro.shape.distance import SATURATION, mirrored_distance, saturated, signed_distance


def test_distance_of_a_plate_is_exact():
    n = 16
    solid = np.zeros((n, n, n), bool)
    index = np.indices((n, n, n)).min(axis=0)
    solid[index < 4] = True  # plates on the three faces, four voxels thick
    distance = SATURATION * np.arctanh(signed_distance(solid[None])[0] / SATURATION)
    inside, _ = fundamental_domain(n)
    i, j, _ = np.unravel_index(inside, (n, n, n))
    deep = (i == 2) & (j > 12)  # one voxel and a half under the plate's surface, far from the others
    np.testing.assert_allclose(distance[deep], 1.5 / (2 * n), rtol=1e-5)
    empty = i == 10  # void: the nearest surface is the nearest plate's
    np.testing.assert_allclose(distance[empty], -6.5 / (2 * n), rtol=1e-4)


def test_distance_of_the_octant_is_that_of_the_cell():
    # The mirror images are never nearer: the octant's transform equals the periodic cell's.
    from scipy import ndimage

    octant = octants(1, 8, seed=3)[0]
    whole = np.pad(cell.cell_from_octant(octant), 8, mode="wrap")
    inner, outer = (ndimage.distance_transform_edt(w)[8:16, 8:16, 8:16] for w in (whole, ~whole))
    exact = np.where(octant, inner - 0.5, 0.5 - outer) / 16
    inside, _ = fundamental_domain(8)
    np.testing.assert_allclose(
        signed_distance(octant[None])[0], SATURATION * np.tanh(exact.ravel()[inside] / SATURATION), atol=1e-6
    )


def test_both_transforms_agree():
    for octant in octants(4, 8, seed=2):
        inside, _ = fundamental_domain(8)
        far = saturated(mirrored_distance(octant, 8), 8)
        np.testing.assert_allclose(signed_distance(octant[None])[0], far.ravel()[inside], atol=1e-6)
