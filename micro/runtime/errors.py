"""Errors that a user can mend, and the exit codes they lead to.

Both commands turn these into one line on stderr: :class:`InputError` exits
with 2 (nothing was written), :class:`NotConverged` with 3.
"""

from __future__ import annotations

import io
import sys
from typing import Any


class InputError(Exception):
    """Something the user gave is wrong.

    Parameters
    ----------
    reason : str
        What is wrong and what is allowed, in one sentence.
    file : str or path, optional
        The file it stands in.
    key : str, optional
        The key, option or array in that file, dotted (``"regions[1].shape.radius"``).
    value : object, optional
        The offending value, shown shortened.
    """

    exit_code = 2

    def __init__(self, reason: str, *, file: Any = None, key: str | None = None, value: Any = None):
        self.reason = reason
        self.file = None if file is None else str(file)
        self.key = key
        self.value = value
        super().__init__(self._line())

    def _line(self) -> str:
        where = ": ".join(part for part in (self.file, self.key) if part)
        got = "" if self.value is None else f" (got {_short(self.value)})"
        text = " ".join(str(self.reason).split())
        return f"{where}: {text}{got}" if where else f"{text}{got}"


def file_error(error: OSError) -> InputError:
    """What the system refused (no such directory, no permission, disk full) as an error of one line."""
    file = error.filename2 or error.filename  # of two, the second is where a result was to go
    return InputError(error.strerror or str(error) or type(error).__name__, file=file)


def let_streams_replace() -> None:
    """Have standard output write ``?`` for what its encoding lacks (ASCII, Latin-1) rather than fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


class NotConverged(RuntimeError):
    """A solve or a fit did not reach its tolerance; the message says what to try."""

    exit_code = 3


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
