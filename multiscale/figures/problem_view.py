"""The problem in space, rendered off-screen by pyvista (VTK)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micro.runtime.arrays import Bools, Bytes, Floats
from multiscale.figures.own_process import Arrays, Images, answer, drawn
from multiscale.figures.palette import ARROWS, FORCE_COLOUR, MOVE_COLOUR, SUPPORT_COLOUR
from multiscale.problem.problem import Problem, Role

MOST_DRAWN = 80
"""Elements along an edge that a picture shows."""

#: What a picture shows of a load.
_DRAWN = ("fixed", "value", "force")

_SIZE = [1100, 940]
"""Pixels across and down."""
MATT: dict[str, Any] = {"ambient": 0.4, "diffuse": 0.7, "specular": 0.0}


def views(problem: Problem, colours: list[str]) -> tuple[Images, str | None]:
    """One image a load of the problem (:func:`render_problem`), or none and the reason why."""
    step = -(-max(problem.shape) // MOST_DRAWN)
    problem = thinned(problem, step) if step > 1 else problem
    arrays: dict[str, NDArray] = {
        "region": problem.region,
        "role": problem.role,
        "colours": np.array(colours),
    }
    for number, load in enumerate(problem.loads):
        arrays |= {f"{name}.{number}": getattr(load, name) for name in _DRAWN}
    return drawn(__name__, arrays)


def draw(arrays: Arrays) -> Images:
    """The images of :func:`views`, in the process that draws them."""
    count = sum(name.startswith("force.") for name in arrays)
    return [
        render_problem(
            arrays["region"],
            arrays["role"],
            {name: arrays[f"{name}.{number}"] for name in _DRAWN},
            arrays["colours"].tolist(),
        )
        for number in range(count)
    ]


def thinned(problem: Problem, step: int) -> Problem:
    """Every ``step``-th element and node of a problem: what a picture of it shows, not what is solved."""
    elements = tuple(slice(step // 2, None, step) if n > step else slice(None) for n in problem.shape)
    region = problem.region[elements]
    # The last layer of nodes is a face, and stays one.
    nodes = [
        np.append(np.arange(0, n, step)[:m], n) for n, m in zip(problem.shape, region.shape, strict=True)
    ]
    nodes_at = np.ix_(*nodes)
    loads = tuple(
        replace(load, fixed=load.fixed[nodes_at], value=load.value[nodes_at], force=load.force[nodes_at])
        for load in problem.loads
    )
    every = np.zeros((*region.shape, 3))
    return replace(
        problem,
        shape=region.shape,
        role=problem.role[elements],
        region=region,
        tensor=every,
        reference=every.copy(),
        observed=problem.observed[elements],
        loads=loads,
        targets=(),
    )


def render_problem(region: NDArray, role: NDArray, load: Arrays, colours: list[str]) -> Bytes:
    """Image (height, width, 3) of a problem under one load (its ``fixed``, ``value`` and ``force``).

    Fixed regions are glass, design regions opaque, void is what is missing.

    Parameters
    ----------
    region, role : int arrays (nx, ny, nz)
    load : mapping of str to array
        On nodes, (nx+1, ny+1, nz+1, 3).
    colours : list of str
        By region.
    """
    import pyvista as pv

    shape = region.shape

    plotter: Any = pv.Plotter(off_screen=True, window_size=_SIZE)
    try:
        plotter.set_background("white")
        grid = pv.ImageData(dimensions=[n + 1 for n in shape])
        # VTK counts x fastest.
        grid.cell_data["region"] = region.ravel(order="F")
        for index, colour in enumerate(colours):
            part = grid.extract_cells(grid.cell_data["region"] == index)
            own = Role(int(role[region == index][0]))
            if own == Role.VOID:
                continue
            glass = own == Role.FIXED and len(colours) > 1
            surface = part.extract_surface(algorithm="dataset_surface")
            plotter.add_mesh(
                surface,
                color=colour,
                opacity=0.22 if glass else 1.0,
                ambient=0.9 if glass else MATT["ambient"],
                diffuse=0.1 if glass else MATT["diffuse"],
                show_edges=not glass and max(shape) <= 80,
                edge_color="white",
                edge_opacity=0.35,
            )
            edges = surface.extract_feature_edges(
                feature_angle=60, boundary_edges=False, manifold_edges=False, non_manifold_edges=False
            )
            if glass and edges.n_cells:
                plotter.add_mesh(edges, color="#56606e", line_width=2, opacity=0.7, lighting=False)
        _supports(plotter, load, max(shape))
        for field, colour in ((load["force"], FORCE_COLOUR), (load["value"], MOVE_COLOUR)):
            _arrows(plotter, field, colour, max(shape))
        plotter.add_axes(line_width=5, viewport=(0.0, 0.0, 0.22, 0.22))
        centre = np.array(shape) / 2
        plotter.camera.focal_point = centre
        plotter.camera.position = centre + np.array([1.1, 0.8, 1.8]) * max(shape)
        plotter.camera.up = (0, 1, 0)
        plotter.reset_camera()
        image = plotter.screenshot(return_img=True)
    finally:
        plotter.close()
    if image is None:
        raise RuntimeError("VTK returned no picture")
    return _trimmed(np.asarray(image)[..., :3])


def _trimmed(image: Bytes, margin: int = 12) -> Bytes:
    """The image without its white border."""
    drawn: Bools = np.min(image, axis=-1) < 250
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not len(rows):
        raise RuntimeError("the picture is empty")
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    return image[top : rows[-1] + margin + 1, left : columns[-1] + margin + 1]


def _supports(plotter: Any, load: Arrays, scale: int) -> None:
    """A dark plate behind each held part of a face; small spheres at other held nodes."""
    import pyvista as pv

    held = (load["fixed"] & (load["value"] == 0)).any(-1) & ~(load["value"] != 0).any(-1)
    drawn = np.zeros_like(held)
    thick = 0.02 * scale
    for axis in range(3):
        for side, index in ((-1, 0), (1, held.shape[axis] - 1)):
            layer = held.take(index, axis=axis)
            quads = layer[:-1, :-1] & layer[1:, :-1] & layer[:-1, 1:] & layer[1:, 1:]
            if not quads.any():
                continue
            plate = _plate(quads, axis, index, side * thick)
            plotter.add_mesh(plate, color=SUPPORT_COLOUR, **MATT)
            np.moveaxis(drawn, axis, 0)[index] |= layer
    rest = np.argwhere(held & ~drawn).astype(float)
    if len(rest):
        balls = pv.PolyData(rest).glyph(geom=pv.Sphere(radius=0.014 * scale), scale=False, orient=False)
        plotter.add_mesh(balls, color=SUPPORT_COLOUR, **MATT)


def _plate(quads: Bools, axis: int, index: int, thickness: float) -> Any:
    """The quads of a face as a thin plate outside the grid."""
    import pyvista as pv

    dimensions = [n + 1 for n in quads.shape]
    dimensions.insert(axis, 2)
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = abs(thickness)
    origin = [0.0, 0.0, 0.0]
    origin[axis] = index + min(thickness, 0.0)
    block: Any = pv.ImageData(dimensions=dimensions, spacing=spacing, origin=origin)
    return block.extract_cells(np.expand_dims(quads, axis).ravel(order="F"))


def spread(place: NDArray, scale: int) -> Bools:
    """Which of the nodes (m, d) stand on a coarse raster, so that their arrows stay apart; (m,)."""
    step = max(1, round(scale / (ARROWS - 1)))
    lowest = place.min(axis=0) if len(place) else 0
    return ((place - lowest) % step == 0).all(axis=1)


def _arrows(plotter: Any, field: Floats, colour: str, scale: int) -> None:
    import pyvista as pv

    size = np.linalg.norm(field, axis=-1)
    if not size.any():
        return
    place = np.argwhere(size > 1e-9 * size.max())
    place = place[spread(place, scale)]
    vectors = field[tuple(place.T)]
    points = place.astype(float)
    length = 0.11 * scale
    direction = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    last = np.array(field.shape[:3]) - 1
    out = (points == last).astype(float) - (points == 0)
    # Keep arrows outside: pushing ones end on the face, others start on or above it.
    inward = (direction * out).sum(1) < -0.5
    points[inward] -= direction[inward] * length
    centred = np.abs((direction * out).sum(1)) < 0.5
    points[centred] -= direction[centred] * length / 2
    face = np.abs(out.sum(0)).argmax()
    points += out * np.eye(3)[face] * 0.02 * scale
    cloud = pv.PolyData(points)
    cloud["vectors"] = direction
    shape = pv.Arrow(
        tip_length=0.38, tip_radius=0.14, shaft_radius=0.05, tip_resolution=24, shaft_resolution=24
    )
    arrows = cloud.glyph(orient="vectors", scale=False, factor=length, geom=shape)
    plotter.add_mesh(arrows, color=colour, **MATT)


if __name__ == "__main__":
    answer(draw)
