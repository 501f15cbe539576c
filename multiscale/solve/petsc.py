"""PETSc, started without its signal handlers.

They would turn a broken pipe (the reader of our output gone, a drawing process dead), which Python reports
as an exception, into the end of the program. PETSc's own options can be given in ``PETSC_OPTIONS``,
those of our solver with its prefix: ``-multiscale_gmg_ksp_monitor``, ``-multiscale_gamg_...``.
"""

from __future__ import annotations

import atexit
import gc
import os
from contextlib import suppress

import petsc4py

from micro.runtime.executor import started
from micro.runtime.memory import map_large, trim

# A one-line banner that some MPI builds print about missing network hardware is no news to the user.
os.environ.setdefault("OMPI_MCA_btl_base_warn_component_unused", "0")
if started() > 1:
    # Ranks that share jobs on cells (:func:`multiscale.solve.ranks.with_ranks`) talk from several threads,
    # which MPI has to be told when it starts: mpi4py asks for that, PETSc alone would not.
    with suppress(ImportError):  # without it rank 0 does these jobs alone
        import mpi4py.MPI  # noqa: F401
petsc4py.init(["multiscale", "-no_signal_handler"])

from petsc4py import PETSc  # noqa: E402  the options above have to be there first

# PETSc would end after Python has, and destroy matrices then whose products are Python's.
atexit.register(PETSc._finalize)
map_large()  # after all of PETSc's libraries are loaded

__all__ = ["PETSc", "free_dropped"]


def free_dropped() -> None:
    """Give back the memory of dropped objects, which PETSc keeps until all ranks free it together."""
    gc.collect()
    PETSc.garbage_cleanup()  # of all ranks, and of one
    trim()
