"""Figures: written, sized, and changed by what they show."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from micro.cell.cellset import CellSet
from micro.runtime.errors import InputError
from multiscale.figures import chart_figures, field_figures, lattice_view as rendering, style as figure_style
from multiscale.figures.deformed_body import VIEW, Faces, deformed_figure
from multiscale.figures.field_figures import Solution
from multiscale.figures.section import Section
from multiscale.figures.style import round_factor
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice

SHAPE = (12, 10, 6)
H = 5e-3


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels than a user gets: drawing is what these tests spend their time on."""
    monkeypatch.setattr(figure_style, "DPI", 60)


def regions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hole, design and observed elements: a ring around the middle of the grid."""
    x, y, _ = (i + 0.5 for i in np.indices(SHAPE))
    r = np.hypot(x - 6, y - 5)
    return r < 1.8, (r >= 1.8) & (r < 4), r >= 4


def shear(amount: float = 0.01) -> np.ndarray:
    u = np.zeros((*(s + 1 for s in SHAPE), 3))
    u[..., 0] = amount * np.indices(u.shape[:3])[1]
    return u


def solutions() -> list[Solution]:
    hole, *_ = regions()
    bumped = shear()
    bumped[6, 5, 3] = np.nan  # inside the hole: no element uses this node
    bumped[..., 1] += 0.001
    return [Solution("reference", shear(), np.ones(SHAPE, dtype=bool)), Solution("void", bumped, ~hole)]


def tensors(scale: float = 1.0) -> np.ndarray:
    hole, design, _ = regions()
    field = np.full((*SHAPE, 3), 0.1)
    field[design] = scale * np.array([0.5, 0.2, 0.15])
    field[hole] = 0
    return field


def history(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "stage": i // 5,
            "kind": "projection" if i % 5 == 4 else "evaluation",
            "distortion": 0.3 * 0.8**i,
            "constraint": 0.01 * (-1) ** i,
        }
        for i in range(count)
    ]


def displacement(path: Path, amount: float = 1.0) -> None:
    hole, design, _ = regions()
    scaled = [Solution(s.label, amount * s.displacement, s.solid) for s in solutions()]
    field_figures.displacement_figure(path, scaled, hole=hole, design=design, cell_size_m=H, title="shear")


def distortion(path: Path, amount: float = 1.0) -> None:
    reference, void = solutions()
    moved = Solution(
        "void", reference.displacement + amount * (void.displacement - reference.displacement), void.solid
    )
    field_figures.distortion_figure(
        path, reference.displacement, [moved], observed=regions()[2], cell_size_m=H
    )


def body(path: Path, amount: float = 1.0) -> None:
    reference, void = solutions()
    moved = Solution("void", amount * void.displacement, void.solid)
    deformed_figure(path, reference.displacement, [moved], observed=regions()[2], cell_size_m=H, title="pull")


def tensor(path: Path, amount: float = 1.0) -> None:
    hole, design, _ = regions()
    field_figures.tensor_figure(path, tensors(amount), solid=~hole, design=design, cell_size_m=H)


def space(path: Path, amount: float = 1.0) -> None:
    rng = np.random.default_rng(0)
    library = rng.random((200, 3)) * [1.3, 0.5, 0.4]
    centre = np.array([0.6, 0.25, 0.2])

    def phi(C: np.ndarray) -> np.ndarray:
        return 0.5 * amount - np.linalg.norm((C - centre) / centre, axis=-1)

    chart_figures.property_space_figure(path, library, library[:20], phi, material=centre, resolution=24)


def convergence(path: Path, amount: float = 1.0) -> None:
    chart_figures.convergence_figure(path, history(round(12 * amount)), title="run")


def summary(path: Path, amount: float = 1.0) -> None:
    chart_figures.summary_figure(path, {"void": 0.34, "design": 0.01 * amount, "lattice": 0.0})


DRAWINGS = [displacement, distortion, body, tensor, space, convergence, summary]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_a_figure_is_written_and_shows_its_input(tmp_path: Path, draw: Callable[..., None]):
    draw(tmp_path / "a.png")
    draw(tmp_path / "again.png")
    draw(tmp_path / "b.png", 2.0)
    picture = imread(tmp_path / "a.png")
    assert min(picture.shape[:2]) > 200
    # Not a blank sheet: ink on at least 2 % of it.
    assert (picture[..., :3].min(axis=-1) < 0.9).mean() > 0.02
    np.testing.assert_array_equal(picture, imread(tmp_path / "again.png"))
    other = imread(tmp_path / "b.png")
    assert picture.shape != other.shape or not np.array_equal(picture, other)
    assert {p.name for p in tmp_path.glob("*.png")} == {"a.png", "again.png", "b.png"}
    # Charts lie beside as vectors, the same each time.
    vectors = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".png"}
    assert set(vectors) in (set(), {"a.svg", "again.svg", "b.svg"})
    if vectors:
        assert vectors["a.svg"] == vectors["again.svg"] != vectors["b.svg"]


def test_drawing_leaves_no_global_state(tmp_path: Path):
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    for draw in DRAWINGS:
        draw(tmp_path / f"{draw.__name__}.png")
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_a_cloak_that_is_perfect_can_be_drawn(tmp_path: Path):
    # Nothing differs: the logarithmic scale has no smallest value of its own.
    reference = solutions()[0]
    field_figures.distortion_figure(
        tmp_path / "a.png", reference.displacement, [reference], observed=regions()[2], cell_size_m=H
    )
    deformed_figure(
        tmp_path / "d.png", reference.displacement, [reference], observed=regions()[2], cell_size_m=H
    )
    displacement(tmp_path / "b.png", 0.0)
    chart_figures.convergence_figure(tmp_path / "c.png", history(1))


def test_several_loads_are_grouped(tmp_path: Path):
    loads = {name: {"void": 0.3, "design": 0.02} for name in ("shear_x", "tension_y", "shear_z")}
    chart_figures.summary_figure(tmp_path / "a.png", loads)
    chart_figures.summary_figure(tmp_path / "b.png", {"shear_x": loads["shear_x"]})
    assert not np.array_equal(imread(tmp_path / "a.png").shape, imread(tmp_path / "b.png").shape)


def test_gaps_in_the_history_are_drawn_over(tmp_path: Path):
    records = history(6)
    records[2]["distortion"] = float("nan")
    chart_figures.convergence_figure(tmp_path / "a.png", records)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_designs_that_are_too_heavy_are_not_the_least(tmp_path: Path):
    records = history(6)
    for record in records:
        record["density"] = 0.3
    records[3] |= {"density": 0.4, "distortion": 1e-4}
    chart_figures.convergence_figure(tmp_path / "a.png", records, mass_limit=0.3)
    chart_figures.convergence_figure(tmp_path / "b.png", records, mass_limit=0.5)
    assert not np.array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))


def test_what_cannot_be_drawn_is_refused(tmp_path: Path):
    reference = solutions()[0]
    still = np.zeros_like(reference.displacement)
    for figure in (field_figures.distortion_figure, deformed_figure):
        with pytest.raises(InputError, match="does not move"):
            figure(tmp_path / "a.png", still, [reference], observed=regions()[2], cell_size_m=H)
    with pytest.raises(InputError, match="no history"):
        chart_figures.convergence_figure(tmp_path / "a.png", [])
    for bad in ({}, {"void": -0.1}):
        with pytest.raises(InputError, match="fractions"):
            chart_figures.summary_figure(tmp_path / "a.png", bad)
    assert list(tmp_path.iterdir()) == []


# -- the body in space ---------------------------------------------------------------------------------


def test_the_faces_of_a_body_are_those_towards_the_eye():
    """A closed surface's faces towards the eye: of a block three sides; the walls of a hole that are seen."""
    whole = Faces.of(np.ones(SHAPE, dtype=bool))
    nx, ny, nz = SHAPE
    assert np.bincount(whole.axis).tolist() == [ny * nz, nx * nz, nx * ny]
    corners = whole.corners.astype(float)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    assert np.array_equal(np.abs(normal), np.eye(3)[whole.axis])  # unit squares, in order around
    ends = np.where(VIEW > 0, SHAPE, 0)[whole.axis]
    assert np.array_equal(np.take_along_axis(corners[:, 0], whole.axis[:, None], axis=1)[:, 0], ends)
    hole = np.zeros(SHAPE, dtype=bool)
    hole[3:6, 4:8] = True
    holed = Faces.of(~hole)
    # A hole through z: a wall across x of 4 x nz faces, one across y of 3 x nz, and 12 faces less on top.
    assert (np.bincount(holed.axis) - np.bincount(whole.axis)).tolist() == [4 * nz, 3 * nz, -12]
    assert not hole[tuple(holed.element.T)].any()


