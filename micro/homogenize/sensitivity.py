"""Derivatives of the homogenised tensor by the voxels' moduli.

A constant is an energy of the solution, C_ij = u_i^T A(rho) u_j / n^3, and the solution makes it
stationary, so that

    dC_ij / d rho_e = u_i,e^T K u_j,e / n^3

with the unit stiffness K of an element (Sigmund 1994, eq. 12): no adjoint solve. C12 is the mutual energy
of the axial solution and its image with x and y exchanged. The octant stands for the whole cell only as
long as it is symmetric, so derivatives are averaged over the six permutations of the axes: that of a voxel
is its share in the derivative by its orbit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from micro.homogenize.fields import OctantFields, Status, exchange_xy, solve_octants
from micro.homogenize.octants import octant_moduli
from micro.runtime import threads as parallel
from micro.runtime.arrays import Bools, Floats, Ints
from micro.runtime.errors import InputError, NotConverged
from micro.voxels.hexahedron import unit_stiffness
from micro.voxels.torch_operator import Grid, element_energy

_SINGLE = 1e-4
"""Residual tolerance from which derivatives are summed up in single precision."""


@dataclass(frozen=True)
class Sensitivity:
    """Homogenised tensors of m octants and their derivatives.

    Attributes
    ----------
    C : array, shape (m, 3)
        (C11, C12, C44) in units of E_s.
    gradient : array, shape (m, 3, n, n, n)
        Derivative of each constant by the modulus of each voxel, symmetric under permutation of the axes.
        Zero in exact void, where the solution says nothing about new material; NaN where it was not needed.
    residual, iterations, status : arrays, shape (m,)
        As in :class:`micro.homogenize.octants.OctantResult`.
    fluctuation : Tensor
        Solution, to start the next solve of a similar octant from.
    """

    C: Floats
    gradient: Floats
    residual: Floats
    iterations: Ints
    status: Ints
    fluctuation: Tensor


def sensitivities(
    octants: ArrayLike,
    *,
    nu: float = 0.3,
    void: float = 0.0,
    rtol: float = 1e-5,
    device: str | torch.device = "cpu",
    start: Tensor | None = None,
    needed: Callable[[Floats], Bools] | None = None,
) -> Sensitivity:
    """C of octants and dC / d(modulus), all octants in one batch.

    The relative error of the gradient is of the order of ``rtol``, that of C of its square.

    Parameters
    ----------
    octants : array, shape (m, n, n, n) or (n, n, n)
        Bool (solid, void) or Young's moduli in units of E_s; invariant under permutation of the axes.
    nu, void, rtol, device
        As for :func:`micro.homogenize.octants.homogenize_octants`.
    start : Tensor, optional
        ``fluctuation`` of as many similar octants of the same size: fewer iterations.
    needed : callable, optional
        Says of the tensors (m, 3) of which octants derivatives are needed; of all by default.

    Raises
    ------
    InputError
        If an octant is not symmetric, not finite or negative.
    """
    moduli = octant_moduli(octants, void)
    expected = (3, 2, len(moduli), *(n + 1 for n in moduli.shape[1:]))
    if start is not None and tuple(start.shape) != expected:
        raise InputError(f"solutions of shape {expected} are needed", key="start", value=tuple(start.shape))
    target = torch.device(device)
    with parallel.one_thread(target) as threads:
        fields = solve_octants(moduli, nu, rtol, target, threads, start)
        # Half the time, where the solution is no more accurate than single precision anyway.
        kind = torch.float32 if rtol >= _SINGLE else torch.float64
        if needed is None:
            gradient = _gradient(fields, nu, slice(None), kind)
        else:
            gradient = np.full((len(moduli), 3, *moduli.shape[1:]), np.nan)
            rows = np.flatnonzero(needed(fields.C))
            if len(rows):
                gradient[rows] = _gradient(fields, nu, rows, kind)
    status = (fields.residual, fields.iterations, fields.status)
    return Sensitivity(fields.C, gradient, *status, fields.fluctuation)


def _gradient(fields: OctantFields, nu: float, rows: slice | Ints, kind: torch.dtype) -> Floats:
    """Energy densities of unit moduli (m, 3, n, n, n) of some octants, averaged over the permutations."""
    moduli = fields.moduli[rows]
    n = moduli.shape[-1]
    k, grid = unit_stiffness(nu).to(moduli.device, kind), Grid((n, n, n))
    u = (fields.affine[:, :, rows] + fields.fluctuation[:, :, rows]).to(kind)
    axial, shear = u[:, :1], u[:, 1:]
    parts = [(axial, axial), (exchange_xy(axial), axial), (shear, shear)]
    raw = torch.stack([element_energy(a, b, k, grid)[0] for a, b in parts], dim=1)
    turned = [raw.permute(0, 1, *(2 + axis for axis in p)) for p in permutations(range(3))]
    mean = torch.stack(turned).mean(dim=0)
    return (mean * (moduli > 0).unsqueeze(1) / float(n**3)).double().cpu().numpy()


class _HomogenisedTensor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, moduli: Tensor, nu: float, rtol: float) -> Tensor:
        result = sensitivities(moduli.detach().cpu().numpy(), nu=nu, rtol=rtol, device=moduli.device)
        failed = np.flatnonzero(result.status == Status.NOT_CONVERGED)
        if len(failed):
            raise NotConverged(
                f"octants {failed.tolist()} did not reach a residual of {rtol:g}; "
                "give the void a larger modulus"
            )
        gradient = torch.from_numpy(result.gradient).to(moduli)
        ctx.save_for_backward(gradient)
        return torch.from_numpy(result.C).to(moduli)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return torch.einsum("mc,mcxyz->mxyz", grads[0], gradient), None, None


def homogenised_tensor(moduli: Tensor, *, nu: float = 0.3, rtol: float = 1e-5) -> Tensor:
    """C11, C12, C44 of octants, differentiable by their moduli.

    Parameters
    ----------
    moduli : Tensor, shape (m, n, n, n)
        Young's moduli in units of E_s, all positive (a soft void: 1e-4 say), invariant under permutation
        of the axes. The backward pass gives a symmetric gradient too: symmetric octants stay symmetric.
    nu : float
        Poisson's ratio of the base material.
    rtol : float
        Relative residual to reach; also the order of the gradient's relative error.

    Returns
    -------
    Tensor, shape (m, 3)
        On the device and of the type of ``moduli``; the solve has float64 residuals anyway.

    Raises
    ------
    InputError
        If a modulus is not positive and finite or an octant not symmetric.
    NotConverged
        If a solve fails.
    """
    if not bool((moduli > 0).all()):
        raise InputError("moduli must be positive: give the void a small modulus", key="moduli")
    result: Tensor = _HomogenisedTensor.apply(moduli, nu, rtol)  # type: ignore[no-untyped-call]
    return result
