"""What of a case can be put onto voxels, for its full-scale solution."""

from __future__ import annotations

import numpy as np

from micro.cell.tensor import isotropic
from micro.runtime.arrays import Floats
from multiscale.case.case import Case

#: How far the components of a multiple of the base material's tensor may be from that, relatively.
_ALIKE = 1e-3


def relative_modulus(tensor: Floats, poisson: float) -> Floats:
    """Which multiple of the base material's tensor (..., 3) is, in E_s; NaN where it is none.

    Parameters
    ----------
    tensor : array (..., 3)
    poisson : float
        Of the base material.
    """
    ratio = np.asarray(tensor) / isotropic(1.0, poisson)
    mean = ratio.mean(axis=-1)
    alike = np.abs(ratio - mean[..., None]).max(axis=-1) <= _ALIKE * mean
    return np.where(alike, mean.round(12), np.nan)


def check_full_scale(case: Case) -> None:
    """Refuse what can't be put onto voxels.

    That is a region without cells whose stiffness is no multiple of the base material's, and a pressure in a
    hole.

    Raises
    ------
    InputError
        Naming the key.
    """
    for region in case.regions:
        if region.filled or region.material is None:
            continue
        tensor = case.tensor_of(region.material)
        if np.isnan(relative_modulus(np.array(tensor), case.base_material.poisson)):
            raise case.error(
                f"materials.{region.material}",
                f"region {region.name!r} has no cells, and at full scale must be isotropic with the base "
                f"material's Poisson's ratio ({case.base_material.poisson:g})",
                list(tensor),
            )
    for index, load in enumerate(case.load_cases):
        for number, pressure in enumerate(load.pressures):
            if pressure.region is not None:
                raise case.error(
                    f"loads[{index}].pressures[{number}].region",
                    "pressures in holes are not put onto voxels: their walls are not the cells' own",
                )
