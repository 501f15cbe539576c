"""Surface files: read as they were written, and damaged ones refused in one line, without a word of VTK's."""

from __future__ import annotations

import numpy as np
import pytest
import pyvista

from micro.cell.readers import read_voxels
from micro.cell.surface import read_triangles
from micro.runtime.errors import InputError

BALL = pyvista.Sphere(radius=2.0, theta_resolution=12, phi_resolution=9)
KINDS = ["stl", "text.stl", "ply", "text.ply", "obj"]


def written(folder, kind):
    file = folder / f"ball.{kind}"
    options = {} if kind == "obj" else {"binary": not kind.startswith("text")}
    BALL.save(file, **options)
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_a_surface_is_read_as_it_was_written(tmp_path, kind):
    found = read_triangles(written(tmp_path, kind))
    expected = BALL.points[BALL.regular_faces]
    assert found.shape == expected.shape
    order = [np.lexsort(t.mean(axis=1).T.round(4)) for t in (found, expected)]
    # Text keeps six digits and more of lengths of 2.
    np.testing.assert_allclose(found[order[0]], expected[order[1]], atol=1e-4)


def test_polygons_of_any_length_and_negative_numbers(tmp_path):
    """A prism: two triangles, three quadrilaterals; the OBJ counts from the end."""
    corners = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 2), (1, 0, 2), (0, 1, 2)]
    faces = [(0, 2, 1), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5)]
    obj = "".join(f"v {x} {y} {z}\n" for x, y, z in corners)
    obj += "".join("f " + " ".join(f"{i - 6}//1" for i in face) + "\n" for face in faces)
    (tmp_path / "a.obj").write_text(obj)
    head = "ply\nformat {}\ncomment a prism\nelement vertex 6\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )
    head += "element face 5\nproperty uchar shade\nproperty list uchar int vertex_index\nend_header\n"
    text = "".join(f"{x} {y} {z}\n" for x, y, z in corners)
    text += "".join(f"7 {len(face)} {' '.join(map(str, face))}\n" for face in faces)
    (tmp_path / "a.ply").write_text(head.format("ascii 1.0") + text)
    binary = np.array(corners, ">f4").tobytes()
    binary += b"".join(bytes([7, len(face)]) + np.array(face, ">i4").tobytes() for face in faces)
    (tmp_path / "b.ply").write_bytes(head.format("binary_big_endian 1.0").encode() + binary)
    for name in ("a.obj", "a.ply", "b.ply"):
        a, b, c = np.moveaxis(read_triangles(tmp_path / name), 1, 0)
        assert len(a) == 8
        assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(1.0)  # its volume


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_file_cut_short_is_one_line_and_no_crash(tmp_path, capfd, kind, share):
    file = written(tmp_path, kind)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError) as error:
        read_triangles(file)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_damaged_images_are_one_line(tmp_path, capfd):
    grid = pyvista.ImageData(dimensions=(5, 5, 5))
    grid.cell_data["solid"] = np.arange(64) % 2
    grid.save(tmp_path / "a.vti")
    data = (tmp_path / "a.vti").read_bytes()
    for share in (0.0, 0.2, 0.7, 0.95):
        (tmp_path / "cut.vti").write_bytes(data[: int(share * len(data))])
        with pytest.raises(InputError) as error:
            read_voxels(tmp_path / "cut.vti")
        assert "\n" not in str(error.value)
    (tmp_path / "other.vti").write_text("no image at all")
    with pytest.raises(InputError):
        read_voxels(tmp_path / "other.vti")
    assert capfd.readouterr() == ("", "")


def test_no_number_in_an_stl_is_one_line_and_no_warning(tmp_path, recwarn):
    """A signalling NaN, which NumPy warns of when it is cast."""
    file = written(tmp_path, "stl")
    data = bytearray(file.read_bytes())
    data[96:100] = (0x7FA00001).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(InputError):
        read_triangles(file)
    assert not recwarn.list
