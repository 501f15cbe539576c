"""Matrix-free elasticity on voxel grids, in torch: any device, many cells and load cases at once.

A nodal field is a tensor ``(3, L, B, X, Y, Z)``: component, load case, cell,
node. On an open grid of (nx, ny, nz) elements X = nx + 1; on a periodic one
X = nx, because the last layer of nodes is the first. Moduli are ``(B, nx, ny, nz)``,
the element's Young's modulus in units of E_s (0 removes the element).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from micro.voxels.corners import CORNERS

_CHUNK = 16384
"""Elements that a processor handles at once: their 24 values then stay in the processor's cache."""


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

    def trim(self, u: Tensor) -> Tensor:
        """Inverse of :meth:`unfold`: repeated nodes are left out."""
        if not self.periodic:
            return u
        nx, ny, nz = self.shape
        return u[..., :nx, :ny, :nz].contiguous()

    def spread(self, f: Tensor) -> Tensor:
        """Transpose of :meth:`trim`: repeated nodes get zero."""
        return torch.nn.functional.pad(f, (0, 1, 0, 1, 0, 1)) if self.periodic else f


def _strides(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Distance in memory of two nodes along x and along y, on all layers of nodes."""
    return (shape[1] + 1) * (shape[2] + 1), shape[2] + 1


def pad_moduli(moduli: Tensor) -> Tensor:
    """Moduli (B, nx, ny, nz) with an empty element after the last one in each direction.

    Elements are then numbered like their lowest nodes, so that a corner of every element
    lies at one constant distance in memory: gathering and scattering are shifts of long rows.
    """
    return torch.nn.functional.pad(moduli, (0, 1, 0, 1, 0, 1))


def apply_stiffness(
    u: Tensor, padded: Tensor, stiffness: Tensor, grid: Grid, minuend: Tensor | None = None
) -> Tensor:
    """Nodal forces A u, without boundary conditions; with a ``minuend`` f the residual f - A u.

    Parameters
    ----------
    u : Tensor, shape (3, L, B, X, Y, Z)
    padded : Tensor, shape (B, nx + 1, ny + 1, nz + 1)
        Moduli as :func:`pad_moduli` gives them.
    stiffness : Tensor, shape (24, 24)
    """
    full = grid.unfold(u).contiguous()
    out = torch.zeros_like(full) if minuend is None else grid.spread(minuend.clone())
    sign = 1.0 if minuend is None else -1.0
    loads = full.shape[1]
    sx, sy = _strides(grid.shape)
    density = padded.expand(loads, *padded.shape).reshape(-1) if loads > 1 else padded.reshape(-1)
    total = density.numel()
    elements = total - sx - sy - 1  # what follows is padding only
    size = min(_CHUNK, elements) if u.device.type == "cpu" else elements
    scratch = torch.empty(2, 24 * size, dtype=u.dtype, device=u.device)
    for q in range(0, elements, size):
        count = min(size, elements - q)
        local, force = scratch[0, : 24 * count], scratch[1, : 24 * count].view(24, count)
        _gather(full, grid, q, local)
        torch.mm(stiffness, local.view(24, count), out=force)
        weight = density[q : q + count]
        for part, (dx, dy, dz) in zip(force.view(8, 3, count).unbind(), CORNERS, strict=True):
            target = out.as_strided((3, count), (total, 1), q + dx * sx + dy * sy + dz)
            target.addcmul_(part, weight, value=sign)
    return grid.fold(out)


def _gather(field: Tensor, grid: Grid, first: int, into: Tensor) -> None:
    """Copy the 24 values of each element from number ``first`` on, (24 * count,), out of all nodes."""
    count = len(into) // 24
    strides = (*_strides(grid.shape), 1, field[0].numel(), 1)
    into.view(2, 2, 2, 3, count).copy_(field.as_strided((2, 2, 2, 3, count), strides, first))


def corner(u: Tensor, offset: tuple[int, int, int], shape: tuple[int, int, int]) -> Tensor:
    """View (..., nx, ny, nz) of a field with all layers of nodes, at one corner of each element."""
    (dx, dy, dz), (nx, ny, nz) = offset, shape
    return u[..., dx : dx + nx, dy : dy + ny, dz : dz + nz]


def diagonal_blocks(moduli: Tensor, stiffness: Tensor, grid: Grid) -> Tensor:
    """The 3x3 block of every node on the diagonal of A: (3, 3, B, X, Y, Z)."""
    nx, ny, nz = grid.shape
    out = moduli.new_zeros((3, 3, moduli.shape[0], nx + 1, ny + 1, nz + 1))
    for a, offset in enumerate(CORNERS):
        block = stiffness[3 * a : 3 * a + 3, 3 * a : 3 * a + 3].reshape(3, 3, 1, 1, 1, 1)
        corner(out, offset, grid.shape).addcmul_(block, moduli)
    return grid.fold(out)


def element_energy(u: Tensor, v: Tensor, stiffness: Tensor, grid: Grid) -> Tensor:
    """u_e^T K v_e of every element at unit modulus: (L, B, nx, ny, nz).

    Parameters
    ----------
    u, v : Tensors, shape (3, L, B, X, Y, Z)
    stiffness : Tensor, shape (24, 24)
    grid : Grid
    """
    first = grid.unfold(u).contiguous()
    second = first if v is u else grid.unfold(v).contiguous()
    nodes = first.shape[1:]
    total = first[0].numel()
    sx, sy = _strides(grid.shape)
    elements = total - sx - sy - 1  # what follows is padding only
    size = min(_CHUNK, elements) if u.device.type == "cpu" else elements
    scratch = torch.empty(3, 24 * size, dtype=u.dtype, device=u.device)
    out = first.new_zeros(total)
    for q in range(0, elements, size):
        count = min(size, elements - q)
        local, force, other = (row[: 24 * count] for row in scratch)
        _gather(first, grid, q, local)
        if second is not first:
            _gather(second, grid, q, other)
        torch.mm(stiffness, local.view(24, count), out=force.view(24, count))
        force.mul_(local if second is first else other)
        torch.sum(force.view(24, count), dim=0, out=out[q : q + count])
    nx, ny, nz = grid.shape
    return out.view(nodes)[..., :nx, :ny, :nz]
