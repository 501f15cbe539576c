"""Options that several commands have, and values that they take as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from micro.runtime.errors import InputError

DatasetOption = Annotated[Path | None, typer.Option("--data", help="A data set (default: the packaged one).")]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
GeneratorOption = Annotated[
    str, typer.Option("--generator", help="Weights: a .safetensors file, or `default` for the packaged ones.")
]
IsotropicOption = Annotated[bool, typer.Option("--isotropic", help="Hold the Zener ratio in 0.95..1.05.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Write over an earlier result in --out.")]
PoissonOption = Annotated[float, typer.Option(help="Poisson's ratio of the base material.")]
ProcessesOption = Annotated[
    int | None, typer.Option(min=1, help="Processes.", show_default="one a processor core")
]
WorkOption = Annotated[
    Path | None, typer.Option(help="Directory of finished work, kept to resume (default: in ~/.cache).")
]


def times(numbers: Iterable[object]) -> str:
    """Numbers as a grid's: 40 x 40 x 2."""
    return " x ".join(str(n) for n in numbers)


def three_numbers(text: str, key: str, named: str) -> tuple[float, float, float]:
    """Three numbers with commas between them.

    Raises
    ------
    InputError
        Naming the option ``key``, if the text is anything else.
    """
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{named} are needed", key=key, value=text) from None
    return x, y, z


def print_json(value: Any) -> None:
    """One JSON object on standard output; NaN is refused."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def require_positive(counts: dict[str, int]) -> None:
    """Refuse counts, by the names of their options, that are below 1.

    Raises
    ------
    InputError
        Naming the first one.
    """
    for key, value in counts.items():
        if value < 1:
            raise InputError("at least 1", key=key, value=value)
