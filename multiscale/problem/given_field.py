"""A tensor field made elsewhere: by another optimiser, in another program, or as a density with a law.

Arrays of the grid's shape (npz), or the cells of a VTI, VTU or VTK file, which are looked up at the
elements' centres, so that they may be of another mesh.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Floats
from micro.runtime.errors import InputError
from micro.runtime.npz import read_arrays
from micro.runtime.vtk_files import read_vtk
from multiscale.case.settings import DesignSettings
from multiscale.case.tables import isotropic_tensor
from multiscale.problem.problem import Problem
from multiscale.problem.tensor_field import checked_tensors, named, stacked

_MESHES = (".vti", ".vtu", ".vtk")
_KINDS = (".npz", *_MESHES)
_PASCALS = {"MPa": 1e6, "Pa": 1.0}


def read_field(path: Path, problem: Problem, settings: DesignSettings, all_elements: bool = False) -> Floats:
    """Tensors (nx, ny, nz, 3) of a file, in units of E_s, voids set to zero.

    ``all_elements`` checks every solid element, otherwise only those of the design regions.

    Parameters
    ----------
    path : Path
        npz, VTI or VTU.
    problem : Problem
    settings : DesignSettings
        Names of its arrays, and what they are.
    all_elements : bool

    Raises
    ------
    InputError
        If the file holds no such field, does not cover the elements that count, or a tensor of theirs is not
        positive definite or stiffer than the solid.
    """
    names = settings.arrays if settings.density is None else (settings.density,)
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise InputError(f"must be a tensor field ({', '.join(_KINDS)})", file=path, value=kind or path.name)
    counted = problem.solid if all_elements else problem.design
    if kind in _MESHES:
        arrays = _looked_up(path, names, problem, settings.scale, counted)
    else:
        arrays = named(read_arrays(path), names, path)
    values = stacked(path, arrays, problem)
    if settings.density is not None:
        values = _by_law(values[..., 0], settings, problem.poisson, counted, path)
    elif settings.unit != "E_s":
        values = values * (_PASCALS[settings.unit] / problem.young_pa)
    return checked_tensors(path, values, problem, counted)


def _by_law(density: Floats, settings: DesignSettings, poisson: float, counted: Bools, path: Path) -> Floats:
    """Isotropic tensors of E = density^p E_s (SIMP; Bendsoe 1989), with the solid's Poisson's ratio."""
    wrong = counted & ~((density > 0) & (density <= 1))
    if wrong.any():
        place = tuple(int(v) for v in np.argwhere(wrong)[0])
        raise InputError(
            f"{int(wrong.sum())} densities of elements that count are not above 0 and at most 1, the first "
            f"at {list(place)}",
            file=path,
            key=settings.density,
            value=float(density[place]),
        )
    with np.errstate(invalid="ignore"):
        return density[..., None] ** settings.exponent * np.array(isotropic_tensor(1.0, poisson))


def _looked_up(
    path: Path, names: tuple[str, ...], problem: Problem, scale: float | None, counted: Bools
) -> dict[str, NDArray]:
    """Cell arrays of a VTK file at the elements' centres; zero where no cell is."""
    mesh = read_vtk(path)
    if not hasattr(mesh, "cell_data"):
        raise InputError("holds no grid with values", file=path)
    data = {name: np.asarray(mesh.cell_data[name]) for name in mesh.cell_data.keys()}  # noqa: SIM118
    arrays = named(data, names, path)
    edge = problem.cell_size_m if scale is None else 1.0 / scale
    places = np.argwhere(counted)
    cell = np.asarray(mesh.find_containing_cell((places + 0.5) * edge))
    outside = int((cell < 0).sum())
    if outside:
        span = ", ".join(f"{a:.4g}..{b:.4g}" for a, b in np.reshape(mesh.bounds, (3, 2)))
        grid = " x ".join(f"{n * edge:.4g}" for n in problem.shape)
        raise InputError(
            f"covers {len(cell) - outside} of the {len(cell)} elements that count: it spans {span}, the grid "
            f"{grid} from the origin; [design] scale gives the elements per unit of the file",
            file=path,
        )
    out = {}
    for name, array in arrays.items():
        out[name] = np.zeros((*problem.shape, *array.shape[1:]), dtype=array.dtype)
        out[name][tuple(places.T)] = array[cell]
    return out
