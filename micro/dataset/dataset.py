"""The data set of cubic cells: thinned, split for training, and packaged.

A data set is a :class:`micro.cell.cellset.CellSet` whose attributes say of every cell where it comes from and
which part it belongs to, one letter a cell:

========== ==========================================================================
attribute  content
========== ==========================================================================
sources    names of the sources, such as ``library``, ``pool 003`` or ``active 001``
source     for each cell the letter of its source (a, b, ... in the order above)
split      for each cell ``t``, ``v`` or ``e``: training, validation or test; ``-``: none of them
open       for each cell ``o`` or ``c``: open, or closing void in; only where cells are labelled so
========== ==========================================================================
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from micro.cell.cellset import CellSet
from micro.cell.tensor import scaled_moduli
from micro.dataset.duplicates import fingerprints, near_duplicates
from micro.runtime.arrays import Bools
from micro.runtime.errors import InputError

PARTS = ("train", "validation", "test")
_PART_LETTERS = "tve-"
_OPEN_LETTERS = "co"
_SOURCE_LETTERS = string.ascii_letters + string.digits

SHARE = 0.05
"""Probability of validation, and of test, for a cell unlike those before it."""


def thin(C: ArrayLike, volume: ArrayLike, *, radius: float = 0.01, keep: int = 6) -> NDArray[np.intp]:
    """Thin the dense regions of (C11, C12, C44, V).

    Cells are taken in the order given; one is left out if already ``keep`` of those taken lie within
    ``radius`` of it in scaled moduli and volume (K/K_s, mu'/G_s, G/G_s, V). Where cells are sparse
    all stay, and what comes later never drives out what came before.

    Parameters
    ----------
    C : array_like, shape (m, 3)
    volume : array_like, shape (m,)
    radius : float
    keep : int

    Returns
    -------
    int array
        Rows that stay, in ascending order.

    Raises
    ------
    InputError
        If the radius is not positive or ``keep`` less than one.
    """
    if not (radius > 0 and keep >= 1):
        raise InputError("a positive radius and at least one cell to keep are needed", value=(radius, keep))
    points = np.column_stack([scaled_moduli(C), np.asarray(volume, dtype=np.float64)])
    pairs = cKDTree(points).query_pairs(radius, output_type="ndarray")
    near = np.zeros(len(points), dtype=np.intp)
    stays = np.ones(len(points), dtype=bool)
    # Each pair belongs to its earlier cell, which counts against the later one if it stays.
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    starts = np.searchsorted(pairs[:, 0], np.arange(len(points) + 1))
    for i in range(len(points)):
        stays[i] = near[i] < keep
        if stays[i]:
            near[pairs[starts[i] : starts[i + 1], 1]] += 1
    return np.flatnonzero(stays)


def split(cells: CellSet, *, share: float = SHARE, given: ArrayLike = ()) -> NDArray[np.intp]:
    """Which part each cell belongs to: 0 training, 1 validation, 2 test, -1 none.

    Cells are taken in the order given. One that has no near-duplicate before it
    (:func:`micro.dataset.duplicates.near_duplicates`) is drawn by a hash of its bits; one that has
    follows it.
    A cell like cells of two parts can join neither and is left out. So near-duplicates never stand in two
    parts, and cells that are added at the end change nothing: what was trained on stays out of the test.

    Parameters
    ----------
    cells : CellSet
    share : float
        Probability of validation, and of test.
    given : int array, shape (k,), optional
        Parts of the first cells, which are kept.

    Returns
    -------
    int array, shape (m,)
    """
    known = np.asarray(given, dtype=np.intp)
    drawn = fingerprints(cells.packed, cells.n) / 2.0**64
    part = np.where(drawn < 1 - 2 * share, 0, np.where(drawn < 1 - share, 1, 2))
    pairs = near_duplicates(cells.packed, cells.n)
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    starts = np.searchsorted(pairs[:, 1], np.arange(len(cells) + 1))
    part[: len(known)] = known
    for i in range(len(known), len(cells)):
        earlier = part[pairs[starts[i] : starts[i + 1], 0]]
        parts = np.unique(earlier[earlier >= 0])
        if len(parts):
            part[i] = parts[0] if len(parts) == 1 else -1
    return part


def with_provenance(cells: CellSet, source: Sequence[str], part: ArrayLike, attrs: dict[str, Any]) -> CellSet:
    """The cells as a data set: with their sources (m names), parts (m numbers) and further attributes.

    Parameters
    ----------
    cells : CellSet
    source : sequence of str, length m
    part : int array, shape (m,)
        Index in :data:`PARTS`; -1 for a cell that belongs to none.
    attrs : dict

    Raises
    ------
    InputError
        If there are more sources than letters.
    """
    names, codes = np.unique(np.asarray(source, dtype=np.str_), return_inverse=True)
    if len(names) > len(_SOURCE_LETTERS):
        raise InputError(f"at most {len(_SOURCE_LETTERS)} sources can be told apart", value=len(names))
    letters = {
        "sources": names.tolist(),
        "source": "".join(_SOURCE_LETTERS[i] for i in codes),
        "split": "".join(_PART_LETTERS[i] for i in np.asarray(part)),
    }
    return replace(cells, attrs={**attrs, **letters})


def sources(cells: CellSet) -> NDArray[np.str_]:
    """The source of every cell of a data set; (m,)."""
    names = cells.attrs.get("sources", [])
    letters = _letters(cells, "source", _SOURCE_LETTERS[: len(names)])
    return np.array(names, dtype=np.str_)[letters]


def openness(cells: CellSet) -> Bools:
    """Which cells of a labelled data set enclose no void in a lattice of their own kind; (m,)."""
    return _letters(cells, "open", _OPEN_LETTERS) == 1


def masks(cells: CellSet) -> dict[str, Bools]:
    """Which cells of a data set are for ``train``, ``validation`` and ``test``; each bool (m,)."""
    letters = _letters(cells, "split", _PART_LETTERS)
    return {name: letters == i for i, name in enumerate(PARTS)}


def part(cells: CellSet, name: str) -> CellSet:
    """The cells of one part, ``train``, ``validation`` or ``test``, with their sources.

    Raises
    ------
    InputError
        If there is no part of that name.
    """
    if name not in PARTS:
        raise InputError(f"the parts are {', '.join(PARTS)}", key="part", value=name)
    return take(cells, np.flatnonzero(masks(cells)[name]))


def parts_of(sets: Sequence[CellSet], names: Iterable[str]) -> dict[str, list[CellSet]]:
    """The parts of several sets together; a set without a cell in a part is left out of it.

    Raises
    ------
    InputError
        If no set has a cell in one of the parts.
    """
    parts = {name: [p for p in (part(cells, name) for cells in sets) if len(p)] for name in names}
    for name, found in parts.items():
        if not found:
            raise InputError(f"has no cell in the part {name!r}, which is needed", key="--data")
    return parts


def take(cells: CellSet, rows: ArrayLike) -> CellSet:
    """The cells at ``rows`` (integers) as a data set: sources and parts go with them."""
    index = np.asarray(rows, dtype=np.intp)
    attrs = dict(cells.attrs)
    for key, letters in (("source", _SOURCE_LETTERS), ("split", _PART_LETTERS), ("open", _OPEN_LETTERS)):
        if key == "open" and key not in attrs:
            continue
        attrs[key] = "".join(letters[i] for i in _letters(cells, key, letters)[index])
    return replace(cells.subset(index), attrs=attrs)


def _letters(cells: CellSet, key: str, known: str) -> NDArray[np.intp]:
    """The attribute ``key``, one letter a cell, as indices into ``known``; (m,)."""
    text = cells.attrs.get(key)
    if not isinstance(text, str) or len(text) != len(cells) or set(text) - set(known):
        raise InputError(f"not a data set: one letter a cell of {known!r} is needed", key=key)
    return np.array([known.index(letter) for letter in text], dtype=np.intp)
