"""PETSc beside the rest of the program."""

from __future__ import annotations

SCRIPT = """
import numpy as np
import psutil
from multiscale.solve.petsc import PETSc

resident = lambda: psutil.Process().memory_info().rss / 2**20
before = resident()
lower, upper = np.ones(2**21), np.ones(2**21)
with_both = resident()
del lower  # not the last that was taken: from the heap it could not go back
print(with_both - before, resident() - before)
"""


def test_freed_arrays_go_back_to_the_system(run_ranks):
    """Two arrays of 16 MB, one freed. SuperLU_DIST, loaded with Debian's PETSc, would have it kept."""
    done = run_ranks(1, "-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    both, one = map(float, done.stdout.split())
    assert 30 < both < 40
    assert 14 < one < 20
