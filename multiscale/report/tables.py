"""A run's numbers in the order a reader wants them, with units: what reports and comparisons are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from multiscale.case.differences import flat
from multiscale.case.load_space import WORST_LOAD, combination_text
from multiscale.case.purpose import PURPOSES, UNIFORM, Purpose
from multiscale.rundir.record import value_at

Format = Callable[[Any], str]


def percent(value: float) -> str:
    """A fraction as percent, three digits."""
    return f"{100 * value:.3g} %"


def number(value: Any) -> str:
    """Whole numbers with separators, others with four digits, lists joined."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(number(v) for v in value) or "none"
    return "–" if value is None else str(value)


def unit(name: str, scale: float = 1.0) -> Format:
    """A number times ``scale``, with a unit behind it."""
    return lambda value: f"{number(value * scale if scale != 1 else value)} {name}"


@dataclass(frozen=True)
class Row:
    """One number of ``metrics.json``.

    Attributes
    ----------
    group, label : str
    key : str
        Where it stands: ``"cells.unique"``.
    show : callable
        Value to text.
    better : {-1, 0, 1}
        Whether less (-1) or more (1) is better; 0 says nothing.
    """

    group: str
    label: str
    key: str
    show: Format = number
    better: int = 0


def format_of(purpose: Purpose) -> Format:
    """How values of a purpose are written."""
    return unit(purpose.unit) if purpose.unit else percent


def value_rows(purpose: Purpose, key: str, group: str) -> list[Row]:
    """The rows of the values at ``key``: of all loads together, or of one."""
    show = format_of(purpose)
    rows = [
        Row(group, purpose.baseline.label, f"{key}.{purpose.baseline.name}", show),
        Row(group, "designed", f"{key}.design", show, -1),
        Row(group, "designed, refined mesh", f"{key}.design_refined", show, -1),
        Row(group, "designed, four elements an edge of a cell", f"{key}.design_refined_4", show, -1),
        Row(group, "with the cells as built", f"{key}.lattice", show, -1),
        Row(group, "as built, two elements an edge of a cell", f"{key}.lattice_refined", show, -1),
        Row(group, "as built, extrapolated to the continuum", f"{key}.lattice_continuum", show, -1),
    ]
    if purpose.baseline == UNIFORM:
        rows.append(Row(group, "stiffer than uniform, as built", f"{key}.gain", percent, 1))
    return rows


#: Sections of metrics.json with values found voxel by voxel: the run's own, and `multiscale verify`'s.
FULL_SCALE = {"full_scale": "Full scale", "verify": "Full scale, verified"}


def full_scale_section(metrics: Mapping[str, Any], quantity: str) -> Mapping[str, Any] | None:
    """The full-scale result of most voxels, if there is one: what a run is to be judged by."""
    sections = [metrics.get(name, {}) for name in FULL_SCALE]
    found = [s for s in sections if quantity in s and s.get("trusted") is not False]
    return max(found, key=lambda section: section["voxels_per_cell"], default=None)


def full_scale_rows(purpose: Purpose) -> list[Row]:
    """The rows of the values found voxel by voxel."""
    rows = []
    for section, group in FULL_SCALE.items():
        key, show = f"{section}.{purpose.quantity}", format_of(purpose)
        rows += [
            Row(group, f"{purpose.quantity} of the lattice, voxel by voxel", key, show, -1),
            Row(group, "extrapolated to the cells' own voxels", f"{section}.extrapolated", show, -1),
            Row(group, "voxels along a cell's edge", f"{section}.voxels_per_cell"),
            Row(group, "voxels", f"{section}.voxels"),
            Row(group, "same voxels, homogenised", f"{key}_homogenised", show),
            Row(group, purpose.baseline.label, f"{key}_{purpose.baseline.name}", show),
        ]
        if purpose.baseline == UNIFORM:
            rows.append(Row(group, "stiffer than uniform", f"{section}.gain", percent, 1))
    return rows


