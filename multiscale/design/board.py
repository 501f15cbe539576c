"""A design's history for TensorBoard, as it grows.

Needs the package ``tensorboard``, which nothing else does. The event file in the run directory is made anew
whenever the design stage starts or goes on, from ``history.jsonl``'s records: a resumed run shows one curve.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from micro.runtime.errors import InputError
from multiscale.design.state import read_history

FOLDER = "tensorboard"
"""Name of its directory in a run directory."""


Board = Callable[[Mapping[str, Any]], None]
"""Takes the records of a design, one after the other."""


def check() -> None:
    """Raise InputError if the package is missing.

    Raises
    ------
    InputError
        If the package is missing.
    """
    if find_spec("tensorboard") is None:
        raise InputError("needs the package tensorboard: pip install tensorboard", key="--tensorboard")


@contextmanager
def open_board(directory: Path | None, past: Iterable[Mapping[str, Any]]) -> Iterator[Board]:
    """A board in a run directory (none keeps nothing), which knows the records of the ``past``."""
    if directory is None:
        yield lambda record: None
        return
    # Slow to import, and of use to this command alone.
    from torch.utils.tensorboard import SummaryWriter

    folder = directory / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder), flush_secs=5) as writer:

        def write(record: Mapping[str, Any]) -> None:
            for tag, value in scalars(record).items():
                writer.add_scalar(tag, value, int(record["count"]))

        for record in past:
            write(record)
        yield write


def write_history(directory: Path) -> None:
    """The board of a design that is done, from its ``history.jsonl``."""
    with open_board(directory, read_history(directory / "history.jsonl")):
        pass


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The curves of a record: its numbers, and those of each load, by tag."""
    out: dict[str, float] = {}
    for key, value in record.items():
        if key == "per_load":
            out |= {f"loads/{name}": float(v) for name, v in value.items()}
        elif key not in ("count", "evaluation") and isinstance(value, int | float):
            out[f"design/{key}"] = float(value)
    return out
