"""Exports, each read back by an independent reader from a lattice without any symmetry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvista
import trimesh
from heard import Counted, Heard
from lattices import N, make, mixed
from scipy import ndimage

from micro.runtime.errors import InputError
from multiscale.export import command
from multiscale.export.command import FORMATS, export
from multiscale.export.mesh import surface
from multiscale.export.mesh.stl import write_stl
from multiscale.export.mesh.surface import enclosed_volume, surface_meshes, surface_size
from multiscale.export.pieces import pieces
from multiscale.export.volume.vti import lattice_fields, read_vti, write_voxels, write_vti, write_vtu
from multiscale.lattice.block import Block
from multiscale.lattice.lattice import Lattice


@pytest.fixture
def item() -> Lattice:
    """3 x 4 x 2 elements, void in places, no two layers alike."""
    return mixed()


def mesh(path: Path) -> trimesh.Trimesh:
    loaded = trimesh.load(path, file_type="stl")
    assert isinstance(loaded, trimesh.Trimesh)
    return loaded


# -- STL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [0.0, 0.8])
def test_stl_is_watertight_and_has_the_lattices_volume(tmp_path, item, smooth):
    written = write_stl(item, tmp_path / "a.stl", smooth=smooth)
    found = mesh(tmp_path / "a.stl")
    assert found.is_watertight
    assert found.is_winding_consistent
    # Positive: normals point out. The level is chosen to keep the volume within 0.2 %; here 0.5 %,
    # for thin bars' sake. A blur of 0.8 voxels melts bars two voxels wide, so it is allowed the 1 % promised.
    tolerance = 0.01 if smooth else 0.005
    assert found.volume == pytest.approx(item.solid_volume_m3 * 1e9, rel=tolerance)
    assert written.volume_mm3 == pytest.approx(found.volume, rel=1e-4)  # float32 corners
    assert written.triangles == len(found.faces)


def test_stl_lies_where_the_voxels_do(tmp_path, item):
    # Every voxel's centre against the mesh: no axis is flipped or swapped, no shift, millimetres.
    write_stl(item, tmp_path / "a.stl", per_cell=N)
    corners = mesh(tmp_path / "a.stl").triangles
    voxels = item.voxels(per_cell=N)
    pitch = 2.0 / N
    x, y, z = ((np.arange(s) + 0.5) * pitch for s in voxels.shape)
    # A ray along x past each line of centres, a little off: on the line itself lie the mesh's corners.
    for j, k in np.ndindex(len(y), len(z)):
        at = np.array([y[j] + 0.013 * pitch, z[k] + 0.029 * pitch])
        a, b, c = np.moveaxis(corners[..., 1:], 1, 0)
        doubled = _cross(b - a, c - a)
        near = np.flatnonzero(doubled != 0)
        u = _cross(b[near] - at, c[near] - at) / doubled[near]
        v = _cross(c[near] - at, a[near] - at) / doubled[near]
        hit = (u >= 0) & (v >= 0) & (u + v <= 1)
        weights = np.stack([u, v, 1 - u - v], axis=1)[hit]
        crossings = (weights * corners[near[hit], :, 0]).sum(axis=1)
        inside = np.count_nonzero(crossings[:, None] < x, axis=0) % 2 == 1
        np.testing.assert_array_equal(inside, voxels[:, j, k])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def test_stl_of_a_region_is_closed_and_stays_in_place(tmp_path, item):
    block = Block((1, 1, 0), (3, 3, 1))
    write_stl(item, tmp_path / "a.stl", block)
    found = mesh(tmp_path / "a.stl")
    assert found.is_watertight
    volume = item.densities()[block.slices].sum() * 8.0  # mm3: cells of 2 mm
    assert found.volume == pytest.approx(volume, rel=5e-3)
    lower, upper = found.bounds
    # The level moves walls by less than a fiftieth of a voxel here.
    slack = 0.02 * 2.0 / (2 * N)
    assert (lower >= np.array([2.0, 2.0, 0.0]) - slack).all()
    assert (upper <= np.array([6.0, 6.0, 2.0]) + slack).all()


def test_slabs_join_without_cracks(tmp_path, item, monkeypatch):
    write_stl(item, tmp_path / "one.stl", smooth=0.7)
    monkeypatch.setattr(surface, "_SLAB_VOXELS", 1)
    meshes = surface_meshes(item, Block.whole(item.shape), per_cell=2 * N, smooth=0.7)
    slabs = [mesh.triangles for mesh in meshes]
    assert len(slabs) == item.shape[0]
    write_stl(item, tmp_path / "many.stl", smooth=0.7)
    one, many = mesh(tmp_path / "one.stl"), mesh(tmp_path / "many.stl")
    assert many.is_watertight
    assert len(many.faces) == len(one.faces)
    assert many.volume == pytest.approx(one.volume, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_any_voxels_give_a_watertight_surface(tmp_path, seed):
    # Random voxels hold every ambiguous case of marching cubes.
    rng = np.random.default_rng(seed)
    low, mid, high = np.sort(np.indices((4, 4, 4)), axis=0)
    cells = (rng.random((5, 4, 4, 4)) < 0.5)[:, low, mid, high]
    item = make(rng.integers(-1, 5, size=(2, 3, 2)), cells=cells)
    write_stl(item, tmp_path / "a.stl")
    found = mesh(tmp_path / "a.stl")
    assert found.is_watertight
    # No claim of 1 % for noise: its voxels meet in edges everywhere, and joining or parting them at a level
    # of 1/2 is a jump in volume of more than that.
    assert found.volume == pytest.approx(item.solid_volume_m3 * 1e9, rel=0.1)


def test_thin_bars_keep_their_volume(tmp_path):
    # Bars of 2 x 2 voxels: at level 1/2 bevels take an eighth of them.
    item = make(np.full((2, 2, 2), 4))
    block = Block.whole(item.shape)
    meshes = surface_meshes(item, block, per_cell=2 * N, level=0.5)
    blunt = sum(enclosed_volume(mesh.triangles) for mesh in meshes)
    assert blunt < 0.92 * item.solid_volume_m3 * 1e9
    assert write_stl(item, tmp_path / "a.stl").volume_mm3 == pytest.approx(
        item.solid_volume_m3 * 1e9, rel=0.01
    )


def test_a_solid_block_keeps_its_faces(tmp_path):
    write_stl(make(np.full((2, 3, 1), 5)), tmp_path / "a.stl")
    found = mesh(tmp_path / "a.stl")
    # 0.2 % of volume are left alone (the bevelled edges), so faces lie within a thousandth of the block.
    np.testing.assert_allclose(found.bounds, [[0, 0, 0], [4, 6, 2]], atol=0.01)


def test_coarse_stl(tmp_path, item):
    coarse = write_stl(item, tmp_path / "a.stl", per_cell=N)
    voxels = np.count_nonzero(item.voxels(per_cell=N)) * (2.0 / N) ** 3
    assert mesh(tmp_path / "a.stl").is_watertight
    assert coarse.volume_mm3 == pytest.approx(voxels, rel=0.01)


@pytest.mark.parametrize("per_cell", [2 * N, N, 4, 2])
def test_pieces_are_those_of_the_voxels(item, per_cell):
    block = Block((0, 1, 0), (3, 4, 2))
    label, count = ndimage.label(item.voxels(block, per_cell=per_cell))
    sizes = np.bincount(label.ravel())[1:]
    found = pieces(item, block, per_cell)
    assert found.count == count
    assert found.loose == pytest.approx(1 - sizes.max() / sizes.sum())


def test_voxels_that_break_a_lattice_are_said_or_refused(tmp_path):
    """Two solid cells joined by thin bars, which coarser voxels lose."""
    make([[[5]], [[3]], [[5]]]).save(tmp_path / "lattice.zarr")
    heard = Heard()
    export(tmp_path / "lattice.zarr", "stl", tmp_path / "fine.stl", reporter=heard)
    assert not any("pieces" in line for line in heard.said)
    with pytest.raises(InputError, match=r"into 2 pieces instead of 1; 50.0% of the solid is loose"):
        export(tmp_path / "lattice.zarr", "stl", tmp_path / "a.stl", per_cell=N)
    assert not (tmp_path / "a.stl").exists()
    export(tmp_path / "lattice.zarr", "vti", tmp_path / "a.vti", per_cell=N, reporter=heard)
    assert any("into 2 pieces" in line for line in heard.said)


@pytest.mark.parametrize("per_cell", [2 * N, N])
def test_size_said_beforehand_is_near(tmp_path, item, per_cell):
    size = surface_size(item, Block.whole(item.shape), per_cell)
    written = write_stl(item, tmp_path / "a.stl", per_cell=per_cell)
    assert size.voxels == item.voxels(per_cell=per_cell).size
    assert size.triangles == pytest.approx(written.triangles, rel=0.15)


def test_exposed_faces_are_counted_exactly(item):
    padded = np.pad(item.voxels(), 1)
    exposed = sum(np.count_nonzero(np.diff(padded, axis=axis)) for axis in range(3))
    assert surface_size(item, Block.whole(item.shape), 2 * N).triangles == 2 * exposed


def test_progress_ends_at_one(tmp_path, item, monkeypatch):
    monkeypatch.setattr(surface, "_SLAB_VOXELS", 1)
    heard = Counted()
    write_stl(item, tmp_path / "a.stl", progress=heard)
    assert heard.shares == {"": [1 / 3, 2 / 3, 1.0]}


def test_an_stl_killed_half_way_leaves_nothing(tmp_path, item, monkeypatch):
    monkeypatch.setattr(surface, "_SLAB_VOXELS", 1)

    def stop(done: int, total: int, what: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_stl(item, tmp_path / "a.stl", progress=stop)
    assert list(tmp_path.iterdir()) == []


# -- VTK ----------------------------------------------------------------------------------------------


SHAPE = (3, 4, 5)


def fields() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    nodes = tuple(s + 1 for s in SHAPE)
    cells = {
        "C11": rng.random(SHAPE),
        "role": rng.integers(0, 3, SHAPE).astype(np.int8),
        "on": rng.random(SHAPE) > 0.5,
    }
    return cells, {"displacement": rng.random((*nodes, 3)), "error": rng.random(nodes).astype(np.float32)}


def test_vti_round_trip(tmp_path):
    cells, nodes = fields()
    write_vti(
        tmp_path / "f.vti", SHAPE, (1e-3, 2e-3, 3e-3), origin=(1, 2, 3), cell_data=cells, point_data=nodes
    )
    back = read_vti(tmp_path / "f.vti")
    assert (back.shape, back.spacing, back.origin) == (SHAPE, (1e-3, 2e-3, 3e-3), (1.0, 2.0, 3.0))
    for name, values in cells.items():
        np.testing.assert_array_equal(back.cell_data[name], values)
    for name, values in nodes.items():
        np.testing.assert_array_equal(back.point_data[name], values)
        assert back.point_data[name].dtype == values.dtype


def test_vti_values_stand_where_paraview_looks_for_them(tmp_path):
    # Asked by coordinates, through VTK itself: this would fail on any axis order but the right one.
    cells, nodes = fields()
    h = 0.5
    write_vti(tmp_path / "f.vti", SHAPE, (h, h, h), cell_data=cells, point_data=nodes)
    grid = pyvista.read(tmp_path / "f.vti")
    for i, j, k in np.ndindex(*SHAPE):
        cell = grid.find_containing_cell([h * (i + 0.5), h * (j + 0.5), h * (k + 0.5)])
        assert grid.cell_data["C11"][cell] == cells["C11"][i, j, k]
        node = grid.find_closest_point([h * (i + 1), h * j, h * k])
        np.testing.assert_array_equal(
            grid.point_data["displacement"][node], nodes["displacement"][i + 1, j, k]
        )


def test_vtu_holds_the_solid_elements_only(tmp_path):
    cells, nodes = fields()
    write_vtu(
        tmp_path / "f.vtu", cells["on"], (0.5, 1.0, 2.0), origin=(1, 0, 0), cell_data=cells, point_data=nodes
    )
    grid = pyvista.read(tmp_path / "f.vtu")
    where = np.argwhere(cells["on"])
    assert grid.n_cells == len(where)
    np.testing.assert_allclose(grid.cell_centers().points, (where + 0.5) * [0.5, 1.0, 2.0] + [1, 0, 0])
    np.testing.assert_array_equal(grid.cell_data["C11"], cells["C11"][cells["on"]])
    at = np.rint((grid.points - [1, 0, 0]) / [0.5, 1.0, 2.0]).astype(int)
    np.testing.assert_array_equal(grid.point_data["displacement"], nodes["displacement"][tuple(at.T)])
    # Positive volumes: the corners are in VTK's order.
    np.testing.assert_allclose(grid.compute_cell_sizes()["Volume"], 1.0)


def test_voxels_as_vti(tmp_path, item):
    block = Block((1, 0, 1), (3, 3, 2))
    write_voxels(item, tmp_path / "v.vti", block)
    back = read_vti(tmp_path / "v.vti")
    np.testing.assert_array_equal(back.cell_data["solid"], item.voxels(block))
    np.testing.assert_allclose(back.spacing, 2e-3 / (2 * N))
    np.testing.assert_allclose(back.origin, (2e-3, 0, 2e-3))


def test_a_field_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        write_vti(tmp_path / "f.vti", SHAPE, (1, 1, 1), point_data={"u": np.zeros((*SHAPE, 3))})
    assert caught.value.key == "u"
    with pytest.raises(InputError, match="nothing solid"):
        write_vtu(tmp_path / "f.vtu", np.zeros(SHAPE, dtype=bool), (1, 1, 1))
    with pytest.raises(InputError, match="no such file"):
        read_vti(tmp_path / "none.vti")
    (tmp_path / "bad.vti").write_text("nothing")
    with pytest.raises(InputError, match="no VTK file"):
        read_vti(tmp_path / "bad.vti")
    assert {p.name for p in tmp_path.iterdir()} == {"bad.vti"}


# -- the command --------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path, item) -> Path:
    item.save(tmp_path / "run" / "lattice.zarr")
    return tmp_path / "run"


def test_export_writes_every_format(tmp_path, run_dir, item):
    heard = Heard()
    for name, chosen in FORMATS.items():
        if name != "vdb":  # its library is no requirement
            out = export(run_dir, name, tmp_path / f"out{chosen.suffix}", "0:2,1:4,:", reporter=heard)
            assert sum(p.stat().st_size for p in [out, *out.glob("*")]) > 1000
    block = Block((0, 1, 0), (2, 4, 2))
    assert mesh(tmp_path / "out.stl").is_watertight
    np.testing.assert_array_equal(read_vti(tmp_path / "out.vti").cell_data["solid"], item.voxels(block))
    grid = pyvista.read(tmp_path / "out.vtu")
    solid = item.solid[block.slices]
    np.testing.assert_allclose(grid.cell_data["C44"], lattice_fields(item)["C44"][block.slices][solid])
    assert "20,736 voxels" in heard.said[0]
    assert "triangles enclose" in heard.said[1]


def test_export_takes_a_lattice_too(tmp_path, run_dir):
    a = export(run_dir, "stl", tmp_path / "a.stl", per_cell=N)
    b = export(run_dir / "lattice.zarr", "stl", tmp_path / "b.stl", per_cell=N)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    ("format", "out", "more", "key"),
    [
        ("step", "a.step", {}, "format"),
        ("STL", "a.stl", {}, "format"),
        ("stl", "a.vti", {}, "out"),
        ("stl", "a", {}, "out"),
        ("stl", "a.stl", {"region": "0:9,:,:"}, "region"),
        ("stl", "a.stl", {"region": "nonsense"}, "region"),
        ("stl", "a.stl", {"per_cell": 5}, "per_cell"),
        ("vti", "a.vti", {"per_cell": 0}, "per_cell"),
        ("stl", "a.stl", {"smooth": -1.0}, "smooth"),
        ("stl", "a.stl", {"smooth": float("nan")}, "smooth"),
        ("stl", "a.stl", {"decimate": 1.0}, "decimate"),
        ("3mf", "a.3mf", {"decimate": -0.1}, "decimate"),
        ("glb", "a.glb", {"per_cell": 5}, "per_cell"),
        ("slices", "a.zip", {}, "out"),
        ("svx", "a.svx", {"region": "0:9,:,:"}, "region"),
    ],
)
def test_a_wrong_request_is_refused(tmp_path, run_dir, format, out, more, key):
    with pytest.raises(InputError) as caught:
        export(run_dir, format, tmp_path / out, **more)
    assert caught.value.key == key
    assert not (tmp_path / out).exists()


def test_a_run_without_lattice_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such run"):
        export(tmp_path / "none", "stl", tmp_path / "a.stl")
    with pytest.raises(InputError, match=r"no lattice\.zarr"):
        export(tmp_path, "stl", tmp_path / "a.stl")


def test_a_void_region_is_refused(tmp_path):
    make([[[0, -1]]]).save(tmp_path / "lattice.zarr")
    for name, chosen in FORMATS.items():
        with pytest.raises(InputError, match="nothing solid"):
            export(tmp_path, name, tmp_path / f"a{chosen.suffix}", ":,:,1:2")


def test_a_killed_export_leaves_no_half_file(tmp_path, run_dir):
    # SIGKILL in the middle of the work, which no clean-up outlives.
    script = """
