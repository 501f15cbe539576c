"""Where an optimisation stands, and the history it leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from micro.runtime.arrays import Floats

Record = dict[str, object]


@dataclass(frozen=True)
class State:
    """Where the optimisation stands.

    ``x`` (N, 3) are the variables the current stage starts from, ``best`` the tensors (N, 3) of the
    best feasible (projected) design so far and ``best_value`` its J.
    """

    x: Floats
    stage: int = 0
    evaluation: int = 0
    best: Floats | None = None
    best_value: float = float("inf")
    records: tuple[Record, ...] = field(default=())


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
