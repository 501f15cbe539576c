"""What a finished run is shown and handed on by: fields for ParaView, a printable region, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.cell.cellset import CellSet
from micro.gamut.gamut import Gamut
from micro.runtime.arrays import Floats
from micro.runtime.npz import read_arrays
from micro.runtime.progress import Reporter
from multiscale.case.case import Case
from multiscale.case.load_space import WORST_LOAD, combination_text
from multiscale.design.state import read_history
from multiscale.export.command import export
from multiscale.export.volume.vti import write_vti, write_vtu
from multiscale.figures import chart_figures, field_figures
from multiscale.figures.deformed_body import deformed_figure
from multiscale.figures.lattice_view import render_lattice
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice
from multiscale.problem.problem import Problem, Role
from multiscale.problem.tensor_field import load_tensors
from multiscale.rundir.directory import RunDirectory


def write_results(
    case: Case, problem: Problem, gamut: Gamut, cells: CellSet, directory: RunDirectory, reporter: Reporter
) -> dict[str, Any]:
    """Write every output of a run that only shows what it found; returns what was written.

    Parameters
    ----------
    case : Case
    problem : Problem
    gamut : Gamut
    cells : CellSet
        Shown beside the design in property space.
    directory : RunDirectory
    reporter : Reporter
    """
    path = directory.path
    lattice = Lattice.load(path / "lattice.zarr")
    design = load_tensors(path / "design.npz", problem)
    displacements = {key: u.astype(np.float64) for key, u in read_arrays(path / "displacements.npz").items()}

    written = ["fields.vti", "fields.vtu"]
    reporter.say("export: fields")
    _write_fields(path, problem, design, lattice, displacements)
    if case.export.stl_box is not None:
        low, high = case.export.stl_box
        reporter.say("export: STL")
        per_cell = None if case.export.voxels is None else 2 * case.export.voxels
        export(path, "stl", path / "region.stl", str(Block(low, high)), per_cell=per_cell)
        written.append("region.stl")
    reporter.say("export: figures")
    drawn, skipped = _write_figures(
        path, case, problem, gamut, cells, directory, design, lattice, displacements
    )
    drawn += [p.with_suffix(".svg") for p in drawn if p.with_suffix(".svg").is_file()]
    pictures = sorted(f"figures/{p.name}" for p in drawn)
    return {"written": [*written, *pictures], "skipped": skipped}


def _write_fields(
    path: Path, problem: Problem, design: Floats, lattice: Lattice, displacements: dict[str, Floats]
) -> None:
    built = lattice.tensors()
    elements: dict[str, NDArray] = {"role": problem.role, "region": problem.region, "cell": lattice.index}
    for i, name in enumerate(("C11", "C12", "C44")):
        elements[f"design_{name}"] = design[..., i]
        elements[f"lattice_{name}"] = built[..., i]
    elements["density"] = lattice.densities()
    h = problem.cell_size_m
    nodes = {f"u_{key.replace('.', '_')}": u * h for key, u in displacements.items()}
    write_vti(path / "fields.vti", problem.shape, (h, h, h), cell_data=elements, point_data=nodes)
    write_vtu(path / "fields.vtu", problem.solid, (h, h, h), cell_data=elements, point_data=nodes)


def _write_figures(
    path: Path,
    case: Case,
    problem: Problem,
    gamut: Gamut,
    cells: CellSet,
    directory: RunDirectory,
    design: Floats,
    lattice: Lattice,
    displacements: dict[str, Floats],
) -> tuple[list[Path], dict[str, str]]:
    """Write all figures; returns the pictures, and those that could not be made with the reason."""
    folder = path / "figures"
    folder.mkdir(exist_ok=True)
    hole, ring, h = problem.role == Role.VOID, problem.design, problem.cell_size_m
    whole = np.ones(problem.shape, dtype=bool)
    purpose = case.objective.purpose
    quantity, unit = purpose.quantity, purpose.unit
    drawn = []
    # The loads of the case, and the worst combination where there is one.
    for load in dict.fromkeys(key.rpartition(".")[0] for key in displacements):
        solutions = {
            name: field_figures.Solution(
                purpose.labels[name],
                displacements[f"{load}.{name}"],
                whole if name == "reference" else problem.solid,
            )
            for name in purpose.structures
        }
        name = f"{problem.name}, load {load}"
        drawn.append(
            field_figures.displacement_figure(
                folder / f"displacement_{load}.png",
                [s for key, s in solutions.items() if key != "design" or len(solutions) < 4],
                hole=hole,
                design=ring,
                cell_size_m=h,
                title=name,
            )
        )
        if "reference" in solutions:
            drawn.append(
                field_figures.distortion_figure(
                    folder / f"distortion_{load}.png",
                    displacements[f"{load}.reference"],
                    [solutions[k] for k in ("void", "design", "lattice")],
                    observed=problem.observed,
                    cell_size_m=h,
                    title=name,
                )
            )
        if load == WORST_LOAD:
            amplitudes = directory.metrics["any_load"]["lattice"]["worst_load"]
            drawn.append(
                deformed_figure(
                    folder / f"{WORST_LOAD}.png",
                    displacements[f"{load}.reference"],
                    [solutions[k] for k in ("void", "lattice")],
                    observed=problem.observed,
                    cell_size_m=h,
                    title=f"{problem.name}, {combination_text(amplitudes)}",
                )
            )
    drawn.append(
        field_figures.tensor_figure(
            folder / "design.png", design, solid=problem.solid, design=ring, cell_size_m=h, title=problem.name
        )
    )
    drawn.append(
        chart_figures.property_space_figure(
            folder / "property_space.png",
            cells.C,
            design[ring],
            gamut.phi,
            material=None if case.objective.reference is None else problem.reference[0, 0, 0],
            title=problem.name,
        )
    )
    drawn.append(
        chart_figures.convergence_figure(
            folder / "convergence.png",
            read_history(path / "history.jsonl"),
            title=problem.name,
            quantity=quantity,
            unit=unit,
            mass_limit=case.objective.mass_limit,
        )
    )
    bars = {
        name: name.replace("design_refined", "refined mesh")
        for name in (purpose.baseline.name, "design", "design_refined", "lattice")
    }
    per_load = {
        load: {label: values[key] for key, label in bars.items()}
        for load, values in directory.metrics[quantity]["per_load"].items()
    }
    built = directory.metrics.get("full_scale", {}).get("per_load", {})
    for load, values in per_load.items():
        if quantity in built.get(load, {}):
            values["full scale"] = built[load][quantity]
    drawn.append(
        chart_figures.summary_figure(
            folder / f"{purpose.picture}.png",
            next(iter(per_load.values())) if len(per_load) == 1 else per_load,
            title=problem.name,
            quantity=quantity,
            unit=unit,
        )
    )
    reason = render_lattice(folder / "lattice.png", lattice)
    if reason is not None:
        return drawn, {"figures/lattice.png": reason}
    return [*drawn, folder / "lattice.png"], {}
