"""The data card: what is in a data set, from the data alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.cell.tensor import scaled_moduli
from micro.dataset import figures as dataset_figures
from micro.dataset.dataset import SHARE, masks, sources
from micro.dataset.duplicates import ALIKE, fingerprints
from micro.families.families import FAMILIES, family
from micro.homogenize.octants import homogenize_octants
from micro.library.build import MEDIUM
from micro.library.retrieval import nearest
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike, atomic_path

BOX = 1 / 24
"""Edge of the boxes in scaled moduli by which coverage is counted."""

RING: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.50, 0.10, 0.15), (0.77, 0.26, 0.24))
"""Tensors (low, high) of the founding paper's cloak."""


@dataclass(frozen=True)
class Study:
    """The same formulas at several resolutions.

    Attributes
    ----------
    resolutions : tuple of int, finest last
    families : list of str (s,)
    C : array, shape (s, r, 3)
    volume : array, shape (s, r)
    """

    resolutions: tuple[int, ...]
    families: list[str]
    C: Floats
    volume: Floats


def write_card(
    cells: CellSet,
    file: PathLike,
    page: PathLike,
    images: PathLike,
    *,
    shapes: int = 24,
    resolutions: tuple[int, ...] = (16, 32, 64),
) -> None:
    """Write the card as Markdown, and its pictures ``dataset-*.png``.

    Parameters
    ----------
    cells : CellSet
        A data set.
    file : path
        The file it was read from (its name and size are stated).
    page, images : path
        The page, and the folder of the pictures.
    shapes : int
        Cells of the resolution study.
    resolutions : tuple of int
    """
    folder = Path(images)
    kinds = np.array([name.split()[0] for name in sources(cells)])
    stages = in_order(cells)
    study = resolution_study(cells, shapes, resolutions)
    dataset_figures.coverage(cells, kinds, folder / "dataset-coverage.png")
    dataset_figures.rounds(cells, grouped(stages), folder / "dataset-rounds.png")
    dataset_figures.resolution(list(resolutions), study.C, study.families, folder / "dataset-resolution.png")
    prefix = os.path.relpath(folder, Path(page).parent)
    sections = [
        _head(cells, Path(file)),
        _counts(cells),
        _coverage(cells, stages, prefix),
        _extremes(cells),
        _resolution(study, prefix),
    ]
    with atomic_path(page) as temporary:
        temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def in_order(cells: CellSet) -> list[dataset_figures.Stage]:
    """The sources in the order of their making, with the cells of each."""
    of = sources(cells)
    made = ("library", "pool", "extremes", "active", "edge")
    rank = {kind: number for number, kind in enumerate(made)}
    names = sorted(set(of.tolist()), key=lambda name: (rank.get(name.split()[0], len(made)), name))
    return [(name, of == name) for name in names]


def grouped(stages: list[dataset_figures.Stage], size: int = 4) -> list[dataset_figures.Stage]:
    """The same with the pool's rounds taken together in groups of ``size``."""
    out: list[dataset_figures.Stage] = []
    pool = [stage for stage in stages if stage[0].startswith("pool")]
    for name, rows in stages:
        if not name.startswith("pool"):
            out.append((name, rows))
        elif name == pool[0][0]:
            for i in range(0, len(pool), size):
                few = pool[i : i + size]
                label = few[0][0] if len(few) == 1 else f"{few[0][0]}-{few[-1][0].split()[-1]}"
                out.append((label, np.any([rows for _, rows in few], axis=0)))
    return out


def resolution_study(cells: CellSet, shapes: int, resolutions: tuple[int, ...]) -> Study:
    """Homogenise cells by formula at several resolutions: alike many of each family, drawn by hash.

    Raises
    ------
    InputError
        If there are fewer than two resolutions, they do not ascend, or no cell has a formula.
    """
    if list(resolutions) != sorted(set(resolutions)) or len(resolutions) < 2:
        raise InputError("at least two, ascending", key="resolutions", value=resolutions)
    draw = np.argsort(fingerprints(cells.packed, cells.n), kind="stable")
    by_family = [draw[cells.family[draw] == name] for name in FAMILIES]
    most = max(len(rows) for rows in by_family)
    turns = [int(rows[i]) for i in range(most) for rows in by_family if i < len(rows)]
    rows = turns[:shapes]
    if not rows:
        raise InputError("the data set holds no cell by formula")
    C, volume = np.empty((len(rows), len(resolutions), 3)), np.empty((len(rows), len(resolutions)))
    for column, n in enumerate(resolutions):
        octants = np.stack([family(str(cells.family[i])).octant(cells.params[i], n) for i in rows])
        result = homogenize_octants(octants, nu=cells.poisson, rtol=1e-4)
        C[:, column], volume[:, column] = result.C, result.volume
    return Study(resolutions, cells.family[rows].tolist(), C, volume)


