"""Cells beyond a data set's edge and up to the solid, added behind those that are there."""

import numpy as np
import pytest

from micro.cell.cellset import CellSet
from micro.cell.octant import connectivity
from micro.cell.tensor import isotropic, scaled_moduli, tensor_error
from micro.data.packaged import load_dataset, load_gamut, load_library
from micro.dataset import widening
from micro.dataset.dataset import masks, sources, with_provenance
from micro.families.families import family
from micro.gamut.gamut import Gamut
from micro.homogenize.octants import homogenize_octants
from micro.library.labelling import presentable
from micro.runtime.errors import InputError, NotConverged
from micro.shape.channels import is_open


@pytest.fixture(scope="module")
def first():
    """Cells of n = 16 by formula, as a data set with parts, thinned as one is."""
    library = load_library()
    rows = np.arange(0, len(library), 45)
    shapes = [family(library.family[i]).octant(library.params[i], 16) for i in rows.tolist()]
    good = [i for i, octant in enumerate(shapes) if presentable(octant)]
    octants = np.stack([shapes[i] for i in good])
    names, params = library.family[rows[good]].tolist(), library.params[rows[good]]
    cells = CellSet.from_octants(octants, homogenize_octants(octants).C, family=names, params=params)
    part = np.arange(len(cells)) % 7
    return with_provenance(cells, ["made"] * len(cells), np.where(part > 2, 0, part), {"title": "small"})