#: Of every run; what its values are called is the purpose's.
ROWS = (
    Row("Mass", "limit on the density of the design", "mass.limit", percent),
    Row("Mass", "density, designed", "mass.design", percent, -1),
    Row("Mass", "density, as built", "mass.lattice", percent, -1),
    Row("Feasibility", "violations of the gamut", "feasibility.violations", number, -1),
    Row("Feasibility", "least φ", "feasibility.phi_min"),
    Row("Cells", "elements filled", "cells.elements"),
    Row("Cells", "different cells", "cells.unique"),
    Row("Cells", "groups of tensors", "cells.groups"),
    Row("Cells", "source", "cells.source"),
    Row("Cells", "octant resolution (voxels)", "cells.resolution"),
    Row("Cells", "tensor error, mean", "cells.tensor_error_mean", percent, -1),
    Row("Cells", "tensor error, design mean", "cells.tensor_error_design_mean", percent, -1),
    Row("Cells", "tensor error, largest", "cells.tensor_error_max", percent, -1),
    Row("Cells", "relative error, mean", "cells.relative_error_mean", percent, -1),
    Row("Cells", "relative error, design mean", "cells.relative_error_design_mean", percent, -1),
    Row("Cells", "relative error, largest", "cells.relative_error_max", percent, -1),
    Row("Cells", "that enclose void, elements", "cells.enclosing_void_elements", number, -1),
    Row("Cells", "not connected", "cells.disconnected", number, -1),
    Row("Interfaces", "between cells", "interfaces.count"),
    Row("Interfaces", "without contact", "interfaces.unconnected", number, -1),
    Row("Interfaces", "overlap, mean", "interfaces.mean_overlap", percent, 1),
    Row("Interfaces", "overlap of unlike cells, mean", "interfaces.mean_overlap_unlike", percent, 1),
    Row("Interfaces", "overlap, least", "interfaces.min_overlap", percent, 1),
    Row("Interfaces", "contact, least (of a face)", "interfaces.min_area", percent, 1),
    Row(
        "Interfaces",
        "groups below the least contact asked",
        "interfaces.groups_below_min_contact",
        number,
        -1,
    ),
    Row("Interfaces", "where a piece hangs by less than a quarter", "interfaces.weak_holds", number, -1),
    Row("Interfaces", "least hold of a piece", "interfaces.least_hold", percent, 1),
    Row("Lattice", "connected pieces", "lattice.components", number, -1),
    Row("Lattice", "solid volume", "lattice.solid_volume_m3", unit("cm³", 1e6)),
    Row("Printability", "voxel", "printability.voxel_mm", unit("mm")),
    Row("Printability", "size", "printability.size_mm", unit("mm")),
    Row("Printability", "smallest solid feature", "printability.solid.smallest_mm", unit("mm"), 1),
    Row("Printability", "smallest void feature", "printability.void.smallest_mm", unit("mm"), 1),
    Row("Printability", "solid thinner than 2 voxels", "printability.solid.thinner.2", percent, -1),
    Row("Printability", "printer's smallest wall and gap", "printability.printer.least_mm", unit("mm")),
    Row("Printability", "solid thinner than that", "printability.printer.solid_thinner", percent, -1),
    Row("Printability", "void thinner than that", "printability.printer.void_thinner", percent, -1),
    Row("Printability", "cell size that suits it", "printability.printer.cell_size_mm", unit("mm"), -1),
    Row("Printability", "least contact", "printability.least_contact_mm2", unit("mm²"), 1),
    Row("Printability", "enclosed cavities", "printability.cavities.count", number, -1),
    Row("Printability", "their volume", "printability.cavities.volume_mm3", unit("cm³", 1e-3), -1),
    Row("Printability", "largest cavity", "printability.cavities.largest_mm3", unit("mm³"), -1),
    Row("Printability", "median cavity", "printability.cavities.median_mm3", unit("mm³")),
    Row("Printability", "build direction", "printability.overhang.direction"),
    Row("Printability", "overhanging surface", "printability.overhang.share", percent, -1),
    Row("Printability", "mass", "printability.mass_g", unit("g")),
    Row("Printability", "measured layer by layer", "printability.region", str),
    Row("Printability", "least wall, as cut", "printability.grid.least_wall_mm", unit("mm"), 1),
    Row("Printability", "least gap, as cut", "printability.grid.least_gap_mm", unit("mm"), 1),
    Row("Printability", "voids with a single opening", "printability.grid.one_opening", number, -1),
    Row("Printability", "islands", "printability.grid.layers.islands", number, -1),
    Row("Printability", "longest bridge", "printability.grid.layers.longest_bridge_mm", unit("mm"), -1),
    Row("Printability", "longest overhang", "printability.grid.layers.longest_overhang_mm", unit("mm"), -1),
    Row("Exported file", "file", "exported.name", str),
    Row("Exported file", "elements", "exported.region", str),
    Row("Exported file", "watertight", "exported.surface.watertight"),
    Row("Exported file", "solid", "exported.file.solid_mm3", unit("mm³")),
    Row("Exported file", "solid, voxels", "exported.voxels.solid_mm3", unit("mm³")),
    Row("Exported file", "least wall", "exported.file.least_wall_mm", unit("mm"), 1),
    Row("Exported file", "least wall, voxels", "exported.voxels.least_wall_mm", unit("mm")),
    Row("Exported file", "least gap", "exported.file.least_gap_mm", unit("mm"), 1),
    Row("Exported file", "least gap, voxels", "exported.voxels.least_gap_mm", unit("mm")),
    Row("Exported file", "pieces", "exported.file.pieces", number, -1),
    Row("Exported file", "pieces, voxels", "exported.voxels.pieces"),
    Row("Exported file", "enclosed cavities", "exported.file.cavities", number, -1),
    Row("Exported file", "enclosed cavities, voxels", "exported.voxels.cavities"),
    Row("Exported file", "voids with a single opening", "exported.file.one_opening", number, -1),
    Row("Exported file", "islands", "exported.file.layers.islands", number, -1),
    Row("Exported file", "longest bridge", "exported.file.layers.longest_bridge_mm", unit("mm"), -1),
    Row("Exported file", "longest overhang", "exported.file.layers.longest_overhang_mm", unit("mm"), -1),
    Row("Exported without cavities", "file", "changes.file", str),
    Row("Exported without cavities", "region", "changes.region", str),
    Row("Exported without cavities", "by", "changes.option", str),
    Row("Exported without cavities", "enclosed cavities", "changes.cavities"),
    Row("Exported without cavities", "filled", "changes.filled"),
    Row("Exported without cavities", "drained", "changes.drained"),
    Row("Exported without cavities", "left closed", "changes.left", number, -1),
    Row("Exported without cavities", "void that became solid", "changes.added_mm3", unit("mm³")),
    Row("Exported without cavities", "solid that became void", "changes.removed_mm3", unit("mm³")),
    Row("Exported without cavities", "pieces of the solid", "changes.pieces", number, -1),
    Row("Optimisation", "algorithm", "optimizer.algorithm"),
    Row("Optimisation", "evaluations", "optimizer.evaluations"),
    Row("Optimisation", "unknowns of a solve", "solver.unknowns"),
    Row("Optimisation", "solves", "solver.solves"),
    Row("Optimisation", "iterations of a solve, mean", "solver.iterations_mean"),
    Row("Optimisation", "preconditioner", "solver.preconditioner"),
    Row("Optimisation", "mirror planes", "solver.mirror_axes"),
    Row("Time and memory", "set-up", "time.setup", unit("s")),
    Row("Time and memory", "design", "time.macro", unit("s")),
    Row("Time and memory", "fill", "time.fill", unit("s")),
    Row("Time and memory", "full scale", "time.full_scale", unit("s")),
    Row("Time and memory", "evaluate", "time.evaluate", unit("s")),
    Row("Time and memory", "export", "time.export", unit("s")),
    Row("Time and memory", "verify", "verify.seconds", unit("s")),
    Row("Time and memory", "total", "time.total", unit("s")),
    Row("Time and memory", "peak memory", "memory.peak_bytes", unit("GB", 1e-9)),
    Row("Where and with what", "platform", "machine.platform"),
    Row("Where and with what", "cores", "machine.cores"),
    Row("Where and with what", "MPI ranks", "ranks"),
)

