"""Writing files so that a killed run never leaves half of one behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from micro.runtime.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success.

    Works for files and for directories (a Zarr group). On an exception the
    temporary is removed and whatever stood at ``path`` stays untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept, because many writers choose the format by it.
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    _remove(temporary)
    try:
        yield temporary
        if target.is_dir() and temporary.is_dir():
            _remove(target)
        os.replace(temporary, target)
    finally:
        _remove(temporary)


def check_writable(directory: str | os.PathLike[str], key: str | None = None) -> None:
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


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused."""
    text = json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
