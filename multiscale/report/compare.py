"""``multiscale compare``: runs side by side, their numbers and what their cases set differently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from micro.runtime.errors import InputError
from micro.runtime.files import write_text
from multiscale.case.differences import flat
from multiscale.report.page import page
from multiscale.report.tables import Row, groups_of, markdown_table, rows_of, text_of
from multiscale.rundir import record
from multiscale.rundir.directory import RunDirectory
from multiscale.rundir.record import value_at


@dataclass(frozen=True)
class Compared:
    """One of the runs.

    Attributes
    ----------
    name : str
        As short as tells them apart.
    metrics : mapping
    settings : mapping
        The resolved case as dotted keys.
    """

    name: str
    metrics: dict[str, Any]
    settings: dict[str, Any]


def compare_runs(paths: Sequence[str | Path], out: str | Path | None, console: Console) -> None:
    """Print a table of several runs, and write it as HTML or Markdown if a file is given.

    Raises
    ------
    InputError
        Fewer than two runs, a directory that is none, or a file that can't be written.
    """
    if len(paths) < 2:
        raise InputError("give two runs or more", key="DIR", value=[str(p) for p in paths])
    file = None if out is None else Path(out)
    if file is not None and file.suffix not in (".html", ".md"):
        raise InputError("must end in .html or .md", key="--out", value=str(file))
    runs = [_compared(name, Path(path)) for name, path in zip(_names(paths), paths, strict=True)]
    console.print(table(runs))
    if file is None:
        return
    write_text(file, html(runs) if file.suffix == ".html" else markdown(runs))
    console.print(str(file), soft_wrap=True, markup=False)


def best(row: Row, runs: Sequence[Compared]) -> set[int]:
    """Which runs have the best value of a row; none where no value is better, or all are the same."""
    values = {i: value_at(run.metrics, row.key) for i, run in enumerate(runs)}
    numbers = {i: v for i, v in values.items() if isinstance(v, int | float)}
    if not row.better or len(set(numbers.values())) < 2:
        return set()
    top = max(numbers.values(), key=lambda v: row.better * v)
    return {i for i, v in numbers.items() if v == top}


def differences(runs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs: key, and each run's value as text."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    texts = {
        key: [json.dumps(run.settings[key]) if key in run.settings else "–" for run in runs]
        for key in keys
        if not key.startswith("case.")
    }
    return [(key, values) for key, values in texts.items() if len(set(values)) > 1]


def table(runs: Sequence[Compared]) -> Table:
    """The comparison for a terminal; the best of a row is bold."""
    out = Table(box=None, padding=(0, 2, 0, 0))
    out.add_column("")
    for run in runs:
        out.add_column(escape_markup(run.name), justify="right", overflow="fold")
    for group, rows in _groups(runs):
        out.add_row(f"[bold]{group}[/bold]")
        for label, cells in rows:
            out.add_row(f"  {label}", *(f"[bold]{text}[/bold]" if first else text for text, first in cells))
    different = differences(runs)
    if different:
        out.add_row("[bold]Settings that differ[/bold]")
    for key, values in different:
        out.add_row(f"  {key}", *(escape_markup(_short(v)) for v in values))
    return out


def markdown(runs: Sequence[Compared]) -> str:
    """The comparison in Markdown; the best of a row is bold."""
    heading = ["", *(run.name for run in runs)]
    parts = ["# Comparison\n"]
    for group, rows in _groups(runs):
        lines = [
            [label, *(f"**{text}**" if first else text for text, first in cells)] for label, cells in rows
        ]
        parts.append(f"## {group}\n\n" + markdown_table(heading, lines))
    different = [[f"`{key}`", *(f"`{_short(v)}`" for v in values)] for key, values in differences(runs)]
    if different:
        parts.append("## Settings that differ\n\n" + markdown_table(heading, different))
    return "\n".join(parts)


def html(runs: Sequence[Compared]) -> str:
    """The comparison as one page; the best of a row is coloured."""
    head = "<tr><th></th>" + "".join(f"<th>{escape(run.name)}</th>" for run in runs) + "</tr>"
    body = ["<h1>Comparison</h1>"]
    for group, rows in _groups(runs):
        lines = []
        for label, cells in rows:
            shown = "".join(f"<td{' class=best' * first}>{escape(text)}</td>" for text, first in cells)
            lines.append(f"<tr><td>{escape(label)}</td>{shown}</tr>")
        body.append(f"<h2>{escape(group)}</h2><div class='card'><table>{head}{''.join(lines)}</table></div>")
    different = differences(runs)
    if different:
        lines = [
            f"<tr><td>{escape(key)}</td>{''.join(f'<td>{escape(_short(v))}</td>' for v in values)}</tr>"
            for key, values in different
        ]
        body.append(
            "<h2>Settings that differ</h2>"
            f"<div class='card differs'><table>{head}{''.join(lines)}</table></div>"
        )
    return page("Comparison", body)


def _groups(runs: Sequence[Compared]) -> Iterator[tuple[str, list[tuple[str, list[tuple[str, bool]]]]]]:
    """Groups of rows: labels, and of each run the text and whether it is the best."""
    for group, rows in groups_of(rows_of(run.metrics for run in runs)).items():
        marked = []
        for row in rows:
            first = best(row, runs)
            marked.append((row.label, [(text_of(row, r.metrics), i in first) for i, r in enumerate(runs)]))
        yield group, marked


def _short(text: str, length: int = 120) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _names(paths: Sequence[str | Path]) -> list[str]:
    """Last parts of the paths, as many as tell them apart."""
    whole = [Path(path).absolute().parts for path in paths]
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    raise InputError("the same run is given twice", key="DIR", value=[str(p) for p in paths])


def _compared(name: str, path: Path) -> Compared:
    """A run, or an evaluation, which has figures only."""
    if not (path / record.NAME).is_file():
        return Compared(name, record.read_record(path / "metrics.json"), {})
    run = RunDirectory.open(path)
    return Compared(name, run.metrics, flat(run.settings))
