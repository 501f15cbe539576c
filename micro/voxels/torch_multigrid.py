"""Geometric multigrid for voxel elasticity with exact Galerkin operators on every coarse grid.

Each coarse element carries its own 24x24 matrix, the sum of P^T K P over its
(up to) eight children: voids and thin members enter the coarse problem as they
are, not as an average. Grids of any size are halved; where a direction has an
odd number of elements the last one stays single. The smoother is the
fourth-kind Chebyshev polynomial of Lottes (2023, "Optimal polynomial smoothers
for multigrid V-cycles", eq. 4.3) on 3x3 node blocks; the coarsest grid is
solved directly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from micro.runtime.errors import NotConverged
from micro.voxels.corners import CORNERS
from micro.voxels.galerkin import (
    COARSE_RADIUS,
    DEGREES,
    FINE_RADIUS,
    NO_SHIFT,
    SHIFTS,
    child_interpolation,
    element_bound,
)
from micro.voxels.torch_operator import Grid, apply_stiffness, corner, diagonal_blocks, pad_moduli

FUSED = {"cuda", "xpu", "mps"}
"""Devices on which starting an operation costs more than what it does on a coarse grid: 81 become two."""

_FUSED_SIZE = 2**26
"""Numbers that such an operation may hold at once (256 MB): larger grids are done in 3, 9 or 27 parts."""

_TABLE_DEPTH = 3
"""Coarse grids assembled straight from the voxels; deeper ones from the grid above."""


def _congruence(matrices: Tensor, p: Tensor) -> Tensor:
    p = p.to(matrices)
    return p.T @ (matrices @ p)


def _halve(matrices: Tensor, axis: int) -> Tensor:
    """Galerkin element matrices (B, x, y, z, 24, 24) after halving one direction."""
    n = matrices.shape[1 + axis]
    if n == 1:
        return matrices
    even = n - n % 2
    index = torch.arange(0, even, 2, device=matrices.device)
    out = _congruence(matrices.index_select(1 + axis, index), child_interpolation(axis, 0))
    out += _congruence(matrices.index_select(1 + axis, index + 1), child_interpolation(axis, 1))
    if even < n:
        out = torch.cat([out, matrices.narrow(1 + axis, even, 1)], dim=1 + axis)
    return out


@cache
def _table(nu_stiffness: bytes, depth: int) -> Tensor:
    """Matrices of a coarse element of 2^depth voxels an edge, one for each voxel's unit modulus.

    Shape (8^depth, 576) float64, voxels in C order.
    """
    k = torch.frombuffer(bytearray(nu_stiffness), dtype=torch.float64).reshape(1, 24, 24)
    size = 1
    for _ in range(depth):
        children = []
        for dx, dy, dz in CORNERS:
            p = child_interpolation(2, dz) @ child_interpolation(1, dy) @ child_interpolation(0, dx)
            children.append(_congruence(k, p))
        k = torch.stack(children).reshape(2, 2, 2, size, size, size, 24, 24)
        k = k.permute(0, 3, 1, 4, 2, 5, 6, 7).reshape(-1, 24, 24)
        size *= 2
    return k.reshape(-1, 576).contiguous()


def _from_voxels(moduli: Tensor, stiffness: Tensor, depth: int) -> Tensor:
    """Element matrices of the grid ``depth`` halvings below the voxels, whose sizes 2^depth divides."""
    s = 2**depth
    b, nx, ny, nz = moduli.shape
    table = _table(stiffness.double().cpu().numpy().tobytes(), depth).to(moduli)
    blocks = moduli.view(b, nx // s, s, ny // s, s, nz // s, s).permute(2, 4, 6, 0, 1, 3, 5)
    columns = table.T @ blocks.reshape(s**3, -1)
    # Matrix entries outermost in memory, as their assembly wants them.
    return columns.view(24, 24, b, nx // s, ny // s, nz // s).permute(2, 3, 4, 5, 0, 1)


def _split(u: Tensor, axis: int, n: int) -> tuple[Tensor, Tensor]:
    """Fine nodes that are coarse nodes too but for the last, and the nodes halfway between coarse ones."""
    index: list[slice] = [slice(None)] * u.ndim
    index[axis] = slice(0, n, 2)
    kept = u[tuple(index)]
    index[axis] = slice(1, n, 2) if n % 2 == 0 else slice(1, n - 1, 2)
    return kept, u[tuple(index)]


def prolong(u: Tensor, fine: Grid, coarse: Grid) -> Tensor:
    """Linear interpolation from the coarse nodes to the fine ones (both (..., X, Y, Z))."""
    u = coarse.unfold(u)
    for axis in (-1, -2, -3):
        n, m = fine.shape[axis], coarse.shape[axis]
        if n == m:
            continue
        out = u.new_empty(*u.shape[: u.ndim + axis], n + 1, *u.shape[u.ndim + axis + 1 :])
        kept, between = _split(out, axis, n)
        kept.copy_(u.narrow(axis, 0, m))
        out.narrow(axis, n, 1).copy_(u.narrow(axis, m, 1))
        half = between.shape[axis]
        torch.lerp(u.narrow(axis, 0, half), u.narrow(axis, 1, half), 0.5, out=between)
        u = out
    return fine.trim(u)


def restrict(f: Tensor, fine: Grid, coarse: Grid) -> Tensor:
    """Transpose of :func:`prolong`."""
    f = fine.spread(f)
    for axis in (-3, -2, -1):
        n, m = fine.shape[axis], coarse.shape[axis]
        if n == m:
            continue
        kept, between = _split(f, axis, n)
        out = torch.cat([kept, f.narrow(axis, n, 1)], dim=axis)
        half = between.shape[axis]
        out.narrow(axis, 0, half).add_(between, alpha=0.5)
        out.narrow(axis, 1, half).add_(between, alpha=0.5)
        f = out
    return coarse.fold(f)


def invert_blocks(blocks: Tensor, free: Tensor) -> Tensor:
    """Inverses of 3x3 node blocks on their free degrees of freedom, zero elsewhere.

    Parameters
    ----------
    blocks : Tensor, shape (3, 3, B, X, Y, Z)
    free : Tensor of bool, shape (3, L, 1, X, Y, Z)

    Returns
    -------
    Tensor, shape (3, 3, L, B, X, Y, Z)
    """
    mask = free.to(blocks)
    m = blocks.unsqueeze(2) * mask.unsqueeze(0) * mask.unsqueeze(1)
    scale = (m[0, 0] + m[1, 1] + m[2, 2]) / 3
    present = scale > 0
    safe = torch.where(present, scale, torch.ones_like(scale))
    m = m / safe
    for i in range(3):
        m[i, i] += torch.where(present, 1 - mask[i], torch.ones_like(scale)) + 1e-6
    a, b, c = m[0, 0], m[1, 1], m[2, 2]
    d, e, f = m[0, 1], m[0, 2], m[1, 2]
    cof = [b * c - f * f, e * f - d * c, d * f - e * b, a * c - e * e, d * e - a * f, a * b - d * d]
    det = a * cof[0] + d * cof[1] + e * cof[2]
    factor = present / (det * safe)
    inv = torch.empty_like(m)
    for (i, j), value in zip(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)), cof, strict=True):
        inv[i, j] = inv[j, i] = value * factor * mask[i] * mask[j]
    return inv


def _block_multiply(inverse: Tensor, r: Tensor) -> Tensor:
    z = inverse[:, 0] * r[0]
    z.addcmul_(inverse[:, 1], r[1])
    return z.addcmul_(inverse[:, 2], r[2])


@dataclass(frozen=True)
class Level:
    """One grid of the hierarchy with its operator and smoother.

    The finest grid has ``padded`` moduli and the element ``stiffness``; the others a ``stencil``
    (3, 3, 3, 3, 3, B, X, Y, Z): offset of the neighbour in x, y, z, column, row, node.
    ``step`` (3, 3, L, B, X, Y, Z) are the inverted node blocks times 4/3 over the largest eigenvalue that
    the smoother, a Chebyshev polynomial of ``degree``, reckons with.
    """

    grid: Grid
    step: Tensor
    degree: int
    padded: Tensor | None = None
    stiffness: Tensor | None = None
    stencil: Tensor | None = None

    def multiply(self, u: Tensor, minuend: Tensor | None = None) -> Tensor:
        """A u, or ``minuend`` - A u, without boundary conditions; u is (3, L, B, X, Y, Z)."""
        if self.stencil is None:
            assert self.padded is not None
            assert self.stiffness is not None
            return apply_stiffness(u, self.padded, self.stiffness, self.grid, minuend)
        return _apply_stencil(u, self.stencil, self.grid, minuend)

    def select(self, keep: Tensor) -> Level:
        """The same level for some of the cells."""
        parts: dict[str, Any] = {"step": self.step.index_select(3, keep)}
        if self.padded is not None:
            parts["padded"] = self.padded.index_select(0, keep)
        if self.stencil is not None:
            parts["stencil"] = self.stencil.index_select(5, keep)
        return replace(self, **parts)


def _apply_stencil(u: Tensor, stencil: Tensor, grid: Grid, minuend: Tensor | None) -> Tensor:
    """Sum over the 27 neighbours; stencils reach no further than the grid, so rows may run on."""
    full = grid.unfold(u).contiguous()
    sx, sy = full.shape[-2] * full.shape[-1], full.shape[-1]
    margin = sx + sy + 1
    nodes = full[0].numel()
    loads = full.shape[1]
    per_load = nodes // loads
    padded = torch.nn.functional.pad(full.view(3, nodes), (margin, margin))
    out = torch.zeros_like(full) if minuend is None else grid.spread(minuend.clone())
    sign = 1.0 if minuend is None else -1.0
    target = out.view(3, loads, per_load)
    stride = nodes + 2 * margin
    shape, strides = (3, 3, 3, 3, loads, per_load), (sx, sy, 1, stride, per_load, 1)
    shifted = padded.as_strided(shape, strides)
    if u.device.type in FUSED:
        _apply_fused(stencil.view(3, 3, 3, 3, 3, 1, per_load), shifted.unsqueeze(4), target, sign)
        return grid.fold(out)
    # Unbinding is far quicker than indexing, and on small grids all that counts.
    columns = [u for x in shifted.unbind() for y in x.unbind() for z in y.unbind() for u in z.unbind()]
    for row, column in zip(stencil.view(81, 3, 1, per_load).unbind(), columns, strict=True):
        target.addcmul_(row, column, value=sign)
    return grid.fold(out)


def _apply_fused(stencil: Tensor, shifted: Tensor, target: Tensor, sign: float) -> None:
    """The sum over neighbours and columns by few large operations, as many neighbours at once as fit."""
    size, depth = 243 * target[0].numel(), 0
    while size > _FUSED_SIZE and depth < 3:
        size, depth = size // 3, depth + 1
    for at in product(range(3), repeat=depth):
        part = stencil[at] * shifted[at]
        target.add_(part.sum(dim=tuple(range(4 - depth))), alpha=sign)


def _assemble(matrices: Tensor, grid: Grid) -> Tensor:
    """Stencil (3, 3, 3, 3, 3, B, X, Y, Z) of element matrices (B, x, y, z, 24, 24), on all node layers."""
    columns = matrices.permute(4, 5, 0, 1, 2, 3).contiguous()  # (24, 24, B, x, y, z)
    nx, ny, nz = grid.shape
    out = matrices.new_zeros((3, 3, 3, 3, 3, matrices.shape[0], nx + 1, ny + 1, nz + 1))
    for a, at in enumerate(CORNERS):
        for b, to in enumerate(CORNERS):
            block = columns[3 * a : 3 * a + 3, 3 * b : 3 * b + 3].transpose(0, 1)  # column, row
            ox, oy, oz = (to[i] - at[i] + 1 for i in range(3))
            corner(out[ox, oy, oz], at, grid.shape).add_(block)
    return out


@dataclass(frozen=True)
class Multigrid:
    """A V-cycle for a batch of cells; a symmetric preconditioner of A on the free degrees of freedom."""

    levels: tuple[Level, ...]
    coarse_inverse: Tensor  # (L, B, N, N)

    @classmethod
    def build(cls, moduli: Tensor, stiffness: Tensor, grid: Grid, free: Tensor) -> Multigrid:
        """Set up for voxel moduli (B, nx, ny, nz) and free degrees of freedom (3, L, 1, X, Y, Z) of bool.

        Parameters
        ----------
        moduli : Tensor, shape (B, nx, ny, nz)
        stiffness : Tensor, shape (24, 24)
            Of a voxel of unit modulus.
        grid : Grid
        free : bool Tensor, shape (3, L, 1, X, Y, Z)
        """
        blocks = diagonal_blocks(moduli, stiffness, grid)
        inverse = invert_blocks(blocks, free)
        radius = element_bound(stiffness.double().cpu().numpy().tobytes())
        levels = [
            Level(
                grid,
                inverse.mul_(4 / 3 / (FINE_RADIUS * radius)),
                DEGREES[0],
                padded=pad_moduli(moduli),
                stiffness=stiffness,
            )
        ]
        matrices: Tensor | None = None
        depth = 0
        while max(grid.shape) > 2:
            depth += 1
            if depth <= _TABLE_DEPTH and all(n % 2**depth == 0 for n in moduli.shape[1:]):
                matrices = _from_voxels(moduli, stiffness, depth)
            else:
                if matrices is None:
                    matrices = moduli[..., None, None] * stiffness
                for axis in range(3):
                    matrices = _halve(matrices, axis)
            free = _coarse_free(free, grid)
            nx, ny, nz = ((n + 1) // 2 for n in grid.shape)
            grid = Grid((nx, ny, nz), grid.periodic)
            stencil = _assemble(matrices, grid)
            inverse = invert_blocks(grid.fold(stencil[1, 1, 1].clone()), free)
            inverse.mul_(4 / 3 / (COARSE_RADIUS * radius))
            levels.append(Level(grid, inverse, DEGREES[min(depth, 2)], stencil=stencil))
        if matrices is None:
            matrices = moduli[..., None, None] * stiffness
        coarse_inverse = _direct(matrices, grid, free).to(moduli.dtype)
        return cls(tuple(levels), coarse_inverse)

    def for_loads(self, some: slice) -> Multigrid:
        """The same hierarchy for some of its load cases."""
        levels = tuple(replace(level, step=level.step[:, :, some].contiguous()) for level in self.levels)
        return replace(self, levels=levels, coarse_inverse=self.coarse_inverse[some])

    def select(self, keep: Tensor) -> Multigrid:
        """The same hierarchy for some of the cells."""
        return replace(
            self,
            levels=tuple(level.select(keep) for level in self.levels),
            coarse_inverse=self.coarse_inverse.index_select(1, keep),
        )

    def precondition(self, r: Tensor) -> Tensor:
        """One V-cycle from zero for the residual r (3, L, B, X, Y, Z)."""
        return self._cycle(0, r)

    def _cycle(self, k: int, r: Tensor) -> Tensor:
        level = self.levels[k]
        if k == len(self.levels) - 1:
            return self._solve_coarsest(r)
        u = _chebyshev(level, None, r)
        residual = level.multiply(u, r)
        below = self.levels[k + 1].grid
        coarse = self._cycle(k + 1, restrict(residual, level.grid, below))
        u += prolong(coarse, level.grid, below)
        return _chebyshev(level, u, r)

    def _solve_coarsest(self, r: Tensor) -> Tensor:
        shape = r.shape
        flat = r.permute(1, 2, 3, 4, 5, 0).reshape(shape[1], shape[2], -1, 1)
        x = self.coarse_inverse @ flat
        return x.view(*shape[1:], 3).permute(5, 0, 1, 2, 3, 4).contiguous()


def _chebyshev(level: Level, u: Tensor | None, r: Tensor) -> Tensor:
    """Fourth-kind Chebyshev smoothing of A u = r."""
    residual = r if u is None else level.multiply(u, r)
    step = _block_multiply(level.step, residual)
    if level.degree == 1:
        return step if u is None else u.add_(step)
    u = step.clone() if u is None else u.add_(step)
    for i in range(1, level.degree):
        residual = level.multiply(step, residual)
        fresh = _block_multiply(level.step, residual)
        step.mul_((2 * i - 1) / (2 * i + 3)).add_(fresh, alpha=0.75 * (8 * i + 4) / (2 * i + 3))
        u.add_(step)
    return u


def _coarse_free(free: Tensor, grid: Grid) -> Tensor:
    """Free degrees of freedom at the coarse nodes, which are every other fine node and the last."""
    for axis, n in zip((-3, -2, -1), grid.shape, strict=True):
        if n == 1:
            continue
        index = list(range(0, n, 2)) + ([] if grid.periodic else [n])
        free = free.index_select(axis, torch.tensor(index, device=free.device))
    return free


def _direct(matrices: Tensor, grid: Grid, free: Tensor) -> Tensor:
    """Inverse (L, B, N, N) of the coarsest operator; fixed and unsupported degrees of freedom give zero."""
    cells, nodes = matrices.shape[0], grid.nodes
    count = 3 * nodes[0] * nodes[1] * nodes[2]
    a = torch.zeros((cells, count, count), dtype=torch.float64, device=matrices.device)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            for k in range(grid.shape[2]):
                dofs = []
                for dx, dy, dz in CORNERS:
                    x, y, z = (i + dx) % nodes[0], (j + dy) % nodes[1], (k + dz) % nodes[2]
                    node = (x * nodes[1] + y) * nodes[2] + z
                    dofs += [3 * node, 3 * node + 1, 3 * node + 2]
                # Periodic nodes may repeat within one element, so values are accumulated.
                index = torch.tensor(dofs, device=a.device)
                flat = (index[:, None] * count + index[None, :]).reshape(-1)
                a.view(cells, -1).index_add_(1, flat, matrices[:, i, j, k].double().reshape(cells, -1))
    mask = free[:, :, 0].permute(1, 2, 3, 4, 0).reshape(free.shape[1], 1, count).double()
    a = a.unsqueeze(0) * mask.unsqueeze(-1) * mask.unsqueeze(-2)
    diagonal = a.diagonal(dim1=-2, dim2=-1)
    present = diagonal > 1e-12 * diagonal.amax(dim=-1, keepdim=True).clamp_min(1e-30)
    scale = torch.where(present, diagonal.clamp_min(1e-300).rsqrt(), torch.zeros_like(diagonal))
    scaled = a * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    # Free pieces and mechanisms leave zero eigenvalues, which float32 matrices turn into slightly
    # negative ones; a shift, raised only where it must be, keeps their part of the inverse bounded.
    shift = torch.full(scaled.shape[:-2], SHIFTS[0], dtype=scaled.dtype, device=scaled.device)
    for _ in SHIFTS:
        diagonal_shift = torch.where(present, shift.unsqueeze(-1), 1.0)
        lower, failed = torch.linalg.cholesky_ex(scaled + torch.diag_embed(diagonal_shift))
        if not bool(failed.any()):
            break
        shift = torch.where(failed > 0, 10 * shift, shift)
    else:
        raise NotConverged(NO_SHIFT)
    inverse = torch.cholesky_inverse(lower) * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    if grid.periodic:
        # Nothing holds a periodic cell: translations, which rounding would feed, are taken out.
        total = nodes[0] * nodes[1] * nodes[2]
        mean = torch.full((total, total), 1 / total, dtype=inverse.dtype, device=inverse.device)
        project = torch.eye(count).to(inverse) - torch.kron(mean, torch.eye(3).to(inverse))
        inverse = project @ inverse @ project
    return inverse
