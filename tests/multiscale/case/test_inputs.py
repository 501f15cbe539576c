"""What users give: units and scales, meshes of other programs, files of the wrong kind, cases too large."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import meshio
import numpy as np
import pytest
import pyvista as pv
from examples import varied
from rich.console import Console
from typer.testing import CliRunner

from micro.cell.surface import read_triangles
from micro.runtime.errors import InputError
from multiscale.case.case import load_case, parse_case
from multiscale.cli.check import check_case
from multiscale.figures.problem_view import thinned
from multiscale.fill.files import cells_of
from multiscale.problem.problem import build_problem
from multiscale.problem.tensor_field import load_tensors, save_tensors

ROOT = Path(__file__).resolve().parents[3]
FIELD = 'shape = { type = "box", min = [2, 1, 0], max = [4, 3, 4] }'


def refusal(*changes: tuple[str, str]) -> str:
    with pytest.raises(InputError) as error:
        build_problem(parse_case(tomllib.loads(varied(*changes)), "case.toml"))
    return str(error.value)


# ----------------------------------------------------------------------- units
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("cell_size_mm = ", "cell_size_mm = 4000.0 #", "a cell of 4 m: the key is in mm"),
        ("young_modulus_mpa = ", "young_modulus_mpa = 2.0e9 #", "in Pa this would be 2000"),
        ("young_modulus_mpa = ", "density_kg_m3 = 7.85\nyoung_modulus_mpa = ", "That would be 7850"),
    ],
)
def test_a_number_in_another_unit_than_its_key_says_is_refused(old: str, new: str, words: str) -> None:
    assert words in refusal((old, new))


def test_a_material_stiffer_than_the_solid_is_refused_with_the_likely_unit() -> None:
    case = parse_case(tomllib.loads(varied()))
    name = case.objective.reference
    young = case.base_material.young_modulus_mpa
    data = tomllib.loads(varied())
    data["materials"][name] = {"tensor": [3.0, 1.2, 0.9]}
    with pytest.raises(InputError, match=r"2\.34 times as stiff as the solid, whose C11 is 1.346") as error:
        parse_case(data)
    assert "divide by" not in str(error.value)
    data["materials"][name] = {"tensor": [0.3 * young, 0.12 * young, 0.09 * young]}
    with pytest.raises(InputError, match=f"in MPa, divide by {young:g}"):
        parse_case(data)
    data["materials"][name] = {"relative_young_modulus": 1.0, "poisson": 0.3}
    parse_case(data)


def test_tensors_beyond_the_solid_are_refused_with_their_number(tmp_path: Path) -> None:
    problem = build_problem(parse_case(tomllib.loads(varied())))
    young = problem.young_pa / 1e6
    save_tensors(tmp_path / "field.npz", np.broadcast_to(problem.reference * young, (*problem.shape, 3)))
    with pytest.raises(InputError) as error:
        load_tensors(tmp_path / "field.npz", problem)
    assert f"{int(problem.solid.sum())} tensors are stiffer than the solid" in str(error.value)
    assert f"in MPa, divide by {young:g}" in str(error.value)


# ---------------------------------------------------------------------- meshes
def with_mesh(tmp_path: Path, surface: pv.PolyData, more: str = "") -> str:
    surface.save(tmp_path / "hole.stl")
    text = varied((FIELD, f'shape = {{ type = "mesh", file = "hole.stl"{more} }}'))
    (tmp_path / "case.toml").write_text(text)
    return text


def test_a_mesh_in_metres_is_refused_with_the_scale_that_fits(tmp_path: Path) -> None:
    with_mesh(tmp_path, pv.Sphere(radius=0.004, center=(0.006, 0.004, 0.004)))
    with pytest.raises(InputError) as error:
        build_problem(load_case(tmp_path / "case.toml"))
    assert "less than one" in str(error.value)
    assert "if the file is in metres" in str(error.value)


def test_a_mesh_mostly_outside_the_grid_is_refused_with_both_extents(tmp_path: Path) -> None:
    with_mesh(tmp_path, pv.Sphere(radius=50.0, center=(3.0, 2.0, 2.0)))
    with pytest.raises(InputError, match="of its bounding box outside the grid of"):
        build_problem(load_case(tmp_path / "case.toml"))


def test_overlapping_bodies_of_a_region_are_united(tmp_path: Path) -> None:
    """As cells from surfaces are: the winding number decides, not a parity."""
    two = pv.Box(bounds=(2, 4, 1, 3, 0, 4)) + pv.Box(bounds=(3, 5, 1, 3, 0, 4))
    with_mesh(tmp_path, two.extract_surface(algorithm="dataset_surface").triangulate())
    role = build_problem(load_case(tmp_path / "case.toml")).role
    assert (role == 0).sum() == 3 * 2 * 4


def _two_groups() -> meshio.Mesh:
    """A block of 4 x 2 x 2 unit hexahedra in two physical groups, "left" of one and "right" of three."""
    points = np.stack(np.meshgrid(*[np.arange(n + 1.0) for n in (4, 2, 2)], indexing="ij"), -1).reshape(-1, 3)

    def node(i: int, j: int, k: int) -> int:
        return (i * 3 + j) * 3 + k

    corners = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))
    elements = [(i, j, k) for i in range(4) for j in range(2) for k in range(2)]
    cells = [[node(i + a, j + b, k + c) for a, b, c in corners] for i, j, k in elements]
    tags = np.array([1 if i == 0 else 2 for i, _, _ in elements])
    return meshio.Mesh(
        points,
        [("hexahedron", np.array(cells))],
        cell_data={"gmsh:physical": [tags], "gmsh:geometrical": [tags]},
        field_data={"left": np.array([1, 3]), "right": np.array([2, 3])},
    )


@pytest.mark.parametrize("kind", ["msh", "inp", "vtu"])
def test_groups_of_a_volume_mesh_become_regions(tmp_path: Path, kind: str) -> None:
    mesh, path = _two_groups(), tmp_path / f"part.{kind}"
    left, right = "left", "right"
    if kind == "msh":
        meshio.gmsh.write(path, mesh, "2.2", binary=False)
    elif kind == "inp":
        tags = mesh.cell_data["gmsh:physical"][0]
        sets = {name: [np.flatnonzero(tags == value)] for name, value in ((left, 1), (right, 2))}
        meshio.abaqus.write(path, meshio.Mesh(mesh.points, mesh.cells, cell_sets=sets))
    else:
        left, right = "part=1", "part=2"
        data = {"part": mesh.cell_data["gmsh:physical"]}
        meshio.vtu.write(path, meshio.Mesh(mesh.points, mesh.cells, cell_data=data))
    for group, volume, count in ((left, 4, 32), (right, 12, 64), (None, 16, 80)):
        triangles = read_triangles(path, group)
        a, b, c = np.moveaxis(triangles, 1, 0)
        assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(volume, rel=1e-12)
        assert len(triangles) == count
    with pytest.raises(InputError, match="is no group of the mesh; it has"):
        read_triangles(path, "middle")


def test_tetrahedra_wedges_and_pyramids_enclose_their_volume(tmp_path: Path) -> None:
    points = np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1], [0, 0, -1], [1, 0, -1]], float
    )
    cells = [("pyramid", np.array([[0, 1, 2, 3, 4]])), ("wedge", np.array([[0, 3, 5, 1, 2, 6]]))]
    meshio.vtk.write(tmp_path / "mixed.vtk", meshio.Mesh(points, cells))
    a, b, c = np.moveaxis(read_triangles(tmp_path / "mixed.vtk"), 1, 0)
    assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(1 / 3 + 1 / 2)


BRACKET = ROOT / "docs" / "examples" / "bracket_pin.msh"
MED = Path(__file__).with_name("bracket_pin.med")


@pytest.mark.parametrize("file", [BRACKET, MED], ids=["msh", "med"])
def test_a_mesh_that_gmsh_wrote_fills_the_regions_of_its_groups(file: Path) -> None:
    """2560 mm³ in all; the pin's circle is a polygon, between a hexagon in it and the circle itself."""
    volumes = {}
    for group in (None, "bracket", "pin"):
        a, b, c = np.moveaxis(read_triangles(file, group), 1, 0)
        volumes[group] = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert volumes[None] == pytest.approx(2560, rel=1e-12)
    assert volumes["bracket"] + volumes["pin"] == pytest.approx(2560, rel=1e-12)
    assert 8 * 1.5 * 3**0.5 * 2.5**2 < volumes["pin"] < 8 * np.pi * 2.5**2


