"""Directories that look like finished runs, without solving anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lattices import make
from PIL import Image

from multiscale.case.case import parse_case
from multiscale.problem.problem import Role, build_problem
from multiscale.problem.tensor_field import save_tensors
from multiscale.rundir.directory import RunDirectory


def made_up_run(path: Path, case: dict, seed: int = 3, **distortion: float) -> Path:
    """A run of a case with random cells, tensors and displacements; ``distortion`` sets figures of it."""
    rng = np.random.default_rng(seed)
    parsed = parse_case(case)
    problem = build_problem(parsed)
    directory = RunDirectory.create(path, parsed)
    index = rng.integers(0, 6, size=problem.shape)
    lattice = make(np.where(problem.role == Role.VOID, -1, index), problem.cell_size_m)
    lattice.save(path / "lattice.zarr")
    design = np.where(
        problem.solid[..., None], rng.uniform(0.9, 1.1, (*problem.shape, 3)) * [0.4, 0.1, 0.1], 0
    )
    save_tensors(path / "design.npz", design)
    (path / "history.jsonl").write_text("")
    nodes = (*(n + 1 for n in problem.shape), 3)
    fields = {}
    for load in problem.loads:
        reference = rng.normal(size=nodes)
        fields[f"{load.name}.reference"] = reference
        for name, share in (("void", 0.3), ("design", 0.02), ("lattice", 0.03)):
            fields[f"{load.name}.{name}"] = reference * (1 + share)
    np.savez(path / "displacements.npz", **fields)
    (path / "figures").mkdir()
    Image.new("RGB", (40, 30), "white").save(path / "figures" / "design.png")
    (path / "figures" / "convergence.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    Image.new("RGB", (40, 30), "white").save(path / "figures" / "convergence.png")
    values = {"void": 0.3, "design": 0.02, "design_refined": 0.025, "lattice": 0.03} | distortion
    metrics = {
        "distortion": values | {"per_load": {load.name: values for load in problem.loads}},
        "cells": {"unique": 6, "elements": int(lattice.solid.sum()), "source": "library"},
        "interfaces": {"count": lattice.contacts().count, "unconnected": lattice.contacts().unconnected},
        "feasibility": {"violations": 0, "phi_min": 1e-9},
    }
    directory.finish("design", {"macro": 2.5}, metrics, ("design.npz", "history.jsonl"))
    directory.finish("fill", {}, {}, ("lattice.zarr",), ("design.npz",))
    directory.finish("evaluate", {}, {}, ("displacements.npz",), ("design.npz", "lattice.zarr"))
    drawn = [f"figures/{file.name}" for file in (path / "figures").iterdir()]
    directory.finish("export", {}, {}, drawn, ("lattice.zarr",))
    directory.release()
    return path
