"""The version of this distribution, which holds both packages."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Any

import typer


def version_option(program: str) -> Any:
    """The option ``--version`` of a program's callback."""

    def show(wanted: bool) -> None:
        if wanted:
            print(f"{program} {own_version()}")
            raise typer.Exit

    return typer.Option("--version", callback=show, is_eager=True, help="Print the version and stop.")


@cache
def own_version() -> str | None:
    """The installed version, or None when the code runs without being installed."""
    try:
        return importlib.metadata.version("multiscale-metamaterials")
    except importlib.metadata.PackageNotFoundError:
        return None
