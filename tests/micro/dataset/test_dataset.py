"""The data set: near-duplicates against brute force, splitting, thinning, building, card and commands."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from micro.cell import octant as cell
from micro.cell.cellset import CellSet
from micro.cell.chamber import fundamental_domain, pack
from micro.cell.tensor import bulk, from_scaled_moduli, hashin_shtrikman, poisson, scaled_moduli, tensor_error
from micro.cli.dataset import app
from micro.data.packaged import load_dataset, load_library
from micro.dataset.build import assemble, build, clean, distinct, pool_arguments
from micro.dataset.card import grouped, in_order, resolution_study
from micro.dataset.dataset import masks, part, sources, split, take, thin, with_provenance
from micro.dataset.duplicates import fingerprints, near_duplicates
from micro.dataset.extremes import OBJECTIVES, Design, Push, designs, pushes
from micro.dataset.learn import learn_gamut
from micro.dataset.widening import without_edge
from micro.families.families import FAMILIES
from micro.gamut.gamut import Gamut
from micro.homogenize.octants import homogenize_octants
from micro.inverse import Goal, Settings
from micro.library.build import Recipe, draw
from micro.library.labelling import presentable
from micro.library.retrieval import nearest
from micro.runtime.errors import InputError

N = 8
SMALL = Recipe(n=N, count=40, seed=5, coarse=N, pool=40, round_size=20, reach=0)


def crowd(kinds: int, copies: int, seed: int) -> np.ndarray:
    """Octants of n = 8: ``kinds`` smooth shapes, each in ``copies`` versions a few voxels apart."""
    rng = np.random.default_rng(seed)
    inside, rank = fundamental_domain(N)
    octants = []
    for i in range(kinds):
        name, params = draw(seed, i)
        shape = FAMILIES[name].octant(params, N).reshape(-1)[inside]
        for _ in range(copies):
            version = shape.copy()
            version[rng.choice(len(inside), rng.integers(0, 4), replace=False)] ^= True
            whole = version[rank].reshape(N, N, N)
            octants.append(cell.half_period_shift(whole) if rng.random() < 0.5 else whole)
    return np.array(octants)


def as_cells(octants: np.ndarray) -> CellSet:
    """A set with tensors that nothing here depends on."""
    return CellSet.from_octants(octants, np.ones((len(octants), 3)) * [1.0, 0.2, 0.3])


# --- near-duplicates and the split ------------------------------------------------------------------------


@pytest.mark.parametrize("block", [7, 512])
def test_near_duplicates_are_those_of_brute_force(block):
    octants = crowd(12, 5, seed=1)
    found = near_duplicates(pack(octants), N, block=block)
    shifted = cell.half_period_shift(octants)
    alike = np.maximum(
        cell.similarity(octants[:, None], octants[None]), cell.similarity(octants[:, None], shifted[None])
    )
    expected = {tuple(pair) for pair in np.argwhere(np.triu(alike > 0.98, 1)).tolist()}
    assert 20 < len(expected) < len(octants) * (len(octants) - 1) / 4
    assert len(found) == len(expected)
    assert {tuple(pair) for pair in found.tolist()} == expected


def test_fingerprints_do_not_see_the_shift_but_every_voxel():
    octants = crowd(6, 1, seed=2)
    here = fingerprints(pack(octants), N)
    np.testing.assert_array_equal(fingerprints(pack(cell.half_period_shift(octants)), N), here)
    octants[:, 3, 3, 3] ^= True
    assert not (fingerprints(pack(octants), N) == here).any()


def test_near_duplicates_never_stand_in_two_parts():
    cells = as_cells(crowd(60, 4, seed=3))
    parts = split(cells, share=0.2)
    pairs = near_duplicates(cells.packed, N)
    kept = pairs[(parts[pairs] >= 0).all(axis=1)]
    assert len(kept) > 100
    assert (parts[kept[:, 0]] == parts[kept[:, 1]]).all()
    # A shape is drawn once for all its copies: 60 draws, so the shares scatter by a twentieth.
    assert np.bincount(parts[parts >= 0], minlength=3) / len(cells) == pytest.approx(
        [0.6, 0.2, 0.2], abs=0.18
    )


def test_the_split_stays_when_cells_are_added():
    octants = crowd(40, 3, seed=4)
    before, after = split(as_cells(octants[:70])), split(as_cells(octants))
    np.testing.assert_array_equal(after[:70], before)


def test_the_split_of_unlike_cells_has_the_shares():
    # Random bits are unlike; 3000 draws at 5 % have a standard deviation of 0.4 %.
    rng = np.random.default_rng(6)
    inside, rank = fundamental_domain(N)
    bits = rng.random((3000, len(inside))) < 0.5
    parts = split(as_cells(bits[:, rank].reshape(-1, N, N, N)))
    assert np.bincount(parts) / 3000 == pytest.approx([0.9, 0.05, 0.05], abs=0.015)


# --- thinning ---------------------------------------------------------------------------------------------


def test_thinning_leaves_out_only_what_has_company():
    rng = np.random.default_rng(7)
    m = np.concatenate([rng.normal(0.4, 0.01, (400, 3)), rng.uniform(0.1, 0.9, (100, 3))])
    volume = np.concatenate([rng.normal(0.5, 0.01, 400), rng.uniform(0.1, 0.9, 100)])
    C = from_scaled_moduli(m)
    rows = thin(C, volume, radius=0.02, keep=3)
    points = np.column_stack([scaled_moduli(C), volume])
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    company = np.array([(apart[i, rows[rows < i]] <= 0.02).sum() for i in range(500)])
    np.testing.assert_array_equal(rows, np.flatnonzero(company < 3))
    # The lump is thinned and the scattered cells stay.
    assert (rows < 400).sum() < 200
    assert (rows >= 400).sum() >= 98
    np.testing.assert_array_equal(thin(C[:300], volume[:300], radius=0.02, keep=3), rows[rows < 300])


def test_thinning_tells_volumes_apart():
    C = np.tile([0.3, 0.1, 0.1], (10, 1))
    assert len(thin(C, np.linspace(0.2, 0.8, 10), keep=1)) == 10
    assert len(thin(C, np.full(10, 0.5), keep=1)) == 1
    with pytest.raises(InputError, match="radius"):
        thin(C, np.full(10, 0.5), radius=0.0)


# --- provenance -------------------------------------------------------------------------------------------


def test_provenance_survives_the_file_and_a_selection(tmp_path):
    cells = as_cells(crowd(5, 1, seed=8))
    names = ["pool 001", "library", "pool 001", "active 002", "library"]
    full = with_provenance(cells, names, [0, 1, 2, 0, 0], {"title": "t"})
    full.save(tmp_path / "d.zarr.zip")
    read = CellSet.load(tmp_path / "d.zarr.zip")
    assert sources(read).tolist() == names
    assert {k: v.tolist() for k, v in masks(read).items()} == {
        "train": [True, False, False, True, True],
        "validation": [False, True, False, False, False],
        "test": [False, False, True, False, False],
    }
    train = part(read, "train")
    assert sources(train).tolist() == ["pool 001", "active 002", "library"]
    assert masks(train)["train"].all()
    np.testing.assert_array_equal(take(read, [4, 1]).packed, cells.packed[[4, 1]])
    with pytest.raises(InputError, match="train, validation, test"):
        part(read, "training")


def test_letters_that_do_not_fit_are_refused():
    cells = as_cells(crowd(3, 1, seed=9))
    with pytest.raises(InputError, match="not a data set"):
        masks(cells)
    full = with_provenance(cells, ["library"] * 3, [0, 0, 0], {})
    with pytest.raises(InputError, match="not a data set"):
        masks(full.subset([0, 1]))


# --- building ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The work directory of a small data set, an active round with good and bad cells in it."""
    folder = tmp_path_factory.mktemp("work")
    build(folder, SMALL, 0, workers=1)
    octants = []
    for i in range(100, 130):
        name, params = draw(1, i)
        octants.append(FAMILIES[name].octant(params, N))
    good = [o for o in octants if presentable(o)][:4]
    loose = good[0].copy()
    loose[:] = False
    loose[1, 1, 1] = loose[5:7, 5:7, 5:7] = True
    made = np.stack([*good, loose])
    C = homogenize_octants(made).C
    active = CellSet.from_octants(made, C, family="generated", params=np.ones((5, 9)))
    active.save(folder / "active" / "round001.zarr.zip")
    return folder


