"""Writing TOML. (Reading is the standard library's ``tomllib``.)"""

from __future__ import annotations

import json
from typing import Any


def toml_text(document: dict[str, Any]) -> str:
    """TOML of nested tables, arrays, strings, numbers and booleans (no dates, no None)."""
    lines: list[str] = []
    for name, value in document.items():
        tables = value if isinstance(value, list) else [value]
        for table in tables:
            if isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
                lines += [f"[{name}.{key}]\n" + _pairs(item) for key, item in value.items()]
            else:
                lines.append((f"[[{name}]]\n" if isinstance(value, list) else f"[{name}]\n") + _pairs(table))
    return "\n".join(lines)


def _pairs(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in table.items())


def toml_value(value: Any) -> str:
    """One value in a line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    # JSON's strings, numbers and booleans are TOML's too, but TOML knows no surrogate escapes (so UTF-8 is
    # kept) and wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
