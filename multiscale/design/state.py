"""Where an optimisation stands, on disk and in memory, and the history it leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.files import atomic_path

Record = dict[str, object]


@dataclass(frozen=True)
class State:
    """Where the optimisation stands; all that a restart needs.

    ``x`` (N, 3) are the variables the current stage (re)starts from, ``best`` the tensors (N, 3) of the
    best feasible (projected) design so far and ``best_value`` its J.
    """

    x: Floats
    stage: int = 0
    evaluation: int = 0
    best: Floats | None = None
    best_value: float = float("inf")
    records: tuple[Record, ...] = field(default=())

    def save(self, path: Path) -> None:
        """Write the arrays and counters (npz without pickles); the records go to history.jsonl."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                x=self.x,
                best=np.empty((0, 3)) if self.best is None else self.best,
                best_value=self.best_value,
                counters=np.array([self.stage, self.evaluation, len(self.records)]),
            )

    @classmethod
    def load(cls, path: Path, history: Path, size: int) -> State:
        """Read a saved state; raises InputError when it does not fit this problem."""
        try:
            with np.load(path, allow_pickle=False) as data:
                x, best = data["x"], data["best"]
                stage, evaluation, count = (int(v) for v in data["counters"])
                value = float(data["best_value"])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"not a readable optimiser state ({error}); delete it to start anew", file=path
            ) from None
        if x.shape != (size, 3):
            raise InputError(
                f"holds {len(x)} design elements, this case has {size}; use another --out", file=path
            )
        records = read_history(history)[:count]
        return cls(x, stage, evaluation, best if len(best) else None, value, tuple(records))


def read_history(path: Path) -> list[Record]:
    """The records of a history.jsonl; a line cut short by a kill ends the list."""
    records: list[Record] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records
