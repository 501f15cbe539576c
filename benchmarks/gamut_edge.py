"""Is the gamut's edge real? Topology optimisation toward tensors beyond it, against phi of where it ends.

Where a free optimisation, which knows nothing of the data set, gets no further than phi = 0, the edge is that
of cells with cubic symmetry at this resolution, not of the data. Targets: the box C11 0.50 .. 0.77, C12 0.10
.. 0.26, C44 0.15 .. 0.24, and cells soft in bulk and stiff in shear, which cloaks ask for.

    python benchmarks/gamut_edge.py --out benchmarks/results/gamut_edge.json     # 5 minutes of one thread
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from micro.errors import NotConverged
from micro.files import write_json
from micro.gamut import load_gamut
from micro.inverse import Goal, Settings, optimise
from micro.tensor import from_scaled_moduli, scaled_moduli, tensor_error

BOX = ((0.77, 0.10, 0.15), (0.77, 0.10, 0.24), (0.68, 0.13, 0.20), (0.50, 0.10, 0.24), (0.60, 0.14, 0.22))
SOFT = ((0.01, 0.01, 0.10), (0.04, 0.02, 0.18), (0.10, 0.05, 0.28))
"""Scaled moduli K/K_s, mu'/G_s, G/G_s."""

STARTS = ("schwarz-p", "i-wp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=32, help="resolution of the octants")
    parser.add_argument("--effort", type=float, default=0.6, help="share of the usual evaluations")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gamut_edge.json"))
    options = parser.parse_args()
    gamut, rows = load_gamut("dataset"), []
    soft = [tuple(C) for C in from_scaled_moduli(SOFT).tolist()]
    for target, volume in [*((C, 0.7) for C in BOX), *((C, 0.3) for C in soft)]:
        for start in STARTS:
            goal = Goal("match", volume, target=target)
            try:
                C = optimise(Settings(goal, n=options.n, start=start, effort=options.effort)).C
            except NotConverged:
                rows.append({"target": target, "start": start, "found": None})
                continue
            row = {
                "target": target,
                "target_scaled": scaled_moduli(target).round(3).tolist(),
                "target_phi": float(gamut.phi(target)),
                "start": start,
                "found": C.tolist(),
                "found_scaled": scaled_moduli(C).round(3).tolist(),
                "found_phi": float(gamut.phi(C)),
                "error": float(tensor_error(C, np.array(target))),
            }
            print(row, flush=True)
            rows.append(row)
    write_json(options.out, {"n": options.n, "effort": options.effort, "runs": rows})


if __name__ == "__main__":
    main()
