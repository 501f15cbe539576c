"""Keep the figures of a finished flagship run, and write them into the pages that quote them.

make cloak && .venv/bin/python benchmarks/flagship.py runs/cloak

The pages' old figures are those of the results file as it was; each sentence that quotes them is rewritten
with the new ones. A page that does not hold its sentence is named, and left as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from micro.runtime.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cloak.json"
KEPT = (
    "distortion",
    "feasibility",
    "optimizer",
    "fine_mesh",
    "cells",
    "interfaces",
    "lattice",
    "selection",
    "verify",
    "full_scale",
    "time",
    "memory",
    "versions",
    "machine",
    "case_sha256",
)


def percent(value: float, digits: int) -> str:
    """A fraction as the pages write it."""
    return f"{100 * value:.{digits}f} %"


def quotes(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Pages, and what stands in them as it is written there, of a run's figures."""
    d, cells, joints, full = run["distortion"], run["cells"], run["interfaces"], run["full_scale"]
    first, last = full["rounds"][0], full["rounds"][full["round"]]
    built, void = percent(full["distortion"], 2), percent(full["distortion_void"], 1)
    time, memory = f"{run['time']['total']:.0f} s", f"{run['memory']['peak_bytes'] / 1e9:.1f} GB"
    predicted = [percent(r["predicted"], 2) for r in (first, last)]
    yield "README.md", f"| **lattice as built** | **{built}** |"
    yield "README.md", f"| the first lattice, before its correction | {percent(first['value'], 2)} |"
    yield "README.md", f"| hole, no cloak, at full scale | {void} |"
    yield "README.md", f"| hole, no cloak | {percent(d['void'], 1)} |"
    yield "README.md", f"| designed tensor field | {percent(d['design'], 2)} |"
    yield "README.md", f"| the same on a mesh twice as fine | {percent(d['design_refined'], 2)} |"
    yield "README.md", f"| lattice, with every cell's own homogenised tensor | {percent(d['lattice'], 2)} |"
    yield "README.md", f"{percent(joints['mean_overlap'], 1)} on average"
    yield "README.md", f"{cells['enclosing_void_elements']} cells enclose void"
    yield "README.md", f"{percent(cells['tensor_error_mean'], 2)} on average"
    yield "README.md", f"({percent(cells['tensor_error_design_mean'], 2)} in the cloak)"
    yield "README.md", f"by {percent(cells['relative_error_mean'], 1)}"
    yield (
        "README.md",
        f"({percent(cells['relative_error_design_mean'], 1)} in the cloak, "
        f"{percent(cells['relative_error_design_max'], 0)} at most)",
    )
    yield "README.md", f"The run takes {time} and {memory}"
    yield "docs/full-scale.md", f"| predicted by the model it was designed with | {' | '.join(predicted)} |"
    yield "docs/full-scale.md", f"| **at full scale** | **{percent(first['value'], 2)}** | **{built}** |"
    yield "docs/full-scale.md", f"The flagship's run takes {time} on two idle cores, and {memory}"
    yield (
        "docs/gallery.md",
        f"hole, 40³, shear | distortion {percent(d['void'], 1)} ({void} voxel by voxel) | "
        f"{percent(d['design'], 2)} | {percent(d['lattice'], 2)} | {built} at 8 |",
    )
    yield (
        "docs/choosing.md",
        f"unlike ones overlap by {percent(joints['mean_overlap_unlike'], 1)} (97.9 with both), "
        f"{percent(joints['min_overlap'], 0)} at least",
    )


def update(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Write the new figures into the pages; returns the sentences that were not found."""
    lost = []
    for (page, before), (_, after) in zip(quotes(old), quotes(new), strict=True):
        file = ROOT / page
        text = file.read_text(encoding="utf-8")
        if before not in text:
            lost.append(f"{page}: {before}")
        file.write_text(text.replace(before, after, 1), encoding="utf-8")
    return lost


def main() -> None:
    """Keep, and quote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory")
    options = parser.parse_args()
    metrics = json.loads((options.run / "metrics.json").read_text(encoding="utf-8"))
    new = {key: metrics[key] for key in KEPT if key in metrics}
    lost = update(json.loads(RESULTS.read_text(encoding="utf-8")), new)
    write_json(RESULTS, new)
    print("\n".join(["not found:", *lost] if lost else ["all pages quote this run"]))


if __name__ == "__main__":
    main()
