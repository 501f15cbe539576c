"""``multiscale report``: a run in one self-contained file for a browser, and in Markdown for papers.

``report.html`` needs no network and no server: figures, data and the program of its view in space are inside.
``report.md`` links the figures beside it. Both only show what the run directory holds.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from micro.runtime.arrays import Bools
from micro.runtime.files import write_text
from multiscale.case.load_space import WORST_LOAD, combination_text
from multiscale.case.purpose import UNIFORM
from multiscale.lattice.contact import Interface
from multiscale.report.tables import (
    format_of,
    full_scale_section,
    groups_of,
    markdown_table,
    percent,
    rows_of,
    text_of,
)
from multiscale.report.viewer import run_fields, scene
from multiscale.rundir.directory import RunDirectory
from multiscale.rundir.record import value_at

#: Interfaces of least contact that are shown.
WORST = 10
#: Pictures wider than this are made smaller before they are put into the report.
WIDEST = 1800

#: Kinds of figures that are a row of panels.
_ROWS = ("property", "design", "displacement", "distortion", "worst")
_CAPTIONS = {
    "convergence": "Convergence: objective and feasibility over the optimiser's evaluations.",
    "property_space": "Property space: the library's cells, the gamut's edge, and the designed tensors.",
    "design": "Designed tensors on the mid-section.",
    "lattice": "The lattice, rendered.",
    WORST_LOAD: "The worst load for the lattice: reference, hole and cloak in space, deformed",
    "displacement": "Displacement on the mid-section, drawn deformed",
    "distortion": "Where the displacements differ from the reference",
}


@dataclass(frozen=True)
class Picture:
    """A figure of the run: its name, what it shows, the file shown, and the one for Markdown."""

    name: str
    caption: str
    shown: Path
    linked: Path


def write_report(path: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a run directory.

    Returns
    -------
    The two files.

    Raises
    ------
    InputError
        If it is not the directory of a run that was evaluated, or can't be written to.
    """
    run = RunDirectory.open(path)
    run.require("evaluate")
    pictures = pictures_of(run)
    out = run.path / "report.html", run.path / "report.md"
    for file, text in zip(out, (html(run, pictures), markdown(run, pictures)), strict=True):
        write_text(file, text)
    return out


# ---------------------------------------------------------------------------------- figures


def pictures_of(run: RunDirectory) -> list[Picture]:
    """The figures that the run has drawn, those a reader wants first in front; vectors before pixels."""
    drawn = {name: run.file(name) for name in run.names if name.startswith("figures/")}
    names = {file.stem for file in drawn.values()}
    # The values' figure comes second, after how they came about.
    first, *others = _CAPTIONS.items()
    captions = dict([first, (run.purpose.picture, run.purpose.caption), *others])
    order = list(captions)
    worst = value_at(run.metrics, f"any_load.lattice.{WORST_LOAD}")

    def caption(name: str) -> str:
        if name == WORST_LOAD and worst:
            return f"{captions[name]}: {combination_text(worst)}."
        if name in captions:
            return captions[name]
        kind, _, load = name.partition("_")
        said = f"{load} ({combination_text(worst)})" if load == WORST_LOAD and worst else load
        return f"{captions.get(kind, kind)}, load {said}." if load else name

    def place(name: str) -> tuple[int, str]:
        kind = name if name in order else name.partition("_")[0]
        return order.index(kind) if kind in order else len(order), name

    out = []
    for name in sorted(names, key=place):
        files = [drawn[f] for f in (f"figures/{name}.svg", f"figures/{name}.png") if f in drawn]
        out.append(Picture(name, caption(name), files[0], files[-1]))
    return out


def _figure(picture: Picture) -> str:
    caption = escape(picture.caption)
    # Rows of panels need the page's width.
    wide = " class='wide'" if picture.name.partition("_")[0] in _ROWS else ""
    return (
        f"<figure{wide}><img src='{_embedded(picture.shown)}' alt='{caption}'>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _embedded(file: Path) -> str:
    """A figure as a data URL; pixels are packed as WebP, which takes a quarter of a PNG."""
    if file.suffix == ".svg":
        return "data:image/svg+xml;base64," + base64.b64encode(file.read_bytes()).decode()
    with Image.open(file) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDEST, WIDEST))
    return _packed(small, "WEBP", quality=86)


