"""Effective stiffness of any periodic cell of voxels, without symmetry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from micro.homogenize.fields import Path, Status, inner, load_groups, make_system
from micro.homogenize.octants import NOTHING, voxel_moduli
from micro.runtime import threads as parallel
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.progress import Progress, counted, unheard
from micro.voxels.hexahedron import CUBE, Edges
from micro.voxels.torch_operator import Grid

SLENDER = 8
"""Largest ratio of a voxel's edges."""


@dataclass(frozen=True)
class CellResult:
    """Homogenised stiffness of one periodic cell.

    Attributes
    ----------
    C : array, shape (6, 6), float64
        Voigt order 11, 22, 33, 23, 13, 12, engineering shears, in the units of the moduli.
    volume : float
        Fraction of the voxels that are solid (of a modulus above 0 if they are numbers).
    residual : float
        Largest relative residual of the six load cases, in float64.
    iterations : int
        Conjugate gradient iterations of the slowest load case.
    status : Status
    """

    C: Floats
    volume: float
    residual: float
    iterations: int
    status: Status


def homogenize_cell(
    moduli: ArrayLike,
    *,
    nu: float = 0.3,
    void: float = 0.0,
    rtol: float = 1e-5,
    edges: tuple[float, float, float] = CUBE,
    device: str | torch.device = "cpu",
    progress: Progress = unheard,
) -> CellResult:
    """Homogenise any periodic voxel cell: six unit strains, all 21 constants.

    Every constant is the mutual energy of two load cases, so its error is quadratic in those of
    the displacements.

    Parameters
    ----------
    moduli : array, shape (nx, ny, nz)
        Bool: solid or void. Numbers: Young's moduli, 0 for exact void; the units are the caller's.
    nu : float
        Poisson's ratio, the same everywhere.
    void : float
        Modulus of the void of a bool cell; 0 removes those elements.
    rtol : float
        Relative residual to reach.
    edges : tuple of three floats
        A voxel's edges along x, y and z; only their ratios count.
    device : str or torch.device
    progress : Progress
        Told how many load cases are done.

    Raises
    ------
    InputError
        If the array is not three-dimensional, not finite or negative, or the edges differ too much.
    """
    array = np.asarray(moduli)
    if array.ndim != 3 or array.size == 0:
        raise InputError("a cell is an array (nx, ny, nz)", value=array.shape)
    values = voxel_moduli(array, void)
    scale = values.max()
    volume = float((array > 0).mean())
    if scale == 0:
        return CellResult(np.zeros((6, 6)), volume, 0.0, 0, Status.NO_LOAD_PATH)
    target = torch.device(device)
    with parallel.one_thread(target) as threads:
        C, residual, iterations, converged = _solve_cell(
            torch.from_numpy(values / scale)[None].to(target),
            nu,
            rtol,
            threads,
            counted(progress, 6),
            edges=brick(edges),
        )
    status = Status.OK if converged else Status.NOT_CONVERGED
    if converged and np.abs(C).max() < NOTHING:
        status, C = Status.NO_LOAD_PATH, np.zeros_like(C)
    return CellResult(C * scale, volume, residual, iterations, status)


def brick(edges: tuple[float, float, float]) -> Edges:
    """A voxel's edges in units of their geometric mean; exactly a cube where they are equal but for rounding.

    Raises
    ------
    InputError
        If they are not positive, or one is more than :data:`SLENDER` times another: multigrid that halves
        all three edges at once no longer smooths such elements.
    """
    lengths = np.array(edges, dtype=np.float64)
    if lengths.shape != (3,) or not np.isfinite(lengths).all() or lengths.min() <= 0:
        raise InputError("a voxel has three positive edges", key="edges", value=tuple(edges))
    if lengths.max() > SLENDER * lengths.min():
        raise InputError(f"no edge may be more than {SLENDER} times another", key="edges", value=tuple(edges))
    if lengths.max() <= lengths.min() * (1 + 1e-6):
        return CUBE
    x, y, z = (float(v) for v in lengths / lengths.prod() ** (1 / 3))
    return x, y, z


def _solve_cell(
    rho: Tensor,
    nu: float,
    rtol: float,
    threads: int,
    count: Callable[[int], None] | None = None,
    path: Path | None = None,
    edges: Edges = CUBE,
) -> tuple[Floats, float, int, bool]:
    """C (6, 6), residual, iterations and convergence for moduli (1, nx, ny, nz)."""
    _, nx, ny, nz = rho.shape
    grid = Grid((nx, ny, nz), periodic=True)
    affine = _unit_strains(grid, rho.device, edges)
    # Nothing is fixed: every load case has the same preconditioner.
    free = torch.ones((3, 1, 1, *grid.nodes), dtype=torch.bool, device=rho.device)
    system = make_system(rho, nu, grid, free, path, edges)
    constant = system.forces(affine)
    C = torch.einsum("cibxyz,cjbxyz->ij", affine, constant)
    b = grid.fold(-constant)
    floor = inner(constant, constant).sqrt()
    del affine, constant
    groups = load_groups(6, rho.numel(), threads)
    solution = system.solve(b, rtol=rtol, floor=floor, groups=groups, threads=threads, count=count)
    converged = bool(solution.converged.all())
    residual, iterations = float(solution.residual.max()), int(solution.iterations.max())
    w, r = solution.u, solution.defect
    for i in range(6):
        for j in range(6):
            # Forces are -b, and A w = b - defect.
            C[i, j] -= (b[:, i] * w[:, j]).sum() + (w[:, i] * r[:, j]).sum(dtype=torch.float64)
    C = (C + C.T) / 2 / float(rho.numel())  # a brick's volume is one
    return C.cpu().numpy(), residual, iterations, converged


def _unit_strains(grid: Grid, device: torch.device, edges: Edges = CUBE) -> Tensor:
    """Affine displacements (3, 6, 1, nx+1, ny+1, nz+1) of unit Voigt strains."""
    nx, ny, nz = grid.shape
    at = [
        torch.arange(n + 1, dtype=torch.float64, device=device) * edge
        for n, edge in zip((nx, ny, nz), edges, strict=True)
    ]
    x = torch.meshgrid(*at, indexing="ij")
    u = torch.zeros((3, 6, 1, nx + 1, ny + 1, nz + 1), dtype=torch.float64, device=device)
    for i in range(3):
        u[i, i, 0] = x[i]
    for load, (i, j) in ((3, (1, 2)), (4, (0, 2)), (5, (0, 1))):
        u[i, load, 0], u[j, load, 0] = x[j] / 2, x[i] / 2
    return u
