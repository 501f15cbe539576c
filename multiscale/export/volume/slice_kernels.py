"""A layer of pixels from the level sets of the cells that it cuts, compiled."""

# mypy: allow-untyped-defs
# The compiler infers the types of what it compiles; annotations would be noise.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Singles
from micro.voxels.compilation import njit


class PixelAxis(NamedTuple):
    """Where the centres of a row of pixels lie among the cells along one axis, (pixels,) each.

    Attributes
    ----------
    element : int32
        Element of each.
    sample : int32
        The sample of its cell's level set at or before it; the next one is there too.
    weight : float32
        Of the next sample.
    """

    element: NDArray[np.int32]
    sample: NDArray[np.int32]
    weight: Singles


@njit(nogil=True, cache=True)
def fill_layer(planes, kinds, x, y, image):
    """Set the pixels (rows along y, columns along x) whose centres lie in the solid.

    ``planes`` (m, s, s), indexed [y, x], are level sets on a plane through the cells, positive in the solid;
    ``kinds`` (nx, ny) which of them each element has; between samples they are bilinear.

    Parameters
    ----------
    planes : array (m, s, s)
        Level sets.
    kinds : int array (nx, ny)
    x, y : arrays
        Centres of the pixels, in elements.
    image : bool array (rows, columns)
        Written to.
    """
    for row in range(image.shape[0]):
        e, b, v = y.element[row], y.sample[row], y.weight[row]
        for column in range(image.shape[1]):
            plane = planes[kinds[x.element[column], e]]
            a, u = x.sample[column], x.weight[column]
            low = plane[b, a] * (1 - u) + plane[b, a + 1] * u
            high = plane[b + 1, a] * (1 - u) + plane[b + 1, a + 1] * u
            image[row, column] = low * (1 - v) + high * v > 0
