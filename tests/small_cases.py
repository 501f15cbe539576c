"""The cases of ``cases/`` on coarser grids, with few iterations: the same physics in seconds."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from multiscale.case.case import Case, parse_case

ROOT = Path(__file__).resolve().parents[1]
#: Keys of shapes and targets that hold lengths in elements.
LENGTHS = {"center", "radius", "min", "max", "span", "point", "offset", "scale", "at"}


def small(name: str, factor: int, *, iterations: int = 8, uniform: int = 6) -> Case:
    """A case on a grid ``factor`` times coarser: the same part, with fewer and larger cells."""
    file = ROOT / "cases" / f"{name}.toml"
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    grid = data["grid"]
    grid["elements"] = [max(2, n // factor) for n in grid["elements"]]
    grid["cell_size_mm"] *= factor
    for key in {"regions", "loads", "objective"} & data.keys():
        data[key] = _scaled(data[key], 1 / factor)
    data["filter"] = {"radius": 1.0}
    data["optimizer"] = {"uniform_iterations": uniform, "stages": 1, "iterations": iterations}
    data["fill"] = data.get("fill", {}) | {"tolerance": 0.04, "candidates": 8, "polish": 0}
    data.pop("export", None)
    data.pop("full_scale", None)
    return parse_case(data, file)


def _scaled(value: Any, by: float) -> Any:
    """Lengths of shapes times ``by``; everything else as it is."""
    if isinstance(value, dict):
        return {key: _times(v, by) if key in LENGTHS else _scaled(v, by) for key, v in value.items()}
    if isinstance(value, list):
        return [_scaled(v, by) for v in value]
    return value


def _times(value: Any, by: float) -> Any:
    return [v * by for v in value] if isinstance(value, list) else value * by