def test_values_of_faces_are_those_of_their_nodes():
    faces = Faces.of(np.ones(SHAPE, dtype=bool))
    place = np.stack(np.indices([n + 1 for n in SHAPE]), axis=-1).astype(float)
    assert np.array_equal(faces.at(place), faces.corners)


# -- the section --------------------------------------------------------------------------------------


def test_the_section_is_the_middle_of_the_grid():
    section = Section.of(np.ones(SHAPE, dtype=bool), H)
    assert section.name == "section z = 15 mm"
    assert section.extent == (60.0, 50.0)
    field = np.random.default_rng(0).random(SHAPE)
    np.testing.assert_array_equal(section.layer(field), field[:, :, 3])
    assert Section.of(np.ones((3, 3, 1), dtype=bool), H).layer_index == 0


def test_the_outline_surrounds_its_region():
    hole, *_ = regions()
    section = Section.of(~hole, H)
    lines = section.outline(hole, section.points).get_segments()
    length = sum(np.linalg.norm(np.diff(line, axis=0)) for line in lines)
    inside = np.pad(hole[:, :, 3], 1)
    edges = sum(np.count_nonzero(np.diff(inside, axis=axis)) for axis in range(2))
    assert length == pytest.approx(edges * 5.0)
    x = np.concatenate(lines)[:, 0]
    assert (x.min(), x.max()) == tuple(
        5.0 * v for v in (inside.any(1).argmax() - 1, 13 - inside[::-1].any(1).argmax())
    )


