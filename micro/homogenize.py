"""Homogenised stiffness of voxel cells.

``homogenize_octants`` is the fast path of cubic cells: mirror planes turn
periodicity into rollers on one octant, and the axis permutations leave two
load cases of the six.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from micro import pcg
from micro.cell import is_symmetric
from micro.errors import InputError
from micro.multigrid import Multigrid
from micro.voxel import Grid, apply_stiffness, pad_moduli, unit_stiffness

_BATCH_VOXELS = 2**17
"""Voxels of a batch unless told otherwise: enough to hide overheads, few enough for the cache."""


class Status(IntEnum):
    """What became of a cell's homogenisation."""

    OK = 0
    #: The tolerance was not met; the tensor is the best found and its error unknown.
    NOT_CONVERGED = 1
    #: No solid path joins opposite faces: the tensor is zero (exact).
    NO_LOAD_PATH = 2


@dataclass(frozen=True)
class OctantResult:
    """Homogenised cubic tensors of m octants.

    Attributes
    ----------
    C : array, shape (m, 3), float64
        (C11, C12, C44) in units of E_s.
    volume : array, shape (m,)
        Mean of the moduli (for bool octants the solid volume fraction).
    residual : array, shape (m,)
        Largest relative residual of the two load cases, in float64.
    iterations : int array, shape (m,)
        Conjugate gradient iterations of the slower load case.
    status : int array, shape (m,)
        Values of :class:`Status`.
    """

    C: NDArray[np.float64]
    volume: NDArray[np.float64]
    residual: NDArray[np.float64]
    iterations: NDArray[np.int64]
    status: NDArray[np.int64]


def homogenize_octants(
    octants: ArrayLike,
    *,
    nu: float = 0.3,
    void: float = 0.0,
    rtol: float = 1e-5,
    batch: int | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
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
    progress : callable, optional
        Called with the number of cells just finished.

    Raises
    ------
    InputError
        If an octant is not symmetric, not finite or negative.
    """
    moduli = _octant_moduli(octants, void)
    m, n = moduli.shape[:2]
    size = batch or max(1, _BATCH_VOXELS // n**3)
    parts = []
    for start in range(0, m, size):
        parts.append(_solve_octants(moduli[start : start + size], nu, rtol, torch.device(device), progress))
    C, residual, iterations, status = (np.concatenate(column) for column in zip(*parts, strict=True))
    volume = np.asarray(octants, dtype=np.float64).reshape(m, -1).mean(axis=1)
    return OctantResult(C, volume, residual, iterations, status)


def _octant_moduli(octants: ArrayLike, void: float) -> NDArray:
    array = np.asarray(octants)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or len(set(array.shape[1:])) != 1 or array.size == 0:
        raise InputError("octants are an array (m, n, n, n)", value=array.shape)
    if not void >= 0:
        raise InputError("the void's modulus must not be negative", key="void", value=void)
    if array.dtype == bool:
        moduli = np.where(array, 1.0, void)
    else:
        moduli = array.astype(np.float64)
        if not np.isfinite(moduli).all() or (moduli < 0).any():
            raise InputError("moduli must be finite and not negative", key="octants")
    if not is_symmetric(moduli):
        raise InputError("octants must be invariant under permutation of their axes", key="octants")
    return moduli


def _octant_loads(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Affine displacements (3, 2, 1, N, N, N) of unit strains and the free degrees of freedom."""
    at = torch.arange(n + 1, dtype=torch.float64, device=device)
    x, y, _ = torch.meshgrid(at, at, at, indexing="ij")
    affine = torch.zeros((3, 2, 1, n + 1, n + 1, n + 1), dtype=torch.float64, device=device)
    affine[0, 0, 0] = x
    affine[0, 1, 0], affine[1, 1, 0] = y / 2, x / 2
    free = torch.ones(affine.shape, dtype=torch.bool, device=device)
    ends = [0, n]
    # Axial: no normal displacement (beyond the affine one) on any face.
    free[0, 0][:, ends], free[1, 0][:, :, ends], free[2, 0][:, :, :, ends] = False, False, False
    # Shear, antisymmetric in x and y: the components within the x and y faces; the normal one on z faces.
    free[1, 1][:, ends], free[2, 1][:, ends] = False, False
    free[0, 1][:, :, ends], free[2, 1][:, :, ends] = False, False
    free[2, 1][:, :, :, ends] = False
    return affine, free


def _solve_octants(
    moduli: NDArray, nu: float, rtol: float, device: torch.device, progress: Callable[[int], None] | None
) -> tuple[NDArray, ...]:
    n = moduli.shape[1]
    rho = torch.from_numpy(moduli).to(device)
    k = unit_stiffness(nu).to(device)
    grid = Grid((n, n, n))
    affine, free = _octant_loads(n, device)
    affine = affine.expand(-1, -1, len(moduli), -1, -1, -1)
    multigrid = Multigrid.build(rho.float(), k.float(), grid, free)
    padded = pad_moduli(rho)
    forces = apply_stiffness(affine, padded, k, grid)
    floor = forces.square().sum(dim=(0, 3, 4, 5)).sqrt()
    solution = pcg.solve(
        rho, k, grid, free, multigrid, -forces * free, rtol=rtol, floor=floor, on_retire=progress
    )
    u = affine + solution.u
    f = apply_stiffness(u, padded, k, grid)
    swapped = u[:, :1].transpose(-3, -2)[[1, 0, 2]]
    C = torch.stack(
        [
            (u[:, 0] * f[:, 0]).sum(dim=(0, 2, 3, 4)),
            (swapped[:, 0] * f[:, 0]).sum(dim=(0, 2, 3, 4)),
            (u[:, 1] * f[:, 1]).sum(dim=(0, 2, 3, 4)),
        ],
        dim=-1,
    ) / float(n**3)
    converged = solution.converged.all(dim=0)
    status = torch.where(converged, int(Status.OK), int(Status.NOT_CONVERGED))
    return (
        C.cpu().numpy(),
        solution.residual.amax(dim=0).cpu().numpy(),
        solution.iterations.amax(dim=0).cpu().numpy(),
        status.cpu().numpy(),
    )
