"""Files written whole or not at all, and known again by what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from micro.runtime.errors import InputError

PathLike = str | os.PathLike[str]
"""A path as callers may give it."""

#: Names of temporaries: ``.NAME.PROCESS.part.SUFFIX``, and ``old`` for a directory that is being replaced.
_TEMPORARY = re.compile(r"\..*\.(\d+)\.(part|old)(\..*)?")
#: Seconds after which a temporary is nobody's any more, whatever process has that number now.
_ABANDONED = 86400.0


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes that name, all of it on the disk by then.

    Works for files and for directories (a Zarr group). On an exception the temporary is removed and whatever
    stood at ``path`` stays untouched. A directory that is replaced steps aside first and goes last, so that
    a kill at any moment leaves the old one or the new one.

    Raises
    ------
    OSError
        With ``path`` in it, also where the system named none (a full disk) or the temporary.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept, because many writers choose the format by it.
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    _remove(temporary)
    try:
        yield temporary
        _flush(temporary)
        if target.is_dir() and temporary.is_dir():
            old = target.with_name(f".{target.stem}.{os.getpid()}.old{target.suffix}")
            _remove(old)
            os.replace(target, old)
            os.replace(temporary, target)
            _remove(old)
        else:
            os.replace(temporary, target)
        _flush_directory(target.parent)
    except OSError as error:
        # The temporary's name means nothing to a user.
        if error.filename is None or Path(str(error.filename)).is_relative_to(temporary):
            error.filename = str(target)
        raise
    finally:
        _remove(temporary)


def clear_temporaries(directory: Path) -> list[Path]:
    """Remove the temporaries that killed processes left in a directory and below; returns what they were.

    One whose process still works is left alone. What a kill took aside and did not replace comes back.
    """
    cleared = []
    for path in sorted(directory.rglob(".*")):
        match = _TEMPORARY.fullmatch(path.name)
        if not match or not path.exists() or _in_use(path, int(match[1])):
            continue
        target = path.with_name(path.name[1:].replace(f".{match[1]}.{match[2]}", "", 1))
        if match[2] == "old" and not target.exists():
            os.replace(path, target)
        else:
            _remove(path)
        cleared.append(path)
    return cleared


def _in_use(path: Path, process: int) -> bool:
    if time.time() - path.stat().st_mtime > _ABANDONED:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the files below a directory (a Zarr store) and their names; "" if missing."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    parts = [f"{p.relative_to(path)} {content_digest(p)}" for p in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else ""


def check_writable(directory: PathLike, key: str | None = None) -> None:
    """Refuse a directory that can't be written to, or made; nothing is made here.

    For the beginning of long work, so that its result is not lost at the end.

    Raises
    ------
    InputError
        Naming the path in the way, and the option ``key``.
    """
    path = Path(directory)
    nearest = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        reason = "is a file" if nearest == path else f"lies below a file, {nearest}"
        raise InputError(f"{reason}; give a directory", key=key, value=str(path))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"can't be written to: no permission in {nearest}", key=key, value=str(path))


def check_free(
    directory: PathLike, names: Iterable[str], *, overwrite: bool = False, key: str | None = None
) -> None:
    """Refuse a directory that can't be written to, or holds an earlier result.

    Parameters
    ----------
    directory : path
    names : iterable of str
        Files of a result.
    overwrite : bool
        Whether an earlier result may be written over.
    key : str, optional
        The option to name.

    Raises
    ------
    InputError
        Naming what is there of the files ``names``.
    """
    check_writable(directory, key)
    held = [name for name in names if os.path.lexists(Path(directory) / name)]
    if held and not overwrite:
        raise InputError(
            f"holds {', '.join(held)} already: give a new directory, or --overwrite",
            key=key,
            value=str(directory),
        )


def write_text(path: PathLike, text: str) -> None:
    """Write a text in UTF-8, atomically.

    Raises
    ------
    InputError
        If it can't be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"can't be written: {error.strerror}", file=path) from None


def write_json(path: PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused."""
    text = json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def claim(folder: Path, settings: Any, command: str) -> None:
    """Tie a new or empty folder to the settings (as JSON holds them) of what is made in it.

    Raises
    ------
    InputError
        If it is tied to others, or holds something else.
    """
    written = folder / "settings.json"
    if not written.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"exists already and is no folder of `{command}`", file=folder, key="--out")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(written, settings)
        return
    try:
        known = json.loads(written.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"can't be read: {error}", file=written) from None
    if known != settings:
        raise InputError(
            f"holds a `{command}` of other settings; take another folder", file=folder, key="--out"
        )


def cache_path(name: str) -> Path:
    """``$XDG_CACHE_HOME/multiscale/<name>``, by default in ~/.cache: where long work waits to go on."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "multiscale" / name


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays, and paths, as plain JSON values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _flush(path: Path) -> None:
    """What was written is on the disk, not only in the system's memory, when this returns."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        number = os.open(file, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _flush_directory(path: Path) -> None:
    """The new names in a directory are on the disk, where its file system knows such a thing."""
    number = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(number)
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()
