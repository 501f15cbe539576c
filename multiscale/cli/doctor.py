"""What this machine offers and what is missing, with the command that mends it.

Whatever may fail or end a process by itself (MPI, PETSc, a graphics driver) is tried in a process of its
own, so that the report comes out on a broken installation too.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rich.console
import rich.markup
import rich.table

from micro.runtime.memory import cgroup, total_and_available

DISTRIBUTION = "multiscale-metamaterials"

RENDERING_PACKAGES = "libegl1 libgl1 libgl1-mesa-dri libxrender1"

# Variables by which an mpiexec tells its processes that they belong to it.
_MPI_PROCESS = re.compile(r"^(OMPI_(?!ALLOW_RUN_AS_ROOT)|PMI|PMIX|HYDRA|MPI_LOCAL|MPIR)")

_PETSC_PROBE = """
import json, petsc4py
petsc4py.init([])
from petsc4py import PETSc
maps = open("/proc/self/maps").read().split()
has = PETSc.Sys.hasExternalPackage
print(json.dumps({
    "petsc4py": petsc4py.__version__,
    "version": ".".join(map(str, PETSc.Sys.getVersion())),
    "directory": petsc4py.get_config().get("PETSC_DIR"),
    "index_bits": 8 * PETSc.IntType().itemsize,
    "scalar": PETSc.ScalarType.__name__,
    "packages": {name: has(name) for name in ("hypre", "mumps", "superlu_dist")},
    "mpi_library": next((m for m in maps if "/libmpi.so" in m or "/libmpich.so" in m), None),
}))
"""

_RENDER_PROBE = """
import pyvista
plotter = pyvista.Plotter(off_screen=True, window_size=(64, 64))
plotter.background_color = "white"
plotter.add_mesh(pyvista.Sphere(), color="black")
picture = plotter.screenshot(return_img=True)
assert picture.min() < 100 < picture.max(), "the picture is empty"
print(plotter.render_window.GetClassName())
"""


@dataclass(frozen=True)
class Missing:
    """Something that is not there.

    Attributes
    ----------
    what : str
        The thing, and what it is for.
    mend : str
        The command that brings it.
    needed : bool
        Does the ordinary run (``multiscale run``) need it?
    """

    what: str
    mend: str
    needed: bool


def report() -> dict[str, Any]:
    """Collect the facts.

    Returns
    -------
    dict
        Plain JSON values. ``ok`` is False if something needed is missing; ``missing`` lists what, as
        dictionaries with the fields of :class:`Missing`; the other keys are ``versions``, ``petsc``,
        ``mpi``, ``machine``, ``gpu``, ``rendering`` and ``library``. Sizes are in bytes.
    """
    missing: list[Missing] = []
    facts: dict[str, Any] = {
        "versions": _versions(missing),
        "petsc": _petsc(missing),
        "machine": _machine(),
        "gpu": _gpu(),
        "rendering": _rendering(missing),
        "library": _library(missing),
    }
    facts["mpi"] = _mpi(facts["petsc"].get("mpi_library"), missing)
    facts["missing"] = [asdict(item) for item in missing]
    facts["ok"] = not any(item.needed for item in missing)
    return facts


def doctor(json_output: bool = False) -> int:
    """Print the report, as a table or as one JSON object.

    Returns
    -------
    int
        Exit code: 0 if all that is needed is there, 1 otherwise.
    """
    facts = report()
    if json_output:
        print(json.dumps(facts, indent=2))
    else:
        _show(facts, rich.console.Console())
    return 0 if facts["ok"] else 1


def find_mpiexec(library: str | None = None) -> Path | None:
    """The ``mpiexec`` that belongs to this environment's MPI.

    Parameters
    ----------
    library : str, optional
        Path of the MPI library that it must go with; by default that of this environment's PETSc. Under
        another MPI's mpiexec every process believes to be alone.

    Returns
    -------
    Path or None
        None if there is none of that kind.
    """
    library = library or _petsc_facts().get("mpi_library")
    own = str(Path(sys.prefix) / "bin")
    found = []
    for name in ("mpiexec", "mpiexec.openmpi", "mpiexec.mpich", "mpiexec.hydra"):
        for path in (own, os.environ.get("PATH", os.defpath)):
            program = shutil.which(name, path=path)
            if program is not None:
                found.append(Path(program))
    if library is None:
        return found[0] if found else None
    kind = _mpi_kind(_library_version(library))
    return next((path for path in found if _mpi_kind(_first_line([str(path), "--version"])) == kind), None)


def _versions(missing: list[Missing]) -> dict[str, str | None]:
    """Version of Python, of this project and of each package it requires; None if absent."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in [DISTRIBUTION, *_requirements()]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
            what = "the project itself is not installed" if name == DISTRIBUTION else f"Python package {name}"
            missing.append(Missing(what, "make setup", needed=True))
    return versions


