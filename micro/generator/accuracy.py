"""How good a generator is: errors of the delivered cells' own tensors, cleanliness."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from micro.cell import tensor
from micro.generator.generator import Generator
from micro.generator.samples import CLEAN, Samples
from micro.homogenize.fields import Status
from micro.runtime.arrays import Bools, Floats


def tensor_figures(C: Floats, good: Bools, samples: Samples, targets: ArrayLike) -> dict[str, Any]:
    """Errors of samples with tensors C (m, 3), where homogenised (``good``), against their targets (q, 3).

    Cells that have no tensor (not connected, or not converged) count as ``failed``, not in the means; the
    errors are None where nothing has one, or no tensor was asked for (targets of NaN). ``error`` is Eq. 4,
    ``relative_error`` what it hides in soft cells (:func:`micro.cell.tensor.relative_error`).

    Parameters
    ----------
    C : array, shape (m, 3)
    good : bool array, shape (m,)
        Which cells were homogenised.
    samples : Samples
    targets : array_like, shape (q, 3)
    """
    wanted = np.asarray(targets, dtype=np.float64)[samples.target]
    count = int(np.bincount(samples.target).max())
    figures: dict[str, Any] = {"targets": len(wanted) // count, "per_target": count}
    for name, measure in (("error", tensor.tensor_error), ("relative_error", tensor.relative_error)):
        error = np.where(good, measure(C, wanted), np.inf)
        best = error.reshape(-1, count).min(axis=1)
        known, best_known = error[np.isfinite(error)], best[np.isfinite(best)]
        figures |= {
            f"{name}_mean": float(known.mean()) if len(known) else None,
            f"{name}_median": float(np.median(known)) if len(known) else None,
            f"{name}_p95": float(np.quantile(known, 0.95)) if len(known) else None,
            f"{name}_best_mean": float(best_known.mean()) if len(best_known) else None,
        }
    return {**figures, "failed": float(1 - np.mean(good))}


def volume_figures(delivered: Floats, target: NDArray[np.intp], volume: Floats) -> dict[str, Any]:
    """How far solid fractions (m,), NaN if unknown, are off the volumes (q,) asked for; None if none was."""
    off = np.abs(delivered - volume[target])
    off = off[np.isfinite(off)]
    return {"volume_error_mean": float(off.mean()) if len(off) else None}


def cleanliness(samples: Samples) -> dict[str, float]:
    """Of the raw samples: shares in one piece, with 99 % of the solid in one piece, and disconnected.

    ``disconnected`` is the founding paper's count: samples with any loose solid or without contact to
    their faces and mid-planes.
    """
    whole = samples.raw_clean == 1
    return {
        "one_piece": float(whole.mean()),
        "clean": float((samples.raw_clean >= CLEAN).mean()),
        "disconnected": float((~(whole & samples.connected)).mean()),
        "loose_solid_mean": float((1 - samples.raw_clean).mean()),
    }


def measure(
    generator: Generator,
    targets: ArrayLike,
    per_target: int,
    *,
    resolution: int = 32,
    seed: int = 0,
    **settings: Any,
) -> tuple[dict[str, Any], Samples, Floats]:
    """Generate, homogenise and compare: figures, the samples and their tensors (m, 3).

    Parameters
    ----------
    generator : Generator
    targets : array_like, shape (q, 3)
    per_target : int
    resolution : int
    seed : int
        Of the first target; the others count on.
    **settings
        Of :meth:`micro.generator.generator.Generator.sample`.
    """
    wanted = np.asarray(targets, dtype=np.float64)
    seeds = seed + np.arange(len(wanted))
    samples = generator.sample(wanted, per_target, seed=seeds, resolution=resolution, **settings)
    result = samples.homogenize()
    good = (result.status == Status.OK) & samples.connected
    figures = tensor_figures(result.C, good, samples, wanted) | cleanliness(samples)
    return figures, samples, result.C
