"""What a run shows while it works: stage, counts, objective, time left.

On a terminal one live line; elsewhere (a log file, a pipe) a plain line now and
then. Ranks other than 0 show nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

#: Seconds between two plain lines.
_INTERVAL = 10.0


class Task:
    """One bar: ``advance`` it, ``say`` what is current."""

    def __init__(self, owner: Reporter, name: str, total: int, done: int = 0, steady: bool = True):
        self._owner = owner
        self._steady = steady
        self.name = name
        self.total = total
        self.done = done
        self._first = done
        self._start = self._last = time.monotonic()
        self._bar: TaskID | None = None
        if owner.live is not None:
            self._bar = owner.live.add_task(name, total=total, completed=done, detail="")

    def advance(self, count: int = 1, detail: str = "") -> None:
        """``count`` more are done; ``detail`` is shown beside the bar."""
        self.done += count
        if self._owner.live is not None and self._bar is not None:
            self._owner.live.update(self._bar, completed=self.done, detail=detail)
            return
        now = time.monotonic()
        if self._owner.verbose and (now - self._last >= _INTERVAL or self.done >= self.total):
            self._last = now
            self._owner.say(f"{self.name}: {self.done}/{self.total} {detail}{self._left(now)}")

    def _left(self, now: float) -> str:
        """Time left, once there is something to judge it by."""
        made = self.done - self._first
        if not self._steady or made < 1 or self.done >= self.total:
            return ""
        left = (self.total - self.done) * (now - self._start) / made
        return f" (about {left:.0f} s left)"

    def close(self) -> None:
        """Leave the bar as it stands: it may end before its total."""
        if self._owner.live is not None and self._bar is not None:
            self._owner.live.remove_task(self._bar)


class Reporter:
    """Talks to the user; silent when ``verbose`` is false."""

    def __init__(self, verbose: bool = True):
        self.verbose = verbose
        self.console = Console(highlight=False, quiet=not verbose)
        self.live: Progress | None = None
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """One line, with the seconds since the start."""
        self.console.print(f"[dim]{time.monotonic() - self._start:7.1f} s[/dim]  {text}", soft_wrap=True)

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, steady: bool = True) -> Iterator[Task]:
        """A bar for ``total`` steps, ``done`` of them done before; ``steady`` ones foretell their end."""
        if self.verbose and self.console.is_terminal and self.live is None:
            self.live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.live.start()
        task = Task(self, name, total, done, steady)
        try:
            yield task
        finally:
            task.close()
            if self.live is not None:
                self.live.stop()
                self.live = None