def _packed(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


# ------------------------------------------------------------------------------------- HTML


def html(run: RunDirectory, pictures: Sequence[Picture]) -> str:
    """The whole page."""
    title = escape(run.case.name)
    data = json.dumps(
        scene(run.problem, run.lattice, run_fields(run.problem, run.lattice, run.design, run.displacements))
    )
    shape = " × ".join(str(n) for n in run.problem.shape)
    body = [
        f"<h1>{title}</h1>",
        f"<p class='soft'>{shape} cells of {1e3 * run.problem.cell_size_m:g} mm · "
        f"{len(run.problem.loads)} load case(s) · {escape(run.finished)}</p>",
        f"<p>{escape(run.case.case.description)}</p>",
        _tiles(run),
        _rounds(run),
        "<h2>The lattice in space</h2>",
        _resource("viewer.html"),
        "<h2>Figures</h2>",
        "<div class='pair'>",
        *map(_figure, pictures),
        "</div>",
        "<h2>Worst interfaces</h2>",
        _worst(run),
        "<h2>All numbers</h2>",
        _number_cards(run),
        "<h2>The case, all defaults filled in</h2>",
        f"<details><summary>case.toml</summary><pre>{escape(run.case.to_toml())}</pre></details>",
    ]
    # "</" inside a script would end it.
    safe = data.replace("</", "<\\/")
    return page(
        title,
        body,
        f"<script type='application/json' id='scene'>{safe}</script>\n"
        f"<script>{_resource('viewer.js')}</script>",
    )


def page(title: str, body: Sequence[str], scripts: str = "") -> str:
    """A page of the report's look around ``body``; nothing in it is fetched."""
    content = "\n".join(body)
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<link rel='icon' href='data:,'>\n<title>{title}</title>\n"
        f"<style>\n{_resource('report.css')}</style>\n"
        f"</head>\n<body>\n<main>\n{content}\n</main>\n{scripts}\n</body>\n</html>\n"
    )


def _tiles(run: RunDirectory) -> str:
    metrics = run.metrics
    purpose = run.purpose
    found = metrics[purpose.quantity]
    before, built = found[purpose.baseline.name], found.get("lattice")
    show = format_of(purpose)
    tiles = []
    full = full_scale_section(metrics, purpose.quantity)
    if full is not None:
        label = f"as built, voxel by voxel ({full['voxels_per_cell']} voxels a cell's edge)"
        tiles.append(("good", label, show(full[purpose.quantity])))
    tiles += [
        ("", purpose.baseline.label, show(before)),
        ("good", "designed", show(found["design"])),
        ("", "on a refined mesh", show(found["design_refined"])),
    ]
    if built and purpose.baseline == UNIFORM:
        tiles.append(("good", f"as built, homogenised: {percent(before / built - 1)} stiffer", show(built)))
    elif built is not None:
        less = f": {before / built:.0f} times less" if built else ""
        tiles.append(("good" if full is None else "", f"as built, homogenised{less}", show(built)))
    if "lattice_continuum" in found:
        label = "as built, homogenised: one element a cell extrapolated to the continuum"
        tiles.append(("", label, show(found["lattice_continuum"])))
    for key, label in (("mass.design", "density, designed"), ("mass.lattice", "density, as built")):
        value = value_at(metrics, key)
        if value is not None:
            tiles.append(("", label, percent(value)))
    for key, label in (
        ("cells.unique", "different cells"),
        ("interfaces.count", "interfaces"),
        ("interfaces.unconnected", "interfaces without contact"),
        ("lattice.components", "connected piece(s)"),
    ):
        value = value_at(metrics, key)
        if value is not None:
            wrong = (key.endswith("unconnected") and value > 0) or (key.endswith("components") and value != 1)
            tiles.append(("bad" if wrong else "", label, f"{value:,}"))
    inside = "".join(f"<div class='tile {kind}'><b>{value}</b>{label}</div>" for kind, label, value in tiles)
    return f"<p class='soft'>{purpose.heading}</p><div class='tiles'>{inside}</div>"


def _round_lines(run: RunDirectory) -> list[tuple[str, ...]]:
    """Of every round: number, value at full scale, what was predicted, iterations, seconds."""
    show, best = format_of(run.purpose), value_at(run.metrics, "full_scale.round")
    lines: list[tuple[str, ...]] = []
    for r in value_at(run.metrics, "full_scale.rounds") or []:
        value = show(r["value"]) if r["value"] is not None else f"failed: {r['failed']}"
        name = f"{r['round']}, the run's lattice" if r["round"] == best else str(r["round"])
        iterations = ", ".join(str(n) for n in (r["iterations"] or {}).get("lattice", []))
        seconds = f"{sum(r['seconds'].values()):.0f}"
        lines.append((name, value, show(r["predicted"]), iterations, seconds))
    return lines


#: Heading of the rounds' table.
_ROUNDS = ("round", "at full scale", "predicted by its model", "iterations", "seconds")


def _rounds(run: RunDirectory) -> str:
    """Designs corrected by their own full-scale solution, if there were rounds."""
    lines = _round_lines(run)
    if len(lines) < 2:
        return ""
    return (
        "<h2>Corrected at full scale</h2><p>Each round goes on with the design against the lattice's own "
        "full-scale solution, fills it and solves it again.</p>"
        f"<div class='card'><table>{_lines([_ROUNDS, *lines])}</table></div>"
    )


def _lines(lines: Iterable[Iterable[str]]) -> str:
    """Lines of a table."""
    return "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in line) + "</tr>" for line in lines)


