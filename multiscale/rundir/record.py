"""``run.json``: what was asked for, which stages are done, what they read and left, what was added.

========================  =====================================================
format                    of this file
case, sources             the resolved case; digests of the files that it names
case_file, changes        where it was read from, and what was said instead of it, by key
toml                      digest of ``case.toml`` as the run wrote it
case_sha256, seeds
design_sha256             digest of what the design depends on
stages                    by name: ``inputs`` (digest of what the case asks of it), ``reads`` and ``files``
                          (digests by name), ``metrics``, ``seconds``, versions, machine, ranks, memory
added                     by name, of other commands: ``reads``, ``files``, ``metrics``
sha256                    digest of all the rest
========================  =====================================================

A stage or an addition *stands* while what it read is still what the record has: a stage that is done again
and leaves the same file leaves what depends on it standing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from micro.runtime.errors import InputError
from micro.runtime.files import write_json

FORMAT = 2
NAME = "run.json"
STAGES = ("design", "fill", "full_scale", "evaluate", "export")

Entry = dict[str, Any]
"""A stage or an addition, as the record has it."""


def read_record(path: Path) -> dict[str, Any]:
    """One of a run's JSON files, such as ``metrics.json``.

    Raises
    ------
    InputError
        If it is missing, can't be read, or holds no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"is not the directory of a run: it has no {path.name}", file=path.parent) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"can't be read ({error})", file=path) from None
    if not isinstance(data, dict):
        raise InputError("is not a run's record", file=path)
    return data


def read_run(directory: Path) -> dict[str, Any]:
    """The record of a run.

    Raises
    ------
    InputError
        If there is none, it is damaged, or of another version of this program.
    """
    file = directory / NAME
    data = read_record(file)
    if not isinstance(data.get("stages"), dict):
        raise InputError("is not a run's record; use another directory", file=file)
    if data.get("format") != FORMAT:
        reason = f"is the record of a run by another version (format {FORMAT} is read); use another directory"
        raise InputError(reason, file=file, value=data.get("format"))
    if data.get("sha256") != _digest(data):
        raise InputError("is damaged (its digest does not match); use another directory", file=file)
    return data


def write_run(directory: Path, data: Mapping[str, Any]) -> None:
    """Write the record of a run, with its digest."""
    plain = json.loads(json.dumps(data, default=lambda scalar: scalar.tolist()))  # numpy's
    write_json(directory / NAME, plain | {"sha256": _digest(plain)})


def entries(data: Mapping[str, Any]) -> dict[str, Entry]:
    """Stages and additions by name."""
    return {**data["stages"], **data["added"]}


def maker_of(data: Mapping[str, Any], file: str) -> str | None:
    """Name of the stage or addition that left a file, if there is one."""
    return next((name for name, entry in entries(data).items() if file in entry["files"]), None)


def stands(data: Mapping[str, Any], name: str) -> bool:
    """Whether a stage or addition was made from what the record has now."""
    known = entries(data)
    if name not in known:
        return False
    for file, digest in known[name]["reads"].items():
        maker = maker_of(data, file)
        if maker is None or known[maker]["files"][file] != digest or not stands(data, maker):
            return False
    return True


def added_sections(data: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of the additions that stand, by name.

    Of several variants (``verify/8``, ``verify/16``) the section is that of the largest number among the
    trusted ones, or among all if none is; its ``at`` has a few figures of each.
    """
    out: dict[str, Any] = {}
    variants: dict[str, list[tuple[bool, int, Entry]]] = {}
    for name, entry in data["added"].items():
        if not stands(data, name):
            continue
        kind, _, number = name.partition("/")
        if number:
            trusted = bool(entry["metrics"].get("trusted", True))
            variants.setdefault(kind, []).append((trusted, int(number), entry["metrics"]))
        else:
            out[name] = entry["metrics"]
    for kind, found in variants.items():
        found.sort(key=lambda item: item[:2])
        out[kind] = found[-1][2] | {"at": {k: v for item in found for k, v in item[2].get("at", {}).items()}}
    return out


def value_at(metrics: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    here: Any = metrics
    for part in key.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return None
        here = here[part]
    return here


def merged(stages: list[Entry]) -> dict[str, Any]:
    """The metrics of stages, with their times and memory; provenance is that of the last one."""
    out: dict[str, Any] = {}
    times: dict[str, float] = {}
    for stage in stages:
        _merge(out, stage["metrics"])
        for name, value in stage["seconds"].items():
            times[name] = round(times.get(name, 0.0) + value, 3)
    out["time"] = {**times, "total": round(sum(times.values()), 3)}
    out["memory"] = {"peak_bytes": max((s["peak_bytes"] for s in stages), default=0)}
    return out | {key: stages[-1][key] for key in ("versions", "machine", "ranks") if stages}


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Recursive update."""
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _digest(data: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in data.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
