"""``micro homogenize``: files in, stiffness out, mistakes answered by one line."""

from __future__ import annotations

import json
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvista
from numpy.testing import assert_allclose
from small_cells import random_octant
from typer.testing import CliRunner

from micro.cell.octant import cell_from_octant
from micro.cell.readers import read_voxels
from micro.cell.tensor import SOLID, stiffness_matrix
from micro.cli.main import app
from micro.homogenize.octants import homogenize_octants
from micro.runtime.errors import InputError, NotConverged

OCTANT = random_octant(0)
ASYMMETRIC = np.random.default_rng(0).random((3, 4, 5)) < 0.6


def _invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["homogenize", *map(str, arguments)])


def _json(*arguments: object) -> dict[str, Any]:
    result = _invoke(*arguments, "--json")
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def _save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_json_of_a_cubic_cell(tmp_path: Path) -> None:
    path = _save(tmp_path / "cell.npy", cell_from_octant(OCTANT))
    report = _json(path)
    expected = homogenize_octants(OCTANT).C[0]
    assert_allclose(report["C"], stiffness_matrix(expected), rtol=1e-6, atol=1e-9)
    assert report["status"] == "ok"
    assert report["path"] == "octant"
    assert report["residual"] <= 1e-5
    assert report["volume_fraction"] == pytest.approx(OCTANT.mean())
    assert report["shape"] == [16, 16, 16]
    c11, c12, c44 = expected
    assert report["zener"] == pytest.approx(2 * c44 / (c11 - c12), rel=1e-4)
    assert report["distance_to_cubic"] < 1e-12 < report["distance_to_isotropic"]
    assert report["engineering"]["E1"] == pytest.approx((c11 - c12) * (c11 + 2 * c12) / (c11 + c12), rel=1e-4)
    general = _json(path, "--general")
    assert general["path"] == "general"
    assert_allclose(general["C"], report["C"], rtol=1e-5, atol=1e-8)
    octant = _json(_save(tmp_path / "octant.npy", OCTANT), "--octant")
    assert_allclose(octant["C"], report["C"], rtol=1e-9)


def test_numbers_are_moduli_and_settings_count(tmp_path: Path) -> None:
    report = _json(_save(tmp_path / "soft.npy", np.full((2, 3, 4), 0.5)))
    assert_allclose(report["C"], 0.5 * stiffness_matrix(SOLID), rtol=1e-9, atol=1e-12)
    assert report["engineering"]["nu12"] == pytest.approx(0.3)
    other = _json(tmp_path / "soft.npy", "--nu", 0.1)
    assert other["engineering"]["nu12"] == pytest.approx(0.1)
    void = _save(tmp_path / "void.npy", np.zeros((4, 4, 4), dtype=bool))
    result = _invoke(void, "--json")
    assert isinstance(result.exception, NotConverged)
    assert result.exception.exit_code == 3
    assert "exactly zero" in str(result.exception)
    empty = json.loads(result.stdout)
    assert empty["status"] == "no_load_path"
    assert not np.any(empty["C"])
    assert empty["engineering"] is None
    assert empty["zener"] is None
    assert _json(void, "--void", 0.25)["engineering"]["E1"] == pytest.approx(0.25)


def test_several_octants(tmp_path: Path) -> None:
    path = _save(tmp_path / "octants.npy", np.stack([OCTANT, np.ones_like(OCTANT)]))
    report = _json(path, "--octant")
    assert report["status"] == ["ok", "ok"]
    assert_allclose(report["C"][1], stiffness_matrix(SOLID), rtol=1e-9, atol=1e-12)
    assert "steps" in _invoke(path, "--octant").stdout
    void = _save(tmp_path / "some.npy", np.stack([OCTANT, np.zeros_like(OCTANT)]))
    assert "in 1 of 2 octants" in str(_invoke(void, "--octant").exception)


def test_text_for_people(tmp_path: Path) -> None:
    out = _invoke(_save(tmp_path / "cell.npy", ASYMMETRIC)).stdout
    for word in ("stiffness", "E1 =", "Zener", "nearest cubic", "3 x 4 x 5 voxels", "ok: general path"):
        assert word in out


# Readers: axes come back in order.


def test_npz_and_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", density=ASYMMETRIC)
    assert np.array_equal(read_voxels(tmp_path / "a.npz").values, ASYMMETRIC)
    np.savez(tmp_path / "b.npz", density=ASYMMETRIC, other=ASYMMETRIC * 2.0)
    assert np.array_equal(read_voxels(tmp_path / "b.npz", array="other").values, ASYMMETRIC * 2.0)
    with pytest.raises(InputError, match="density, other"):
        read_voxels(tmp_path / "b.npz")
    with pytest.raises(InputError, match="not among"):
        read_voxels(tmp_path / "b.npz", array="none")


