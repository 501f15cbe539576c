"""A rendered cut through the filled lattice: a slab of it, and a close-up at the hole's rim.

Drawn off-screen by VTK (:mod:`multiscale.figures.own_process`). Where nothing
can be drawn the reason is returned, to be recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from micro.runtime.arrays import Bools, Bytes, Floats, Singles
from micro.runtime.files import PathLike
from multiscale.figures.own_process import Arrays, Images, answer, drawn
from multiscale.figures.style import ACCENT, INK, add_title, new_figure, save
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice, resolutions

# Viridis without its darkest part, in which shading would drown.
_COLOURS = ListedColormap(colormaps["viridis"](np.linspace(0.12, 1, 256)), name="viridis from 12 %")
_VOXELS = 2_500_000
_WINDOW = 7  # elements an edge of the close-up
# Thin members vanish at 1/2 of a coarse voxel, and fatten below 2/5.
_LEVEL = 0.42
_VIEW = (-0.42, -0.62, 0.95)  # from the slab's middle towards the eye


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface to render, lengths in elements.

    Attributes
    ----------
    points : float32 array, shape (v, 3)
    faces : int32 array, shape (t, 3)
    normals : float32 array, shape (v, 3)
        At the points, outward.
    values : float32 array, shape (v,)
        What colours the points: C11 of their cells.
    frame : array, shape (2, 3), optional
        A box to outline, as lower and upper corner.
    """

    points: Singles
    faces: NDArray[np.int32]
    normals: Singles
    values: Singles
    frame: Floats | None = None


def render_lattice(path: PathLike, lattice: Lattice, *, layers: int = 2, title: str = "") -> str | None:
    """Write a picture of a slab across the middle of the lattice, seen along z, coloured by the cells' C11.

    Parameters
    ----------
    path : path
        PNG to write.
    lattice : Lattice
    layers : int
        Its thickness in elements (at most the lattice's).
    title : str

    Returns
    -------
    str or None
        Why nothing could be drawn (no off-screen graphics here, nothing in the middle), or None
        when the picture is written.
    """
    slab = middle_slab(lattice, layers)
    if not lattice.solid[slab.slices].any():
        return f"there is nothing solid in the middle of the lattice ({slab})"
    window = close_up(lattice, slab)
    near = surface(lattice, window, fitting_resolution(lattice, window, _VOXELS))
    frame = np.array([window.lower, window.upper], dtype=float)
    far = surface(lattice, slab, fitting_resolution(lattice, slab, _VOXELS), frame=frame)
    stiffness = lattice.tensors()[..., 0]
    shown = np.concatenate([stiffness[b.slices][lattice.solid[b.slices]] for b in (slab, window)])
    limits = (float(shown.min()), float(shown.max()))
    if limits[1] - limits[0] < 1e-9 * abs(limits[1]):
        limits = (0.9 * limits[0], 1.1 * limits[1])
    pictures, reason = drawn(__name__, _asked([far, near], limits))
    if reason is not None:
        return reason
    _compose(path, lattice, slab, window, pictures, limits, title)
    return None


def middle_slab(lattice: Lattice, layers: int) -> Block:
    """The ``layers`` middle layers of elements across z."""
    nx, ny, nz = lattice.shape
    layers = max(1, min(layers, nz))
    start = (nz - layers) // 2
    return Block((0, 0, start), (nx, ny, start + layers))