@pytest.fixture(scope="module")
def wide(first, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    return widening.widen(first, count=3, rounds=2, folder=folder, workers=1), folder


def test_what_was_there_stays_as_it_was(first, wide):
    cells, _ = wide
    own = len(first)
    assert len(cells) > own + 20
    assert set(sources(cells)[own:]) == {"edge 0", "edge 1", "edge 2"}
    assert np.array_equal(sources(cells)[:own], sources(first))
    for name, rows in masks(first).items():
        assert np.array_equal(masks(cells)[name][:own], rows)
    assert widening.without_edge(cells).digest() == first.digest()
    assert cells.attrs["title"] == "small"
    # Not that of a widening whose cells are gone.
    twice = widening.extended(widening.without_edge(cells), [], "again")
    assert twice.attrs["command"] == f"{first.attrs.get('command')}; again"


def test_a_second_call_finds_all_done_and_replaces_what_was_added(first, wide):
    cells, folder = wide
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.zip")}
    assert len(stamps) > 6
    again = widening.widen(cells, count=3, rounds=2, folder=folder, workers=1)
    assert again.digest() == cells.digest()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.zip")} == stamps
    fewer = widening.widen(first, count=0, rounds=1, folder=folder, workers=1)
    assert set(sources(fewer)) == {"made", "edge 0"}


def test_the_solid_is_a_cell_and_the_edge_lies_farther_out(first, wide):
    """Narrowing ends in the solid; and of tensors, some lie where the first gamut said that none do."""
    cells, _ = wide
    new = np.arange(len(cells)) >= len(first)
    assert cells.volume[new].max() == 1.0
    solid = cells.C[np.argmax(cells.volume)]
    assert solid == pytest.approx(isotropic(1.0, 0.3), rel=1e-6)
    marched = np.isin(sources(cells), ["edge 1", "edge 2"])
    before = Gamut.fit(first.C)
    # A call without marches reaches what fillings reach; marches go on from there.
    assert before.phi(cells.C[marched]).min() < before.phi(first.C).min()
    assert np.all([connectivity(octant).connected for octant in cells.octants(new)])


def test_coarser_cells_from_elsewhere_keep_their_shape(first, tmp_path):
    """Of n = 8: every voxel becomes eight, and the tensor is that of the finer grid."""
    octant = family("plates").octant(family("plates").sample(np.random.default_rng(1), 0.4, 8), 8)
    found = CellSet.from_octants(octant[None], homogenize_octants(octant).C)
    wide = widening.widen(first, count=0, rounds=0, also=[found], folder=tmp_path, workers=1)
    given = np.flatnonzero(wide.family == "given")
    assert len(given) == 1
    assert np.array_equal(wide.octants(given[0])[::2, ::2, ::2], octant)
    assert wide.volume[given[0]] == octant.mean()
    with pytest.raises(InputError, match="--also"):
        widening.again(first, 24, tmp_path)


def test_a_round_begins_where_a_design_asks_for_more(first, tmp_path):
    """Marches start from the cells nearest to the given tensors, not from all over the edge."""
    stiff = first.C[np.argsort(first.C[:, 0])[-4:]]
    runs = widening.marches(first, 3, tmp_path, stiff)
    assert 0 < len(runs) <= 3
    goals = np.array([run.settings.goal.target for run in runs])
    near = np.linalg.norm(goals[:, None] - stiff, axis=2).min(axis=1)
    assert (near < 0.15).all()
    wide = widening.widen(first, count=1, rounds=0, toward=stiff, folder=tmp_path, workers=1)
    assert set(sources(wide)) == {"made", "edge 0", "edge 1"}


def test_a_march_begins_coarse_with_a_minimal_surface_and_moves_on_voxel_by_voxel(first, tmp_path):
    """What a cell grew from decides where it can go: the fields take turns."""
    runs = widening.marches(first, 6, tmp_path)
    assert [run.settings.n for run in runs] == [8] * 6
    assert [run.settings.start for run in runs] == ["neovius", "i-wp", "schwarz-p"] * 2
    march = runs[1]
    march.make()
    found = CellSet.load(march.path)
    assert found.n == first.n
    assert len(found) > 2
    assert all(connectivity(octant).connected for octant in found.octants())
    error = tensor_error(found.C, np.array(march.settings.goal.target))
    # The first is the coarse design; the surface moves nearer.
    assert error.min() < error[0]
    np.testing.assert_allclose(found.C, homogenize_octants(found.octants()).C, atol=1e-5)


def test_a_march_that_finds_no_cell_is_not_tried_again(first, tmp_path, monkeypatch):
    def fails(settings, **options):
        raise NotConverged("in pieces")

    monkeypatch.setattr(widening, "optimise", fails)
    (run,) = widening.marches(first, 1, tmp_path)
    run.make()
    assert len(CellSet.load(run.path)) == 0


def test_what_was_finished_for_other_tensors_is_not_taken_for_these(first, tmp_path):
    """Marches used to be known by their number alone: `--toward` another design found those of the first."""
    stiff, soft = (first.C[np.argsort(sign * first.C[:, 0])[:4]] for sign in (-1, 1))
    names = [{run.path.name for run in widening.marches(first, 3, tmp_path, some)} for some in (stiff, soft)]
    assert names[0]
    assert names[1]
    assert not names[0] & names[1]


def test_marches_need_an_even_resolution(first, tmp_path):
    some = first.subset(slice(0, 60))
    odd = CellSet.from_octants(some.octants()[:, :15, :15, :15], some.C)
    with pytest.raises(InputError, match="even n"):
        widening.widen(odd, count=1, folder=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_void_narrows_from_step_to_step(first):
    row = int(np.argmin(np.abs(first.volume - 0.9)))
    octant = first.octants(row)
    steps = list(widening._narrowed(octant))
    assert len(steps) > 2
    for before, after in zip([octant, *steps[:-1]], steps, strict=True):
        assert not (before & ~after).any()
        assert after.sum() > before.sum()


def test_channels_leave_open_cells_of_every_volume_up_to_the_solid():
    cells = list(widening._channelled(16))
    assert all(is_open(octant) and connectivity(octant).connected for octant in cells)
    volumes = np.array([octant.mean() for octant in cells])
    assert volumes.max() > 0.98
    assert volumes.min() < 0.9


def test_the_packaged_gamut_holds_the_solid():
    """It had ended at a volume of 0.97, although nothing is easier to build than a solid cell."""
    gamut = load_gamut("dataset")
    solid = isotropic(1.0, 0.3)
    assert gamut.phi(solid) >= 0
    cells = load_dataset()
    dense = cells.C[cells.volume > 0.97]
    assert len(dense) > 50
    assert (gamut.phi(dense) >= 0).all()
    assert scaled_moduli(solid) == pytest.approx(np.ones(3))


@pytest.mark.parametrize("key", ["--marches", "--rounds"])
def test_numbers_below_nothing_are_refused(first, tmp_path, key):
    options = {"--marches": {"count": -1}, "--rounds": {"rounds": -1}}[key]
    with pytest.raises(InputError, match=key):
        widening.widen(first, folder=tmp_path / "never", **options)
    assert not (tmp_path / "never").exists()
