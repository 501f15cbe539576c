"""How a training went: losses, and the real figures (generated, homogenised) over the time spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from micro.runtime.files import PathLike, atomic_path

_TRAINING, _VALIDATION = "#3b75af", "#c43d2f"


def save_training(history: PathLike, path: PathLike) -> None:
    """Draw a ``history.jsonl`` of :mod:`micro.training.pipeline` as a PNG of three panels.

    Parameters
    ----------
    history : path
        Lines of the phases ``surrogate``, ``denoiser`` and ``check``; others are left out. Trainings that
        started from one another's weights may follow each other: their times add up.
    path : path
        PNG file to write.
    """
    text = Path(history).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for ax, phase, label in (
        (left, "surrogate", "tensor error and slopes"),
        (middle, "denoiser", "weighted square error"),
    ):
        _losses(ax, [line for line in lines if line["phase"] == phase], phase, label)
    _checks(right, lines)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _losses(ax: Axes, lines: list[dict[str, Any]], title: str, label: str) -> None:
    minutes = _minutes(lines)
    ax.plot(minutes, [line["loss"] for line in lines], color=_TRAINING, label="training")
    ax.plot(minutes, [line["validation"] for line in lines], color=_VALIDATION, label="validation")
    ax.set(title=title, xlabel="minutes", ylabel=label)
    if lines:
        ax.set_yscale("log")
        ax.legend(frameon=False)


def _minutes(lines: list[dict[str, Any]]) -> list[float]:
    """Minutes spent at each line; where the clock goes back, another training begins."""
    before, last, out = 0.0, 0.0, []
    for line in lines:
        if line["seconds"] < last:
            before += last
        last = line["seconds"]
        out.append((before + last) / 60)
    return out


def _checks(ax: Axes, lines: list[dict[str, Any]]) -> None:
    """Errors and unclean samples, in percent, against the denoiser's time at each check."""
    trained = iter(_minutes([line for line in lines if line["phase"] == "denoiser"]))
    now, at, found = 0.0, [], []
    for line in lines:
        if line["phase"] == "denoiser":
            now = next(trained)
        elif line["phase"] == "check":
            at.append(now)
            found.append(line)
    for name, style in (("bare", "o--"), ("used", "o-")):
        error = [100 * (line[name]["error_mean"] or np.nan) for line in found]
        loose = [100 * (1 - line[name]["clean"]) for line in found]
        ax.plot(at, error, style, color=_TRAINING, ms=3, label=f"tensor error, {name}")
        ax.plot(at, loose, style, color=_VALIDATION, ms=3, label=f"over 1 % loose solid, {name}")
    ax.set(title="generated cells", xlabel="minutes of the denoiser", ylabel="%")
    ax.set_ylim(bottom=0)
    if found:
        handles, labels = ax.get_legend_handles_labels()
        ax.figure.legend(handles, labels, loc="outside lower right", ncols=4, frameon=False, fontsize=7)
