"""Homogenised stiffness of voxel cells.

``homogenize_octants`` is the fast path of cubic cells: mirror planes turn
periodicity into rollers on one octant, and the axis permutations leave two
load cases of the six.

On the processor the systems are solved by compiled code (:mod:`micro.voxels.compiled_system`), on
other devices by torch (:mod:`micro.voxels.torch_system`): the same method, equal up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from micro.cell.octant import is_symmetric, symmetrise
from micro.homogenize.fields import solve_octants
from micro.runtime import memory, threads as parallel
from micro.runtime.arrays import Floats, Ints
from micro.runtime.errors import InputError
from micro.runtime.executor import Executor
from micro.runtime.progress import Progress, counted, unheard

_BATCH_VOXELS = 2**18
"""Voxels of a batch unless told otherwise: enough to hide overheads, few enough for the cache."""

_DEVICE_VOXELS = 2**23
"""The same on other devices, which have to be filled: 256 octants of n = 32."""

DEVICE_BYTES = 2500
"""Bytes a voxel that the torch path takes at most: fields in two precisions, and setting up coarse grids.

Measured on the processor as 1,000 (24 octants of n = 32) to 1,300 (eight); a device takes products with the
stiffness whole, 800 more.
"""

_TRIMMED = 32
"""Batches after which free memory is given back."""

_CHECKED = 64
"""Octants checked at once."""

_SHARED = 32
"""Octants of one job where processes share them."""


NOTHING = 1e-9
"""Stiffness in units of the solid's below which a converged cell carries nothing."""


@dataclass(frozen=True)
class OctantResult:
    """Homogenised cubic tensors of m octants.

    Attributes
    ----------
    C : array, shape (m, 3), float64
        (C11, C12, C44) in units of E_s.
    volume : array, shape (m,)
        Fraction of the voxels that are solid (of a modulus above 0 if they are numbers).
    residual : array, shape (m,)
        Largest relative residual of the two load cases, in float64.
    iterations : int array, shape (m,)
        Conjugate gradient iterations of the slower load case.
    status : int array, shape (m,)
        Values of :class:`Status`.
    """

    C: Floats
    volume: Floats
    residual: Floats
    iterations: Ints
    status: Ints


