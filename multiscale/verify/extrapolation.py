"""What finer voxels would say: two resolutions extrapolated to the cells' own.

Composite voxels err by about their edge, as the elements of a mesh do across the jumps between unlike cells.
With the displacements u of v and of 2v voxels along a cell's edge, at the n that cells themselves have they
are taken for

    u_n = u_2v + (u_2v - u_v) (1/2v - 1/n) / (1/v - 1/2v),

Richardson's extrapolation of first order (1911, Phil. Trans. R. Soc. A 210), and the value is that of u_n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.npz import read_arrays
from multiscale.objective.objective import Objective
from multiscale.rundir.directory import RunDirectory
from multiscale.verify.solution import FullScale


def share(voxels: int, own: int) -> float:
    """How much of the step from half as many ``voxels`` to these is left to go to the cells' ``own``."""
    return (1 / voxels - 1 / own) / (1 / voxels)


def extrapolated(
    run: RunDirectory, objective: Objective, solved: Mapping[str, FullScale], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """The value at the cells' own voxels, from a result and the run's of half as many voxels.

    Parameters
    ----------
    run : RunDirectory
    objective : Objective
    solved : dict of str to FullScale
        By structure.
    metrics : dict
        What was found for the run's lattice.

    Returns
    -------
    dict
        ``extrapolated``, ``extrapolated_from`` (the voxels along a cell's edge of both); empty if the run has
        no result of half as many voxels that can be trusted, for a compliance, whose work is not a matter of
        corners alone, and where the cells were solved as they are.
    """
    voxels, own = metrics["voxels_per_cell"], run.lattice.voxels_per_cell
    half = voxels // 2
    arrays = _known(run, half) if metrics["trusted"] and voxels < own else None
    if arrays is None or not run.case.objective.purpose.corrected:
        return {}
    further = share(voxels, own)
    reduction = objective.reduction

    def beyond(name: str) -> list[Floats]:
        coarse = (reduction.nodes(arrays[f"{load.name}.{name}"]) for load in reduction.loads)
        return [u + further * (u - c) for u, c in zip(solved[name].corners, coarse, strict=True)]

    reference = beyond("reference") if "reference" in solved else None
    result = objective.value_elsewhere(beyond("lattice"), [], reference).total
    return {"extrapolated": result, "extrapolated_from": [half, voxels]}


def _known(run: RunDirectory, voxels: int) -> dict[str, Any] | None:
    """Displacements at so many voxels, by the command or the run's own stage; None if there are none."""
    metrics = run.metrics
    for section, file in (("verify", f"verify_{voxels}.npz"), ("full_scale", "full_scale.npz")):
        at = metrics.get(section, {}).get("at", {}).get(str(voxels), {})
        # Results of before composite voxels have no relative errors.
        if at.get("trusted") and "cells_relative_error_mean" in at:
            try:
                return read_arrays(run.file(file))
            except InputError:  # lost or damaged since: what was just solved must not be lost with it
                continue
    return None
