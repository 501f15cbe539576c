"""What ``micro homogenize`` says about cells: plain values for JSON, tables for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.cell.anisotropy import distance, engineering_constants, nearest_cubic, nearest_isotropic
from micro.cell.contacts import contacts, pieces
from micro.cell.octant import cell_from_octant, octant_from_cell
from micro.cell.tensor import stiffness_matrix, zener
from micro.cli.options import times
from micro.homogenize.fields import Status
from micro.homogenize.octants import homogenize_octants, homogenize_shared
from micro.homogenize.periodic import brick, homogenize_cell
from micro.runtime import memory
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.executor import executor
from micro.runtime.progress import stage_bar
from micro.voxels.hexahedron import CUBE

Report = dict[str, Any]

_NEGLIGIBLE = 1e-3
"""Share of the tensor below which a contact along edges goes unmentioned."""

# Bytes a voxel (of the octant, where that is solved), measured as peak over start at 64^3 to 128^3 voxels;
# the cell's own copies take ten more.
_BYTES_GENERAL = 950.0
_BYTES_BRICKS = 1500.0
_BYTES_OCTANT = 850.0


def cell_report(
    voxels: NDArray,
    *,
    edges: tuple[float, float, float] = CUBE,
    general: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Report:
    """Homogenise one cell (nx, ny, nz), on its octant where it has cubic symmetry."""
    octant = None if general or brick(edges) != CUBE else _octant(voxels)
    need = 10.0 * voxels.size + (
        _BYTES_OCTANT * octant.size
        if octant is not None
        else (_BYTES_GENERAL if brick(edges) == CUBE else _BYTES_BRICKS) * voxels.size
    )
    memory.require(need, f"a cell of {times(voxels.shape)} voxels", "one of fewer voxels needs less")
    if octant is None:
        with stage_bar("load cases", quiet=quiet) as progress:
            result = homogenize_cell(voxels, edges=edges, progress=progress, **settings)
        solved: Report = {"path": "general", "status": result.status.name.lower()}
        C, volume, residual = result.C, result.volume, result.residual
        iterations = result.iterations
    else:
        cubic = homogenize_octants(octant, **settings)
        solved = {"path": "octant", "status": Status(cubic.status[0]).name.lower()}
        C, volume, residual = stiffness_matrix(cubic.C[0]), float(cubic.volume[0]), float(cubic.residual[0])
        iterations = int(cubic.iterations[0])
    head: Report = {"C": C.tolist()} | solved
    head |= {"residual": residual, "iterations": iterations, "volume_fraction": volume}
    head |= {"shape": list(voxels.shape), "voxel_edges": list(edges)}
    return head | {"contacts": _hanging(voxels, C, edges, settings)} | constants(C)


def _hanging(
    voxels: NDArray, C: Floats, edges: tuple[float, float, float], settings: dict[str, Any]
) -> Report:
    """Pieces, floating solid, and how much of the tensor passes through edges and corners of voxels."""
    solid = voxels > 0 if settings.get("void", 0.0) == 0 else np.ones(voxels.shape, dtype=bool)
    found = contacts(solid)
    share = 0.0
    if found.hangs and C.any():
        # Parted where only edges and corners join them, the pieces carry side by side.
        apart = pieces(solid)
        alone = np.zeros((6, 6))
        for number in np.flatnonzero(apart.carries):
            alone += homogenize_cell(voxels * (apart.label == number), edges=edges, **settings).C
        share = float(np.linalg.norm(C - alone) / np.linalg.norm(C))
    return {"pieces": found.pieces, "floating": found.floating, "share_through_edges": share}


def octants_report(
    voxels: NDArray, *, workers: int | None = 1, quiet: bool = False, **settings: Any
) -> Report:
    """Homogenise octants: one (n, n, n) as a cell, several (m, n, n, n) as lists."""
    single = voxels.ndim == 3
    octants = voxels[None] if single else voxels
    with stage_bar("octants", quiet=quiet) as progress, executor(workers) as processes:
        result = homogenize_shared(octants, processes, progress=progress, **settings)
    matrices = stiffness_matrix(result.C)
    reports: list[Report] = []
    for i, C in enumerate(matrices):
        reports.append(
            {
                "C": C.tolist(),
                "path": "octant",
                "status": Status(result.status[i]).name.lower(),
                "residual": float(result.residual[i]),
                "iterations": int(result.iterations[i]),
                "volume_fraction": float(result.volume[i]),
                "shape": [2 * n for n in octants.shape[1:]],
                "contacts": _hanging(cell_from_octant(octants[i]), C, CUBE, settings),
            }
            | constants(C)
        )
    return reports[0] if single else {key: [r[key] for r in reports] for key in reports[0]}


def constants(C: Floats) -> Report:
    """Engineering constants of C (6, 6), its Zener ratio, nearest cubic and isotropic tensors."""
    cubic, isotropic = nearest_cubic(C), nearest_isotropic(C)
    ratio = float(zener(cubic))
    return {
        "engineering": engineering_constants(C),
        "zener": ratio if np.isfinite(ratio) else None,
        "nearest_cubic": cubic.tolist(),
        "distance_to_cubic": distance(C, cubic),
        "nearest_isotropic": isotropic.tolist(),
        "distance_to_isotropic": distance(C, isotropic),
    }


def print_report(report: Report, name: str) -> None:
    """The report as tables on stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not isinstance(report["status"], str):
        head = ("octant", "C11", "C12", "C44", "volume", "floats", "edges", "residual", "steps", "status")
        table = Table(*head, title=escape(f"{name}: {report['taken_for']}"), box=None)
        for i, C in enumerate(report["C"]):
            row = (C[0][0], C[0][1], C[3][3], report["volume_fraction"][i])
            hanging = report["contacts"][i]
            shares = [f"{hanging[key]:.2%}" for key in ("floating", "share_through_edges")]
            numbers = [*(f"{v:.5f}" for v in row), *shares, f"{report['residual'][i]:.1e}"]
            table.add_row(str(i), *numbers, str(report["iterations"][i]), report["status"][i])
        console.print(table)
        for line in _warnings_of_several(report["contacts"]):
            console.print(line, style="yellow", soft_wrap=True)
        return
    # Lines rather than a table: they keep their digits on a narrow terminal.
    console.print(f"{name}: {report['taken_for']}", markup=False, soft_wrap=True)
    console.print("stiffness, Voigt order 11 22 33 23 13 12", markup=False)
    for row in report["C"]:
        console.print(" ".join(f"{v:10.6f}" for v in row), soft_wrap=True)
    shape = times(report["shape"])
    brick_of = "" if len(set(report.get("voxel_edges", CUBE))) == 1 else _bricks(report["voxel_edges"])
    console.print(f"{shape} voxels{brick_of}, volume fraction {report['volume_fraction']:.4f}")
    if report["engineering"] is None:
        console.print("some load meets no resistance: no engineering constants")
    else:
        values = report["engineering"].items()
        console.print(", ".join(f"{key} = {value:.5g}" for key, value in values), soft_wrap=True)
    if report["zener"] is not None:
        console.print(f"Zener ratio {report['zener']:.4g}")
    for kind in ("cubic", "isotropic"):
        tensor = ", ".join(f"{v:.5g}" for v in report[f"nearest_{kind}"])
        off = report[f"distance_to_{kind}"]
        console.print(
            f"nearest {kind} tensor (C11, C12, C44) = {tensor}; relative distance {off:.2e}", soft_wrap=True
        )
    how = f"{report['path']} path, {report['iterations']} iterations, residual {report['residual']:.1e}"
    console.print(f"{report['status']}: {how}")
    for line in _warnings(report):
        console.print(line, style="yellow", soft_wrap=True)