import os, signal, sys
from pathlib import Path
from micro.runtime.progress import Task
from multiscale.export.command import FORMATS, export

def die(*counts):
    os.kill(os.getpid(), signal.SIGKILL)

Task.reach = die

for name, chosen in FORMATS.items():
    if name in ("vti", "vtu", "vdb", "inp", "msh"):  # written at one go
        continue
    out = Path(f"out{chosen.suffix}")
    child = os.fork()
    if not child:
        export(sys.argv[1], name, out)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, name
    assert not out.exists(), name
    print(name)
"""
    line = [sys.executable, "-c", script, str(run_dir)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["stl", "ply", "obj", "3mf", "glb", "slices", "sl1", "svx"]


@pytest.mark.parametrize("name", ["stl", "3mf", "slices", "sl1", "svx"])
def test_a_damaged_lattice_is_refused_in_one_line(tmp_path, run_dir, name):
    chunk = sorted((run_dir / "lattice.zarr").glob("**/c/**/*"))[-1]
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(InputError, match="the lattice is damaged") as caught:
        export(run_dir, name, tmp_path / f"a{FORMATS[name].suffix}")
    assert "\n" not in str(caught.value)
    assert str(run_dir / "lattice.zarr") in str(caught.value)
    assert not (tmp_path / f"a{FORMATS[name].suffix}").exists()


def test_the_command_refuses_a_truncated_lattice_with_exit_code_2(tmp_path, run_dir, run_cli):
    header = run_dir / "lattice.zarr" / "zarr.json"
    header.write_text(header.read_text()[:40])
    done = run_cli("multiscale", "export", run_dir, "--out", "a.3mf")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "lattice.zarr" in done.stderr
    assert not (tmp_path / "a.3mf").exists()


def test_absurd_sizes_are_refused_with_advice(tmp_path, run_dir, monkeypatch):
    monkeypatch.setattr(command, "MOST_TRIANGLES", 20_000)
    with pytest.raises(InputError, match=r"region of about \d+ elements .* or 6 voxels per cell"):
        export(run_dir, "stl", tmp_path / "a.stl")
    export(run_dir, "stl", tmp_path / "a.stl", per_cell=6)  # the advice is good
    monkeypatch.setattr(command, "MOST_BYTES", 50_000)
    with pytest.raises(InputError, match="bytes of memory"):
        export(run_dir, "vti", tmp_path / "a.vti")


def test_a_huge_lattice_is_refused_before_anything_is_expanded(tmp_path):
    make(np.zeros((160, 160, 160), dtype=np.int32)).save(tmp_path / "lattice.zarr")
    for name in ("stl", "vti"):
        with pytest.raises(InputError, match="allowed at once"):
            export(tmp_path, name, tmp_path / f"a.{name}")
