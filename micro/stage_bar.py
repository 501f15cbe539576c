"""Progress of long builds on the terminal: one bar a stage, with the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from micro.labelling import Report


@contextmanager
def stage_bar() -> Iterator[Report]:
    """Bars on stderr; yields the function that advances them."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, left: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, left="")
            bar.update(tasks[stage], completed=done, total=total, left=f"{left:.0f} s left")

        yield report
