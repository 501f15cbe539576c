"""What the pages say of the flagship is what its last run gave (`benchmarks/flagship.py`)."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN = json.loads((ROOT / "benchmarks" / "results" / "cloak.json").read_text(encoding="utf-8"))


def percent(value, digits):
    return f"{100 * value:.{digits}f} %"


def quoted():
    """Pages, and the figures that must stand in them as they are written there."""
    d, cells, joints, full = RUN["distortion"], RUN["cells"], RUN["interfaces"], RUN["verify"]
    void, design, lattice = percent(d["void"], 1), percent(d["design"], 2), percent(d["lattice"], 2)
    groups = f"{cells['groups_generated']} groups"
    at_full = [percent(full[key], 1) for key in ("distortion", "distortion_void", "distortion_homogenised")]
    yield "README.md", f"| hole, no cloak | {void} |"
    yield "README.md", f"| designed tensor field | {design} |"
    yield "README.md", f"| the same on a mesh twice as fine | {percent(d['design_refined'], 2)} |"
    yield "README.md", f"| lattice, with every cell's own homogenised tensor | {lattice} |"
    yield "README.md", percent(joints["mean_overlap"], 1)
    yield "README.md", f"{cells['enclosing_void_elements']} cells enclose void"
    yield "README.md", f"{percent(cells['tensor_error_mean'], 2)} on average"
    yield "README.md", f"({percent(cells['tensor_error_design_mean'], 2)} in the cloak)"
    yield "README.md", f"| 8: 8.2 million in a quarter of the block | {' | '.join(at_full)} |"
    yield "docs/gallery.md", f"shear | distortion {void} | {design} | {lattice} |"
    yield (
        "docs/method.md",
        f"taken for {groups} | {percent(joints['mean_overlap'], 1)} | "
        f"{percent(joints['mean_overlap_unlike'], 1)} | {percent(joints['min_overlap'], 1)} | "
        f"{joints['unconnected']} | {percent(cells['tensor_error_design_mean'], 2)} | {d['lattice']:.4f} |",
    )
    yield "docs/choosing.md", f"took them for {cells['groups_generated']} of its {cells['groups']:,} groups"
    yield (
        "docs/choosing.md",
        f"the flagship has {at_full[0]} of distortion, where its cells' tensors foretell {at_full[2]}",
    )


@pytest.mark.parametrize(("page", "text"), list(quoted()))
def test_pages_quote_the_last_run(page, text):
    assert text in (ROOT / page).read_text(encoding="utf-8")


def test_the_last_run_is_what_was_asked_for():
    assert RUN["distortion"]["lattice"] <= 0.02
    assert RUN["feasibility"]["violations"] == 0
    assert RUN["cells"]["disconnected"] == RUN["interfaces"]["unconnected"] == 0
    assert RUN["lattice"]["components"] == 1
