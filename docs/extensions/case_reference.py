"""The reference of case files, as Markdown, from their JSON schema.

A section for every table of the file, with a row for every key: its type, what is allowed, its default and
its description. Nothing is written by hand here, so nothing can be missing or out of date.
"""

from __future__ import annotations

import json
import re
from typing import Any

Schema = dict[str, Any]

HEAD = """# Every key of a case file

Made from the schema that checks case files, so it is complete; [case-format.md](case-format.md) explains the
same in the order in which one writes a case. *Required* keys have no default, *optional* ones need not
be given. A *name* is a letter followed by letters, digits, `_` and `-`, 60 characters at most.
"""

SHAPES = """## Shapes

What selects elements or nodes; `type` says which one it is. Lengths are in elements.
"""

_COLUMNS = ["| key | type | allowed | default | meaning |", "|---|---|---|---|---|"]
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
_TYPES = {"number": "number", "integer": "whole number", "string": "text", "boolean": "true or false"}
_PLURALS = {"number": "numbers", "whole number": "whole numbers", "text": "texts", "name": "names"}
_FARTHEST = 1e6  # positions this far out are refused only so that they can't overflow: not worth a word


def page(schema: Schema) -> str:
    """The whole page.

    Parameters
    ----------
    schema : dict
        JSON schema of the case file (:func:`multiscale.case.case.case_schema`).
    """
    definitions = schema["$defs"]
    parts, done = [HEAD], []
    for key, value in schema["properties"].items():
        name, heading = _section(key, value)
        done.append(name)
        needed = "*Required.*" if key in schema["required"] else "*May be left out.*"
        parts.append(f"## {heading}\n\n{needed} {_text(value.get('description', ''))}\n")
        parts.append(_table(definitions[name]))
    shapes = [name for name, table in definitions.items() if "const" in table["properties"].get("type", {})]
    parts.append("## Tables within tables\n")
    parts += [_titled(name, definitions) for name in definitions if name not in done + shapes]
    parts.append(SHAPES)
    parts += [_titled(name, definitions) for name in shapes]
    return "\n".join(parts)


def _section(key: str, value: Schema) -> tuple[str, str]:
    """Name of the table that a top-level key holds, and its heading in TOML's spelling."""
    if "patternProperties" in value:
        (table,) = value["patternProperties"].values()
        return _named(table), f"`[{key}.NAME]`"
    if "items" in value:
        return _named(value["items"]), f"`[[{key}]]`"
    return _named(value), f"`[{key}]`"


def _named(value: Schema) -> str:
    choices = [value, *value.get("anyOf", [])]  # a table that may be left out is a choice with null
    return next(str(v["$ref"]).removeprefix("#/$defs/") for v in choices if "$ref" in v)


def _titled(name: str, definitions: Schema) -> str:
    return f"### {name}\n\n{_table(definitions[name])}"


def _table(table: Schema) -> str:
    required = table.get("required", ())
    lines = [_text(table.get("description", "")), "", *_COLUMNS]
    for key, value in table["properties"].items():
        kind, allowed = _kind(value)
        default = "*required*" if key in required else _default(value.get("default"))
        meaning = "Which shape it is." if "const" in value else _text(value.get("description", ""))
        lines.append(f"| `{key}` | {kind} | {allowed} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _kind(value: Schema) -> tuple[str, str]:
    """Type and allowed range, in words."""
    if "$ref" in value:
        return f"[{_named(value)}](#{_named(value).lower()})", ""
    if "oneOf" in value:  # the shapes, told apart by their type
        return "[shape](#shapes)", ""
    if "anyOf" in value:
        kinds = [_kind(choice) for choice in value["anyOf"] if choice.get("type") != "null"]
        return _joined([kind for kind, _ in kinds]), _joined([allowed for _, allowed in kinds])
    if "const" in value:
        return "text", f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return "text", ", ".join(f"`{json.dumps(choice)}`" for choice in value["enum"])
    if value["type"] == "array":
        return _list(value)
    return "name" if "pattern" in value else _TYPES[value["type"]], _range(value)


def _list(value: Schema) -> tuple[str, str]:
    items = value.get("prefixItems")
    inner = items[0] if items else value["items"]
    kind, allowed = _kind(inner)
    kind = _PLURALS.get(kind, kind)
    return f"{len(items)} × {kind}" if items else f"list of {kind}", allowed


def _range(value: Schema) -> str:
    bounds = [
        text.format(f"{value[key]:g}")
        for key, text in _BOUNDS.items()
        if key in value and abs(value[key]) < _FARTHEST
    ]
    return ", ".join(bounds)


def _joined(words: list[str]) -> str:
    return " or ".join(dict.fromkeys(word for word in words if word))


def _default(value: Any) -> str:
    return "*optional*" if value in (None, []) else f"`{json.dumps(value)}`"


def _text(text: str) -> str:
    """Plain text for a cell of a Markdown table; code between backticks stays as it is."""
    pieces = re.split(r"(`+[^`]*`+)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else re.sub(r"([|*<])", r"\\\1", p) for p in pieces)
