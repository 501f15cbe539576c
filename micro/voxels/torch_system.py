"""Batched conjugate gradients: float32 work inside, float64 residuals outside.

Each (load, cell) pair of a batch is a system of its own, with its own step
lengths and its own end. The recursive float32 residual is replaced by the true
float64 one now and then, keeping the search direction
(:mod:`micro.voxels.replacement`): the accuracy is that of float64, the cost that of
float32. Cells whose systems are all done leave the batch.

An iteration waits for nothing: the host queues it and goes on. It *looks* at the residuals, which makes it
wait for the device, only when one of them may have fallen far enough to be replaced, as reckoned from its
fall so far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micro.runtime import threads as parallel
from micro.voxels.hexahedron import CUBE, Edges, unit_stiffness
from micro.voxels.replacement import EARLY, REPLACE, Replacement, Solution
from micro.voxels.system import System, Task
from micro.voxels.torch_multigrid import Multigrid
from micro.voxels.torch_operator import Grid, apply_stiffness, pad_moduli

_FALL = 0.3
"""Factor an iteration by which a residual is taken to fall before any is known: few fall faster."""

_COMPACT = 0.9
"""Share of a batch still at work below which the rest is copied out; that costs half an iteration."""


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (L, B) of fields (3, L, B, X, Y, Z)."""
    # Short float32 rows, then float64: accurate without a float64 copy of the fields.
    return (a * b).sum(dim=-1).sum(dim=(0, -2, -1), dtype=torch.float64)


def _spread(s: Tensor) -> Tensor:
    return s[..., None, None, None]


def _seen(*tensors: Tensor) -> list[NDArray]:
    """Small tensors of one shape as arrays of the host, which waits for the device: one transfer for all."""
    return list(torch.stack([t.double() for t in tensors]).cpu().numpy())


class _Looks:
    """When the host looks at the residuals of some systems next."""

    def __init__(self, rtol: float):
        self.next = 0
        self._rtol = rtol
        self._last: tuple[int, NDArray] | None = None

    def plan(self, iteration: int, norms: NDArray, anchor: NDArray, done: NDArray) -> None:
        """After a look at ``norms``: when a quarter of those not done can come to their next replacement.

        Each is taken to fall by the same factor an iteration as since the last look. Two iterations at least
        lie between looks: a replacement that comes one late costs less than the wait.
        """
        rate = np.full(norms.shape, _FALL)
        if self._last is not None and self._last[1].shape == norms.shape and iteration > self._last[0]:
            with np.errstate(all="ignore"):
                rate = (norms / self._last[1]) ** (1 / (iteration - self._last[0]))
            rate = np.where(np.isfinite(rate), np.clip(rate, 0.05, 0.9), _FALL)
        goal = np.maximum(EARLY * self._rtol, REPLACE * anchor)
        with np.errstate(all="ignore"):
            left = np.log(goal / norms) / np.log(rate)
        left = np.where(np.isfinite(left) & (left > 0), left, 1.0)[~done]
        self.next = iteration + max(2, int(np.quantile(left, 0.25)) if left.size else 2)
        self._last = (iteration, norms)

    def forget(self) -> None:
        """The norms were replaced, or systems left: nothing is known of their fall."""
        self._last = None