@pytest.mark.parametrize("on_cells", [True, False])
def test_vti(tmp_path: Path, on_cells: bool) -> None:
    shape = np.array(ASYMMETRIC.shape)
    image = pyvista.ImageData(dimensions=shape + 1 if on_cells else shape)
    data = image.cell_data if on_cells else image.point_data
    data["solid"] = ASYMMETRIC.astype(np.uint8).ravel(order="F")
    image.save(tmp_path / "cell.vti")
    voxels = read_voxels(tmp_path / "cell.vti").values
    assert voxels.dtype == bool
    assert np.array_equal(voxels, ASYMMETRIC)


def test_vdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is not on every machine: without it one line, with it the grid's active box."""
    path = tmp_path / "cell.vdb"
    path.write_bytes(b" ")
    monkeypatch.setitem(sys.modules, "openvdb", None)
    with pytest.raises(InputError, match="openvdb"):
        read_voxels(path)

    class Grid:
        name = "density"
        transform = types.SimpleNamespace(voxelSize=lambda: (0.5, 0.5, 1.0))

        def evalActiveVoxelBoundingBox(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
            return (1, 2, 3), (3, 5, 7)

        def copyToArray(self, out: np.ndarray, ijk: tuple[int, ...]) -> None:
            assert ijk == (1, 2, 3)
            out[...] = ASYMMETRIC

    module = types.ModuleType("openvdb")
    module.readAll = lambda name: ([Grid()], {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openvdb", module)
    read = read_voxels(path)
    voxels = read.values
    assert read.edges == (0.5, 0.5, 1.0)
    assert voxels.shape == (3, 4, 5)
    assert (voxels == ASYMMETRIC).all()


def _write_3mf(path: Path, surface: Any) -> None:
    """A model of one object, used as the component of another that moves and turns it: x -> y -> z -> x."""
    vertices = "".join(f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in surface.points)
    faces = surface.triangulate().faces.reshape(-1, 4)[:, 1:]
    triangles = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in faces)
    model = (
        '<?xml version="1.0"?><model unit="millimeter"'
        ' xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"><resources>'
        f'<object id="1"><mesh><vertices>{vertices}</vertices>'
        f'<triangles>{triangles}</triangles></mesh></object><object id="2"><components>'
        '<component objectid="1" transform="0 1 0 0 0 1 1 0 0 5 6 7"/></components>'
        '</object></resources><build><item objectid="2"/></build></model>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("3D/3dmodel.model", model)


@pytest.mark.parametrize("kind", ["stl", "obj", "ply", "3mf"])
def test_surfaces_are_filled(tmp_path: Path, kind: str) -> None:
    """An ellipsoid with three different axes: its volume, shape and orientation come back."""
    surface = pyvista.ParametricEllipsoid(2.0, 1.0, 0.5).clean()
    path = tmp_path / f"body.{kind}"
    if kind == "3mf":
        _write_3mf(path, surface)
    elif kind == "obj":
        pyvista.save_meshio(path, surface)
    else:
        surface.save(path)
    voxels = read_voxels(path, resolution=32).values
    if kind == "3mf":
        voxels = voxels.transpose(1, 2, 0)
    assert voxels.shape == (32, 16, 8)
    x, y, z = ((np.arange(n) + 0.5) / n * 2 - 1 for n in voxels.shape)
    inside = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < 1
    # The surface is a polyhedron inside the ellipsoid: a few voxels at its skin may differ.
    assert (voxels != inside).mean() < 0.02
    assert voxels.mean() == pytest.approx(np.pi / 6, rel=0.03)


def test_open_surfaces_are_refused(tmp_path: Path) -> None:
    pyvista.Plane().triangulate().save(tmp_path / "plane.stl")
    with pytest.raises(InputError, match="closed"):
        read_voxels(tmp_path / "plane.stl")
    (tmp_path / "text.3mf").write_text("no model")
    with pytest.raises(InputError, match="3MF"):
        read_voxels(tmp_path / "text.3mf")


# What a file's numbers mean: the same cell however its mask is written.


@pytest.mark.parametrize("low_high", [(0, 1), (0, 255), (-1, 1), (3, 7)])
def test_two_whole_numbers_are_a_mask(tmp_path: Path, low_high: tuple[int, int]) -> None:
    low, high = low_high
    path = _save(tmp_path / "mask.npy", np.where(ASYMMETRIC, high, low).astype(np.int16))
    read = read_voxels(path)
    assert np.array_equal(read.values, ASYMMETRIC)
    assert read.taken == f"a mask: {high} is solid, {low} void"
    assert read.taken in _invoke(path).stdout
    turned = read_voxels(path, solid=low).values
    assert np.array_equal(turned, ~ASYMMETRIC)
    numbers = read_voxels(_save(path, np.where(ASYMMETRIC, 2, 1)), moduli=True)
    assert np.array_equal(numbers.values, np.where(ASYMMETRIC, 2, 1))
    assert "moduli from 1 to 2" in numbers.taken


def test_start_of_an_optimisation_reads_masks_as_homogenize_does(tmp_path: Path) -> None:
    from micro.cli.optimize import _start

    cell = cell_from_octant(OCTANT)
    for name, values in (("bool", cell), ("u8", cell * np.uint8(255))):
        start = _start(str(_save(tmp_path / f"{name}.npy", values)))
        assert start.dtype == bool
        assert np.array_equal(start, OCTANT)


def test_voxels_that_are_bricks_are_solved_as_bricks(tmp_path: Path) -> None:
    """A laminate across the long edges has its exact tensor (Voigt-Reuss mixing), whatever the spacing."""
    layers = np.array([1.0, 1.0, 0.2, 0.2, 0.2])
    image = pyvista.ImageData(dimensions=(4, 5, 6), spacing=(2.0, 1.0, 3.0))
    image.cell_data["E"] = np.broadcast_to(layers, (3, 4, 5)).ravel(order="F")
    image.save(tmp_path / "laminate.vti")
    report = _json(tmp_path / "laminate.vti")
    c11, c12, c44 = SOLID
    harmonic, mean = 1 / np.mean(1 / layers), np.mean(layers)
    C = np.array(report["C"])
    # Solves to 1e-5; errors of the constants are quadratic in that.
    assert C[2, 2] == pytest.approx(c11 * harmonic, rel=1e-8)
    assert C[0, 2] == pytest.approx(c12 * harmonic, rel=1e-8)
    assert C[3, 3] == pytest.approx(c44 * harmonic, rel=1e-8)
    assert C[5, 5] == pytest.approx(c44 * mean, rel=1e-8)
    assert C[0, 0] == pytest.approx((c11 - c12**2 / c11) * mean + c12**2 / c11 * harmonic, rel=1e-8)
    assert "3 x 4 x 5 voxels of 2 x 1 x 3" in _invoke(tmp_path / "laminate.vti").stdout


def test_bricks_turn_with_their_axes_and_differ_from_cubes(tmp_path: Path) -> None:
    path = _save(tmp_path / "cell.npy", ASYMMETRIC)
    turned = _save(tmp_path / "turned.npy", ASYMMETRIC.transpose(1, 2, 0))
    C = np.array(_json(path, "--spacing", "1,1.5,2", "--void", 0.01)["C"])
    D = np.array(_json(turned, "--spacing", "3,4,2", "--void", 0.01)["C"])
    order = [1, 2, 0]
    assert_allclose(D[:3, :3], C[:3, :3][np.ix_(order, order)], rtol=1e-7)
    cubes = np.array(_json(path, "--void", 0.01)["C"])
    assert np.abs(C - cubes).max() > 0.01 * np.abs(cubes).max()
    assert_allclose(_json(path, "--spacing", "7,7,7", "--void", 0.01)["C"], cubes, rtol=1e-12)


# What hangs on edges, and what hangs on nothing.


def test_a_checkerboard_has_no_stiffness_that_does_not_pass_through_edges(tmp_path: Path) -> None:
    i, j, k = np.indices((4, 4, 4))
    path = _save(tmp_path / "checker.npy", (i + j + k) % 2 == 0)
    contacts = _json(path)["contacts"]
    assert contacts["pieces"] == 32
    assert contacts["share_through_edges"] == pytest.approx(1.0)
    assert "100.0% of the stiffness passes through edges" in _invoke(path).stdout


def test_two_bars_that_meet_in_an_edge_carry_side_by_side(tmp_path: Path) -> None:
    """Bars along z that touch along an edge: along z they need no contact, across there is no other."""
    cell = np.zeros((4, 4, 4), dtype=bool)
    cell[0:2, 0:2] = cell[2:4, 2:4] = True
    contacts = _json(_save(tmp_path / "bars.npy", cell))["contacts"]
    assert contacts["pieces"] == 2
    assert 0.05 < contacts["share_through_edges"] < 0.95


def test_floating_solid_is_said(tmp_path: Path) -> None:
    cell = np.zeros((8, 8, 8), dtype=bool)
    cell[:3, :3] = True  # a bar along z
    cell[7, 7, 7] = cell[5, 5, 5] = cell[5, 5, 6] = True  # the first joins it through the cell's face
    report = _json(_save(tmp_path / "island.npy", cell))
    assert report["contacts"]["floating"] == pytest.approx(2 / 75)
    assert report["volume_fraction"] == pytest.approx(75 / 512)
    out = _invoke(tmp_path / "island.npy").stdout
    assert f"(without it {73 / 512:.4f})" in out
    clean = _json(_save(tmp_path / "cell.npy", cell_from_octant(OCTANT)))
    assert clean["contacts"] == {"pieces": 1, "floating": 0.0, "share_through_edges": 0.0}


def test_octants_say_the_same_as_their_cells(tmp_path: Path) -> None:
    i, j, k = np.indices((4, 4, 4))
    checker = (i + j + k) % 2 == 0
    island = np.zeros((4, 4, 4), dtype=bool)
    island[2:, 2:, :] = island[2:, :, 2:] = island[:, 2:, 2:] = True  # bars of four voxels along x, y and z
    island[0, 0, 0] = True  # joined to the next cells' corners alone
    octants = np.stack([checker, island, np.ones_like(island)])
    report = _json(_save(tmp_path / "octants.npy", octants), "--octant")
    for octant, contacts, volume in zip(octants, report["contacts"], report["volume_fraction"], strict=True):
        cell = _json(_save(tmp_path / "cell.npy", cell_from_octant(octant)))
        assert contacts == cell["contacts"]
        assert volume == pytest.approx(cell["volume_fraction"])
    assert [c["share_through_edges"] for c in report["contacts"]] == pytest.approx([1.0, 0.0, 0.0])
    assert [c["floating"] for c in report["contacts"]] == pytest.approx([0.0, 1 / 33, 0.0])
    out = " ".join(_invoke(tmp_path / "octants.npy", "--octant").stdout.split())
    assert "in 1 of 3 octants stiffness passes through edges" in out
    assert "in 1 of 3 octants solid floats" in out
    # One octant by itself is told as a cell is.
    single = _invoke(_save(tmp_path / "one.npy", checker), "--octant").stdout
    assert "100.0% of the stiffness passes through edges" in single
    assert f"(without it {32 / 64:.4f})" in _invoke(_save(tmp_path / "one.npy", island), "--octant").stdout


def test_a_piece_carries_only_if_it_goes_on_without_end() -> None:
    from micro.cell.contacts import pieces

    cell = np.zeros((4, 4, 4), dtype=bool)
    cell[[0, -1]] = True
    cell[:, :, 1:] = False
    cell[:, 1:] = False
    cell[1:3] = False  # two voxels that touch through the cell's face: a finite body on both opposite faces
    assert not pieces(cell).carries.any()
    cell[:, 0, 0] = True
    assert pieces(cell).carries.tolist() == [False, True]


# Several bodies.


def test_bodies_that_overlap_are_one_and_a_turned_one_is_a_cavity(tmp_path: Path) -> None:
    def box(*bounds: float, inside_out: bool = False) -> Any:
        mesh = pyvista.Box(bounds=bounds).triangulate()
        return mesh.flip_faces() if inside_out else mesh

    two = box(0, 4, 0, 4, 0, 4) + box(2, 6, 2, 6, 0, 4)
    two.extract_surface(algorithm="dataset_surface").save(tmp_path / "two.stl")
    read = read_voxels(tmp_path / "two.stl", resolution=6)
    assert read.values.sum() == 4 * (16 + 16 - 4)  # the parity of crossings would leave out the overlap twice
    assert "24 triangles; cell 6 x 6 x 4 from (0, 0, 0)" in read.taken
    hollow = box(0, 6, 0, 6, 0, 6) + box(2, 4, 2, 4, 2, 4, inside_out=True)
    hollow.extract_surface(algorithm="dataset_surface").save(tmp_path / "hollow.stl")
    assert read_voxels(tmp_path / "hollow.stl", resolution=6).values.sum() == 6**3 - 2**3
    framed = read_voxels(tmp_path / "hollow.stl", resolution=8, box=((-1.0, -1.0, -1.0), (7.0, 7.0, 7.0)))
    assert framed.values.shape == (8, 8, 8)
    assert framed.values.sum() == 6**3 - 2**3
    one = pyvista.Box(bounds=(0, 4, 0, 4, 0, 4)).triangulate()
    faces = one.regular_faces.copy()
    faces[3] = faces[3, ::-1]
    turned = pyvista.PolyData.from_regular_faces(one.points, faces)
    turned.save(tmp_path / "turned.ply", recompute_normals=False)
    assert read_voxels(tmp_path / "turned.ply", resolution=4).values.all()
    points = np.concatenate([one.points, one.points + 9])
    both = pyvista.PolyData.from_regular_faces(points, np.concatenate([faces, faces + len(one.points)]))
    both.save(tmp_path / "both.ply", recompute_normals=False)
    with pytest.raises(InputError, match="disagree on which side is outside"):
        read_voxels(tmp_path / "both.ply")


def test_a_cell_beyond_the_memory_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micro.runtime.memory.available", lambda: 10**5)
    result = _invoke(_save(tmp_path / "cell.npy", np.ones((8, 9, 10), dtype=bool)))
    assert isinstance(result.exception, InputError)
    assert "a cell of 8 x 9 x 10 voxels needs about 0.00069 GB" in str(result.exception)


# Mistakes.


def _files(at: Path) -> None:
    np.save(at / "cell.npy", ASYMMETRIC)
    np.save(at / "flat.npy", np.ones((3, 3)))
    np.save(at / "many.npy", np.ones((2, 3, 3, 3)))
    np.save(at / "words.npy", np.full((2, 2, 2), "solid"))
    np.save(at / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(at / "negative.npy", np.full((2, 2, 2), -1.0))
    np.save(at / "nan.npy", np.full((2, 2, 2), np.nan))
    np.savez(at / "two.npz", a=ASYMMETRIC, b=ASYMMETRIC)
    np.save(at / "labels.npy", np.arange(27).reshape(3, 3, 3) % 3)
    whole = (at / "two.npz").read_bytes()
    (at / "damaged.npz").write_bytes(whole[: len(whole) // 2])
    (at / "image.vti").write_text("<VTKFile")
    (at / "folder.npy").mkdir()
    (at / "text.npy").write_text("no array")
    (at / "text.npz").write_text("no archive")
    (at / "what.xyz").write_text("?")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("missing.npy", "no such file"),
        ("what.xyz", "no known kind"),
        ("text.npy", "numpy array"),
        ("text.npz", "not an npz file"),
        ("objects.npy", "numpy array"),
        ("flat.npy", "three-dimensional"),
        ("words.npy", "three-dimensional"),
        ("many.npy", "--octant"),
        ("negative.npy", "not negative"),
        ("nan.npy", "finite"),
        ("two.npz", "--array"),
        ("cell.npy --octant", "octants"),
        ("cell.npy --octant --general", "--general"),
        ("cell.npy --nu 0.5", "--nu"),
        ("cell.npy --rtol 0", "--rtol"),
        ("cell.npy --void -1", "void"),
        ("cell.npy --device nowhere", "--device"),
        ("cell.npy --resolution 8", "--resolution"),
        ("cell.npy --box 0:1,0:1,0:1", "--box"),
        ("cell.npy --box 0:1,0:1", "three ranges"),
        ("cell.npy --spacing 1,1", "three numbers"),
        ("cell.npy --spacing 1,1,9", "8 times another"),
        ("cell.npy --spacing 1,0,1", "positive"),
        ("cell.npy --solid 7", "no voxel has this value"),
        ("cell.npy --solid 1 --moduli", "excludes --solid"),
        ("labels.npy", "3 different whole numbers (0, 1, 2): --solid VALUE"),
        ("damaged.npz", "not an npz file"),
        ("image.vti", "VTK file"),
        ("folder.npy", "is a directory"),
    ],
)
def test_mistakes_are_input_errors(tmp_path: Path, line: str, words: str) -> None:
    _files(tmp_path)
    name, *options = line.split()
    result = _invoke(tmp_path / name, *options)
    assert isinstance(result.exception, InputError)
    assert words in str(result.exception)
    assert result.stdout == ""


def test_exit_codes(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    np.save(tmp_path / "cell.npy", ASYMMETRIC)
    done = run_cli("micro", "homogenize", "cell.npy", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    assert np.array(json.loads(done.stdout)["C"]).shape == (6, 6)
    wrong = run_cli("micro", "homogenize", "nothing.npy")
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr == "error: nothing.npy: no such file\n"


def test_what_did_not_converge_exits_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from micro.voxels.system import System

    path = _save(tmp_path / "cell.npy", ASYMMETRIC)
    solve = System.solve
    monkeypatch.setattr(System, "solve", lambda *a, **k: solve(*a, **k, max_iterations=2))
    result = _invoke(path, "--json")
    assert isinstance(result.exception, NotConverged)
    assert result.exception.exit_code == 3
    assert "--rtol" in str(result.exception)
    assert json.loads(result.stdout)["status"] == "not_converged"