def _head(cells: CellSet, file: Path) -> str:
    size = file.stat().st_size / 1e6
    return "\n".join(
        [
            "# The data set of cells",
            "",
            "Written by `micro dataset card`; every figure is computed from the data.",
            "",
            f"{len(cells)} cubic cells, octants of n = {cells.n} ({2 * cells.n}³ voxels a cell), each",
            "connected (one 6-connected piece that meets all six faces), without dust, and homogenised at",
            f"this resolution (base material: nu = {cells.poisson:g}).",
            f"{cells.attrs['gathered']} cells were gathered; exact copies are left out, and dense regions of "
            "(C11, C12, C44, V) thinned",
            f"(`micro.dataset.dataset.thin`). `{file.name}`: {size:.1f} MB, digest `{cells.digest()[:16]}`.",
            "",
            "Made, and resumed when interrupted, by",
            "",
            *(f"    {command} --out={file.name}" for command in cells.attrs["command"].split("; ")),
            "",
            "Read by `micro.data.packaged.load_dataset()`, a `CellSet`;",
            "`micro.dataset.dataset.masks(cells)` gives its parts,",
            "`micro.dataset.dataset.sources(cells)` where each cell comes from. Tensors are in units of E_s.",
        ]
    )


def _counts(cells: CellSet) -> str:
    parts = {name: int(rows.sum()) for name, rows in masks(cells).items()}
    parts["none: like cells of two parts"] = len(cells) - sum(parts.values())
    part_rows = [[name, str(count), f"{100 * count / len(cells):.1f} %"] for name, count in parts.items()]
    family_rows = []
    for name in np.unique(cells.family).tolist():
        rows = cells.family == name
        V = cells.volume[rows]
        family_rows.append([name, str(int(rows.sum())), f"{V.min():.2f} .. {V.max():.2f}"])
    return "\n\n".join(
        [
            "## Parts and families",
            "A hash of a cell's bits draws its part "
            f"({100 * SHARE:.0f} % validation, {100 * SHARE:.0f} % test). Near-duplicates — similarity\n"
            f"(Eq. 5) above {ALIKE}, as they are or shifted by half a period — never stand in two parts.",
            _table(["part", "cells", "share"], part_rows),
            _table(["family", "cells", "volume"], family_rows),
        ]
    )


def _coverage(cells: CellSet, stages: list[dataset_figures.Stage], prefix: str) -> str:
    m = scaled_moduli(cells.C)
    boxes = np.unique(np.floor(m / BOX).astype(int), axis=0, return_inverse=True)[1].ravel()
    seen: set[int] = set()
    before = np.zeros(len(cells), dtype=bool)
    rows = []
    for name, added in stages:
        new = set(boxes[added].tolist()) - seen
        far = cKDTree(m[before]).query(m[added])[0] if before.any() else np.array([np.nan])
        seen |= new
        before |= added
        distance = "" if np.isnan(far).any() else f"{np.median(far):.4f}"
        rows.append([name, str(int(added.sum())), str(len(new)), str(len(seen)), distance])
    return "\n\n".join(
        [
            "## Coverage",
            f"![All cells]({prefix}/dataset-coverage.png)",
            "K, G = C44 and Poisson's ratio nu (tension along a cube axis) over the volume V. Black: "
            "Hashin-Shtrikman's upper\nbounds, for G and nu those of isotropic materials, which a cubic "
            "cell's C44 may exceed (nu: both bounds at once).",
            "Source by source; a box is a cube of edge "
            f"1/{round(1 / BOX)} in scaled moduli (K/K_s, mu'/G_s, G/G_s), the distance that of\n"
            "a new cell to the nearest earlier one (median).",
            _table(["source", "cells", "new boxes", "boxes", "distance"], rows),
            f"![Before and after]({prefix}/dataset-rounds.png)",
        ]
    )