def _requirements() -> list[str]:
    """Names of the packages that the program needs, from its metadata."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
        lines = project["project"]["dependencies"]
    names = [re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line]
    return sorted(match.group() for match in names if match)


def _petsc(missing: list[Missing]) -> dict[str, Any]:
    facts = _petsc_facts()
    if "error" in facts:
        missing.append(Missing("petsc4py with its PETSc: the macro solver", "make setup", needed=True))
    elif facts["scalar"] != "float64":
        what = f"a PETSc with real double numbers (this one has {facts['scalar']})"
        missing.append(Missing(what, "make setup PETSC=pypi", needed=True))
    return facts


def _petsc_facts() -> dict[str, Any]:
    done = _probe(_PETSC_PROBE)
    if done.returncode != 0:
        return {"error": _last_line(done)}
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _mpi(library: str | None, missing: list[Missing]) -> dict[str, str | None]:
    """The MPI library, and the mpiexec that goes with it."""
    version = None if library is None else _library_version(library)
    mpiexec = find_mpiexec(library)
    if library is not None and mpiexec is None:
        kind = _mpi_kind(version)
        mend = (
            "apt-get install openmpi-bin" if kind == "Open MPI" else f"{sys.executable} -m pip install mpich"
        )
        missing.append(Missing(f"mpiexec of {kind}: runs on several ranks", mend, needed=False))
    if find_spec("mpi4py") is None:
        what = "mpi4py: ranks that share cells and voxels"
        missing.append(Missing(what, f"{sys.executable} -m pip install mpi4py", needed=False))
    return {"version": version, "library": library, "mpiexec": None if mpiexec is None else str(mpiexec)}


def _machine() -> dict[str, Any]:
    total, available = total_and_available()
    quota = cgroup("cpu.max")
    cores = float(len(os.sched_getaffinity(0)))
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_usable": cores,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_total": total,
        "memory_available": available,
    }


def _gpu() -> list[dict[str, Any]]:
    """The GPUs that torch can use; none needed."""
    try:
        import torch
    except Exception:  # absent (reported with the versions) or broken beyond an ImportError
        return []
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": device.name, "memory_total": device.total_memory} for device in devices]


def _rendering(missing: list[Missing]) -> dict[str, Any]:
    """Draw a sphere without a screen."""
    settings = {"PYVISTA_OFF_SCREEN": "true", "VTK_DEFAULT_OPENGL_WINDOW": "vtkEGLRenderWindow"}
    done = _probe(_RENDER_PROBE, settings)
    if done.returncode == 0:
        return {"offscreen": True, "window": done.stdout.split()[-1]}
    what = "drawing in three dimensions without a screen: pictures of the lattice"
    missing.append(Missing(what, f"apt-get install {RENDERING_PACKAGES}", needed=False))
    return {"offscreen": False, "error": _last_line(done)}


def _library(missing: list[Missing]) -> dict[str, Any]:
    """The cells and the gamut that come with the package, read once."""
    import micro

    folder = Path(micro.__file__).parent / "data"
    facts: dict[str, Any] = {"path": str(folder), "cells": None, "error": None}
    try:
        from micro.data.packaged import load_gamut, load_library

        load_gamut()
        load_gamut("library")
        facts["cells"] = len(load_library())
    except Exception as error:  # whatever is wrong with the files, the report has to come out
        facts["error"] = f"{type(error).__name__}: {error}"
        checkout = folder.parents[1]
        mend = f"git -C {checkout} checkout -- micro/data" if (checkout / ".git").exists() else "make setup"
        missing.append(Missing(f"the packaged cell library and gamut in {folder}", mend, needed=True))
    return facts


def _probe(script: str, settings: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process that knows nothing of an MPI run around it."""
    env = {name: value for name, value in os.environ.items() if not _MPI_PROCESS.match(name)}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **(settings or {})}
    command = [sys.executable, "-c", script]
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer within 120 s")


