"""Settings that every test runs under, and the fixtures shared between the two packages."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Read when VTK is imported, so before any test module: draw without a screen.
os.environ.setdefault("PYVISTA_OFF_SCREEN", "true")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
os.environ.setdefault("MPLBACKEND", "Agg")
# Test problems are small: threads cost more than they bring, and results then do not depend on how many
# cores the machine has. A value given by the user stands.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Caches of this test run alone: nothing passes because an earlier one made it. Matplotlib's fonts stay.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))
    _CACHE = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
# OpenMPI refuses to start as root, as which containers run; other MPI libraries ignore these.
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
# Three ranks on a machine of two cores: results do not depend on it.
os.environ.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _torch_threads() -> None:
    """PyTorch keeps its own count of threads beside OpenMP's."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def mpiexec() -> Path:
    """The mpiexec of this environment's MPI."""
    from multiscale.cli.doctor import find_mpiexec

    found = find_mpiexec()
    assert found is not None, "no mpiexec that goes with PETSc's MPI: see `multiscale doctor`"
    return found


def _run(
    line: list[str], cwd: Path, env: dict[str, str] | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    # os.environ rather than None: a test process that has started MPI carries variables below Python's
    # view, by which the children would take themselves for a part of it.
    # A wide plain terminal: messages are neither wrapped nor coloured. PYTHONPATH: the code of this checkout.
    settings = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    variables = os.environ | settings | (env or {})
    return subprocess.run(
        line, cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture
def run_ranks(tmp_path: Path, mpiexec: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python on several MPI ranks: ``run_ranks(2, script, argument)`` or ``run_ranks(2, "-c", text)``.

    Returns the completed process with text ``stdout`` and ``stderr``.
    """

    def run(
        ranks: int,
        *arguments: object,
        cwd: Path = tmp_path,
        env: dict[str, str] | None = None,
        timeout: float = 300.0,
    ) -> subprocess.CompletedProcess[str]:
        line = [str(mpiexec), "-n", str(ranks), sys.executable, *map(str, arguments)]
        return _run(line, cwd, env, timeout)

    return run


@pytest.fixture
def run_torch(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in several processes as torchrun does: ``run_torch(2, script, argument)``."""

    def run(processes: int, *arguments: object, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
        count = f"--nproc-per-node={processes}"
        return _run([*start, count, sys.executable, *map(str, arguments)], tmp_path, None, timeout)

    return run


@pytest.fixture
def run_cli(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one of the two commands as a user would, in a process of its own.

    ``run_cli("multiscale", "check", case)`` returns the completed process with text ``stdout`` and
    ``stderr``. ``cwd`` is the test's temporary directory unless given, ``ranks=2`` runs it under
    ``mpiexec``, ``env`` adds to the environment, ``timeout`` (s) ends a run that hangs.
    """

    def run(
        command: str,
        *arguments: object,
        cwd: Path = tmp_path,
        ranks: int | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 300.0,
    ) -> subprocess.CompletedProcess[str]:
        start = (
            f"import sys; from {command}.cli.main import main; sys.argv[0] = {command!r}; sys.exit(main())"
        )
        line = [sys.executable, "-c", start, *map(str, arguments)]
        if ranks is not None:
            line = [str(request.getfixturevalue("mpiexec")), "-n", str(ranks), *line]
        return _run(line, cwd, env, timeout)

    return run