def test_triangles_cover_the_elements_that_are_there():
    hole, *_ = regions()
    section = Section.of(~hole, H)
    mesh = section.triangulation(section.points)
    a, b, c = (np.stack([mesh.x, mesh.y], axis=1)[mesh.triangles[:, i]] for i in range(3))
    area = 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    assert (area > 0).all()
    assert area.sum() == pytest.approx(np.count_nonzero(~hole[:, :, 3]) * 25.0)


@pytest.mark.parametrize(("value", "rounded"), [(0.3, 1), (1, 1), (4.9, 2), (5, 5), (73, 50), (1000, 1000)])
def test_deformation_factors_are_round(value, rounded):
    assert round_factor(value) == rounded


# -- the rendered lattice -----------------------------------------------------------------------------


def filled() -> Lattice:
    """Cross-shaped cells of two thicknesses, a hole, 8 x 9 x 3 elements."""
    n = 8
    mid = np.sort(np.indices((n, n, n)), axis=0)[1]
    octants = np.array([mid >= n - 3, mid >= n - 5])
    cells = CellSet.from_octants(octants, [[0.2, 0.1, 0.05], [0.6, 0.2, 0.15]])
    index = np.zeros((8, 9, 3), dtype=int)
    index[4:] = 1
    index[2:5, 3:6] = -1
    return Lattice(cells, index, H, 2e9, 0.3)


