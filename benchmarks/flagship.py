"""Keep the figures of a finished flagship run, which the pages quote.

make cloak && .venv/bin/multiscale verify runs/cloak
python benchmarks/flagship.py runs/cloak --out benchmarks/results/cloak.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from micro.runtime.files import write_json

KEPT = (
    "distortion",
    "feasibility",
    "optimizer",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cloak.json"))
    options = parser.parse_args()
    metrics = json.loads((options.run / "metrics.json").read_text(encoding="utf-8"))
    write_json(options.out, {key: metrics[key] for key in KEPT if key in metrics})


if __name__ == "__main__":
    main()