@pytest.fixture(scope="module")
def cells(work) -> CellSet:
    return assemble(work, SMALL)


def test_assembled_cells_are_clean_distinct_and_labelled(cells):
    assert 25 <= len(cells) <= 45
    assert (cells.family == "generated").sum() == 4
    assert set(sources(cells)) == {"pool 000", "pool 001", "active 001"}
    assert sum(rows.sum() for rows in masks(cells).values()) == len(cells)
    assert len(distinct(cells)) == len(cells)
    for octant in cells.octants():
        assert cell.connectivity(octant).connected
    result = homogenize_octants(cells.octants())
    # Candidates are labelled to a residual of 1e-2, whose square is the error of C.
    np.testing.assert_allclose(result.C, cells.C, rtol=5e-3, atol=1e-5)
    np.testing.assert_allclose(result.volume, cells.volume)


def test_building_resumes_from_what_is_there(work, cells, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(work, copy)
    shards = sorted(copy.glob(f"{SMALL.key()}/round*/*.npz"))
    shards[-1].unlink()
    # What is finished is a data set at any time ...
    fewer = assemble(copy, SMALL)
    assert 0 < (sources(fewer) == "pool 000").sum() <= len(fewer) - 4
    assert (sources(fewer) == "pool 001").sum() == 0
    # ... and the rest comes back the same.
    stamps = [path.stat().st_mtime_ns for path in shards[:-1]]
    again = build(copy, SMALL, 0, workers=1)
    assert again.digest() == cells.digest()
    assert again.attrs == cells.attrs
    assert [path.stat().st_mtime_ns for path in shards[:-1]] == stamps


def test_building_refuses(tmp_path, work):
    with pytest.raises(InputError, match="no finished cells"):
        assemble(tmp_path, SMALL)
    with pytest.raises(InputError, match="resolution"):
        assemble(work, Recipe(n=16, coarse=8))
    other = tmp_path / "active"
    as_cells(np.ones((1, 4, 4, 4), bool)).save(other / "round001.zarr.zip")
    with pytest.raises(InputError, match="n = 8 are needed"):
        assemble(tmp_path, SMALL)


def test_cleaning_drops_what_carries_no_load():
    octants = np.ones((2, N, N, N), bool)
    soft = CellSet.from_octants(octants, [[1.0, 0.2, 0.3], [1e-4, 0.0, 1e-4]])
    assert len(clean(soft)) == 1


# --- the card and the commands ----------------------------------------------------------------------------


def test_stages_follow_the_order_of_making(cells):
    stages = in_order(cells)
    assert [name for name, _ in stages] == ["pool 000", "pool 001", "active 001"]
    assert np.sum([rows for _, rows in stages], axis=0).tolist() == [1] * len(cells)
    assert [name for name, _ in grouped(stages)] == ["pool 000-001", "active 001"]


def test_stages_of_the_packaged_set_and_of_an_unknown_source_have_a_place():
    """The sources of `micro dataset widen` come last, in their order; a foreign one after them."""
    packaged = in_order(load_dataset())
    assert [name for name, _ in packaged][-4:] == ["edge 0", "edge 1", "edge 2", "edge given"]
    few = load_library().subset(np.arange(3))
    mixed = with_provenance(few, ["elsewhere", "edge 0", "library"], [0, 0, 0], {})
    assert [name for name, _ in in_order(mixed)] == ["library", "edge 0", "elsewhere"]


def test_resolution_study_reproduces_the_sets_own_tensors(cells):
    study = resolution_study(cells, 6, (4, N))
    assert len(study.families) == 6
    assert len(set(study.families)) == 6
    for C, volume in zip(study.C[:, 1], study.volume[:, 1], strict=True):
        row = int(np.argmin(np.abs(cells.C - C).sum(axis=1)))
        np.testing.assert_allclose(cells.C[row], C, rtol=5e-3, atol=1e-5)
        assert cells.volume[row] == pytest.approx(volume)
    with pytest.raises(InputError, match="ascending"):
        resolution_study(cells, 6, (8, 4))


def test_commands(work, cells, tmp_path):
    out, page = tmp_path / "d.zarr.zip", tmp_path / "docs" / "card.md"
    options = [*pool_arguments(SMALL), f"--work={work}", f"--out={out}", "--workers=1", "--extremes=0"]
    run = CliRunner().invoke(app, ["build", *options])
    assert run.exit_code == 0, run.output
    assert CellSet.load(out).digest() == cells.digest()
    run = CliRunner().invoke(app, ["info", str(out)])
    assert run.exit_code == 0, run.output
    assert "active 001" in run.output
    images = tmp_path / "docs" / "images"
    card = ["card", f"--data={out}", f"--page={page}", f"--images={images}", "--shapes=3"]
    run = CliRunner().invoke(app, [*card, "--resolutions=4,8"])
    assert run.exit_code == 0, run.output
    text = page.read_text()
    assert f"{len(cells)} cubic cells" in text
    assert cells.attrs["command"] in text
    for name in ("coverage", "rounds", "resolution"):
        assert f"(images/dataset-{name}.png)" in text
        assert (images / f"dataset-{name}.png").read_bytes()[:4] == b"\x89PNG"
    run = CliRunner().invoke(app, [*card, "--resolutions=4,x"])
    assert isinstance(run.exception, InputError)


# --- extremes and the gamut -------------------------------------------------------------------------------


def test_pushes_start_at_the_edge_and_lead_outwards(tmp_path):
    cells = load_library()
    gamut = Gamut.fit(cells.C)
    runs = pushes(cells, 30, tmp_path)
    assert len({run.path for run in runs}) == 30
    found = [int(np.flatnonzero((cells.packed == pack(run.octant[None])).all(axis=1))[0]) for run in runs]
    assert len(set(found)) == 30
    here, there = gamut.phi(cells.C[found]), gamut.phi(np.array([run.goal for run in runs]))
    assert (here < 0.015).all()
    # Half of the goals lie aside, and none may come near to zero stiffness: most lie well outside.
    assert (there < here - 0.02).mean() > 0.7
    assert (scaled_moduli([run.goal for run in runs]) > 0).all()
    again = pushes(cells, 30, tmp_path)
    assert all(np.array_equal(a.goal, b.goal) for a, b in zip(runs, again, strict=True))


def test_a_push_keeps_labelled_connected_cells(tmp_path):
    start = load_library().subset([7])
    goal = start.C[0] * [1.1, 1.2, 0.9]
    job = Push(tmp_path / "push.zarr.zip", start.octants(0), goal, iterations=3)
    job.make()
    made = CellSet.load(job.path)
    assert len(made) == 3
    assert set(made.family) == {"inverse"}
    for octant in made.octants():
        assert cell.connectivity(octant).connected
        assert not np.array_equal(octant, job.octant)
    # Labelled to a residual of 1e-2, whose square is the error of C.
    np.testing.assert_allclose(
        homogenize_octants(made.octants(0)[None]).C[0], made.C[0], rtol=2e-3, atol=1e-5
    )
    assert tensor_error(made.C, goal).min() < tensor_error(start.C[0], goal)


def test_gamut_is_calibrated_on_validation_cells():
    library = load_library()
    rng = np.random.default_rng(11)
    parts = rng.choice(3, len(library), p=[0.6, 0.2, 0.2])
    cells = with_provenance(library, ["library"] * len(library), parts, {})
    gamut = learn_gamut(cells, coverage=0.97, spacing=1 / 64)
    assert gamut.source == cells.digest()
    # Coefficients are half-precision numbers, which moves a few cells across zero.
    assert gamut.attrs["feasible"]["validation"] == pytest.approx(0.97, abs=0.005)
    # 700 test cells of the same distribution: one standard deviation is 0.6 %.
    assert gamut.attrs["feasible"]["test"] == pytest.approx(0.97, abs=0.02)
    # Once calibrated, it is learned from all cells: what is known can be built, whichever part it is of.
    assert (gamut.phi(part(cells, "test").C) >= 0).mean() > 0.99
    # A cell without near neighbours in property space is rare, so what is feasible is near to some cell.
    m = rng.random((20_000, 3))
    feasible = from_scaled_moduli(m[gamut.spline.value(m) >= 0])
    assert len(feasible) > 100
    assert (nearest(library, feasible)[1] < 0.02).all()
    with pytest.raises(InputError, match="test cells"):
        learn_gamut(with_provenance(library, ["library"] * len(library), parts % 2, {}))


def test_a_design_gives_labelled_cells_and_a_way_home(tmp_path):
    settings = Settings(Goal("bulk", 0.4), n=N, effort=0.1)
    job = Design(tmp_path / "bulk.zarr.zip", settings)
    job.make()
    made = CellSet.load(job.path)
    assert len(made) >= 1
    assert set(made.family) == {"inverse-bulk"}
    for octant in made.octants():
        assert cell.connectivity(octant).connected
    np.testing.assert_allclose(homogenize_octants(made.octants()).C, made.C, rtol=5e-3, atol=1e-5)
    # What it was made for: stiffer against pressure than a random cell of its volume.
    K_upper, _ = hashin_shtrikman(made.volume[0])
    assert bulk(made.C[0]) > 0.6 * K_upper


def test_a_design_that_does_not_converge_leaves_an_empty_file(tmp_path):
    # Two percent of an octant of eight voxels an edge cannot hang together.
    job = Design(tmp_path / "none.zarr.zip", Settings(Goal("bulk", 0.02), n=N, effort=0.1))
    job.make()
    assert len(CellSet.load(job.path)) == 0
    assert len({job.path for job in designs(N, tmp_path)}) == sum(len(o[2]) * len(o[3]) for o in OBJECTIVES)


# --- the packaged data set --------------------------------------------------------------------------------


def test_packaged_data_set_is_large_split_and_connected():
    cells = load_dataset()
    assert len(cells) >= 18_000
    assert cells.n == 32
    assert "micro dataset build" in cells.attrs["command"]
    assert set(FAMILIES) < set(cells.family)
    shares = [rows.mean() for rows in masks(without_edge(cells)).values()]
    # Near-duplicates follow one another, so the drawn 90 : 5 : 5 scatter.
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.025)
    rows = np.random.default_rng(0).choice(len(cells), 100, replace=False)
    for octant in cells.octants(rows):
        assert cell.connectivity(octant).connected
        assert presentable(octant)