def test_med_files_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a group that is not there, cut short, and without the module that reads them."""
    with pytest.raises(InputError, match=r"is no group of the mesh; it has .*pin"):
        read_triangles(MED, "nut")
    (tmp_path / "cut.med").write_bytes(MED.read_bytes()[:9000])
    with pytest.raises(InputError, match=r"can't be read as a mesh \(med\)") as error:
        read_triangles(tmp_path / "cut.med")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="needs the Python module h5py: pip install h5py"):
        read_triangles(MED)


@pytest.mark.parametrize(
    ("group", "change", "words"),
    [
        ("wall", None, "the surface of group 'wall' is not closed"),
        ("Pin", None, "is no group of the mesh; it has wall, bracket, pin"),
        ("pin", (b"$EndElements", b""), "not closed by $EndElements"),
        ("pin", (b"8.000000099999999 1 2 3 9", b"8.000000099999999 0 3 9"), "Save all elements"),
    ],
)
def test_what_is_wrong_with_a_mesh_of_gmsh_is_said_in_one_line(
    tmp_path: Path, group: str, change: tuple[bytes, bytes] | None, words: str
) -> None:
    data = BRACKET.read_bytes()
    (tmp_path / "a.msh").write_bytes(data if change is None else data.replace(*change))
    with pytest.raises(InputError) as error:
        read_triangles(tmp_path / "a.msh", group)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_lines_that_a_reader_skips_are_not_passed_over(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Gmsh writes fewer elements than it lists into .su2 files of two groups; meshio skips the rest."""
    lines = ["NDIME= 3", "NELEM= 1", "10 0 1 2 3 0", "10 1 2 3 4 1", "NPOIN= 5"]
    lines += ["0 0 0 0", "1 0 0 1", "0 1 0 2", "0 0 1 3", "1 1 1 4", "NMARK= 0"]
    (tmp_path / "a.su2").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="could not parse line 10 1 2 3 4 1"):
        read_triangles(tmp_path / "a.su2")
    assert capfd.readouterr().err == ""


