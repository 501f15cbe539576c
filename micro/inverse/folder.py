"""The directory of a run: its settings, its state between stages, its result."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from micro.inverse.optimiser import Settings, State
from micro.runtime.errors import InputError
from micro.runtime.files import claim
from micro.runtime.npz import read_arrays, write_arrays


def description(settings: Settings) -> dict[str, Any]:
    """The settings as JSON holds them; a given initial octant by its digest."""
    from hashlib import sha256

    plain = asdict(replace(settings, start=""))
    plain["nu"] = plain["goal"].pop("nu")
    if isinstance(settings.start, str):
        plain["start"] = settings.start
    else:
        plain["start"] = sha256(np.ascontiguousarray(settings.start).tobytes()).hexdigest()
    return json.loads(json.dumps(plain))


def open_folder(folder: Path, settings: Settings) -> State | None:
    """The state that an earlier run with the same settings left in ``folder``, None in a new folder.

    Raises
    ------
    InputError
        If the folder holds a run with other settings, or a damaged state.
    """
    claim(folder, description(settings), "micro optimize")
    return load_state(folder / "state.npz") if (folder / "state.npz").exists() else None


def save_state(path: Path, state: State) -> None:
    """Write what a run needs to go on (kept cells are left out)."""
    numbers = np.array([state.done, state.n, state.solves])
    history = np.array(state.history, dtype=np.float64).reshape(-1, 4)
    write_arrays(path, {"x": state.x, "numbers": numbers, "history": history}, pack=False)


def load_state(path: Path) -> State:
    """Read what :func:`save_state` wrote.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    try:
        data = read_arrays(path, ("x", "numbers", "history"))
        done, n, solves = (int(v) for v in data["numbers"])
        history = tuple((int(a), float(b), float(c), float(d)) for a, b, c, d in data["history"])
    except (InputError, ValueError) as error:
        raise InputError(f"not a readable state: {error}; remove it to start anew", file=path) from None
    return State(done, data["x"], n, solves, history)
