"""A run in Python: ``run = multiscale.open("runs/cloak")``, shown as a page in a notebook."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from micro.runtime.files import PathLike
from multiscale.rundir.directory import RunDirectory

_SHOWN = 2_000_000  # bytes of a figure that a notebook is given


class OpenRun(RunDirectory):
    """A finished run: its case, fields, lattice, metrics and figures as properties, read when asked for.

    Attributes
    ----------
    path : Path

    Notes
    -----
    ``metrics`` are nested by name; ``design`` (nx, ny, nz, 3) are C11, C12, C44 in units of E_s;
    ``displacements`` are in element edges, by LOAD.STRUCTURE; ``lattice`` and ``problem`` are objects.
    """

    @cached_property
    def figures(self) -> dict[str, Path]:
        """The figures (PNG) by name."""
        return {Path(name).stem: self.path / name for name in self.names if name.endswith(".png")}

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The evaluations of the design, in order."""
        text = self.file("history.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    @property
    def values(self) -> dict[str, float]:
        """The objective's values by structure, such as ``{"void": 0.34, "design": 0.02}``."""
        found = self.metrics.get(self.purpose.quantity, {})
        return {name: value for name, value in found.items() if isinstance(value, float)}

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        return f"<run {self.case.name} in {self.path}: {self.purpose.quantity} {values or 'not evaluated'}>"

    def _repr_html_(self) -> str:
        """Values and figures, for a notebook."""
        rows = [(f"{self.purpose.quantity}, {name}", f"{value:.4g}") for name, value in self.values.items()]
        rows += [(key, f"{value:g}") for key, value in _numbers(self.metrics.get("cells", {}), "cells")]
        table = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in rows)
        pictures = "".join(
            f'<figure style="display:inline-block;margin:4px"><img alt="{html.escape(name)}" width="420" '
            f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
            for name, path in self.figures.items()
            if path.is_file() and path.stat().st_size <= _SHOWN
        )
        title = f"<h3>{html.escape(self.case.name)}</h3><p>{html.escape(self.case.case.description)}</p>"
        return f"{title}<table>{table}</table>{pictures}"


def open(path: PathLike) -> OpenRun:
    """A run directory that is there, for reading.

    Raises
    ------
    InputError
        If it is not the directory of a run, its record is damaged, or its ``case.toml`` is not the one
        that its results were made for.
    """
    run = OpenRun.open(path)
    assert isinstance(run, OpenRun)
    return run


def _numbers(section: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    return [
        (f"{prefix}.{key}", float(value))
        for key, value in section.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