def test_packaged_near_duplicates_stand_in_one_part():
    cells = load_dataset()
    band = take(cells, np.flatnonzero((cells.volume > 0.50) & (cells.volume < 0.53)))
    letters = np.array(list(band.attrs["split"]))
    pairs = near_duplicates(band.packed, band.n)
    assert len(pairs) > 30
    assert set(letters) == {"t", "v", "e"}
    assert (letters[pairs[:, 0]] == letters[pairs[:, 1]]).all()


def test_packaged_tensors_are_those_of_the_homogeniser():
    cells = load_dataset()
    by_kind = [np.flatnonzero(np.char.startswith(sources(cells), kind)) for kind in ("pool", "extremes")]
    rows = np.array([kind[len(kind) // 2] for kind in by_kind])
    result = homogenize_octants(cells.octants(rows))
    # Labelled to a residual of 1e-2: 7e-5 relative at most on 48 cells of the library.
    np.testing.assert_allclose(result.C, cells.C[rows], rtol=1e-3, atol=1e-5)


def test_packaged_extremes():
    cells = load_dataset()
    assert poisson(cells.C).min() < -0.5
    K_upper, _ = hashin_shtrikman(cells.volume)
    ratio = bulk(cells.C) / K_upper
    # Displacement elements bound from above: the discretisation may exceed the bound a little.
    assert ratio.max() < 1.02
    for low in np.arange(0.1, 0.9, 0.1):
        assert ratio[(cells.volume >= low) & (cells.volume < low + 0.1)].max() > 0.95