def _extremes(cells: CellSet) -> str:
    nu, zener = tensor.poisson(cells.C), tensor.zener(cells.C)
    isotropic = np.abs(zener - 1) < 0.05
    lines = [_extreme("The lowest Poisson's ratio along a cube axis", cells, int(np.argmin(nu)))]
    if isotropic.any():
        at = np.flatnonzero(isotropic)[np.argmin(nu[isotropic])]
        lines.append(
            _extreme("The lowest of a nearly isotropic cell (Zener's ratio 0.95 .. 1.05)", cells, int(at))
        )
    index, error = nearest(cells, MEDIUM[None])
    medium = ", ".join(f"{c:.3f}" for c in MEDIUM)
    lines.append(
        _extreme(f"The nearest cell to the cloak's surroundings ({medium})", cells, int(index[0, 0]))
        + f" Tensor error (Eq. 4): {100 * error[0, 0]:.2f} %."
    )
    low, high = np.array(RING)
    inside = ((low <= cells.C) & (high >= cells.C)).all(axis=1)
    lines.append(
        f"- In the box C11 {low[0]} .. {high[0]}, C12 {low[1]} .. {high[1]}, C44 {low[2]} .. {high[2]}: "
        f"{int(inside.sum())} cells."
    )
    bound = np.maximum(tensor.hashin_shtrikman(cells.volume, cells.poisson)[0], 1e-12)
    ratio = tensor.bulk(cells.C) / bound
    rows = []
    for start in np.arange(0, 10):
        members = np.flatnonzero((cells.volume >= start / 10) & (cells.volume < (start + 1) / 10))
        if len(members):
            best = members[np.argmax(ratio[members])]
            rows.append(
                [
                    f"{start / 10:.1f} .. {(start + 1) / 10:.1f}",
                    str(len(members)),
                    f"{100 * ratio[best]:.1f} %",
                    f"{cells.volume[best]:.3f}",
                    str(cells.family[best]),
                    f"{nu[members].min():.3f}",
                ]
            )
    header = ["volume", "cells", "best K / upper bound", "its volume", "its family", "lowest nu"]
    return "\n\n".join(["## Extremes", "\n".join(lines), _table(header, rows)])


def _extreme(what: str, cells: CellSet, row: int) -> str:
    C = ", ".join(f"{c:.4f}" for c in cells.C[row])
    return (
        f"- {what}: nu = {float(tensor.poisson(cells.C[row])):.3f}, (C11, C12, C44) = ({C}), "
        f"V = {cells.volume[row]:.3f},\n  Zener's ratio {float(tensor.zener(cells.C[row])):.2f}, "
        f"family {cells.family[row]}."
    )


def _resolution(study: Study, prefix: str) -> str:
    finest = study.resolutions[-1]
    moduli = tensor.to_moduli(study.C)
    ratio = moduli / moduli[:, -1:]
    rows = []
    for column, n in enumerate(study.resolutions[:-1]):
        error = tensor.tensor_error(study.C[:, column], study.C[:, -1])
        drift = np.abs(study.volume[:, column] - study.volume[:, -1])
        rows.append(
            [
                str(n),
                f"{100 * error.mean():.2f} %",
                f"{100 * error.max():.2f} %",
                *(f"{np.median(ratio[:, column, i]):.3f}" for i in range(3)),
                f"{drift.mean():.4f}",
            ]
        )
    header = ["n", "error, mean", "error, largest", "K ratio", "mu' ratio", "G ratio", "volume off by"]
    return "\n\n".join(
        [
            "## Resolution",
            f"The formulas of {len(study.families)} cells (of each family alike many) evaluated and "
            f"homogenised at n = {', '.join(map(str, study.resolutions))}:\n"
            f"tensor error (Eq. 4) against n = {finest}, median ratio of the moduli to those there, "
            "mean difference of volumes.\nA tensor belongs to the voxels it was computed from; another "
            "resolution of the same formula has its own.",
            _table(header, rows),
            f"![Moduli over resolution]({prefix}/dataset-resolution.png)",
        ]
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