def _bricks(edges: list[float]) -> str:
    return f" of {times(f'{v:.5g}' for v in edges)}"


def _warnings_of_several(contacts: list[Report]) -> list[str]:
    """The same of several octants, whose figures stand in the table."""
    lines, total = [], len(contacts)
    edges = sum(hanging["share_through_edges"] > _NEGLIGIBLE for hanging in contacts)
    floats = sum(hanging["floating"] > 0 for hanging in contacts)
    if edges:
        lines.append(
            f"warning: in {edges} of {total} octants stiffness passes through edges and corners of voxels, "
            "which nothing made has (column edges: its share)"
        )
    if floats:
        lines.append(
            f"warning: in {floats} of {total} octants solid floats, joined to nothing that carries (column "
            "floats: its share of the solid); it counts in the volume"
        )
    return lines


def _warnings(report: Report) -> list[str]:
    """What a reader of the tensor has to know about the cell's solid."""
    hanging, lines = report["contacts"], []
    if hanging["share_through_edges"] > _NEGLIGIBLE:
        lines.append(
            f"warning: {hanging['share_through_edges']:.1%} of the stiffness passes through edges and "
            f"corners of voxels, which nothing made has: the solid falls into {hanging['pieces']} pieces"
        )
    if hanging["floating"] > 0:
        own = report["volume_fraction"] * (1 - hanging["floating"])
        lines.append(
            f"warning: {hanging['floating']:.1%} of the solid floats, joined to nothing that carries; it "
            f"counts in the volume fraction (without it {own:.4f})"
        )
    return lines


def _octant(voxels: NDArray) -> NDArray | None:
    """The octant of a cell of cubic symmetry, None of any other."""
    if len(set(voxels.shape)) != 1:
        return None
    try:
        return octant_from_cell(voxels)
    except InputError:
        return None
