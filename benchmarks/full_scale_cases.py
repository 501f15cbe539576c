"""Cases before and after correction by their own lattices at full scale, as a table and a JSON file.

Every case runs with `[full_scale]` as said below (compliance is only measured: nothing is corrected there),
into a directory of its own; the same command goes on where it was stopped, and rows that are there are kept.

    python benchmarks/full_scale_cases.py --cases morph cloak_stl --runs runs/full_scale
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from micro.runtime.files import write_json
from multiscale.case.case import load_case
from multiscale.run.run import run_case
from multiscale.rundir import provenance

ROOT = Path(__file__).resolve().parents[1]
#: Voxels along a cell's edge, and rounds; small ones first.
CASES = {
    "morph": (16, 2),
    "cloak_stl": (16, 2),
    "cloak_sphere": (16, 2),
    "cloak_two_holes": (16, 2),
    "implant": (16, 2),
    "cantilever": (16, 0),
    "bracket": (16, 0),
}


def measured(name: str, runs: Path) -> dict[str, Any]:
    """One case's row."""
    voxels, rounds = CASES[name]
    file = ROOT / "cases" / f"{name}.toml"
    full_scale = {"full_scale.voxels_per_cell": voxels, "full_scale.rounds": rounds}
    metrics = run_case(file, runs / name, changes=full_scale)
    quantity, full = load_case(file).objective.purpose.quantity, metrics["full_scale"]
    other = f"{quantity}_void" if f"{quantity}_void" in full else f"{quantity}_uniform"
    return {
        "case": name,
        "quantity": quantity,
        "voxels_per_cell": voxels,
        "voxels": full["voxels"],
        "homogenised": metrics[quantity]["lattice"],
        "without": full.get(other),
        "first": full["rounds"][0]["value"],
        "best": full[quantity],
        "round": full["round"],
        "rounds": full["rounds"],
        "seconds": metrics["time"]["total"],
        "peak_bytes": metrics["memory"]["peak_bytes"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for a page."""
    lines = [
        "| case | voxels an edge | without | first lattice, predicted | at full scale | corrected, predicted "
        "| at full scale |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        first, best = row["rounds"][0], row["rounds"][row["round"]]
        values = [row["without"], first["predicted"], first["value"], best["predicted"], best["value"]]
        if len(row["rounds"]) == 1:
            values[3:] = [None, None]
        said = ["-" if v is None else f"{100 * v:.2f} %" if v < 1 else f"{v:.4g}" for v in values]
        lines.append(f"| `{row['case']}` | {row['voxels_per_cell']} | {' | '.join(said)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "full_scale")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "full_scale_cases.json")
    given = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if given.out.is_file():
        rows = {row["case"]: row for row in json.loads(given.out.read_text(encoding="utf-8"))["rows"]}
    for name in given.cases:
        if name not in rows:
            rows[name] = measured(name, given.runs)
        kept = [rows[case] for case in CASES if case in rows]
        write_json(
            given.out, {"rows": kept, "versions": provenance.versions(), "machine": provenance.machine()}
        )
    print(table([rows[case] for case in CASES if case in rows]))


if __name__ == "__main__":
    main()
