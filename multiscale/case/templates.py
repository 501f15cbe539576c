"""``multiscale new``: commented case files to start from.

The templates are files of the package, each a valid case; only the name is put in.
"""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path

from micro.runtime.errors import InputError
from micro.runtime.files import write_text
from multiscale.case.case import parse_case

_PLACE = 'name = "NAME"'


def describe() -> dict[str, str]:
    """What each template is, by name."""
    return {name: tomllib.loads(text)["case"]["description"] for name, text in _templates().items()}


def new_case(name: str, template: str = "cloak", out: str | Path | None = None) -> Path:
    """Write a case file made from a template.

    Parameters
    ----------
    name : str
        The case's name: a letter, then letters, digits, - and _.
    template : str
        One of :func:`describe`.
    out : path, optional
        ``NAME.toml`` in the working directory by default.

    Raises
    ------
    InputError
        If the name is no name, there is no such template, or the file exists already.
    """
    known = _templates()
    if template not in known:
        raise InputError(f"must be one of {', '.join(known)}", key="--template", value=template)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,59}", name):
        raise InputError("a letter, then at most 59 letters, digits, - or _", key="NAME", value=name)
    file = Path(f"{name}.toml") if out is None else Path(out)
    if file.exists():
        raise InputError("exists already and is left alone: give another NAME or --out", file=file)
    text = known[template].replace(_PLACE, f'name = "{name}"', 1)
    parse_case(tomllib.loads(text), file)
    write_text(file, text)
    return file


def _templates() -> dict[str, str]:
    folder = files("multiscale").joinpath("data", "templates")
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".toml"))
    texts = {entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8") for entry in found}
    return dict(sorted(texts.items()))
