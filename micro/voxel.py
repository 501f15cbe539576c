"""Matrix-free elasticity on voxel grids, in torch: any device, many cells and load cases at once.

A nodal field is a tensor ``(3, L, B, X, Y, Z)``: component, load case, cell,
node. On an open grid of (nx, ny, nz) elements X = nx + 1; on a periodic one
X = nx, because the last layer of nodes is the first. Moduli are ``(B, nx, ny, nz)``,
the element's Young's modulus in units of E_s (0 removes the element).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from micro.hexahedron import element_matrices
from micro.tensor import isotropic

CORNERS = tuple(product((0, 1), repeat=3))
"""Offsets of the eight corners in local node order."""

_CHUNK = 8192
"""Elements handled at once: their 24 values a side then stay in the processor's cache."""


def unit_stiffness(nu: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Hex8 stiffness (24, 24) of a unit cube with Young's modulus 1 and Poisson's ratio ``nu``."""
    c, k = isotropic(1.0, nu), element_matrices()
    return torch.from_numpy(c[0] * k[0] + c[1] * k[1] + c[2] * k[2]).to(dtype)


@dataclass(frozen=True)
class Grid:
    """A box of ``shape`` elements, open or periodic in all three directions."""

    shape: tuple[int, int, int]
    periodic: bool = False

    @property
    def nodes(self) -> tuple[int, int, int]:
        """Number of independent nodes in each direction."""
        extra = 0 if self.periodic else 1
        nx, ny, nz = self.shape
        return (nx + extra, ny + extra, nz + extra)

    def unfold(self, u: Tensor) -> Tensor:
        """Nodal field with every layer of nodes present: (..., nx+1, ny+1, nz+1)."""
        if not self.periodic:
            return u
        for axis in (-3, -2, -1):
            u = torch.cat([u, u.narrow(axis, 0, 1)], dim=axis)
        return u

    def fold(self, f: Tensor) -> Tensor:
        """Transpose of :meth:`unfold`: contributions to repeated nodes are added up."""
        if not self.periodic:
            return f
        for axis in (-3, -2, -1):
            n = f.shape[axis] - 1
            last = f.narrow(axis, n, 1)
            f = f.narrow(axis, 0, n)
            f.narrow(axis, 0, 1).add_(last)
        return f.contiguous()


def _corner(u: Tensor, corner: tuple[int, int, int], shape: tuple[int, int, int], x0: int, x1: int) -> Tensor:
    """View of the values at one corner of the elements x0 <= i < x1."""
    dx, dy, dz = corner
    _, ny, nz = shape
    return u[..., x0 + dx : x1 + dx, dy : dy + ny, dz : dz + nz]


def chunks(loads: int, cells: int, shape: tuple[int, int, int]) -> list[tuple[slice, int, int]]:
    """Pieces of about :data:`_CHUNK` elements: some cells, and a range of their element layers along x."""
    nx, ny, nz = shape
    layer = loads * ny * nz
    group = max(1, _CHUNK // (layer * nx))
    step = max(1, min(nx, _CHUNK // layer))
    return [
        (slice(c, min(c + group, cells)), x, min(x + step, nx))
        for c in range(0, cells, group)
        for x in range(0, nx, step)
    ]


def apply_stiffness(u: Tensor, moduli: Tensor, stiffness: Tensor, grid: Grid) -> Tensor:
    """Nodal forces A u, without boundary conditions.

    Parameters
    ----------
    u : Tensor, shape (3, L, B, X, Y, Z)
    moduli : Tensor, shape (B, nx, ny, nz)
    stiffness : Tensor, shape (24, 24)
    """
    full = grid.unfold(u)
    out = torch.zeros_like(full)
    shape = grid.shape
    scratch: Tensor | None = None
    for cells, x0, x1 in chunks(full.shape[1], full.shape[2], shape):
        part, target, density = full[:, :, cells], out[:, :, cells], moduli[cells, x0:x1]
        size = (8, *part.shape[:3], x1 - x0, *shape[1:])
        count = math.prod(size)
        if scratch is None:
            scratch = torch.empty(2, count, dtype=u.dtype, device=u.device)
        local, force = scratch[0, :count].view(size), scratch[1, :count].view(size)
        for a, corner in enumerate(CORNERS):
            local[a].copy_(_corner(part, corner, shape, x0, x1))
        torch.mm(stiffness, local.view(24, -1), out=force.view(24, -1))
        for a, corner in enumerate(CORNERS):
            _corner(target, corner, shape, x0, x1).addcmul_(force[a], density)
    return grid.fold(out)


def diagonal_blocks(moduli: Tensor, stiffness: Tensor, grid: Grid) -> Tensor:
    """The 3x3 block of every node on the diagonal of A: (3, 3, B, X, Y, Z)."""
    nx, ny, nz = grid.shape
    out = moduli.new_zeros((3, 3, moduli.shape[0], nx + 1, ny + 1, nz + 1))
    for a, corner in enumerate(CORNERS):
        block = stiffness[3 * a : 3 * a + 3, 3 * a : 3 * a + 3].reshape(3, 3, 1, 1, 1, 1)
        _corner(out, corner, grid.shape, 0, nx).add_(block * moduli)
    return grid.fold(out)


def element_energy(u: Tensor, v: Tensor, stiffness: Tensor, grid: Grid) -> Tensor:
    """u_e^T K v_e of every element at unit modulus: (L, B, nx, ny, nz)."""
    full_u, full_v = grid.unfold(u), grid.unfold(v)
    shape = grid.shape
    out = u.new_empty((*u.shape[1:3], *shape))
    for cells, x0, x1 in chunks(u.shape[1], u.shape[2], shape):
        local = torch.stack([_corner(full_u[:, :, cells], c, shape, x0, x1) for c in CORNERS])
        other = torch.stack([_corner(full_v[:, :, cells], c, shape, x0, x1) for c in CORNERS])
        force = (stiffness @ local.view(24, -1)).view_as(local)
        out[:, cells, x0:x1] = (force * other).sum(dim=(0, 1))
    return out