def test_a_med_file_without_its_library_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.med").write_bytes(b"\x89HDF")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="needs the Python module h5py: pip install h5py"):
        read_triangles(tmp_path / "a.med")


def test_a_damaged_mesh_of_another_program_is_one_line(tmp_path: Path) -> None:
    for name in ("a.msh", "a.inp", "a.vtu", "a.off", "a.su2"):
        (tmp_path / name).write_bytes(b"no mesh at all\n")
        with pytest.raises(InputError):
            read_triangles(tmp_path / name)


# ----------------------------------------------------------------------- files
def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "case.toml").write_bytes(b"\xef\xbb\xbf" + varied().encode())
    assert load_case(tmp_path / "case.toml").name == parse_case(tomllib.loads(varied())).name


def _with_source(tmp_path: Path, table: str, name: str) -> Path:
    path = tmp_path / "case.toml"
    path.write_text(varied() + f'\n[{table}]\nsource = "{name}"\n')
    return path


def _checked(path: Path) -> str:
    with pytest.raises(InputError) as error:
        check_case(path, path.parent / "drawn", Console(quiet=True))
    return str(error.value)


def test_check_opens_the_files_that_a_run_will_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.zarr.zip").write_text("no cells")
    assert "not a cell set" in _checked(_with_source(tmp_path, "fill", "text.zarr.zip"))
    (tmp_path / "w.safetensors").write_text("no weights")
    assert "generator's weights" in _checked(_with_source(tmp_path, "fill", "w.safetensors"))
    assert "w.safetensors" in _checked(_with_source(tmp_path, "gamut", "w.safetensors"))
    cell = np.zeros((8, 8, 8), dtype=bool)
    cell[:3] = True
    np.save(tmp_path / "cell.npy", cell)
    message = _checked(_with_source(tmp_path, "fill", "cell.npy"))
    assert "can't be a cell of a lattice: the cell is not its own mirror image" in message


def test_voxels_of_a_cell_are_a_source_of_cells(tmp_path: Path) -> None:
    """A frame of bars: the one cell of the set, with the tensor that homogenisation gives."""
    i, j, k = np.indices((8, 8, 8))
    thick = [(a < 2) | (a > 5) for a in (i, j, k)]
    frame = (thick[0] & thick[1]) | (thick[0] & thick[2]) | (thick[1] & thick[2])
    np.save(tmp_path / "frame.npy", frame * np.uint8(255))
    cells = cells_of(tmp_path / "frame.npy", 0.2)
    assert len(cells) == 1
    assert cells.volume[0] == pytest.approx(frame.mean())
    from micro.homogenize.periodic import homogenize_cell

    C = homogenize_cell(frame, nu=0.2).C
    np.testing.assert_allclose(cells.C[0], (C[0, 0], C[0, 1], C[3, 3]), rtol=1e-5)


# ---------------------------------------------------------------------- memory
def test_a_case_beyond_the_memory_is_refused_by_run_and_named_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micro.runtime.memory.available", lambda: 10**8)
    from multiscale.run.run import run_case

    path = tmp_path / "case.toml"
    path.write_text(varied())
    with pytest.raises(InputError, match=r"grid\.elements: a solved grid of .* needs about 0.45 GB"):
        run_case(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    from multiscale.cli.main import app

    out = CliRunner().invoke(app, ["check", str(path), "--out", str(tmp_path / "drawn")]).stdout
    assert "would refuse" in " ".join(out.split())


def test_a_large_problem_is_drawn_from_some_of_its_elements() -> None:
    problem = build_problem(parse_case(tomllib.loads(varied())), refine=3)
    thin = thinned(problem, 3)
    plain = build_problem(parse_case(tomllib.loads(varied())))
    assert np.array_equal(thin.region, plain.region)
    for coarse, fine in zip(thin.loads, plain.loads, strict=True):
        assert np.array_equal(coarse.fixed, fine.fixed)
    assert thinned(problem, 5).loads[0].fixed.shape[:3] == tuple(n + 1 for n in thinned(problem, 5).shape)
