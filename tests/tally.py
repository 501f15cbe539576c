"""Trials and what became of them: right, refused in a line, silently wrong, a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from micro.runtime.errors import InputError, NotConverged, file_error


@dataclass
class Tally:
    """Trials of one kind.

    ``what`` has the first lines on each that did not survive, ``where`` how many trials fell into what.
    """

    name: str
    tried: int = 0
    right: int = 0
    refused: int = 0
    wrong: int = 0
    tracebacks: int = 0
    what: list[str] = field(default_factory=list)
    where: dict[str, int] = field(default_factory=dict)

    def trial(
        self,
        label: str,
        work: Callable[[], Any],
        expected: Any = None,
        same: Callable[[Any, Any], bool] = lambda a, b: bool(a == b),
        counts: int = 1,
    ) -> None:
        """One trial, or ``counts`` that end together; ``expected`` is the right result, None if any is."""
        self.tried += counts
        try:
            found = work()
        except (InputError, NotConverged, OSError) as error:
            said = str(file_error(error) if isinstance(error, OSError) else error)
            if "\n" in said or not said.strip():
                self._failed("tracebacks", f"{label}: not one line: {said!r}")
            else:
                self.refused += counts
        except Exception:  # what a user would see as a traceback is what is counted here
            self._failed("tracebacks", f"{label}: {traceback.format_exc(limit=-3)}")
        else:
            if expected is None or same(found, expected):
                self.right += counts
            else:
                self._failed("wrong", f"{label}: another result without a word")

    def _failed(self, kind: str, text: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.what.append(text)


def table(tallies: list[Tally]) -> str:
    """The figures, in Markdown."""
    lines = ["| trial | tried | right result | refused in a line | silently wrong | tracebacks |"]
    lines.append("|---|---|---|---|---|---|")
    for t in tallies:
        lines.append(f"| {t.name} | {t.tried} | {t.right} | {t.refused} | {t.wrong} | {t.tracebacks} |")
    return "\n".join(lines)
