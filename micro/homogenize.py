"""Homogenised stiffness of voxel cells.

``homogenize_octants`` is the fast path of cubic cells: mirror planes turn
periodicity into rollers on one octant, and the axis permutations leave two
load cases of the six.

On the processor the systems are solved by compiled code (:mod:`micro.compiled`), on other devices by torch
(:mod:`micro.pcg`): the same method, equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from micro import memory, parallel, pcg
from micro.cell import is_symmetric, symmetrise
from micro.errors import InputError
from micro.voxel import Grid

if TYPE_CHECKING:
    from micro import compiled

Path = Literal["compiled", "torch"]
"""How systems are solved."""

_BATCH_VOXELS = 2**18
"""Voxels of a batch unless told otherwise: enough to hide overheads, few enough for the cache."""

_TRIMMED = 32
"""Batches after which free memory is given back."""

_CHECKED = 64
"""Octants checked at once."""


_TOGETHER = 2**20
"""Voxels times load cases up to which load cases are solved together."""

_WORTH_A_THREAD = 2**19
"""Voxels from which a load case is worth a thread of its own."""

_NOTHING = 1e-9
"""Stiffness in units of the solid's below which a converged cell carries nothing."""


class Status(IntEnum):
    """What became of a cell's homogenisation."""

    OK = 0
    #: The tolerance was not met; the tensor is the best found and its error unknown.
    NOT_CONVERGED = 1
    #: No solid path joins opposite faces: the tensor is exactly zero.
    NO_LOAD_PATH = 2


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
    array = _octant_array(octants)
    m, n = array.shape[:2]
    # As numbers a few at a time only: thousands of voxel octants would take eight times their memory.
    chunks = [slice(start, start + _CHECKED) for start in range(0, m, _CHECKED)]
    for chunk in chunks:
        _checked_moduli(array[chunk], void)
    target = torch.device(device)
    with parallel.one_thread(target) as threads:
        size = batch or min(max(1, _BATCH_VOXELS // n**3), -(-m // threads))
        starts = range(0, m, size)
        inner = threads if len(starts) == 1 else 1

        def solve(start: int) -> tuple[NDArray, ...]:
            if start // size % _TRIMMED == _TRIMMED - 1:
                memory.trim()
            moduli = _young(array[start : start + size], void)
            part = solve_octants(moduli, nu, rtol, target, inner)
            if progress is not None:
                progress(len(part.C))
            return part.C, part.residual, part.iterations, part.status

        parts = parallel.run([partial(solve, start) for start in starts], threads)
    C, residual, iterations, status = (np.concatenate(column) for column in zip(*parts, strict=True))
    volume = np.concatenate([(array[chunk] > 0).mean(axis=(1, 2, 3)) for chunk in chunks])
    return OctantResult(C, volume, residual, iterations, status)


def octant_moduli(octants: ArrayLike, void: float) -> NDArray[np.float64]:
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


def _checked_moduli(array: NDArray, void: float) -> NDArray[np.float64]:
    """Moduli of an array (m, n, n, n) of octants, which must be symmetric."""
    moduli = _young(array, void)
    # Averaging over the permutations leaves numbers symmetric up to rounding.
    if not is_symmetric(moduli) and np.abs(symmetrise(moduli) - moduli).max() > 1e-6 * moduli.max():
        raise InputError("octants must be invariant under permutation of their axes", key="octants")
    return moduli


def _young(array: NDArray, void: float) -> NDArray[np.float64]:
    """Moduli of voxels given as bool (solid or void) or as numbers."""
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


@dataclass(frozen=True)
class OctantFields:
    """Solutions of m octants' two load cases with what follows from them.

    Attributes
    ----------
    C, residual, iterations, status : arrays
        As in :class:`OctantResult`.
    moduli : Tensor, shape (m, n, n, n), float64
        Without the pieces that carry nothing.
    affine, fluctuation : Tensors, shape (3, 2, m, n + 1, n + 1, n + 1), float64
        Their sum is the displacement under a unit axial strain along x and a unit shear in xy.
    """

    C: NDArray[np.float64]
    residual: NDArray[np.float64]
    iterations: NDArray[np.int64]
    status: NDArray[np.int64]
    moduli: Tensor
    affine: Tensor
    fluctuation: Tensor


def solve_octants(
    moduli: NDArray[np.float64],
    nu: float,
    rtol: float,
    device: torch.device,
    threads: int = 1,
    start: Tensor | None = None,
    path: Path | None = None,
) -> OctantFields:
    """Solve both load cases of checked moduli (m, n, n, n), from the fluctuations ``start`` if given.

    ``path`` is chosen by the device unless told otherwise.
    """
    n = moduli.shape[1]
    moduli, carries = _carrying_part(moduli)
    rho = torch.from_numpy(moduli).to(device)
    grid = Grid((n, n, n))
    affine, free = _octant_loads(n, device)
    system = _system(rho, nu, grid, free, path)
    forces = system.forces(affine)
    floor = inner(forces, forces).sqrt()
    groups = _groups(2, rho.numel(), threads)
    solution = system.solve(
        -forces * free, rtol=rtol, floor=floor, groups=groups, threads=threads, start=start
    )
    # Compiled code leaves cells alone with themselves, and so do these sums: no bit depends on the batch.
    size = len(moduli) if isinstance(system, pcg.System) else 1
    split = (t.split(size, dim=2) for t in (forces, solution.u, solution.defect))
    C = torch.cat([_constants(affine, *parts) for parts in zip(*split, strict=True)]) / float(n**3)
    status = np.where(solution.converged.all(dim=0).cpu().numpy(), Status.OK, Status.NOT_CONVERGED)
    return OctantFields(
        C.cpu().numpy(),
        solution.residual.amax(dim=0).cpu().numpy(),
        solution.iterations.amax(dim=0).cpu().numpy(),
        np.where(carries, status, Status.NO_LOAD_PATH),
        rho,
        affine.expand(-1, -1, len(moduli), -1, -1, -1),
        solution.u,
    )


def _constants(affine: Tensor, forces: Tensor, w: Tensor, r: Tensor) -> Tensor:
    """C11, C12, C44 (B, 3) times the volume, from the affine displacements, their forces, and the solutions.

    With w the fluctuation and r its defect, A w = b - r on the free degrees of freedom, so the energy of
    affine + w needs inner products only.
    """
    energy = inner(affine + w, forces) - inner(w, r)
    axial, image = slice(0, 1), exchange_xy
    mutual = (
        inner(image(affine[:, axial]), forces[:, axial])
        + inner(image(forces[:, axial]), w[:, axial])
        - inner(image(w[:, axial]), r[:, axial])
    )
    return torch.stack([energy[0], mutual[0], energy[1]], dim=-1)


def _system(
    rho: Tensor, nu: float, grid: Grid, free: Tensor, path: Path | None
) -> compiled.System | pcg.System:
    if path == "torch" or (path is None and rho.device.type != "cpu"):
        return pcg.System(rho, nu, grid, free)
    # Importing the compiler takes half a second, which what needs no solve should not wait for.
    from micro import compiled

    return compiled.System(rho, nu, grid, free)


def _groups(loads: int, voxels: int, threads: int) -> list[slice]:
    """Load cases to solve together: small cells share their overheads, in large ones each ends by itself."""
    size = min(loads, max(1, _TOGETHER // voxels))
    if voxels >= _WORTH_A_THREAD:
        size = min(size, -(-loads // threads))
    return [slice(i, min(i + size, loads)) for i in range(0, loads, size)]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (L, B) of nodal fields."""
    return (a * b).sum(dim=(0, 3, 4, 5))


def exchange_xy(u: Tensor) -> Tensor:
    """Image of a nodal field under the exchange of x and y."""
    return u.transpose(-3, -2)[[1, 0, 2]]


def _carrying_part(moduli: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
    """Octant moduli without the pieces that can't carry load, and whether anything is left.

    A piece (joined by faces, edges or corners) that reaches no two opposite faces of the octant
    follows every macroscopic strain by a rigid motion: it adds nothing to the tensor, and its
    removal takes the singular modes away.
    """
    carries = np.ones(len(moduli), dtype=bool)
    out = moduli
    for i, octant in enumerate(moduli):
        if octant.min() > 0:
            continue
        labels, count = ndimage.label(octant > 0, structure=np.ones((3, 3, 3)))
        through = np.zeros(count + 1, dtype=bool)
        for axis in range(3):
            ends = (np.take(labels, end, axis=axis) for end in (0, -1))
            through[np.intersect1d(*ends)] = True
        through[0] = False
        carries[i] = through.any()
        if not through[1:].all():
            out = out.copy() if out is moduli else out
            out[i] = np.where(through[labels], octant, 0.0)
    return out, carries


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

    C: NDArray[np.float64]
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
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
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
    device : str or torch.device
    progress : callable, optional
        Called with the number of load cases just finished.

    Raises
    ------
    InputError
        If the array is not three-dimensional, not finite or negative.
    """
    array = np.asarray(moduli)
    if array.ndim != 3 or array.size == 0:
        raise InputError("a cell is an array (nx, ny, nz)", value=array.shape)
    values = _young(array, void)
    scale = values.max()
    volume = float((array > 0).mean())
    if scale == 0:
        return CellResult(np.zeros((6, 6)), volume, 0.0, 0, Status.NO_LOAD_PATH)
    target = torch.device(device)
    with parallel.one_thread(target) as threads:
        C, residual, iterations, converged = _solve_cell(
            torch.from_numpy(values / scale)[None].to(target), nu, rtol, threads, progress
        )
    status = Status.OK if converged else Status.NOT_CONVERGED
    if converged and np.abs(C).max() < _NOTHING:
        status, C = Status.NO_LOAD_PATH, np.zeros_like(C)
    return CellResult(C * scale, volume, residual, iterations, status)


def _solve_cell(
    rho: Tensor,
    nu: float,
    rtol: float,
    threads: int,
    progress: Callable[[int], None] | None,
    path: Path | None = None,
) -> tuple[NDArray[np.float64], float, int, bool]:
    """C (6, 6), residual, iterations and convergence for moduli (1, nx, ny, nz)."""
    _, nx, ny, nz = rho.shape
    grid = Grid((nx, ny, nz), periodic=True)
    affine = _unit_strains(grid, rho.device)
    # Nothing is fixed: every load case has the same preconditioner.
    free = torch.ones((3, 1, 1, *grid.nodes), dtype=torch.bool, device=rho.device)
    system = _system(rho, nu, grid, free, path)
    constant = system.forces(affine)
    C = torch.einsum("cibxyz,cjbxyz->ij", affine, constant)
    b = grid.fold(-constant)
    floor = inner(constant, constant).sqrt()
    del affine, constant
    groups = _groups(6, rho.numel(), threads)
    solution = system.solve(b, rtol=rtol, floor=floor, groups=groups, threads=threads, progress=progress)
    converged = bool(solution.converged.all())
    residual, iterations = float(solution.residual.max()), int(solution.iterations.max())
    w, r = solution.u, solution.defect
    for i in range(6):
        for j in range(6):
            # Forces are -b, and A w = b - defect.
            C[i, j] -= (b[:, i] * w[:, j]).sum() + (w[:, i] * r[:, j]).sum(dtype=torch.float64)
    C = (C + C.T) / 2 / float(rho.numel())
    return C.cpu().numpy(), residual, iterations, converged


def _unit_strains(grid: Grid, device: torch.device) -> Tensor:
    """Affine displacements (3, 6, 1, nx+1, ny+1, nz+1) of unit Voigt strains."""
    nx, ny, nz = grid.shape
    at = [torch.arange(n + 1, dtype=torch.float64, device=device) for n in (nx, ny, nz)]
    x = torch.meshgrid(*at, indexing="ij")
    u = torch.zeros((3, 6, 1, nx + 1, ny + 1, nz + 1), dtype=torch.float64, device=device)
    for i in range(3):
        u[i, i, 0] = x[i]
    for load, (i, j) in ((3, (1, 2)), (4, (0, 2)), (5, (0, 1))):
        u[i, load, 0], u[j, load, 0] = x[j] / 2, x[i] / 2
    return u
