"""What others measure a cloak by, beside the distortion of displacements.

With strains e and e_ref, strain energy densities w and w_ref of the structure and of the reference, over the
observed elements:

``strain_deviation``
    ``(int |e - e_ref|^2 / int |e_ref|^2)^(1/2)``: the relative deviation of strain outside the cloak (after
    Bückmann et al. 2015, who average over the strain vectors of a plane lattice).
``energy_mismatch``
    ``int |w - w_ref| / int w_ref``: the mismatch of strain energy, as the objective of unbiased cloaks is
    formulated (Senhora et al. 2025).

Both see gradients, which decay faster away from a hole than displacements, and weigh its neighbourhood more;
neither depends on rigid motion.
"""

from __future__ import annotations

import numpy as np

from micro.runtime.arrays import Bools, Floats
from multiscale.solve.elasticity import Elasticity

#: |e|^2 = e_ij e_ij as a cubic tensor (C11, C12, C44): engineering shears count half.
_STRAIN_NORM = np.array([1.0, 0.0, 0.5])


def compare_fields(
    operator: Elasticity, observed: Bools, tensors: tuple[Floats, Floats], fields: tuple[Floats, Floats]
) -> dict[str, float]:
    """``strain_deviation`` and ``energy_mismatch`` of displacements against those of a reference.

    Parameters
    ----------
    operator : Elasticity
        Any whose last field is solid where it is observed.
    observed : bool array (mx, my, mz)
    tensors : two arrays (mx, my, mz, 3)
        Of the structure and of the reference.
    fields : two arrays (mx+1, my+1, mz+1, 3)
        Displacements of both.
    """
    u, reference = fields
    difference = u - reference
    deviation = _sum(operator.energies(difference, difference), observed, _STRAIN_NORM)
    size = _sum(operator.energies(reference, reference), observed, _STRAIN_NORM)
    energy, wanted = (
        np.sum(operator.energies(v, v) * C, axis=-1)[observed] for v, C in zip(fields, tensors, strict=True)
    )
    return {
        "strain_deviation": float(np.sqrt(max(deviation, 0.0) / size)),
        "energy_mismatch": float(np.abs(energy - wanted).sum() / wanted.sum()),
    }


def _sum(energies: Floats, observed: Bools, tensor: Floats) -> float:
    return float(np.sum(energies[observed] @ tensor))
