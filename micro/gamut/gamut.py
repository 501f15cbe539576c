"""The gamut: which cubic tensors a set of cells can realise, as a smooth signed function phi(C).

Work is done in scaled moduli m = (K/K_s, mu'/G_s, G/G_s) in [0, 1]^3, where cubic positive
definiteness is a box. The feasible set is the morphological closing of the cells' points: the union of
balls of radius r around them, eroded by r again. It joins points that stand closer than about 2r and
leaves emptier regions out. phi is its signed distance, positive inside,

    phi(m) = dist(m, outside of the balls) - r   inside the balls,
    phi(m) = -dist(m, nearest cell)              elsewhere (the two agree, -r, on the balls' surface),

sampled on a grid, smoothed by a Gaussian of one grid spacing, raised by a slack (so that 95 % of the
cells are feasible: smoothing cuts edges off, and half of the boundary cells; a correction of a cell
reaches beyond it by as much) and interpolated by a tricubic B-spline (:mod:`micro.gamut.spline`): twice
continuously differentiable, with an analytic gradient, and still close to a distance (slope 1). A spline
rather than a network because the distance is exact where it is sampled, evaluation is a fixed 64
products, and the same cells give the same phi.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from micro.cell import tensor
from micro.cell.tensor import POISSON, SCALE, from_scaled_moduli, is_definite, scaled_moduli
from micro.gamut.spline import TricubicSpline
from micro.gamut.spline_file import load_spline, save_spline
from micro.runtime.arrays import Floats
from micro.runtime.errors import InputError
from micro.runtime.files import PathLike

FORMAT = "cubic-gamut"
VERSION = 1
_LEAST_DRAWN = 1e-3
"""Moduli, in units of E_s, above which tensors are drawn."""

_BATCHES = 100
"""Of draws, and as many more as tensors are wanted, before a range is taken for empty."""

_JACOBIAN: Floats = tensor.moduli_jacobian() / SCALE[:, None]


@dataclass(frozen=True, eq=False)
class Gamut:
    """The tensors that a set of cells can realise.

    Attributes
    ----------
    spline : TricubicSpline
        phi over scaled moduli.
    radius : float
        Closing radius r, in scaled moduli.
    source : str
        Digest of the :class:`micro.cell.cellset.CellSet` it was learned from.
    attrs : dict
        How it was made and how well it is calibrated.
    poisson : float
        Poisson's ratio of the cells' base material.
    """

    spline: TricubicSpline
    radius: float
    source: str
    attrs: dict[str, Any]
    poisson: float = POISSON

    @staticmethod
    def fit(
        C: ArrayLike,
        *,
        radius: float | None = None,
        slack: float | None = None,
        coverage: float = 0.95,
        spacing: float = 1 / 96,
        smoothing: float = 1.0,
        source: str = "",
        attrs: dict[str, Any] | None = None,
        poisson: float = POISSON,
    ) -> Gamut:
        """Learn phi from the tensors (m, 3) of known cells.

        Parameters
        ----------
        C : array_like, shape (m, 3)
        radius : float, optional
            Closing radius in scaled moduli; by default :func:`closing_radius`.
        slack : float, optional
            Added to phi; by default as much as makes the share ``coverage`` of the cells feasible.
        coverage : float
            See ``slack``.
        spacing : float
            Grid spacing in scaled moduli.
        smoothing : float
            Standard deviation of the Gaussian, in grid spacings.
        source, attrs
            Provenance.
        poisson : float
            Poisson's ratio of the base material that the tensors hold for.

        Raises
        ------
        InputError
            If there are fewer than 50 cells or a tensor is not positive definite.
        """
        m = scaled_moduli(C)
        if m.ndim != 2 or len(m) < 50:
            raise InputError("a gamut is learned from at least 50 tensors (m, 3)", value=m.shape)
        if not is_definite(C).all():
            raise InputError("every tensor must be positive definite (K, mu', G > 0)")
        r = closing_radius(C) if radius is None else float(radius)
        if r < spacing:
            raise InputError("the closing radius must be at least the grid spacing", key="radius", value=r)
        # The balls need room while distances are taken; of the result a few spacings around the cells do.
        room, rim = int(np.ceil(r / spacing)) + 2, 6
        low = (np.floor(m.min(axis=0) / spacing) - rim - room) * spacing
        shape = np.ceil((m.max(axis=0) - low) / spacing).astype(int) + 1 + rim + room
        distance = _closed_distance(m, r, low, tuple(shape), spacing)
        smooth = ndimage.gaussian_filter(distance, smoothing, mode="nearest") if smoothing > 0 else distance
        kept = smooth[room:-room, room:-room, room:-room]
        if slack is None:
            exact = TricubicSpline.interpolate(kept, low + room * spacing, spacing)
            slack = max(0.0, float(-np.quantile(exact.value(m), 1 - coverage)))
        made = {"cells": len(m), "spacing": spacing, "smoothing": smoothing, "slack": slack, **(attrs or {})}
        return Gamut(
            TricubicSpline.interpolate(kept + slack, low + room * spacing, spacing), r, source, made, poisson
        )

    def phi(self, C: ArrayLike) -> Floats:
        """Signed distance to the gamut's boundary in scaled moduli, positive inside; (..., 3) to (...)."""
        return self.spline.value(scaled_moduli(C))

    def draw(self, count: int, rng: np.random.Generator, phi: tuple[float, float] = (0.0, np.inf)) -> Floats:
        """Random tensors (count, 3) with phi in a range, uniform in the box of Eq. 4's ranges.

        Those with a modulus below a thousandth of E_s are left out: few cells are so soft.

        Parameters
        ----------
        count : int
        rng : Generator
        phi : pair of float
            From the first to below the second; by default what is feasible.

        Raises
        ------
        InputError
            If hardly any tensor of the box lies in that range.
        """
        low, high = tensor.PAPER_RANGE.T
        found: list[Floats] = []
        for _ in range(_BATCHES + count):
            if sum(map(len, found)) >= count:
                return np.concatenate([np.empty((0, 3)), *found])[:count]
            drawn = low + rng.random((4096, 3)) * (high - low)
            drawn = drawn[(tensor.to_moduli(drawn) > _LEAST_DRAWN).all(axis=1)]
            there = self.phi(drawn)
            found.append(drawn[(there >= phi[0]) & (there < phi[1])])
        raise InputError("no tensors with phi in this range", key="phi", value=phi)

    def gradient(self, C: ArrayLike) -> Floats:
        """dphi/dC; (..., 3) to (..., 3), per unit of E_s."""
        return self.evaluate(C)[1]

    def hessian(self, C: ArrayLike) -> Floats:
        """d2phi/dC2; (..., 3) to (..., 3, 3)."""
        return _JACOBIAN.T @ self.spline.hessian(scaled_moduli(C)) @ _JACOBIAN

    def evaluate(self, C: ArrayLike) -> tuple[Floats, Floats]:
        """Phi (...) and dphi/dC (..., 3) together, at less than twice the cost of phi."""
        value, slope = self.spline.evaluate(scaled_moduli(C))
        return value, slope @ _JACOBIAN

    def project(self, C: ArrayLike, margin: float = 0.0) -> Floats:
        """The nearest tensors (in scaled moduli) with phi >= margin; (..., 3).

        Feasible tensors are returned as they are. The result always satisfies phi >= margin.

        Raises
        ------
        InputError
            If no tensor has phi >= margin, or one of ``C`` is not finite.
        """
        from micro.gamut.projection import nearest_feasible

        tensors = np.array(C, dtype=np.float64)
        m = scaled_moduli(tensors)
        if not np.isfinite(m).all():
            raise InputError("tensors to project must be finite")
        flat, out = m.reshape(-1, 3), tensors.reshape(-1, 3)
        # Feasible by phi(C) itself: scaling there and back would cost a rounding.
        bad = np.flatnonzero(self.phi(out) < margin)
        if len(bad):
            # A whisker more than asked, to survive the rounding on the way back to C.
            out[bad] = from_scaled_moduli(nearest_feasible(self.spline, flat[bad], margin + 1e-9))
        return out.reshape(tensors.shape)

    @cached_property
    def box(self) -> tuple[Floats, Floats]:
        """Lowest and highest (K, mu', G) where phi > 0 on the grid, one spacing wider; units of E_s."""
        axes = [
            o + self.spline.spacing * np.arange(n)
            for o, n in zip(self.spline.origin, self.spline.coefficients.shape, strict=True)
        ]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        inside = nodes[self.spline.value(nodes) > 0]
        low, high = inside.min(axis=0) - self.spline.spacing, inside.max(axis=0) + self.spline.spacing
        # The moduli of the softest cells are below one spacing: stay positive.
        return np.maximum(low, 1e-3) * SCALE, np.minimum(
            high * SCALE, tensor.to_moduli(tensor.isotropic(1.0, self.poisson))
        )

    def save(self, path: PathLike) -> None:
        """Write as safetensors with JSON metadata, atomically."""
        save_spline(
            path,
            self.spline,
            kind=FORMAT,
            version=VERSION,
            source=self.source,
            attrs=self.attrs,
            radius=repr(self.radius),
            scale=json.dumps(SCALE.tolist()),
            poisson=repr(self.poisson),
        )

    @staticmethod
    def load(path: PathLike) -> Gamut:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is missing, of another kind or version, or damaged.
        """
        spline, source, attrs, metadata = load_spline(path, kind=FORMAT, version=VERSION)
        try:
            radius, scale = float(metadata["radius"]), json.loads(metadata["scale"])
            # Files of version 0.1 do not say: they were made for 0.3.
            poisson = float(metadata.get("poisson", POISSON))
        except (KeyError, ValueError) as error:
            raise InputError(f"not a readable {FORMAT}: {error!r}", file=path) from error
        if not np.allclose(scale, SCALE, rtol=1e-12):
            raise InputError("scaled by another base material", file=path, key="scale", value=scale)
        return Gamut(spline, radius, source, attrs, poisson)


def closing_radius(C: ArrayLike) -> float:
    """A closing radius from the local spacing of tensors (m, 3): see the module's calibration.

    Twice the median distance to the fourth neighbour in scaled moduli. In a set without structure
    (points at random, density 1) the largest empty balls among a few thousand points have this size.
    """
    m = scaled_moduli(C)
    distance, _ = cKDTree(m).query(m, k=5)
    return float(2.0 * np.median(distance[:, 4]))


def _closed_distance(m: Floats, r: float, low: Floats, shape: tuple[int, ...], spacing: float) -> Floats:
    """Signed distance to the closing by r of points (m, 3), on a grid."""
    axes = [low[a] + spacing * np.arange(shape[a]) for a in range(3)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    nearest = _nearest(m, nodes, r)
    out = -nearest
    inside = nearest < r
    # The balls' surface, accurate to the square of the spacing since `nearest` is exact.
    vertices, faces, _, _ = marching_cubes(nearest, level=r, spacing=(spacing,) * 3)
    corners = vertices[faces]
    cloud = np.concatenate([vertices, corners.mean(axis=1)]) + low
    out[inside] = cKDTree(cloud).query(nodes[inside])[0] - r
    return out


def _nearest(m: Floats, nodes: Floats, r: float) -> Floats:
    """Distance of grid nodes (nx, ny, nz, 3) to the points; exact to 2r and beyond, interpolated far off."""
    tree, step = cKDTree(m), 4
    shape = nodes.shape[:3]
    # A margin of the grid's own step, since a distance changes by no more than one walks.
    coarse = tree.query(nodes[::step, ::step, ::step])[0]
    index = np.asarray(np.indices(shape)) / step
    distance = ndimage.map_coordinates(coarse, index, order=1, mode="nearest")
    spacing = float(np.linalg.norm(nodes[1, 0, 0] - nodes[0, 0, 0]))
    close = distance < 2 * r + 2 * step * spacing
    distance[close] = tree.query(nodes[close])[0]
    return np.asarray(distance)