#: Shown elsewhere, or of no use to a reader.
_ELSEWHERE = (
    "export.",
    "uniform.",
    "unseen.",
    "unseen_worst.",
    "unseen_measures.",
    "measures.",
    "any_load.",
    "versions.",
    "seeds.",
    "case_sha256",
    "verify.at.",
    "verify.extrapolated_from",
    "full_scale.at.",
    "full_scale.per_load.",
    "full_scale.rounds",
    "full_scale.size_effect.",
    "verify.per_load.",
    "verify.size_effect.",
    "changes.",
    "exported.",
    "printability.grid",
    "printability.solid.",
    "printability.void.",
    "printability.cavities.",
    "printability.printer",
)


def rows_of(several: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows for which one of several runs has a value; what :data:`ROWS` does not know comes last."""
    runs = list(several)
    purposes = {p.quantity: p for p in PURPOSES.values() if any(p.quantity in run for run in runs)}
    values, full_scale = [], []
    for quantity, purpose in purposes.items():
        values += value_rows(purpose, quantity, quantity.capitalize())
        full_scale += full_scale_rows(purpose)
    for quantity, purpose in purposes.items():
        loads = dict.fromkeys(load for run in runs for load in value_at(run, f"{quantity}.per_load") or {})
        for load in loads if len(loads) > 1 else ():
            values += value_rows(purpose, f"{quantity}.per_load.{load}", f"Load {load}")
    values += _unseen_rows(runs)
    values += _space_rows(runs) + _measure_rows(runs)
    # The lattice as built comes first: the others are models of it.
    known = [*full_scale, *values, *ROWS]
    seeds = list(dict.fromkeys(name for run in runs for name in run.get("seeds", {})))
    known += [Row("Where and with what", f"seed, {name}", f"seeds.{name}", str) for name in seeds]
    keys = {row.key for row in known}
    others = dict.fromkeys(key for run in runs for key in flat(run))
    elsewhere = (*_ELSEWHERE, *(f"{quantity}.per_load." for quantity in purposes))
    known += [Row("Other", key, key) for key in others if key not in keys and not key.startswith(elsewhere)]
    return [row for row in known if any(value_at(run, row.key) is not None for run in runs)]


#: What others measure a cloak by: keys, and how they are called.
_MEASURES = {"strain_deviation": "strain deviation", "energy_mismatch": "energy mismatch"}

#: Structures that figures of a cloak are shown of: how they are called, and whether less is better.
_SHOWN = {"void": ("without a cloak", 0), "lattice": ("as built", -1)}


def _unseen_rows(runs: list[Mapping[str, Any]]) -> list[Row]:
    """Loads that the design was not made for, and of the worst combinations of far fields which they are."""
    rows = []
    for load in dict.fromkeys(load for run in runs for load in run.get("unseen", {})):
        for structure, (said, better) in _SHOWN.items():
            place = f"{load}.{structure}"
            rows.append(Row("Standard loads", f"{load}, {said}", f"unseen.{place}", percent, better))
            rows.append(
                Row("Standard loads", f"{load}, {said}: which", f"unseen_worst.{place}", combination_text)
            )
            for key, label in _MEASURES.items():
                measure = f"unseen_measures.{place}.{key}"
                rows.append(Row("Standard loads", f"{load}, {label}, {said}", measure, percent, better))
    return rows


def _space_rows(runs: list[Mapping[str, Any]]) -> list[Row]:
    """Of a space of loads: the worst of all combinations, which it is, and the root mean square over them."""
    rows = []
    for structure, (said, better) in (_SHOWN | {"design": ("designed", -1)}).items():
        key = f"any_load.{structure}"
        rows += [
            Row("Any load", f"worst combination, {said}", f"{key}.worst", percent, better),
            Row("Any load", f"which it is, {said}", f"{key}.{WORST_LOAD}", combination_text),
            Row("Any load", f"root mean square, {said}", f"{key}.mean_square", percent, better),
            Row("Any load", f"principal combinations, {said}", f"{key}.principal", percent),
        ]
    return rows


def _measure_rows(runs: list[Mapping[str, Any]]) -> list[Row]:
    """What others measure a cloak by, load by load."""
    measured = [run.get("measures", {}).get("lattice", {}) for run in runs]
    rows = []
    for load in dict.fromkeys(load for loads in measured for load in loads):
        name = "worst load of each" if load == WORST_LOAD else load
        for key, label in _MEASURES.items():
            for structure, (said, better) in _SHOWN.items():
                place = f"measures.{structure}.{load}.{key}"
                rows.append(Row("Other measures", f"{name}, {label}, {said}", place, percent, better))
    return rows


def groups_of(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by their group, in order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def text_of(row: Row, metrics: Mapping[str, Any]) -> str:
    """A row's value as text; a dash where the run has none."""
    value = value_at(metrics, row.key)
    if value is None:
        return "–"
    if isinstance(value, list) and row.show not in (number, str):
        return ", ".join(row.show(v) for v in value)
    return row.show(value)


def markdown_table(heading: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; bars in cells are escaped."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = list(heading)
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, lines)]) + "\n"
