"""Where two cases differ, key by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Differences that are named in one line.
_NAMED = 4


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; those in a list are numbered, ``regions[1].shape.radius``."""
    out: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value):
            for i, table in enumerate(value):
                out |= flat(table, f"{prefix}{key}[{i}].")
        else:
            out[prefix + key] = value
    return out


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two cases differ, with both values; name and description do not count."""
    a, b = flat(one), flat(other)
    return {
        key: (a.get(key), b.get(key))
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key) and not key.startswith("case.")
    }


def described(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences in one line: ``fill.tolerance: 0.02 -> 0.05, ...``."""
    named = [f"{key}: {_short(a)} -> {_short(b)}" for key, (a, b) in list(found.items())[:_NAMED]]
    if len(found) > _NAMED:
        named.append(f"{len(found) - _NAMED} more")
    return ", ".join(named)


def _short(value: Any, length: int = 60) -> str:
    text = "unset" if value is None else json.dumps(value)
    return text if len(text) <= length else text[: length - 3] + "..."
