"""Designed against what is built: an objective corrected by a better model of the same structure.

With the displacements ``u`` of the objective's own model and ``U`` of a better one (a finer mesh, the voxels
of the lattice), both of the same tensors C0, the better model is taken for ``u(C) + (U(C0) - u(C0))``: what
the own model misses changes little with the design. Of a distance from ``u_ref`` that is the distance from
the target ::

    t = U_ref - (U - u),        v(C) = ||u(C) - t|| / ||U_ref||

so that at C0 the corrected value is the better model's, and its minimum moves to where that model has one.
Repeated from each new design this is defect correction (Stetter 1978, Numer. Math. 29), in structural
optimisation known as space mapping or output space mapping (Bandler et al. 2004, IEEE Trans. MTT 52).
"""

from __future__ import annotations

from dataclasses import dataclass

from micro.runtime.arrays import Floats


@dataclass(frozen=True, eq=False)
class Correction:
    """What a better model says beyond the objective's own, one field (mx+1, my+1, mz+1, 3) a load.

    Attributes
    ----------
    offset : tuple of arrays
        ``U - u`` at the wanted nodes, element edges; zero elsewhere.
    reference : tuple of arrays or None
        The better model's reference ``U_ref``, where values are measured against one.
    """

    offset: tuple[Floats, ...]
    reference: tuple[Floats, ...] | None = None
