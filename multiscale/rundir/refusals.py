"""What a run directory refuses: to be that of another case, or of one that was edited in it."""

from __future__ import annotations

import hashlib
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micro.runtime.errors import InputError
from multiscale.case.case import AFTER_DESIGN, Case
from multiscale.case.differences import described, differences
from multiscale.case.toml import toml_value
from multiscale.rundir import record


def refuse_other(path: Path, case: Case, design: str) -> None:
    """Refuse a directory that holds anything but a run of this design.

    Parameters
    ----------
    path : Path
    case : Case
    design : str
        Digest of what the case's design depends on.

    Raises
    ------
    InputError
        Saying what is there.
    """
    if not path.is_dir():
        return
    if not (path / record.NAME).exists():
        if case.file is not None and case.file.resolve().parent == path.resolve():
            raise InputError(
                "holds the case file itself, beside which a run would write its own: give another directory",
                key="--out",
                value=str(path),
            )
        there = sorted(p.name for p in path.iterdir() if p.name[0] != "." and p.suffix != ".log")
        if there:
            named = ", ".join(there[:3]) + (f" and {len(there) - 3} more" if len(there) > 3 else "")
            raise InputError(
                f"holds something else than a run ({named}): give a new or empty directory",
                key="--out",
                value=str(path),
            )
        return
    data = record.read_run(path)
    if data.get("design_sha256") == design:
        return
    found = differences(data["case"], case.model_dump(mode="json", exclude_none=True))
    changed = {key: both for key, both in found.items() if key.split(".")[0] not in AFTER_DESIGN}
    sources = [n for n, d in case.files().items() if n in data["sources"] and data["sources"][n] != d]
    if not changed and not sources:  # what is left is whether the run has rounds
        changed = {key: both for key, both in found.items() if key.startswith("full_scale")}
    what = described(changed) or f"other contents of {', '.join(sources)}"
    raise InputError(f"holds a run of another case ({what}): use another --out", file=path)


def check_case(path: Path, data: Mapping[str, Any]) -> None:
    """Refuse a run whose ``case.toml`` is not as the run wrote it, in anything that counts.

    Raises
    ------
    InputError
        Saying what differs.
    """
    file = path / "case.toml"
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"is missing: {command(path, data)} makes it anew", file=file) from None
    except (OSError, ValueError) as error:
        raise InputError(f"can't be read ({error}): {command(path, data)} makes it anew", file=file) from None
    if hashlib.sha256(text.encode()).hexdigest() == data["toml"]:
        return
    try:
        found = differences(data["case"], tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is damaged ({error}): {command(path, data)} makes it anew", file=file) from None
    if found:
        raise InputError(
            f"is not the case that this run was made for ({described(found)}): run it into another "
            f"directory; {command(path, data)} puts the old one back",
            file=file,
        )


def command(path: Path, data: Mapping[str, Any], maker: str | None = None) -> str:
    """The command that makes what a stage or an addition left."""
    if maker is not None and maker not in record.STAGES:
        command, _, number = maker.partition("/")
        return f"`multiscale {command} {path}{number and f' --voxels-per-cell {number}'}`"
    changes = data.get("changes", {}).items()
    said = [f" --set {shlex.quote(f'{key}={toml_value(value)}')}" for key, value in changes]
    return f"`multiscale run {data.get('case_file') or 'CASE'} --out {path}{''.join(said)}`"
