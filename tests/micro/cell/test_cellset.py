"""Cell sets: round trips through both stores, selection, and refusal of damaged or foreign files."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import zarr

from micro.cell import octant as cell
from micro.cell.cellset import CellSet
from micro.runtime.errors import InputError


def some_cells(m: int = 6, n: int = 6, seed: int = 0) -> CellSet:
    rng = np.random.default_rng(seed)
    octants = cell.symmetrise(rng.random((m, n, n, n))) > 0.5
    names = [("truss", "trig")[i % 2] for i in range(m)]
    params = rng.random((m, 3))
    params[1::2, 2] = np.nan
    return CellSet.from_octants(
        octants, rng.random((m, 3)), family=names, params=params, attrs={"seed": seed}
    )


def assert_same(a: CellSet, b: CellSet) -> None:
    assert a.n == b.n
    assert a.attrs == b.attrs
    for name in ("packed", "C", "volume", "family", "params"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.digest() == b.digest()


@pytest.mark.parametrize("name", ["set.zarr", "set.zarr.zip"])
@pytest.mark.parametrize("m", [0, 1, 6])
def test_round_trip(tmp_path, name, m):
    cells = some_cells(m)
    cells.save(tmp_path / name)
    assert_same(CellSet.load(tmp_path / name), cells)
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing temporary is left
    cells.save(tmp_path / name)  # and over itself
    assert_same(CellSet.load(tmp_path / name), cells)


def test_without_params(tmp_path):
    octants = np.ones((2, 4, 4, 4), bool)
    cells = CellSet.from_octants(octants, np.ones((2, 3)))
    cells.save(tmp_path / "a.zarr.zip")
    assert_same(CellSet.load(tmp_path / "a.zarr.zip"), cells)


def test_octants_faces_and_volume():
    octants = cell.symmetrise(np.random.default_rng(1).random((5, 7, 7, 7))) > 0.5
    cells = CellSet.from_octants(octants, np.zeros((5, 3)))
    np.testing.assert_array_equal(cells.octants(), octants)
    np.testing.assert_array_equal(cells.octants([3, 0]), octants[[3, 0]])
    np.testing.assert_array_equal(cells.octants(-1), octants[-1])
    np.testing.assert_array_equal(cells.octants(2), octants[2])
    np.testing.assert_array_equal(cells.faces(), octants[:, 0])
    np.testing.assert_array_equal(cells.faces(slice(1, 3)), octants[1:3, 0])
    np.testing.assert_array_equal(cells.faces(np.int64(4)), octants[4, 0])
    np.testing.assert_allclose(cells.volume, octants.mean(axis=(1, 2, 3)))


def test_subset_and_concat():
    a, b = some_cells(4, seed=1), some_cells(3, seed=2)
    both = CellSet.concat([a, b])
    assert len(both) == 7
    assert_same(both.subset(np.arange(7) < 4), a)
    np.testing.assert_array_equal(both.subset([5, 5, 0]).C, both.C[[5, 5, 0]])
    narrow = CellSet.from_octants(a.octants(), a.C)
    assert np.isnan(CellSet.concat([narrow, b]).params[:4]).all()
    assert CellSet.concat([a, b], attrs={"x": 1}).attrs == {"x": 1}
    with pytest.raises(InputError, match="nothing"):
        CellSet.concat([])
    with pytest.raises(InputError, match="resolution"):
        CellSet.concat([a, some_cells(2, n=5)])


def test_digest_sees_every_change():
    cells = some_cells()
    other = cells.C.copy()
    other[0, 0] += 1e-12
    changed = CellSet(cells.n, cells.packed, other, cells.volume, cells.family, cells.params)
    assert changed.digest() != cells.digest()
    renamed = CellSet(cells.n, cells.packed, cells.C, cells.volume, np.sort(cells.family), cells.params)
    assert renamed.digest() != cells.digest()


def test_wrong_shapes_are_refused():
    cells = some_cells()
    with pytest.raises(InputError, match="volume"):
        CellSet(cells.n, cells.packed, cells.C, cells.volume[1:], cells.family, cells.params)
    with pytest.raises(InputError, match="packed"):
        CellSet(cells.n + 1, cells.packed, cells.C, cells.volume, cells.family, cells.params)
    with pytest.raises(InputError, match="finite"):
        CellSet(cells.n, cells.packed, cells.C * np.nan, cells.volume, cells.family, cells.params)


def _attributes(path, change):
    """Rewrite the attributes of a directory store through ``change(dict)``."""
    meta = json.loads((path / "zarr.json").read_text())
    change(meta["attributes"])
    meta.pop("consolidated_metadata", None)
    (path / "zarr.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.update(format="something else"), "not a cubic-cell-set"),
        (lambda a: a.update(version=99), "version"),
        (lambda a: a.update(n="six"), "positive integer"),
        (lambda a: a.update(n=7), "shape"),
        (lambda a: a.update(digest="0" * 64), "checksum"),
        (lambda a: a.update(families=["one"]), "out of range"),
        (lambda a: a.update(families=["trig", "plate"]), "checksum"),
    ],
)
def test_foreign_or_changed_attributes_are_refused(tmp_path, change, match):
    path = tmp_path / "set.zarr"
    some_cells().save(path)
    _attributes(path, change)
    with pytest.raises(InputError, match=match) as error:
        CellSet.load(path)
    assert str(path) in str(error.value)


def test_damage_is_refused(tmp_path):
    path = tmp_path / "set.zarr.zip"
    some_cells(40).save(path)
    whole = path.read_bytes()
    with pytest.raises(InputError, match="no such"):
        CellSet.load(tmp_path / "absent.zarr")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="zip"):
        CellSet.load(path)
    # One flipped bit in the middle of each quarter of the file.
    for part in (1, 3, 5, 7):
        damaged = bytearray(whole)
        with zipfile.ZipFile(path.with_name("ok.zip"), "w") as other:
            other.writestr("hello", "world")
        info = max(zipfile.ZipFile(_write(path, whole)).infolist(), key=lambda i: i.file_size)
        damaged[info.header_offset + 60 + info.compress_size * part // 8] ^= 0x10
        path.write_bytes(bytes(damaged))
        with pytest.raises(InputError):
            CellSet.load(path)
    with pytest.raises(InputError):
        CellSet.load(path.with_name("ok.zip"))


def _write(path, content):
    path.write_bytes(content)
    return path


def test_missing_array_and_foreign_group_are_refused(tmp_path):
    path = tmp_path / "set.zarr"
    some_cells().save(path)
    shutil.rmtree(path / "volume")
    with pytest.raises(InputError, match="readable"):
        CellSet.load(path)
    zarr.create_group(tmp_path / "other.zarr", attributes={"who": "else"})
    with pytest.raises(InputError, match="not a cubic-cell-set"):
        CellSet.load(tmp_path / "other.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="readable"):
        CellSet.load(tmp_path / "empty")
