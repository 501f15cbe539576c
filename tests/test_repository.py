"""Promises of the repository as a whole."""

from __future__ import annotations

import ast
import graphlib
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("micro", "multiscale")
# About 500 is the rule; a module beyond this has more than one idea.
MOST_LINES = 550
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Formats that run code when they are read.
EXECUTABLE_FORMATS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _sources(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def _imported(tree: ast.Module) -> set[str]:
    """Top-level names of all imports, those inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_version_is_the_same_everywhere():
    assert importlib.metadata.version(PROJECT["name"]) == PROJECT["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == PROJECT["version"]


def test_constraints_cover_every_requirement():
    """A package without a tested release would be installed in whatever state its index is today."""
    text = (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8")
    tested = {line.split("==")[0] for line in text.splitlines() if "==" in line}
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + extras["test"] + extras["dev"] + extras["docs"]
    assert {re.match(r"[\w-]+", line).group() for line in lines} <= tested


def test_declared_dependencies_are_the_imports():
    """Packages that only come along with others may leave with them; one that nothing imports is a burden."""
    # pydantic_core is a documented part of pydantic, of the same release.
    modules = {
        "PIL": "pillow",
        "cc3d": "connected-components-3d",
        "lazy_loader": "lazy-loader",
        "pydantic_core": "pydantic",
        "skimage": "scikit-image",
        "vtkmodules": "vtk",
    }
    declared = {re.match(r"[\w-]+", line).group() for line in PROJECT["dependencies"]}
    used = set()
    for package in PACKAGES:
        for path, tree in _sources(package):
            foreign = _imported(tree) - set(sys.stdlib_module_names) - set(PACKAGES)
            mine = {modules.get(name, name) for name in foreign}
            undeclared = mine - declared - {"petsc4py", "mpi4py"}  # extras
            assert not undeclared, f"{path} imports {undeclared}, which pyproject.toml does not require"
            used |= mine
    assert declared - used == set(), "required, and imported nowhere"


def test_micro_imports_neither_multiscale_nor_petsc():
    for path, tree in _sources("micro"):
        assert not _imported(tree) & {"multiscale", "petsc4py"}, path


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_import_each_other_in_no_circle(package):
    """Imports inside functions and for type checkers included; the levels of the rooms are `make lint`'s."""
    trees = {path.with_suffix("").as_posix().replace("/", "."): tree for path, tree in _sources(package)}
    trees = {name.removesuffix(".__init__"): tree for name, tree in trees.items()}
    needs: dict[str, set[str]] = {}
    for name, tree in trees.items():
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {module if module in trees else node.module for module in full}
        needs[name] = {module for module in found if module in trees and module != name}
    tuple(graphlib.TopologicalSorter(needs).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_stands_in_a_room(package):
    halls = {path.name for path in (ROOT / package).glob("*.py")}
    assert halls == {"__init__.py", "__main__.py"}
    for room in {path.parent for path in (ROOT / package).rglob("*.py")}:
        modules = [path for path in room.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 12, f"{room.relative_to(ROOT)} has {len(modules)} modules: one idea?"
        for module in modules:
            lines = module.read_text(encoding="utf-8").count("\n")
            assert lines <= MOST_LINES, f"{module.relative_to(ROOT)} has {lines} lines: one idea?"


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_stand_in_the_rooms_they_test(package):
    rooms = {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
    for path in (ROOT / "tests" / package).rglob("test_*.py"):
        assert path.parent.name in rooms, f"{path.relative_to(ROOT)} is in no room of {package}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package):
    """A name of a stub that is nowhere would be found only by who asks for it."""
    for stub in sorted((ROOT / package).rglob("__init__.pyi")):
        room = importlib.import_module(".".join(stub.parent.relative_to(ROOT).parts))
        assert room.__all__
        assert [name for name in room.__all__ if not hasattr(room, name)] == [], room.__name__


def test_micro_works_without_petsc():
    script = (
        "import sys, pkgutil, importlib\n"
        "sys.modules['petsc4py'] = sys.modules['multiscale'] = None\n"
        "import micro\n"
        "for module in pkgutil.walk_packages(micro.__path__, 'micro.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_import_is_free_of_side_effects(tmp_path):
    """Importing draws nothing, writes nothing and starts no MPI."""
    script = "import micro, multiscale, sys; assert 'petsc4py' not in sys.modules"
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert list(tmp_path.iterdir()) == []


HEAVY = {
    "torch",
    "petsc4py",
    "mpi4py",
    "vtk",
    "vtkmodules",
    "pyvista",
    "numba",
    "nlopt",
    "zarr",
    "matplotlib",
    "scipy",
}


@pytest.mark.parametrize("module", ["micro", "multiscale", "multiscale.cli.main", "micro.cli.main"])
def test_imports_that_a_command_waits_for_are_light(module):
    """`--help` must not load a solver; what is heavy is imported where it is used."""
    script = f"import {module}, sys; print(*({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unpickles(package):
    for path, tree in _sources(package):
        assert not _imported(tree) & EXECUTABLE_FORMATS, path
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                # torch's own format is a pickle: weights go through safetensors.
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, path


@pytest.mark.parametrize("command", PACKAGES)
def test_command_explains_itself(run_cli, command):
    done = run_cli(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert command in done.stdout


def test_entry_points_exist():
    scripts = importlib.metadata.entry_points(group="console_scripts")
    for name, target in PROJECT["scripts"].items():
        (entry,) = [script for script in scripts if script.name == name]
        assert entry.value == target
        assert callable(entry.load())


def test_package_data_is_shipped():
    """Every data file beside the code matches a pattern of the wheel's package data."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            # Compiled kernels (numba) are cached beside Python's own.
            if (
                path.is_file()
                and path.suffix not in {".py", ".pyi", ".typed"}
                and "__pycache__" not in path.parts
            ):
                assert path.relative_to(ROOT / package).parts[0] == "data", path


def test_clean_keeps_results_and_environment():
    done = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "rm" in done.stdout
    assert not re.search(r"\bruns\b|\.venv|-rf \*|-rf \.( |$)", done.stdout)
