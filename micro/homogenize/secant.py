"""The least-norm step toward a wanted tensor."""

from __future__ import annotations

import numpy as np

from micro.runtime.arrays import Floats


def least_norm(slope: Floats, missing: Floats, longest: Floats | float) -> Floats:
    """Shortest steps (m, d) that change the scaled tensor by ``missing`` (m, 3), cut at ``longest``."""
    gram = slope @ slope.transpose(0, 2, 1)
    # Damping keeps directions that hardly move C from taking long steps.
    damping = 1e-3 * np.trace(gram, axis1=1, axis2=2) / 3 + 1e-12
    weights = np.linalg.solve(gram + damping[:, None, None] * np.eye(3), missing[:, :, None])
    step = (slope.transpose(0, 2, 1) @ weights)[:, :, 0]
    size = np.linalg.norm(step, axis=1)
    return step * np.minimum(1.0, longest / np.maximum(size, 1e-12))[:, None]
