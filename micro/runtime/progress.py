"""What a run shows while it works: stage, counts, objective, time left.

On a terminal one live line; elsewhere (a log file, a pipe) a plain line now and
then; or JSON lines for programs; or nothing. Ranks other than 0 show nothing.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Progress(Protocol):
    """What library code reports to: ``done`` of ``total`` are done, ``what`` is being worked at."""

    def __call__(self, done: int, total: int, what: str = "") -> None: ...  # noqa: D102


def unheard(done: int, total: int, what: str = "") -> None:
    """A :class:`Progress` that shows nothing."""


Style = Literal["text", "quiet", "json"]

#: Seconds between two plain lines.
_INTERVAL = 10.0
#: Seconds between two JSON lines of one task, unless they carry values.
_JSON_INTERVAL = 1.0


class Task:
    """One bar: ``advance`` it, or let library code :meth:`reach` its counts.

    Parameters
    ----------
    owner : Reporter
    name : str
    total : int
    steady : bool
        Whether steps take alike, so that the time left can be told.
    """

    def __init__(self, owner: Reporter, name: str, total: int, steady: bool = True):
        self._owner = owner
        self._steady = steady
        self.name = name
        self.total = total
        self.done = self._first = 0
        self._start = self._last = time.monotonic()
        self._bar: TaskID | None = None
        if owner.live is not None:
            self._bar = owner.live.add_task(name, total=total, detail="")

    def advance(self, count: int = 1, detail: str = "", values: Mapping[str, Any] | None = None) -> None:
        """``count`` more are done; ``detail`` is shown beside the bar, ``values`` go into JSON lines."""
        self.done += count
        if self._owner.style == "json":
            self._line(detail, values or {})
            return
        if self._owner.live is not None and self._bar is not None:
            self._owner.live.update(self._bar, completed=self.done, detail=detail)
            return
        now = time.monotonic()
        if self._owner.verbose and (now - self._last >= _INTERVAL or self.done >= self.total):
            self._last = now
            left = self._left(now)
            expected = "" if left is None else f" (about {left:.0f} s left)"
            self._owner.say(f"{self.name}: {self.done}/{self.total} {detail}{expected}")

    def reach(self, done: int, total: int, what: str = "") -> None:
        """A :class:`Progress`: ``done`` of ``total`` are done; fewer than before begin a new count."""
        if done < self.done:
            self.done = self._first = done
            self._start = time.monotonic()
        self.total = total
        if self._owner.live is not None and self._bar is not None:
            self._owner.live.update(self._bar, total=total)
        self.advance(done - self.done, what)

    def _line(self, detail: str, values: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if not values and now - self._last < _JSON_INTERVAL and self.done < self.total:
            return
        self._last = now
        left = self._left(now)
        known = {} if left is None else {"seconds_left": round(left, 1)}
        count = {"task": self.name, "done": self.done, "total": self.total, "detail": detail}
        self._owner.event("progress", {**values, **count, **known})

    def _left(self, now: float) -> float | None:
        """Seconds left, once there is something to judge it by."""
        made = self.done - self._first
        if not self._steady or made < 1 or self.done >= self.total:
            return None
        return (self.total - self.done) * (now - self._start) / made

    def close(self) -> None:
        """Leave the bar as it stands: it may end before its total."""
        if self._owner.live is not None and self._bar is not None:
            self._owner.live.remove_task(self._bar)


class Reporter:
    """Talks to the user.

    Parameters
    ----------
    verbose : bool
        False says nothing, whatever the style: ranks other than 0.
    style : {"text", "quiet", "json"}
        "json": one JSON object a line on standard output, each with ``event`` ("message", "progress" or
        "result") and ``seconds`` since the start.
    """

    def __init__(self, verbose: bool = True, style: Style = "text"):
        self.verbose = verbose and style != "quiet"
        self.style = style
        self.console = Console(highlight=False, quiet=not self.verbose)
        self.live: Bars | None = None
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """One line, with the seconds since the start."""
        if self.style == "json":
            self.event("message", {"text": Text.from_markup(text).plain})
            return
        self.console.print(f"[dim]{time.monotonic() - self._start:7.1f} s[/dim]  {text}", soft_wrap=True)

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """One JSON line, if that is the style."""
        if self.verbose and self.style == "json":
            head = {"event": name, "seconds": round(time.monotonic() - self._start, 3)}
            line = {**head, **values, **head}  # first in the line, and not to be overwritten
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    @contextmanager
    def task(self, name: str, total: int, steady: bool = True) -> Iterator[Task]:
        """A bar for ``total`` steps; ``steady`` ones tell the time left.

        Parameters
        ----------
        name : str
        total : int
        steady : bool
            Whether steps take alike, so that the time left can be told.
        """
        if self.verbose and self.style == "text" and self.console.is_terminal and self.live is None:
            self.live = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.live.start()
        task = Task(self, name, total, steady)
        try:
            yield task
        finally:
            task.close()
            if self.live is not None:
                self.live.stop()
                self.live = None


@contextmanager
def stage_bar(name: str = "", *, quiet: bool = False) -> Iterator[Progress]:
    """Bars on stderr, one for each ``what`` that library code reports (``name`` where it says nothing).

    Fewer done than before begin a new count. Away from a terminal a plain line now and then. ``quiet`` shows
    nothing.
    """
    console = Console(stderr=True, quiet=quiet, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = quiet or not console.is_terminal
    with Bars(*columns, TextColumn("{task.fields[left]}"), console=console, disable=shown) as bars:
        begun: dict[str, tuple[TaskID, int, float]] = {}
        reached: dict[str, int] = {}
        last = time.monotonic()

        def progress(done: int, total: int, what: str = "") -> None:
            nonlocal last
            stage, now = what or name, time.monotonic()
            if stage not in begun:
                begun[stage] = bars.add_task(stage, total=total, left=""), done, now
            elif done < reached[stage]:
                begun[stage] = begun[stage][0], done, now
            reached[stage] = done
            bar, first, start = begun[stage]
            left = "" if done <= first else f"{(total - done) * (now - start) / (done - first):.0f} s left"
            bars.update(bar, completed=done, total=total, left=left)
            if not console.is_terminal and now - last >= _INTERVAL:
                last = now
                console.print(f"{stage}: {done}/{total} {left}")

        yield progress


def counted(progress: Progress, total: int) -> Callable[[int], None]:
    """A function of how many are newly done, for work on several threads."""
    lock, done = threading.Lock(), 0

    def more(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            progress(done, total)

    return more
