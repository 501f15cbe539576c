"""``earlier/N`` of a run directory: where what a stage replaces moves, since nothing is thrown away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from multiscale.rundir import record

_EARLIER = "earlier"
_REPORTS = ("report.html", "report.md")


def move(path: Path, names: Iterable[str], reason: str, *, copies: bool = False) -> list[str]:
    """Move what is there of files to a new directory in ``earlier``; returns what a user has to know of it.

    Parameters
    ----------
    path : Path
        The run directory.
    names : iterable of str
        Of files in it.
    reason : str
    copies : bool
        Whether reports move too, and copies of the record are kept beside.
    """
    there = [name for name in names if (path / name).exists()]
    if copies:
        there += [name for name in _REPORTS if (path / name).exists()]
    if not there:
        return [reason] if copies else []
    folder = path / _EARLIER
    folder.mkdir(exist_ok=True)
    number = 1 + max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0)
    for name in there:
        target = folder / str(number) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path / name, target)
    for name in (record.NAME, "metrics.json", "case.toml") if copies else ():
        if (path / name).is_file():
            shutil.copy2(path / name, folder / str(number) / name)
    return [f"{reason}; moved to {folder / str(number)}: {', '.join(there)}"]
