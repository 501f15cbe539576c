"""Validation findings as one line: where, why, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from micro.runtime.errors import InputError


def unknown_key(key: str, known: Iterable[str]) -> PydanticCustomError:
    """The finding 'unknown key', with the likeliest correction and what is allowed."""
    return PydanticCustomError("unknown_key", "{text}", {"text": _unknown("key", key, known), "key": key})


def unknown_name(kind: str, name: str, known: Iterable[str], key: str) -> PydanticCustomError:
    """The finding 'no such material / region', at the dotted ``key`` where it was named.

    Parameters
    ----------
    kind : str
        Of what is named: material, region.
    name : str
    known : iterable of str
        Names that there are; near ones are offered.
    key : str
    """
    text = _unknown(kind, name, known)
    return PydanticCustomError("unknown_name", "{text}", {"text": text, "key": key, "value": name})


def finding(key: str, reason: str, value: object = None) -> PydanticCustomError:
    """A finding at a dotted ``key`` below the table that is being validated."""
    return PydanticCustomError("finding", "{text}", {"text": reason, "key": key, "value": value})


def first_error(error: ValidationError, data: Any, file: str | Path | None) -> InputError:
    """One :class:`InputError` for a pydantic error: the first finding and how many more there are.

    Parameters
    ----------
    error : pydantic.ValidationError
    data : parsed TOML
        The input that was validated, to tell its keys from pydantic's own union tags.
    file : path or None
        Named in the message.
    """
    findings = _whole_lists(error.errors(include_url=False))
    detail = findings[0]
    context: Mapping[str, Any] = detail.get("ctx", {})
    parts = _keys_in(data, detail["loc"], missing=detail["type"] == "missing")
    if "key" in context:
        parts.append(str(context["key"]))
    reason = _reason(detail["type"], detail["msg"], context)
    if len(findings) > 1:
        reason += f" [and {len(findings) - 1} more to mend]"
    if detail["type"] in ("missing", "unknown_key", "union_tag_not_found"):
        value = None
    elif "key" in context or "value" in context:
        value = context.get("value")
    elif "tag" in context:
        value = context["tag"]
    else:
        value = detail["input"]
    return InputError(reason, file=file, key=_dotted(parts) or None, value=value)


def _whole_lists(findings: list[Any]) -> list[Any]:
    """The findings, those on single missing entries of a list as one on its length."""
    out: list[Any] = []
    for detail in findings:
        *parent, last = detail["loc"] or ("",)
        if detail["type"] != "missing" or not isinstance(last, int):
            out.append(detail)
            continue
        given = detail["input"]
        short = {**detail, "type": "too_short", "loc": tuple(parent), "input": given}
        short["msg"] = f"must be a list of {last + 1}, not of {len(given)}"
        if out and out[-1]["type"] == "too_short" and out[-1]["loc"] == tuple(parent):
            out[-1] = short
        else:
            out.append(short)
    return out


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"unknown {kind}{hint} Allowed: {', '.join(names) if names else 'none is defined'}"


def _reason(kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind == "missing":
        return "this key is required and missing"
    if kind == "union_tag_not_found":
        return "the key 'type' is required and missing"
    if kind == "union_tag_invalid":
        allowed = str(context["expected_tags"]).replace("'", "").split(", ")
        return _unknown("type", str(context["tag"]), allowed)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "must be a table of keys"
    if kind == "string_pattern_mismatch":
        return "must be a name: a letter, then letters, digits, - or _"
    text = message.removeprefix("Value error, ").replace(" after validation", "")
    for theirs, ours in (
        ("Input should", "must"),
        ("a valid tuple", "a list"),
        ("a valid integer", "a whole number"),
        ("a valid", "a"),
        ("Tuple should", "the list must"),
        ("String should", "must"),
    ):
        text = text.replace(theirs, ours)
    return text


def _keys_in(data: Any, location: tuple[int | str, ...], missing: bool) -> list[int | str]:
    """The path without the union tags pydantic puts into it.

    A tag is a name that is no key of ``data``, unless it is the last and a missing key is the finding.
    """
    parts: list[int | str] = []
    here = data
    for place, part in enumerate(location):
        if isinstance(here, dict):
            last = place == len(location) - 1
            if part not in here and not (last and missing):
                continue
            here = here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            here = here[part]
        elif isinstance(part, str) and parts:
            continue
        parts.append(part)
    return parts


def _dotted(parts: list[int | str]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else ("." if text else "") + part
    return text