def _number_cards(run: RunDirectory) -> str:
    tables = {
        group: [(row.label, text_of(row, run.metrics)) for row in rows]
        for group, rows in groups_of(rows_of([run.metrics])).items()
    }
    tables["Versions"] = [(k, str(v)) for k, v in run.metrics.get("versions", {}).items()]
    cards = [
        f"<div class='card'><h3>{escape(group)}</h3><table>{_lines(lines)}</table></div>"
        for group, lines in tables.items()
    ]
    case = f"<p class='soft'>Case SHA-256 <code>{escape(str(run.metrics.get('case_sha256', '')))}</code></p>"
    return f"<div class='columns'>{''.join(cards)}</div>{case}"


def _worst(run: RunDirectory) -> str:
    """The interfaces of least contact, with the two faces laid on each other."""
    faces = run.lattice.cells.faces()

    def line(interface: Interface, *shares: float) -> str:
        place = ",".join(str(v) for v in interface.element)
        cells = "".join(f"<td>{percent(share)}</td>" for share in shares)
        return (
            f"<tr><td><img class='faces' src='{_facing(faces, interface)}' alt=''></td>"
            f"<td><button class='link' data-element='{place}'>[{place.replace(',', ', ')}]</button></td>"
            f"<td>{'xyz'[interface.axis]}</td><td>{interface.cells[0]} and {interface.cells[1]}</td>"
            f"{cells}</tr>"
        )

    lines = [line(i, i.area, i.overlap) for i in run.lattice.contacts(weakest=WORST).weakest]
    held = [line(i, hold, i.overlap) for i, hold in run.lattice.holds(weakest=WORST).weakest]

    def table(share: str, overlap: str, lines: list[str]) -> str:
        heads = ("faces", "element", "along", "cells", share, overlap)
        head = "".join(f"<th>{name}</th>" for name in heads)
        rows = "".join(lines)
        return f"<div class='card'><table class='left'><tr>{head}</tr>{rows}</table></div>"

    areas = table("contact, of the face", "overlap, of the smaller pattern", lines)
    return (
        "<p>Pairs of cells of least contact, each with one place where it occurs. In the pictures of the two "
        "faces laid on each other, solid on both sides is dark, on one side only blue or orange. A link "
        f"shows the place in space.</p>{areas}"
        "<p>Pairs of which a piece, a strut or a wall, hangs by least: of the smaller of two sections that "
        f"meet, the share that passes. A print loses these first.</p>{table('hold', 'overlap', held)}"
    )


def _facing(faces: Bools, interface: Interface) -> str:
    """Two octant faces, mirrored to whole cells' and laid on each other, as a PNG."""
    quarters = [faces[cell] for cell in interface.cells]
    a, b = (np.block([[q, q[:, ::-1]], [q[::-1], q[::-1, ::-1]]]) for q in quarters)
    colours = np.array([(255, 255, 255), (90, 166, 216), (224, 138, 30), (43, 52, 64)], dtype=np.uint8)
    return _packed(Image.fromarray(colours[a + 2 * b]), "PNG")


# --------------------------------------------------------------------------------- Markdown


def markdown(run: RunDirectory, pictures: Sequence[Picture]) -> str:
    """The same in Markdown, figures linked."""
    parts = [f"# {run.case.name}\n"]
    if run.case.case.description:
        parts.append(run.case.case.description + "\n")
    for group, rows in groups_of(rows_of([run.metrics])).items():
        lines = [(row.label, text_of(row, run.metrics)) for row in rows]
        parts.append(f"## {group}\n\n" + markdown_table(("", ""), lines))
    rounds = _round_lines(run)
    if len(rounds) > 1:
        parts.append("## Corrected at full scale\n\n" + markdown_table(_ROUNDS, rounds))
    worst = [(i, i.area) for i in run.lattice.contacts(weakest=WORST).weakest]
    parts.append("## Worst interfaces\n\n" + _markdown_interfaces("contact", worst))
    held = run.lattice.holds(weakest=WORST).weakest
    parts.append("## Weakest holds\n\n" + _markdown_interfaces("hold", held))
    parts.append("## Figures\n")
    for picture in pictures:
        vector = f" ([vector](figures/{picture.shown.name}))" if picture.shown != picture.linked else ""
        parts.append(f"![{picture.caption}](figures/{picture.linked.name})\n\n{picture.caption}{vector}\n")
    versions = ", ".join(f"{k} {v}" for k, v in run.metrics.get("versions", {}).items())
    parts.append(f"Case SHA-256 `{run.metrics.get('case_sha256', '')}`; {versions}.\n")
    return "\n".join(parts)


def _markdown_interfaces(share: str, listed: Iterable[tuple[Interface, float]]) -> str:
    """A table of interfaces, each with the share that it is listed for."""
    lines = (
        (str(list(i.element)), "xyz"[i.axis], f"{i.cells[0]}, {i.cells[1]}", percent(v), percent(i.overlap))
        for i, v in listed
    )
    return markdown_table(("element", "along", "cells", share, "overlap"), lines)


def _resource(name: str) -> str:
    return files("multiscale").joinpath("data", name).read_text(encoding="utf-8")
