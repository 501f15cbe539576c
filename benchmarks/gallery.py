"""The gallery's cases filled from the generator and from the data set, each design with both, as a table.

Cases with a mass limit (cantilever, bracket) take their cells from a set, and are left out.
Every case is designed once, without corrections by full scale; its lattices are solved voxel by voxel, with
8 along a cell's edge. The same command goes on where it was stopped, and rows that are there are kept.

    python benchmarks/gallery.py --cases morph cloak_stl --runs runs/gallery
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from micro.runtime.files import write_json
from micro.runtime.progress import Reporter
from multiscale.case.case import load_case
from multiscale.run.run import run_case

ROOT = Path(__file__).resolve().parents[1]
#: Small ones first.
CASES = (
    "cloak_small",
    "morph",
    "cloak_stl",
    "implant",
    "cloak_sphere",
    "cloak_any_load_sphere",
    "cloak_two_holes",
    "cloak_slab",
    "cloak",
    "cloak_three_loads",
    "cloak_any_load",
)
SOURCES = ("generator", "dataset")
VOXELS = 8


def measured(name: str, source: str, runs: Path) -> dict[str, Any]:
    """One case's figures with cells from one source."""
    file = ROOT / "cases" / f"{name}.toml"
    changes = {"fill.source": source, "full_scale.voxels_per_cell": VOXELS, "full_scale.rounds": 0}
    metrics = run_case(file, runs / name, Reporter(), changes=changes)
    quantity = load_case(file).objective.purpose.quantity
    values, cells, joints = metrics[quantity], metrics["cells"], metrics["interfaces"]
    return {
        "quantity": quantity,
        "designed": values["design"],
        "as_built": values["lattice"],
        "full_scale": metrics["full_scale"][quantity],
        "generated": cells.get("groups_generated", 0) / cells["groups"],
        "tensor_error_mean": cells["tensor_error_design_mean"],
        "relative_error_mean": cells["relative_error_design_mean"],
        "relative_error_max": cells["relative_error_design_max"],
        "overlap_unlike": joints["mean_overlap_unlike"],
        "overlap_least": joints["min_overlap"],
        "unconnected": joints["unconnected"],
        "enclosing_void_elements": cells["enclosing_void_elements"],
        "unique": cells["unique"],
        "versions": metrics["versions"],
        "case_sha256": metrics["case_sha256"],
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows for a page."""
    lines = [
        f"| case | designed | as built: generator, data set | at full scale, {VOXELS} voxels an edge "
        "| relative error of the cells, mean (largest) | overlap of unlike cells |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        both = [row[source] for source in SOURCES]

        def said(key: str, form: str, both: list[dict[str, Any]] = both) -> str:
            return ", ".join("-" if one[key] is None else format(one[key], form) for one in both)

        value = ".4g" if both[0]["quantity"] == "compliance" else ".2%"
        errors = (f"{one['relative_error_mean']:.1%} ({one['relative_error_max']:.0%})" for one in both)
        lines.append(
            f"| `{name}` | {both[0]['designed']:{value}} | {said('as_built', value)} "
            f"| {said('full_scale', value)} | {', '.join(errors)} | {said('overlap_unlike', '.1%')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "gallery")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gallery.json")
    given = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if given.out.is_file():
        rows = json.loads(given.out.read_text(encoding="utf-8"))["rows"]
    for name in given.cases:
        if name not in rows:
            rows[name] = {source: measured(name, source, given.runs) for source in SOURCES}
        kept = {case: rows[case] for case in CASES if case in rows}
        write_json(given.out, {"rows": kept})
    print(table({case: rows[case] for case in CASES if case in rows}))


if __name__ == "__main__":
    main()
