"""What composite voxels are worth: a slab small enough to be solved at its cells' own 64 voxels an edge.

`cases/cloak_slab.toml` on 12 x 12 x 2 cells, its circles scaled along, filled once, then solved by
`multiscale verify` at 4, 8, 16, 32 and 64 voxels along a cell's edge, the last as the cells are. Says each
distortion, by how much its displacements (lattice less reference, over the reference's, around the hole) and
the reference's are off those of the last, and what every two resolutions extrapolate to. Seven minutes, 3 GB;
resolutions that the run has are kept.

    python benchmarks/coarse_voxels.py --run runs/slab_small
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from micro.runtime.arrays import Floats
from micro.runtime.files import write_json
from micro.runtime.npz import read_arrays
from micro.runtime.progress import Reporter
from multiscale.run.run import run_case
from multiscale.rundir import provenance
from multiscale.rundir.directory import RunDirectory
from multiscale.verify.extrapolation import share
from multiscale.verify.full_scale import verify

ROOT = Path(__file__).resolve().parents[1]
VOXELS = (4, 8, 16, 32, 64)
#: Cells of the small slab along x and y, and of the case's.
CELLS, WHOLE = 12, 40


def small_case() -> str:
    """The case file's text on fewer cells."""
    text = (ROOT / "cases" / "cloak_slab.toml").read_text(encoding="utf-8")
    text = text.replace(f"[{WHOLE}, {WHOLE}, 2]", f"[{CELLS}, {CELLS}, 2]")
    text = text.replace(f"[{WHOLE // 2}, {WHOLE // 2}]", f"[{CELLS // 2}, {CELLS // 2}]")
    return re.sub(r"radius = ([\d.]+)", lambda m: f"radius = {CELLS / WHOLE * float(m[1]):.6f}", text)


def around(run: RunDirectory, voxels: int) -> tuple[Floats, Floats]:
    """Displacements at observed corners: the lattice's less the reference's, and the reference's."""
    load, seen = run.problem.loads[0].name, run.problem.observed_nodes
    arrays = read_arrays(run.file(f"verify_{voxels}.npz"))
    reference = arrays[f"{load}.reference"][seen].astype(np.float64)
    return arrays[f"{load}.lattice"][seen] - reference, reference


def main() -> None:
    """Run, verify, compare, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "slab_small")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "coarse_voxels.json")
    given = parser.parse_args()
    case = given.run.with_suffix(".toml")
    case.parent.mkdir(parents=True, exist_ok=True)
    case.write_text(small_case(), encoding="utf-8")
    run_case(
        case, given.run, Reporter(), changes={"full_scale.voxels_per_cell": None, "full_scale.rounds": 0}
    )
    rows = []
    for voxels in VOXELS:
        run = RunDirectory.open(given.run)
        if f"verify_{voxels}.npz" not in run.names:
            verify(given.run, voxels_per_cell=voxels, reporter=Reporter())
            run = RunDirectory.open(given.run)
        at = run.metrics["verify"]["at"].get(str(voxels), {})
        off, reference = around(run, voxels)
        rows.append(
            {"voxels": voxels, **at, "distance": off / np.linalg.norm(reference), "reference": reference}
        )
    own = rows[-1]
    for row, before in zip(rows, [None, *rows], strict=False):
        row["reference_off"] = float(
            np.linalg.norm(row["reference"] - own["reference"]) / np.linalg.norm(own["reference"])
        )
        row["off"] = float(np.linalg.norm(row["distance"] - own["distance"]))
        if before is not None and row is not own:
            step = row["distance"] - before["distance"]
            beyond = row["distance"] + share(row["voxels"], VOXELS[-1]) * step
            row["extrapolated"] = float(np.linalg.norm(beyond))
            row["extrapolated_off"] = float(np.linalg.norm(beyond - own["distance"]))
    kept = [{k: v for k, v in row.items() if not isinstance(v, np.ndarray)} for row in rows]
    write_json(given.out, {"rows": kept, "versions": provenance.versions(), "machine": provenance.machine()})
    for row in kept:
        numbers = [
            row.get(k) for k in ("distortion", "off", "reference_off", "extrapolated", "extrapolated_off")
        ]
        said = ["" if v is None else f"{100 * v:.2f} %" for v in numbers]
        print(f"| {row['voxels']} | {' | '.join(said)} |")


if __name__ == "__main__":
    main()