def close_up(lattice: Lattice, slab: Block) -> Block:
    """A square window of the slab that shows a rim: nearest to two thirds full, else in the middle."""
    solid = lattice.solid[slab.slices].any(axis=2).astype(np.float64)
    size = [min(_WINDOW, s) for s in solid.shape]
    total = np.pad(solid.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    a, b = size
    share = (total[a:, b:] - total[:-a, b:] - total[a:, :-b] + total[:-a, :-b]) / (a * b)
    places = np.moveaxis(np.indices(share.shape), 0, -1) + 0.5 * np.array(size)
    centre = 0.5 * np.array(solid.shape)
    # Of equally full windows the one below the centre, where the eye looks from.
    offset = (places - centre) / max(solid.shape)
    badness = np.abs(share - 2 / 3) + 0.05 * np.linalg.norm(offset - np.array([0.0, -0.2]), axis=-1)
    i, j = np.unravel_index(int(np.argmin(badness)), badness.shape)
    x, y = slab.lower[0] + int(i), slab.lower[1] + int(j)
    return Block((x, y, slab.lower[2]), (x + size[0], y + size[1], slab.upper[2]))


def fitting_resolution(lattice: Lattice, block: Block, budget: int) -> int:
    """The most voxels per cell that keep a block within a budget of voxels.

    A divisor of the cells' own number and at most half of it: averaged voxels make a smooth surface.
    """
    elements = int(np.prod(block.shape))
    coarser = resolutions(lattice.cells.n)[:-1]
    return max([s for s in coarser if elements * s**3 <= budget], default=2)


def surface(lattice: Lattice, block: Block, per_cell: int, *, frame: Floats | None = None) -> Mesh:
    """Surface of a block for the eye: from the solid fractions of coarse voxels, closed at the block's ends.

    Unlike an exported surface it is smooth and does not keep the volume exactly.

    Parameters
    ----------
    lattice : Lattice
    block : Block
    per_cell : int
        Coarse voxels along a cell's edge.
    frame : array (2, 3), optional
        A box to outline, in elements.
    """
    samples = np.pad(lattice.fractions(block, per_cell=per_cell), 1)
    points, faces, normals, _ = marching_cubes(samples, _LEVEL, gradient_direction="ascent")
    points = (points - 0.5) / per_cell  # in elements from the block's corner
    # A point belongs to the element just below it.
    inside = points - 0.3 / per_cell * normals
    element = np.clip(np.floor(inside).astype(int), 0, np.array(block.shape) - 1)
    stiffness = lattice.tensors()[..., 0][block.slices]
    values = stiffness[tuple(element.T)]
    return Mesh(
        (points + np.array(block.lower)).astype(np.float32),
        faces.astype(np.int32),
        normals.astype(np.float32),
        values.astype(np.float32),
        frame,
    )


def _asked(meshes: list[Mesh], limits: tuple[float, float]) -> dict[str, NDArray]:
    """What is handed to the process that draws."""
    arrays = {"limits": np.array(limits)}
    for number, mesh in enumerate(meshes):
        arrays |= {f"{name}.{number}": value for name, value in vars(mesh).items() if value is not None}
    return arrays


def draw(arrays: Arrays) -> Images:
    """One image a mesh, z towards the viewer."""
    import pyvista

    meshes = []
    for number in range(sum(name.startswith("points.") for name in arrays)):
        given: dict[str, Any] = {f.name: arrays.get(f"{f.name}.{number}") for f in fields(Mesh)}
        meshes.append(Mesh(**given))
    low, high = arrays["limits"].tolist()
    return [_render_one(pyvista, mesh, (low, high)) for mesh in meshes]


def _render_one(pyvista: Any, mesh: Mesh, limits: tuple[float, float]) -> Bytes:
    plotter = pyvista.Plotter(off_screen=True, window_size=[2000, 1500])
    try:
        # Shown at half this size, which smooths the edges; multisampling would take half a gigabyte.
        plotter.disable_anti_aliasing()
        plotter.set_background("white")
        surface = pyvista.PolyData.from_regular_faces(mesh.points, mesh.faces)
        surface.point_data["C11"] = mesh.values
        surface.point_data.active_normals = mesh.normals
        plotter.add_mesh(
            surface,
            scalars="C11",
            cmap=_COLOURS,
            clim=limits,
            show_scalar_bar=False,
            ambient=0.25,
            diffuse=0.85,
            specular=0.08,
            specular_power=12,
        )
        if mesh.frame is not None:
            (x0, y0, z0), (x1, y1, z1) = mesh.frame
            room = 0.15  # so that the lattice does not bury the lines
            box = pyvista.Box((x0 - room, x1 + room, y0 - room, y1 + room, z0 - room, z1 + room))
            plotter.add_mesh(box, style="wireframe", color=ACCENT, line_width=4, lighting=False)
        plotter.camera_position = "xy"
        plotter.camera.focal_point = surface.center
        plotter.camera.position = tuple(np.array(surface.center) + 100 * np.array(_VIEW))
        plotter.camera.up = (0, 0, 1)
        plotter.camera.view_angle = 22
        plotter.reset_camera()
        plotter.camera.zoom(0.98)
        if mesh.frame is None:  # dark rims help a close-up; on thousands of cells they only blacken
            plotter.enable_eye_dome_lighting()
        image = plotter.screenshot(return_img=True)
        if image is None:
            raise RuntimeError("no image came back")
        return np.asarray(image)[..., :3]
    finally:
        plotter.close()


def _compose(
    path: PathLike,
    lattice: Lattice,
    slab: Block,
    window: Block,
    pictures: list[Bytes],
    limits: tuple[float, float],
    title: str,
) -> Path:
    figure = new_figure((16.0, 5.6))
    axes = figure.subplots(1, 2, width_ratios=[1.25, 1])
    edge = 1e3 * lattice.cell_size_m
    names = (
        f"layers {slab.lower[2]} to {slab.upper[2] - 1} across z: "
        + " × ".join(f"{edge * s:g}" for s in slab.shape)
        + " mm",
        "close-up of the framed cells: " + " × ".join(f"{edge * s:g}" for s in window.shape) + " mm",
    )
    for ax, picture, name in zip(axes, pictures, names, strict=True):
        ax.imshow(_cropped(picture), interpolation="antialiased")
        ax.set_axis_off()
        ax.set_title(name, fontsize=11, color=INK)
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), _COLOURS), ax=axes, shrink=0.75, pad=0.01)
    bar.set_label("$C_{11}$ / $E_s$ of the cell")
    add_title(figure, title, f"{int(lattice.solid.sum()):,} cells, {len(lattice.cells):,} different")
    return save(figure, path)


def _cropped(picture: Bytes) -> Bytes:
    """Without its white border."""
    ink: Bools = np.any(picture < 250, axis=-1)
    rows, columns = np.flatnonzero(np.any(ink, axis=1)), np.flatnonzero(np.any(ink, axis=0))
    if not len(rows):
        return picture
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


if __name__ == "__main__":
    answer(draw)
