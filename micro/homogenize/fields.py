"""Fluctuations of octants under the unit strains, and the choice of the solver that finds them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from micro.runtime.arrays import Bools, Floats, Ints
from micro.voxels.hexahedron import CUBE, Edges
from micro.voxels.system import System
from micro.voxels.torch_operator import Grid
from micro.voxels.torch_system import TorchSystem

Path = Literal["compiled", "torch"]
"""How systems are solved."""

_TOGETHER = 2**20
"""Voxels times load cases up to which load cases are solved together."""

_WORTH_A_THREAD = 2**19
"""Voxels from which a load case is worth a thread of its own."""


class Status(IntEnum):
    """What became of a cell's homogenisation."""

    OK = 0
    #: The tolerance was not met; the tensor is the best found and its error unknown.
    NOT_CONVERGED = 1
    #: No solid path joins opposite faces: the tensor is exactly zero.
    NO_LOAD_PATH = 2


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

    C: Floats
    residual: Floats
    iterations: Ints
    status: Ints
    moduli: Tensor
    affine: Tensor
    fluctuation: Tensor


def solve_octants(
    moduli: Floats,
    nu: float,
    rtol: float,
    device: torch.device,
    threads: int = 1,
    start: Tensor | None = None,
    path: Path | None = None,
) -> OctantFields:
    """Solve both load cases of checked moduli (m, n, n, n), from the fluctuations ``start`` if given.

    ``path`` is chosen by the device unless told otherwise.

    Parameters
    ----------
    moduli : array, shape (m, n, n, n)
        In units of E_s.
    nu, rtol : float
        Poisson's ratio; wanted relative residual.
    device : torch.device
    threads : int
    start : Tensor, optional
    path : {"compiled", "torch"}, optional
        Chosen by the device unless told otherwise.
    """
    n = moduli.shape[1]
    moduli, carries = _carrying_part(moduli)
    rho = torch.from_numpy(moduli).to(device)
    grid = Grid((n, n, n))
    affine, free = _octant_loads(n, device)
    system = make_system(rho, nu, grid, free, path)
    forces = system.forces(affine)
    floor = inner(forces, forces).sqrt()
    groups = load_groups(2, rho.numel(), threads)
    solution = system.solve(
        -forces * free, rtol=rtol, floor=floor, groups=groups, threads=threads, start=start
    )
    # Compiled code leaves cells alone with themselves, and so do these sums: no bit depends on the batch.
    size = len(moduli) if isinstance(system, TorchSystem) else 1
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


def make_system(
    rho: Tensor, nu: float, grid: Grid, free: Tensor, path: Path | None, edges: Edges = CUBE
) -> System:
    """The solver for cells on this device: compiled on the processor, torch elsewhere or where asked for.

    The compiled one is for cubes.

    Parameters
    ----------
    rho : Tensor, shape (B, nx, ny, nz), float64
        Moduli.
    nu : float
    grid : Grid
    free : bool Tensor, shape (3, K, 1, X, Y, Z)
        Free degrees of freedom of K load cases, or K = 1 if all are fixed alike.
    path : {"compiled", "torch"}, optional
    edges : tuple
        A voxel's edges along x, y, z.
    """
    if path == "torch" or edges != CUBE or (path is None and rho.device.type != "cpu"):
        return TorchSystem(rho, nu, grid, free, edges)
    # Importing the compiler takes half a second, which what needs no solve should not wait for.
    from micro.voxels.compiled_system import CompiledSystem

    return CompiledSystem(rho, nu, grid, free)


def load_groups(loads: int, voxels: int, threads: int) -> list[slice]:
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


def _carrying_part(moduli: NDArray) -> tuple[NDArray, Bools]:
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