def test_the_mesh_to_render_is_the_lattice():
    item = filled()
    block = Block((1, 2, 1), (7, 8, 2))
    mesh = rendering.surface(item, block, 8)
    # In elements, within the block up to the width of half a coarse voxel.
    assert (mesh.points >= np.array(block.lower) - 0.07).all()
    assert (mesh.points <= np.array(block.upper) + 0.07).all()
    a, b, c = np.moveaxis(mesh.points[mesh.faces].astype(float), 1, 0)
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    # Coarse and cut at another level than 1/2, but outward and near.
    assert volume == pytest.approx(item.densities()[block.slices].sum(), rel=0.2)
    assert set(np.unique(mesh.values)) == {np.float32(0.2), np.float32(0.6)}
    soft = mesh.points[mesh.values == np.float32(0.2)]
    assert soft[:, 0].max() <= 4.07
    # Normals point out of the solid: the same way as the triangles.
    faces = np.cross(b - a, c - a)
    assert (np.einsum("ij,ij->i", faces, mesh.normals[mesh.faces].mean(axis=1)) > 0).mean() > 0.98


def test_the_close_up_shows_a_rim():
    item = filled()
    slab = rendering.middle_slab(item, 2)
    assert slab == Block((0, 0, 0), (8, 9, 2))
    window = rendering.close_up(item, slab)
    inside = item.solid[window.slices]
    assert window.shape == (7, 7, 2)
    assert inside.any()
    assert not inside.all()
    assert rendering.middle_slab(item, 99) == Block.whole(item.shape)


def test_resolution_fits_its_budget():
    item = filled()
    block = Block.whole(item.shape)
    assert rendering.fitting_resolution(item, block, 10**9) == 8
    assert rendering.fitting_resolution(item, block, 216 * 4**3) == 4
    assert rendering.fitting_resolution(item, block, 1) == 2


def test_a_lattice_is_rendered_or_a_reason_given(tmp_path: Path):
    # Both are right answers, since off-screen graphics are the machine's; neither or both is wrong.
    reason = rendering.render_lattice(tmp_path / "a.png", filled(), title="small")
    assert (reason is None) == (tmp_path / "a.png").exists()
    if reason is None:
        picture = imread(tmp_path / "a.png")[..., :3]
        coloured = picture.max(axis=-1) - picture.min(axis=-1) > 0.1
        assert coloured.mean() > 0.1
    else:
        assert "VTK" in reason


def test_a_renderer_that_dies_is_a_reason(tmp_path: Path, monkeypatch, capfd):
    # A window class that does not exist ends the drawing process, as a broken driver does.
    monkeypatch.setenv("VTK_DEFAULT_OPENGL_WINDOW", "vtkNoSuchWindow")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("EGL_PLATFORM", "none")
    reason = rendering.render_lattice(tmp_path / "a.png", filled())
    capfd.readouterr()
    assert reason is not None
    assert "VTK" in reason
    assert list(tmp_path.iterdir()) == []


def test_an_empty_middle_is_a_reason(tmp_path: Path):
    item = filled()
    index = item.index.copy()
    index[:, :, 1] = -1
    empty = Lattice(item.cells, index, H, 2e9, 0.3)
    assert "nothing solid" in str(rendering.render_lattice(tmp_path / "a.png", empty, layers=1))


def test_a_script_without_a_main_guard_draws_once(tmp_path: Path, root: Path):
    """Who draws from a plain script gets pictures, not the script's first lines again."""
    case = root / "tests" / "multiscale" / "minimal.toml"
    script = tmp_path / "plain.py"
    script.write_text(
        "from multiscale.case.case import load_case\n"
        "from multiscale.figures.problem_sheet import draw_problem\n"
        "from multiscale.problem.problem import build_problem\n"
        "print('once')\n"
        f"print(draw_problem(build_problem(load_case({str(case)!r})), 'problem.png'))\n"
    )
    # The packages are those of this process, also where the environment does not name them.
    settings = {**os.environ, "PYTHONPATH": str(root)}
    line = [sys.executable, str(script)]
    done = subprocess.run(line, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "once"
    # Off-screen graphics are the machine's; a process that ran the script again is no reason.
    assert len(said) == 2
    assert "freeze_support" not in said[1] + done.stderr
    assert (tmp_path / "problem.png").is_file()