def solve(
    moduli: Tensor, stiffness: Tensor, grid: Grid, free: Tensor, multigrid: Multigrid, b: Tensor, task: Task
) -> Solution:
    """Solve A u = b on the free degrees of freedom.

    Parameters
    ----------
    moduli : Tensor, shape (B, nx, ny, nz), float64
    stiffness : Tensor, shape (24, 24), float64
    free : Tensor of bool, shape (3, L, 1, X, Y, Z)
    multigrid : Multigrid
        The preconditioner, in float32.
    b : Tensor, shape (3, L, B, X, Y, Z), float64
        Zero on fixed degrees of freedom.
    task : Task
        Its tolerance, iterations and first iterate.
    """
    rtol, max_iterations = task.rtol, task.max_iterations
    work = multigrid.levels[0].step.dtype
    cells = b.shape[2]
    mask = free.to(torch.float64)
    work_mask = free.to(work)
    norm = _dot(b, b).sqrt()
    trivial = norm <= 1e-13 * task.floor
    scale = torch.where(trivial, torch.ones_like(norm), norm)

    result = torch.zeros_like(b)
    defect = b * trivial[..., None, None, None]
    residual = torch.where(trivial, torch.zeros_like(norm), torch.ones_like(norm))
    iterations = torch.zeros(norm.shape, dtype=torch.int64, device=b.device)
    converged = trivial.clone()

    looks = _Looks(rtol)
    alive = torch.arange(cells, device=b.device)
    m = pad_moduli(moduli)
    bb = b / _spread(scale)  # unit right-hand sides: float32 cannot over- or underflow
    x = torch.zeros_like(bb)  # float64 part of the solution
    dx = torch.zeros_like(bb, dtype=work)  # what the current stretch adds to it
    r = bb.to(work)
    rule = Replacement(rtol, torch.ones_like(norm))
    if task.start is not None:
        x = task.start * _spread(~trivial / scale)
        r = apply_stiffness(x, m, stiffness, grid, bb).mul_(mask).to(work)
        rule.anchor = _dot(r, r).sqrt()
    p = torch.zeros_like(dx)
    ap = torch.zeros_like(dx)
    pap = torch.ones_like(norm)
    first = torch.ones_like(trivial)
    done = trivial.clone()

    for iteration in range(max_iterations + 1):
        look = iteration in (looks.next, max_iterations)
        if look:
            rr = _dot(r, r).sqrt()
            check = ~done if iteration == max_iterations else ~done & rule.due(rr)
            norms, checked, anchor, over = _seen(rr, check, rule.anchor, done)
            looks.plan(iteration, norms, anchor, over > 0)
        if look and checked.any():
            # A stretch that went wrong (overflow, breakdown) is thrown away; the last float64 iterate stands.
            usable = torch.isfinite(dx).all(dim=0).flatten(2).all(dim=-1)
            # Cells; the float64 product is for them only.
            who = torch.from_numpy(np.flatnonzero(checked.any(axis=0))).to(b.device)
            add = (check & usable)[:, who]
            part = x[:, :, who] + torch.where(_spread(add), dx[:, :, who], 0).double()
            x[:, :, who] = part
            dx = torch.where(_spread(check), torch.zeros_like(dx), dx)
            true = apply_stiffness(part, m[who], stiffness, grid, bb[:, :, who]).mul_(mask)
            size = rr.index_copy(1, who, _dot(true, true).sqrt())
            r[:, :, who] = torch.where(_spread(check[:, who]), true.to(work), r[:, :, who])
            worn, good, ended = rule.take(check, size, usable)
            first = first | worn
            p = torch.where(_spread(worn), torch.zeros_like(p), p)
            ap = torch.where(_spread(worn), torch.zeros_like(ap), ap)
            ended = ended if iteration < max_iterations else check
            residual[:, alive] = torch.where(ended, size, residual[:, alive])
            converged[:, alive] |= good
            iterations[:, alive] = torch.where(ended, iteration, iterations[:, alive])
            done = done | ended
            true *= _spread(scale[:, alive[who]])
            defect[:, :, alive[who]] = torch.where(_spread(ended[:, who]), true, defect[:, :, alive[who]])
            looks.forget()
            if iteration == max_iterations or not (norms[checked > 0] > EARLY * rtol).all():
                # Some may have ended. Of others the next look tells; until then their float32 norms serve.
                true_norms, anchor, over = _seen(size, rule.anchor, done)
                norms = np.where(checked, true_norms, norms)
            else:
                anchor = np.where(checked, norms, anchor)
            looks.plan(iteration, norms, anchor, over > 0)
        gone = np.asarray((over > 0).all(axis=0) if look else [False])
        if gone.any() and (gone.all() or (~gone).sum() <= _COMPACT * len(gone)):
            leave, keep = (torch.from_numpy(np.flatnonzero(some)).to(b.device) for some in (gone, ~gone))
            result[:, :, alive[leave]] = x[:, :, leave] * _spread(scale[:, alive[leave]])
            alive = alive[keep]
            if len(alive) == 0:
                break
            m = m.index_select(0, keep)
            multigrid = multigrid.select(keep)
            bb, x, dx, r, p, ap = (t.index_select(2, keep) for t in (bb, x, dx, r, p, ap))
            pap, first, done = (t.index_select(1, keep) for t in (pap, first, done))
            rule.select(keep)
            looks.forget()
        z = multigrid.precondition(r)
        # Conjugacy to the last direction is imposed as such, which survives residual replacement.
        beta = torch.where(first, torch.zeros_like(pap), -_dot(z, ap) / pap)
        p = z.addcmul_(p, _spread(beta).to(work))
        ap = multigrid.levels[0].multiply(p).mul_(work_mask)
        pap = _dot(p, ap)
        rp = _dot(r, p)
        sound = (pap > 0) & torch.isfinite(rp) & ~done
        alpha = torch.where(sound, rp / torch.where(sound, pap, torch.ones_like(pap)), torch.zeros_like(pap))
        pap = torch.where(pap > 0, pap, torch.ones_like(pap))
        first = ~sound
        step = _spread(alpha).to(work)
        dx.addcmul_(p, step)
        r.addcmul_(ap, -step)
    return Solution(result, defect, residual, iterations, converged)


@dataclass
class TorchSystem(System):
    """The systems of some cells, by torch's operations on any device.

    Parameters
    ----------
    edges : tuple
        A voxel's edges along x, y, z.
    """

    edges: Edges = CUBE

    def forces(self, u: Tensor) -> Tensor:
        """A u on all layers of nodes, as if the grid were open."""
        k = unit_stiffness(self.nu, edges=self.edges).to(self.moduli)
        field = u.expand(-1, -1, len(self.moduli), -1, -1, -1)
        return apply_stiffness(field, pad_moduli(self.moduli), k, Grid(self.grid.shape))

    def _solve(self, b: Tensor, task: Task) -> Solution:
        """Load cases of a group together, at most ``task.threads`` groups at once."""
        k = unit_stiffness(self.nu, edges=self.edges).to(self.moduli)
        multigrid = Multigrid.build(self.moduli.float(), k.float(), self.grid, self.free)

        def run(loads: slice) -> Solution:
            mine, free = multigrid, self.free
            if free.shape[1] > 1:
                mine, free = multigrid.for_loads(loads), free[:, loads]
            start = None if task.start is None else task.start[:, loads]
            own = replace(task, floor=task.floor[loads], start=start)
            solution = solve(self.moduli, k, self.grid, free, mine, b[:, loads], own)
            task.count(loads.stop - loads.start)
            return solution

        parts = parallel.run([partial(run, loads) for loads in task.groups], task.threads)
        fields = [torch.cat([getattr(s, name) for s in parts], dim=1) for name in ("u", "defect")]
        numbers = [
            torch.cat([getattr(s, name) for s in parts]) for name in ("residual", "iterations", "converged")
        ]
        return Solution(*fields, *numbers)
