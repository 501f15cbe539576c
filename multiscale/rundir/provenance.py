"""What made a result: versions, machine, memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
from typing import Any

from micro.runtime.version import own_version

_PACKAGES = ("numpy", "scipy", "torch", "petsc4py", "nlopt", "zarr", "pyvista", "meshio")


def versions() -> dict[str, str | None]:
    """Versions of Python, this program and what it stands on."""
    found: dict[str, str | None] = {"python": platform.python_version(), "multiscale": own_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    if "petsc4py.PETSc" in sys.modules:
        from petsc4py import PETSc

        found["petsc"] = ".".join(str(part) for part in PETSc.Sys.getVersion())
    return found


def machine() -> dict[str, Any]:
    """The processor as it looks from here."""
    return {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0))}


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
