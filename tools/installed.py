"""Is the package whole as users get it? What ``make test-wheel`` and ``make test-oldest`` run.

``test-wheel`` builds a wheel, installs it with what it requires, without extras, into an empty environment,
and uses the commands there, in a folder without the sources. ``test-oldest`` installs the oldest releases
that pyproject.toml allows and runs the tests with them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parents[1]

# A ball that touches its neighbours, and the folder that the package must not come from.
CELL = """
import numpy as np, micro
assert "site-packages" in micro.__file__, micro.__file__
at = np.abs(np.arange(16) - 7.5)
np.save("cell.npy", at[:, None, None] ** 2 + at[:, None] ** 2 + at ** 2 < 9.0**2)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["wheel", "oldest"])
    parser.add_argument("tests", nargs="*", help="what pytest is given (oldest)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="installed-") as folder:
        if options.what == "wheel":
            _wheel(Path(folder))
        else:
            _oldest(Path(folder), options.tests)


def _wheel(folder: Path) -> None:
    """The wheel alone, used."""
    _run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], cwd=folder)
    (wheel,) = folder.glob("*.whl")
    python = _environment(folder / "venv")
    constraints = ROOT / "tools" / "constraints.txt"
    _run([python, "-m", "pip", "install", "-q", "-c", constraints, wheel], cwd=folder)
    _run([python, "-c", CELL], cwd=folder)
    bin_ = python.parent
    _run([bin_ / "micro", "homogenize", "cell.npy"], cwd=folder)
    wanted = ["--c11", "0.30", "--c12", "0.126", "--c44", "0.089"]
    _run([bin_ / "micro", "generate", *wanted, "--per-target", "1", "--out", "cells"], cwd=folder)
    _run([bin_ / "multiscale", "check", ROOT / "cases" / "cloak_small.toml", "--out", "drawing"], cwd=folder)
    missing = [name for name in ("cells", "drawing/problem.png") if not (folder / name).exists()]
    if missing:
        raise SystemExit(f"the commands left no {' and no '.join(missing)}")
    print("the wheel works in an empty environment: homogenize, generate, check")


def _oldest(folder: Path, tests: list[str]) -> None:
    """The lower bounds of pyproject.toml, installed and tested; uv is the resolver that can take them.

    What a release needs in its turn is the newest there is: warnings between the two are not ours. petsc4py
    is the one that fits the machine's PETSc.
    """
    python = _environment(folder / "venv")
    _run([python, "-m", "pip", "install", "-q", "uv"], cwd=folder)
    install = [python, "-m", "uv", "pip", "install", "-q", "--resolution", "lowest-direct"]
    _run([*install, "--python", python, f"{ROOT}[test]"], cwd=folder)
    _run([python, "-m", "pip", "install", "-q", "--no-deps", *environment.petsc_wheels()], cwd=folder)
    _run([python, "-m", "pip", "list"], cwd=folder)
    _run([python, "-m", "pytest", "-q", "-W", "default", *tests], cwd=ROOT)


def _environment(path: Path) -> Path:
    _run([sys.executable, "-m", "venv", path], cwd=path.parent)
    return path / "bin" / "python"


def _run(command: list[object], cwd: Path) -> None:
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    # The sources must not be found before the installed package.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=variables, check=False)
    if done.returncode:
        raise SystemExit(f"failed with exit code {done.returncode}: {' '.join(words)}")


if __name__ == "__main__":
    main()
