"""Public docstrings say what is given and what is refused; the examples in them give what they say."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

WITH_EXAMPLES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in ("micro", "multiscale")
    for file in sorted((ROOT / package).rglob("*.py"))
    if re.search(r"^\s*>>> ", file.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings(module):
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried > 0
    assert failed == 0


def test_there_are_some():
    assert len(WITH_EXAMPLES) >= 3


def _public(body: list[ast.stmt], owner: ast.ClassDef | None = None) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Public functions and methods with their docstrings; that of a class is its constructor's."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node.body, node)
        if not isinstance(node, ast.FunctionDef) or (node.name.startswith("_") and node.name != "__init__"):
            continue
        # A part of a kernel is seen by other kernels alone.
        if not any(ast.unparse(d).startswith("part(") for d in node.decorator_list):
            yield node, ast.get_docstring(owner if owner and node.name == "__init__" else node) or ""


def _lacking(source: str) -> Iterator[str]:
    """Functions of four or more parameters that neither list them nor say where they are, and who hides an
    InputError.
    """
    for function, docstring in _public(ast.parse(source).body):
        taken = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        names = [argument.arg for argument in taken if argument.arg not in ("self", "cls")]
        listed = re.search(r"^Parameters\n-+$|\AAs :|\boptions as :", docstring, re.MULTILINE)
        if len(names) >= 4 and not listed:
            yield f"{function.name}: Parameters"
        raised = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc]
        refuses = any(ast.unparse(error).startswith("InputError") for error in raised)
        if refuses and not re.search(r"^Raises\n-+$", docstring, re.MULTILINE):
            yield f"{function.name}: Raises"


ROOMS = [
    f"{package}/{path.parent.name}"
    for package in ("micro", "multiscale")
    for path in sorted((ROOT / package).glob("*/__init__.py"))
    if path.parent.name != "cli"  # typer makes a command's help from its signature
]


@pytest.mark.parametrize("room", ROOMS)
def test_public_docstrings_are_whole(room):
    texts = {file.name: file.read_text(encoding="utf-8") for file in sorted((ROOT / room).rglob("*.py"))}
    assert [f"{name}: {what}" for name, text in texts.items() for what in _lacking(text)] == []


def test_what_docstrings_lack_is_seen():
    source = """
def many(a, b, c, d):
    "No list."

def same(a, b, c, d):
    "As :func:`Kept`."

def refuses(a):
    "Nothing of it."
    raise InputError("no")

class Kept:
    '''Its own.

    Parameters
    ----------
    a, b, c, d : int
    '''

    def __init__(self, a, b, c, d): ...
"""
    assert list(_lacking(source)) == ["many: Parameters", "refuses: Raises"]
