"""Build the project's environment, ``.venv`` in the checkout: what ``make setup`` runs.

Call it as often as you like: when nothing it depends on has changed it only says so. It installs system
packages only as root and on Debian or its descendants, and never with sudo. Variables it heeds:

``PYTHON``          the interpreter to build on (3.11 or newer), by default that of the environment there, or
                    ``python3``; if it can import petsc4py, that petsc4py is used as it is
``PETSC``           ``debian`` or ``pypi`` to choose where PETSc comes from (tools/petsc_wheels.py)
``PETSC_DIR``       a PETSc of your own, with ``PETSC_ARCH`` if it has one
``XDG_CACHE_HOME``  compiled wheels are kept in ``multiscale`` there, by default in ``~/.cache``

pip's own variables and configuration files hold as usual.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import petsc_wheels as petsc_source

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / ".ready"
LOG = VENV / "setup.log"
CONSTRAINTS = ROOT / "tools" / "constraints.txt"

# Off-screen drawing (EGL), and on Debian's own python the parts of it that come apart.
SCREENLESS = ["libegl1", "libgl1", "libgl1-mesa-dri", "libxrender1"]

# Values of the variable PETSC, as the stamp records them.
ORIGINS = ("any", "debian", "pypi")

START = time.monotonic()


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (this is where an older python is told so)
        raise SystemExit(
            f"Python 3.11 or newer is needed, {sys.executable} is {platform.python_version()}; "
            "name another: make setup PYTHON=python3.11"
        )
    if Path(sys.prefix) == VENV:  # called from within the environment: build on what that was built on
        base = os.path.join(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
        os.execv(base, [base, *sys.argv])
    fingerprint, chosen = _fingerprint(), os.environ.get("PETSC", "")
    if STAMP.is_file() and STAMP.read_text().splitlines() in ([fingerprint, chosen or x] for x in ORIGINS):
        print(f"environment ready: {VENV}")
        return

    say(f"building {VENV} on Python {platform.python_version()} ({sys.executable})")
    own = _own_petsc()
    petsc_source.from_environment()  # a wrong PETSC_DIR is better known now than in minutes
    _system_packages(petsc_wanted=not own)
    _create_venv()
    there = own or (_imports_petsc(VENV / "bin" / "python") and not chosen)
    with ThreadPoolExecutor(1) as beside:  # compiling and downloading share the machine well
        building = None if there else beside.submit(petsc_wheels)
        _install_project()
        if building is not None:
            _install_wheels(building.result())
    if own and not _link_petsc(own):
        say(f"petsc4py in {own} does not fit the NumPy that the project needs: another is built")
        _system_packages(petsc_wanted=True)
        _install_wheels(petsc_wheels())
    STAMP.write_text(f"{fingerprint}\n{chosen or 'any'}\n")
    say(f"environment ready after {time.monotonic() - START:.0f} s; see it with .venv/bin/multiscale doctor")


def _fingerprint() -> str:
    """Changes whenever the environment must be brought up to date; settings of linters do not count."""
    import tomllib  # in the standard library since 3.11

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    state: list[object] = [ROOT, sys.base_prefix, platform.python_version(), platform.machine()]
    state += [project["project"], project["build-system"], CONSTRAINTS.read_text()]
    state += [Path(petsc_source.__file__).read_text()]
    state += [os.environ.get(name) for name in ("PETSC_DIR", "PETSC_ARCH")]
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _system_packages(petsc_wanted: bool) -> None:
    """Debian packages, as root; otherwise only the advice that goes with what is missing."""
    wanted = []
    if not _has("import ensurepip, venv"):
        wanted.append("python3-venv")
    headers = "import os, sysconfig; os.stat(os.path.join(sysconfig.get_path('include'), 'Python.h'))"
    if petsc_wanted and not _has(headers):
        wanted.append("python3-dev")

    if os.geteuid() == 0 and shutil.which("apt-get") and shutil.which("dpkg-query"):
        if petsc_wanted and _petsc_choice() == "debian":
            wanted += petsc_source.DEBIAN_PACKAGES
        elif petsc_wanted and _petsc_choice() == "pypi":
            wanted += ["gcc", "g++", "make"]
        wanted = [name for name in wanted + SCREENLESS if not _dpkg_installed(name)]
        if not wanted:
            return
        say(f"installing Debian packages, about a minute: {' '.join(wanted)}")
        hint = "apt-get failed: is its server reachable, is another apt running?"
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-qq"], env=quiet, hint=hint)
        run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *wanted], env=quiet, hint=hint)
    elif wanted:
        raise SystemExit(
            f"This python lacks {' and '.join(wanted)}. As root: apt-get install {' '.join(wanted)}; "
            "or name another python: make setup PYTHON=/path/to/python3"
        )


def _create_venv() -> None:
    """Create ``.venv``, or keep the one there if it is of this interpreter."""
    python = VENV / "bin" / "python"
    command = [sys.executable, "-m", "venv", str(VENV)]
    script = "import sys; print(sys.version_info[:2], sys.base_prefix)"
    if python.exists() and _output([str(python), "-c", script]) != _output([sys.executable, "-c", script]):
        say("the environment there is of another python: built anew")
        command.append("--clear")
    run(command)
    STAMP.unlink(missing_ok=True)


def _install_project() -> None:
    say("installing the project and what it needs (1 to 3 minutes; PyTorch is the largest part)")
    pip("install", "--upgrade", "pip")
    pip(
        *("install", "--constraint", str(CONSTRAINTS), "--editable", f"{ROOT}[test,dev,docs]"),
        hint="pip could not install the dependencies: is its package index reachable?",
    )


def _own_petsc() -> str:
    """Folder of a petsc4py that works in the interpreter this runs on, else empty."""
    if not _imports_petsc(Path(sys.executable)):
        return ""
    script = "import os, petsc4py; print(os.path.dirname(petsc4py.__path__[0]))"
    return _output([sys.executable, "-c", script])


def _link_petsc(own: str) -> bool:
    """Let the environment see a petsc4py installed elsewhere; False if it does not work there."""
    python = VENV / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('platlib'))"
    link = Path(_output([str(python), "-c", script]), "petsc.pth")
    # Searched after the environment's own packages, which therefore stay the tested ones.
    link.write_text(own + "\n")
    if _imports_petsc(python):
        say(f"petsc4py in {own} is used as it is")
        return True
    link.unlink()
    return False


def petsc_wheels() -> list[Path]:
    """Wheels of petsc4py and what goes with it, built if need be."""
    choice = _petsc_choice()
    if choice == "environment":
        found = petsc_source.from_environment()
    elif choice == "debian":
        found = petsc_source.from_debian()
    else:
        found = petsc_source.from_pypi()
    if found is None:
        raise SystemExit(
            "no Debian PETSc with headers here: as root apt-get install petsc-dev, or use PETSC=pypi"
        )
    return petsc_source.wheels(found, Path(sys.executable), _cache(), run, say)


def _install_wheels(wheels: list[Path]) -> None:
    pip("install", "--no-deps", "--force-reinstall", *map(str, wheels))
    python = VENV / "bin" / "python"
    if not _imports_petsc(python):
        command = f"{python} -c 'import petsc4py.PETSc'"
        raise SystemExit(
            f"petsc4py was built but does not import: see {command}; remove {_cache()} to build it anew"
        )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multiscale"


def _petsc_choice() -> str:
    """``environment``, ``debian`` or ``pypi``."""
    choice = os.environ.get("PETSC", "")
    if choice not in ("", "debian", "pypi"):
        raise SystemExit(f"PETSC={choice}: must be debian or pypi, or be left unset")
    if choice:
        return choice
    if os.environ.get("PETSC_DIR"):
        return "environment"
    root_on_debian = os.geteuid() == 0 and shutil.which("apt-get") is not None
    return "debian" if root_on_debian or petsc_source.from_debian() is not None else "pypi"


def _imports_petsc(python: Path) -> bool:
    """Does petsc4py work there: does it link, does it fit the NumPy?"""
    script = "import petsc4py; petsc4py.init([]); from petsc4py import PETSc; PETSc.Vec().createSeq(1)"
    env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run([str(python), "-c", script], env=os.environ | env, capture_output=True, check=False)
    return done.returncode == 0


def _has(script: str) -> bool:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _dpkg_installed(name: str) -> bool:
    return "install ok installed" in _output(["dpkg-query", "-W", "-f=${Status}", name])


def pip(*arguments: str, hint: str = "") -> None:
    """Run the environment's pip."""
    run([str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments], hint=hint)


def run(command: list[str], env: Mapping[str, str | None] | None = None, hint: str = "") -> str:
    """Run a step quietly, its output kept in the log; show the end of it if the step fails.

    Returns what the step printed. A variable that is None in ``env`` is removed.
    """
    variables = {**os.environ, **(env or {})}
    kept = {name: value for name, value in variables.items() if value is not None}
    done = subprocess.run(
        command, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    text = f"$ {shlex.join(command)}\n{done.stdout}\n"
    if LOG.parent.is_dir():
        with LOG.open("a", encoding="utf-8") as log:
            log.write(text)
    if done.returncode != 0:
        print("\n".join(text.splitlines()[-30:]), file=sys.stderr)
        where = f" (all output is in {LOG})" if LOG.exists() else ""
        raise SystemExit(f"\nset-up stopped: {hint or 'the step above failed'}{where}")
    return done.stdout


def say(text: str) -> None:
    """One line of progress."""
    print(f"[{time.monotonic() - START:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    main()