def homogenize_octants(
    octants: ArrayLike,
    *,
    nu: float = 0.3,
    void: float = 0.0,
    rtol: float = 1e-5,
    batch: int | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = unheard,
) -> OctantResult:
    """Homogenise cubic cells given by their octants.

    Two problems on the octant with rollers (a unit axial strain along x, a unit shear in xy)
    give all three constants. C11 and C44 are energies; C12 is the mutual energy of the axial
    solution and its image with x and y exchanged, so that every error is quadratic in that of
    the displacements.

    Parameters
    ----------
    octants : array, shape (m, n, n, n) or (n, n, n)
        Bool: solid or void. Numbers: Young's modulus in units of E_s, 0 for exact void.
        Invariant under permutation of the axes.
    nu : float
        Poisson's ratio of the base material.
    void : float
        Modulus of the void of bool octants; 0 removes those elements.
    rtol : float
        Relative residual to reach.
    batch : int, optional
        Cells solved at once; chosen for the processor's cache by default.
    device : str or torch.device
    progress : Progress
        Told how many cells are done.

    Raises
    ------
    InputError
        If an octant is not symmetric, not finite or negative.
    """
    array = _octant_array(octants)
    m, n = array.shape[:2]
    # As numbers a few at a time only: thousands of voxel octants would take eight times their memory.
    chunks = [slice(start, start + _CHECKED) for start in range(0, m, _CHECKED)]
    for chunk in chunks:
        _checked_moduli(array[chunk], void)
    target = torch.device(device)
    with parallel.one_thread(target) as threads:
        together = _BATCH_VOXELS if target.type == "cpu" else _device_voxels(n, target)
        size = batch or min(max(1, together // n**3), -(-m // threads))
        starts = range(0, m, size)
        inner = threads if len(starts) == 1 else 1
        count = counted(progress, m)

        def solve(start: int) -> tuple[NDArray, ...]:
            if start // size % _TRIMMED == _TRIMMED - 1:
                memory.trim()
            moduli = voxel_moduli(array[start : start + size], void)
            part = solve_octants(moduli, nu, rtol, target, inner)
            count(len(part.C))
            return part.C, part.residual, part.iterations, part.status

        parts = parallel.run([partial(solve, start) for start in starts], threads)
    C, residual, iterations, status = (np.concatenate(column) for column in zip(*parts, strict=True))
    volume = np.concatenate([(array[chunk] > 0).mean(axis=(1, 2, 3)) for chunk in chunks])
    return OctantResult(C, volume, residual, iterations, status)


def _device_voxels(n: int, device: torch.device) -> int:
    """Voxels that a device with memory of its own takes at once.

    Raises
    ------
    InputError
        If not even one octant fits.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else DEVICE_BYTES * _DEVICE_VOXELS
    memory.require(
        DEVICE_BYTES * n**3, f"an octant of {n}^3 voxels on {device}", "take a coarser one", limit=0.8 * free
    )
    return min(_DEVICE_VOXELS, int(0.8 * free) // DEVICE_BYTES)


def homogenize_shared(
    octants: ArrayLike, processes: Executor, *, progress: Progress = unheard, **settings: Any
) -> OctantResult:
    """As :func:`homogenize_octants`, the octants shared between processes; equal to the last bit."""
    array = _octant_array(octants)
    if processes.workers == 1:
        return homogenize_octants(array, progress=progress, **settings)
    jobs = [(array[start : start + _SHARED], settings) for start in range(0, len(array), _SHARED)]
    parts = []
    for number, part in enumerate(processes.run(_part, jobs), start=1):
        parts.append(part)
        progress(min(number * _SHARED, len(array)), len(array))
    columns = (np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(OctantResult))
    return OctantResult(*columns)


def _part(job: tuple[NDArray, dict[str, Any]]) -> OctantResult:
    octants, settings = job
    result = homogenize_octants(octants, **settings)
    memory.trim()
    return result


def octant_moduli(octants: ArrayLike, void: float) -> Floats:
    """Moduli (m, n, n, n) of octants as :func:`homogenize_octants` takes them, checked."""
    return _checked_moduli(_octant_array(octants), void)


def _octant_array(octants: ArrayLike) -> NDArray:
    """One octant or several as an array (m, n, n, n) of whatever they are."""
    array = np.asarray(octants)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or len(set(array.shape[1:])) != 1 or array.size == 0:
        raise InputError("octants are an array (m, n, n, n)", value=array.shape)
    return array


def _checked_moduli(array: NDArray, void: float) -> Floats:
    """Moduli of an array (m, n, n, n) of octants, which must be symmetric."""
    moduli = voxel_moduli(array, void)
    # Averaging over the permutations leaves numbers symmetric up to rounding.
    if not is_symmetric(moduli) and np.abs(symmetrise(moduli) - moduli).max() > 1e-6 * moduli.max():
        raise InputError("octants must be invariant under permutation of their axes", key="octants")
    return moduli


def voxel_moduli(array: NDArray, void: float) -> Floats:
    """Moduli of voxels given as bool (solid or void) or as numbers.

    Raises
    ------
    InputError
        If a modulus is negative or not finite, or the array holds neither bool nor numbers.
    """
    if not 0 <= void < np.inf:
        raise InputError("the void's modulus must not be negative", key="void", value=void)
    if array.dtype == bool:
        return np.where(array, 1.0, void)
    if array.dtype.kind not in "iuf":
        raise InputError("voxels are bool (solid, void) or real numbers (moduli)", value=array.dtype.name)
    moduli = array.astype(np.float64)
    if not np.isfinite(moduli).all() or (moduli < 0).any():
        raise InputError("moduli must be finite and not negative")
    return moduli