def _library_version(library: str) -> str | None:
    """What an MPI library says it is; it may be asked before MPI is initialised (MPI 3.1, 8.1.1)."""
    text, length = ctypes.create_string_buffer(8192), ctypes.c_int()
    try:
        ctypes.CDLL(library).MPI_Get_library_version(text, ctypes.byref(length))
    except (OSError, AttributeError):
        return None
    line = re.split(r"[,\n]", text.value.decode(errors="replace"), maxsplit=1)[0]
    return " ".join(line.split())


def _mpi_kind(text: str | None) -> str | None:
    """Which MPI a version line belongs to."""
    if text is None:
        return None
    if re.search(r"Open ?MPI|OpenRTE|PRRTE", text, re.IGNORECASE):
        return "Open MPI"
    # MPICH's mpiexec is the Hydra process manager, as those of its descendants are.
    return "MPICH" if re.search(r"MPICH|HYDRA|Intel", text, re.IGNORECASE) else None


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.splitlines() or [""])[0]


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with code {done.returncode}"


def _processor() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return match.group(1) if match else platform.machine()


def _show(facts: dict[str, Any], console: rich.console.Console) -> None:
    """The report for a reader."""
    petsc, mpi, machine = facts["petsc"], facts["mpi"], facts["machine"]
    table = rich.table.Table("", "", show_header=False)
    for name, version in facts["versions"].items():
        table.add_row(name, version or "[red]missing[/red]")
    table.add_section()
    if "error" in petsc:
        table.add_row("PETSc", "[red]missing[/red]: " + rich.markup.escape(petsc["error"]))
    else:
        inside = [name for name, there in petsc["packages"].items() if there]
        table.add_row("petsc4py", petsc["petsc4py"])
        table.add_row("PETSc", f"{petsc['version']} in {petsc['directory']}")
        features = [f"{petsc['index_bits']}-bit indices", petsc["scalar"], *inside]
        table.add_row("", ", ".join(features))
    table.add_row("MPI", mpi["version"] or "none")
    table.add_row("mpiexec", mpi["mpiexec"] or "[yellow]missing[/yellow]")
    table.add_section()
    table.add_row("system", machine["system"])
    table.add_row("processor", machine["processor"])
    table.add_row("cores", f"{machine['cores_usable']:g} usable of {machine['cores']}")
    table.add_row("OMP_NUM_THREADS", machine["threads"] or "not set: one thread per core")
    memory = (
        f"{machine['memory_available'] / 2**30:.1f} GiB free of {machine['memory_total'] / 2**30:.1f} GiB"
    )
    table.add_row("memory", memory)
    gpus = [f"{gpu['name']}, {gpu['memory_total'] / 2**30:.1f} GiB" for gpu in facts["gpu"]]
    table.add_row("GPU", "\n".join(gpus) or "none (not needed)")
    drawing = facts["rendering"]
    table.add_row("off-screen drawing", drawing["window"] if drawing["offscreen"] else "[yellow]no[/yellow]")
    cells = facts["library"]["cells"]
    table.add_row("cell library", f"{cells} cells" if cells else "[red]missing[/red]")
    console.print(table)
    for item in facts["missing"]:
        colour, word = ("red", "missing") if item["needed"] else ("yellow", "optional")
        console.print(f"[{colour}]{word}[/{colour}]  {rich.markup.escape(item['what'])}")
        console.print(f"         mend it with:  [bold]{rich.markup.escape(item['mend'])}[/bold]")
    if facts["ok"]:
        console.print("[green]all that is needed is there[/green]")
