"""Guidance of the sampler by any scalar of a cell's tensor and volume.

The surrogate is a regressor of the whole tensor, and the volume is a smooth function of the level set; so
every scalar made of them, such as the bulk modulus over its bound, is a regressor too, with a gradient by the
coordinates. Each estimate of the sampler is moved a little uphill; the network makes a cell of it at the
noise that is left (universal guidance, Bansal et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from micro.cell import tensor
from micro.cell.chamber import chamber
from micro.diffusion.surrogate import Surrogate
from micro.runtime.errors import InputError
from micro.shape.space import ShapeSpace

Scalar = Callable[[Tensor, Tensor], Tensor]
"""Tensors (m, 3) and volumes (m,) to values (m,), differentiable."""

STEP = 0.5
"""Length of the step uphill, in coordinates whose root mean square is one, at each estimate."""


def bulk_over_bound(C: Tensor, volume: Tensor) -> Tensor:
    """Bulk modulus over its bound at the cell's volume (Hashin and Shtrikman 1963, eq. 4.1)."""
    K_s, G_s = float(tensor.bulk(tensor.SOLID)), float(tensor.SOLID[2])
    bound = 4 * K_s * G_s * volume / (4 * G_s + 3 * K_s * (1 - volume))
    return (C[:, 0] + 2 * C[:, 1]) / 3 / bound


SCALARS: dict[str, Scalar] = {"bulk": bulk_over_bound}
"""Scalars by name."""


class Regressor:
    """A scalar of the tensor and volume that coordinates stand for.

    Parameters
    ----------
    space : ShapeSpace
    surrogate : Surrogate
    scalar : str or callable
        A name of :data:`SCALARS`, or a function of tensors (m, 3) and volumes (m,).

    Raises
    ------
    InputError
        If there is no scalar of that name.
    """

    def __init__(self, space: ShapeSpace, surrogate: Surrogate, scalar: str | Scalar):
        if isinstance(scalar, str):
            if scalar not in SCALARS:
                raise InputError(f"known are {', '.join(SCALARS)}", key="scalar", value=scalar)
            scalar = SCALARS[scalar]
        self._surrogate, self._scalar = surrogate, scalar
        self._mean = torch.from_numpy(space.mean).float()
        self._basis = torch.from_numpy(space.basis).float()
        self._weights = torch.from_numpy(chamber(space.n).weights / space.n**3).float()
        # A voxel fills while the surface passes it, from half a voxel on one side of its centre to the other.
        self._sharpness = 4.0 * 2 * space.n

    def volume(self, z: Tensor) -> Tensor:
        """Solid fractions (m,) of the level sets of coordinates (m, d), smooth."""
        level = self._mean.to(z) + z @ self._basis.to(z)
        return torch.sigmoid(self._sharpness * level) @ self._weights.to(z)

    def __call__(self, z: Tensor) -> Tensor:
        """Values (m,) of coordinates (m, d)."""
        return self._scalar(self._surrogate(z), self.volume(z))

    def uphill(self, z: Tensor, step: float = STEP) -> Tensor:
        """Coordinates (m, d) after a step of that length along the gradient."""
        with torch.enable_grad():
            at = z.detach().float().requires_grad_(True)
            (slope,) = torch.autograd.grad(self(at).sum(), at)
        return z + step * (slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)).to(z)
