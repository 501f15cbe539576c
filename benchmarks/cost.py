"""Fits the model of cost: ``python benchmarks/cost.py`` (``--write`` keeps the constants).

The measurements stand in ``multiscale/data/cost.json`` beside the constants. Each is one line of what was
measured and what the model says of it; ``python benchmarks/ranks.py`` makes more of them. Constants are
least-squares fits of relative errors: a power of the unknowns for the macro stage, one number elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FILE = ROOT / "multiscale" / "data" / "cost.json"


def scale(model: list[float], measured: list[float]) -> float:
    """The factor s that makes s model nearest to measured, in relative error."""
    ratio = np.array(model) / np.array(measured)
    return float(ratio.sum() / (ratio**2).sum())


def fit(data: dict[str, Any]) -> dict[str, Any]:
    """Constants fitted to the measurements."""
    macro, full, fill = data["macro"], data["full_scale"], data["fill"]
    timed = [m for m in macro["measured"] if "seconds" in m]
    single = [m for m in timed if m.get("ranks", 1) == 1]
    millions = np.log([m["unknowns"] / 1e6 for m in single])
    exponent, of_a_million = np.polyfit(millions, np.log([m["seconds"] for m in single]), 1)
    macro["exponent"], macro["seconds_of_a_million"] = float(exponent), float(np.exp(of_a_million))
    several = [m for m in timed if m.get("ranks", 1) > 1]
    gains = []
    for m in several:
        alone = next(s["seconds"] for s in single if s["unknowns"] == m["unknowns"])
        gains.append(np.log(alone / m["seconds"]) / np.log(m["ranks"]))
    macro["rank_exponent"] = float(np.mean(gains))
    weighed = [m for m in macro["measured"] if "bytes" in m]
    ranks = np.array([m.get("ranks", 1) for m in weighed])
    unknowns = np.array([m["unknowns"] for m in weighed])
    size = np.array([m["bytes"] for m in weighed])
    # Bytes beside the program, of one rank, of several, and of each: in relative errors.
    columns = unknowns[:, None] * np.stack([ranks == 1, ranks > 1, ranks], axis=1) / size[:, None]
    found, *_ = np.linalg.lstsq(columns, 1 - ranks * macro["bytes"] / size)
    for key, value in zip(("", "_of_several", "_each"), found, strict=True):
        macro[f"bytes_per_unknown{key}"] = round(float(value), -1)
    work = [m["voxels"] * m["iterations"] for m in full["measured"]]
    setup = [full["seconds_per_voxel"] * m["voxels"] for m in full["measured"]]
    left = [m["seconds"] - s for m, s in zip(full["measured"], setup, strict=True)]
    full["seconds_per_voxel_iteration"] = scale(work, left)
    groups = [m["groups"] for m in fill["measured"]]
    fill["seconds_per_group"] = scale(groups, [m["seconds"] for m in fill["measured"]])
    return data


def compare() -> list[tuple[str, float, float]]:
    """What was measured and what the model says, in seconds."""
    from multiscale.problem import size as cost

    data, rows = cost.constants(), []
    for m in data["macro"]["measured"]:
        ranks = m.get("ranks", 1)
        if "seconds" in m:
            said = cost.evaluation_seconds(m["unknowns"], 1, ranks)
            rows.append((f"objective and gradient, {m['grid']}, {ranks} rank(s)", m["seconds"], said))
        if "bytes" in m:
            said = cost.macro_bytes(m["unknowns"], ranks)
            rows.append((f"memory in GB, {m['grid']}, {ranks} rank(s)", m["bytes"] / 1e9, said / 1e9))
    for m in data["full_scale"]["measured"]:
        said = cost.full_scale_cost(m["voxels"], m["iterations"], 1).seconds
        rows.append((f"full scale, {m['what']}, {m['voxels']:,} voxels", m["seconds"], said))
    for m in data["fill"]["measured"]:
        rows.append((f"fill, {m['groups']} groups", m["seconds"], cost.fill_seconds(m["groups"])))
    return rows


def predictions() -> list[tuple[str, float, float]]:
    """Of grids that were not measured: seconds an objective and gradient, GB."""
    from multiscale.problem import size as cost

    rows = []
    for edge in (160, 400):
        for name, shape in (("quarter", (edge // 2, edge, edge // 2)), ("whole", (edge, edge, edge))):
            count = cost.unknowns(shape)
            for ranks in (1, 64):
                seconds = cost.evaluation_seconds(count, 1, ranks)
                size = cost.macro_bytes(count, ranks) / 1e9
                rows.append((f"{edge}^3, {name}, {ranks} rank(s)", seconds, size))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the fitted constants")
    if parser.parse_args().write:
        data = fit(json.loads(FILE.read_text(encoding="utf-8")))
        FILE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"{'':52} {'measured':>9} {'model':>9} {'off':>6}")
    for what, measured, said in compare():
        print(f"{what:52} {measured:9.3g} {said:9.3g} {said / measured - 1:+6.0%}")
    print(f"\n{'predicted, not measured':52} {'s':>9} {'GB':>9}")
    for what, seconds, size in predictions():
        print(f"{what:52} {seconds:9.3g} {size:9.3g}")


if __name__ == "__main__":
    main()
