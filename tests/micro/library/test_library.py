"""The library: what is packaged, retrieval against brute force, correction, building and resuming."""

import numpy as np
import pytest
from typer.testing import CliRunner

from micro.cell import octant as cell, tensor
from micro.cell.cellset import CellSet
from micro.cell.tensor import scaled_moduli
from micro.cli.library import app
from micro.data.packaged import load_library
from micro.families.families import FAMILIES, family
from micro.homogenize.octants import homogenize_octants
from micro.library import retrieval as lib
from micro.library.build import Recipe, build, choose, draw, in_focus, vary
from micro.library.labelling import PARAMS, presentable
from micro.runtime.errors import InputError

SMALL = Recipe(n=8, count=24, seed=3, coarse=8, pool=32, round_size=16, reach=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[CellSet, str]:
    """A tiny library at n = 8, and its work directory."""
    work = tmp_path_factory.mktemp("work")
    return build(SMALL, work, workers=1), work


# --- the packaged library -----------------------------------------------------------------------------


def test_packaged_library_is_large_and_connected():
    cells = load_library()
    assert len(cells) >= 3000
    assert cells.n == 32
    assert set(cells.family) == set(FAMILIES)
    assert "micro library build" in cells.attrs["command"]
    rows = np.random.default_rng(0).choice(len(cells), 150, replace=False)
    for octant in cells.octants(rows):
        assert cell.connectivity(octant).connected
        assert presentable(octant)


def test_packaged_tensors_are_those_of_the_homogeniser():
    cells = load_library()
    rows = np.random.default_rng(1).choice(len(cells), 3, replace=False)
    result = homogenize_octants(cells.octants(rows))
    # The library's own tolerance leaves at most 1e-5 relative; C12 may be small beside C11.
    np.testing.assert_allclose(result.C, cells.C[rows], rtol=2e-5, atol=2e-6)


def test_packaged_cells_come_back_from_their_parameters():
    cells = load_library()
    rows = np.random.default_rng(2).choice(len(cells), 100, replace=False)
    for row, octant in zip(rows, cells.octants(rows), strict=True):
        again = family(str(cells.family[row])).octant(cells.params[row], cells.n)
        assert np.array_equal(again, octant)


def test_packaged_tensors_obey_the_bounds():
    cells = load_library()
    K_upper, _ = tensor.hashin_shtrikman(cells.volume)
    assert (tensor.to_moduli(cells.C) > 0).all()
    # Discretisation stiffens: displacement elements bound from above, so allow their error at n = 32.
    assert (tensor.bulk(cells.C) <= 1.02 * K_upper).all()
    assert (tensor.to_moduli(cells.C) <= cells.volume[:, None] * tensor.to_moduli(tensor.SOLID)).all()


# --- retrieval and correction ----------------------------------------------------------------------------


def test_nearest_is_brute_force():
    cells = load_library()
    targets = tensor.from_moduli(np.random.default_rng(3).uniform(0.05, 0.5, (20, 3)))
    index, error = lib.nearest(cells, targets, k=4)
    every = tensor.tensor_error(cells.C[None], targets[:, None])
    np.testing.assert_allclose(error, np.sort(every, axis=1)[:, :4], rtol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(every, index, 1), error, rtol=1e-12)
    assert lib.nearest(cells, targets)[0].shape == (20, 1)


def test_nearest_refusals():
    cells = load_library()
    with pytest.raises(InputError, match="targets"):
        lib.nearest(cells, np.zeros(3))
    with pytest.raises(InputError, match="k"):
        lib.nearest(cells, np.zeros((1, 3)), k=0)


def test_correctable_cells_promise_more_than_the_nearest():
    cells = load_library()
    rng = np.random.default_rng(8)
    targets = cells.C[rng.choice(len(cells), 40)] * rng.uniform(0.99, 1.01, (40, 1))
    index, promised = lib.correctable(cells, targets, k=3)
    _, error = lib.nearest(cells, targets, k=3)
    assert index.shape == (40, 3)
    assert (promised[:, 0] <= error[:, 0] + 1e-15).all()
    assert (np.diff(promised, axis=1) >= 0).all()
    with pytest.raises(InputError, match="k"):
        lib.correctable(cells, targets, k=99, neighbours=9)


@pytest.mark.parametrize("parameters", [1, 6])
def test_correction_improves_and_never_worsens(parameters):
    library = load_library()
    rng = np.random.default_rng(4)
    rows = rng.choice(np.flatnonzero(np.char.startswith(library.family, "t")), 6, replace=False)
    n = 12
    octants = np.stack([family(str(library.family[i])).octant(library.params[i], n) for i in rows])
    start = CellSet.from_octants(
        octants,
        homogenize_octants(octants).C,
        family=library.family[rows].tolist(),
        params=library.params[rows],
    )
    # Targets a few percent away, along the cell's own scaling for one parameter.
    targets = start.C * (1 + rng.uniform(0.05, 0.1, (6, 1)) * (1 if parameters == 1 else [1, 1.3, 0.7]))
    fixed = lib.correct(start, np.arange(6), targets, parameters=parameters, steps=3)
    before, after = (tensor.tensor_error(s.C, targets) for s in (start, fixed))
    assert (after <= before).all()
    # At n = 12 a voxel orbit is 0.3 % of the volume; a third of the error must go all the same.
    assert after.mean() < 0.67 * before.mean()
    np.testing.assert_allclose(fixed.C, homogenize_octants(fixed.octants()).C, rtol=1e-6)
    for row, octant in enumerate(fixed.octants()):
        assert cell.connectivity(octant).connected
        again = family(str(fixed.family[row])).octant(fixed.params[row], n)
        assert np.array_equal(again, octant)
    np.testing.assert_allclose(fixed.volume, fixed.octants().mean(axis=(1, 2, 3)))


def test_correction_leaves_what_is_good_enough():
    cells = load_library()
    kept = lib.correct(cells, [5, 5, 9], cells.C[[5, 5, 9]])
    assert kept.digest() == cells.subset([5, 5, 9]).digest()


def test_correction_refusals():
    cells = load_library()
    with pytest.raises(InputError, match="targets"):
        lib.correct(cells, [0, 1], cells.C[:1])
    with pytest.raises(InputError, match="parameters"):
        lib.correct(cells, [0], cells.C[:1], parameters=0)
    foreign = CellSet.from_octants(cells.octants([0]), cells.C[:1], family="generated")
    with pytest.raises(InputError, match="unknown family"):
        lib.correct(foreign, [0], cells.C[:1])


# --- building --------------------------------------------------------------------------------------------


def test_built_library(small):
    cells, _ = small
    assert 12 <= len(cells) <= SMALL.count
    assert cells.n == 8
    assert cells.attrs["recipe"]["seed"] == 3
    assert "--seed=3" in cells.attrs["command"]
    assert all(cell.connectivity(octant).connected for octant in cells.octants())
    result = homogenize_octants(cells.octants())
    np.testing.assert_allclose(result.C, cells.C, rtol=1e-4, atol=1e-6)


def test_building_resumes_and_is_reproducible(small, tmp_path):
    cells, work = small
    done = sorted(work.rglob("*.npz"))
    stamps = {path: path.stat().st_mtime_ns for path in done}
    done[-1].unlink()
    reports = []
    again = build(SMALL, work, workers=1, progress=lambda *args: reports.append(args))
    assert again.digest() == cells.digest()
    # Only what was missing is made again.
    assert len(reports) == 2
    assert all(path.stat().st_mtime_ns == stamps[path] for path in done[:-1])
    (before, total, stage), (after, _, _) = reports
    assert before < after <= total
    assert stage


def test_damaged_shard_is_refused(small, tmp_path):
    _, work = small
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(work, copy)
    shard = next(iter(copy.rglob("round000/*.npz")))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged shard"):
        build(SMALL, copy, workers=1)


def test_candidates_depend_on_their_index_alone():
    name, params = draw(1, 17)
    again, same = draw(1, 17)
    assert name == again
    np.testing.assert_array_equal(params, same)
    assert params.shape == (PARAMS,)
    other, varied = vary(name, params, 1, 99)
    assert other == name
    assert np.isfinite(varied).sum() == np.isfinite(params).sum()
    np.testing.assert_array_equal(varied, vary(name, params, 1, 99)[1])


def test_farthest_point_sampling_is_even():
    rng = np.random.default_rng(5)
    C = tensor.from_moduli(rng.random((3000, 3)) ** 2 * 0.3 + 0.01)
    chosen = choose(C, 200)
    assert len(set(chosen.tolist())) == 200
    points = scaled_moduli(C)
    apart = np.linalg.norm(points[chosen][:, None] - points[chosen][None], axis=2)
    np.fill_diagonal(apart, np.inf)
    cover = np.linalg.norm(points[:, None] - points[chosen][None], axis=2).min(axis=1).max()
    # Greedy farthest points: nothing is farther from the chosen than they are from each other.
    assert cover <= apart.min() + 1e-12
    focused = choose(C, 200, focus=3.0)
    assert in_focus(C[focused]).sum() > 2 * in_focus(C[chosen]).sum()


def test_dust_and_slivers_are_not_presentable():
    octant = np.zeros((16, 16, 16), bool)
    octant[:6, :6, :] = octant[:6, :, :6] = octant[:, :6, :6] = True
    assert presentable(octant)
    thin = octant.copy()
    thin[10, :, :] = thin[:, 10, :] = thin[:, :, 10] = True
    assert not presentable(thin)
    loose = octant.copy()
    loose[12:14, 12:14, 12:14] = True
    assert not presentable(loose)
    # A sheet one voxel thin on a mirror plane is two voxels thick in the cell.
    sheet = np.zeros((16, 16, 16), bool)
    sheet[0] = sheet[:, 0] = sheet[:, :, 0] = True
    assert presentable(sheet)


def test_recipes_out_of_range_are_refused():
    for wrong in ({"n": 2}, {"count": 0}, {"pool": 5}, {"focus": 0.5}, {"round_size": 2}):
        with pytest.raises(InputError):
            Recipe(**{"count": 10, "pool": 20, **wrong}).check()


# --- commands --------------------------------------------------------------------------------------------


def test_commands(small, tmp_path):
    cells, work = small
    out = tmp_path / "lib.zarr.zip"
    options = [f"--{k.replace('_', '-')}={getattr(SMALL, k)}" for k in SMALL.__dataclass_fields__]
    run = CliRunner().invoke(app, ["build", f"--out={out}", *options, f"--work={work}", "--workers=1"])
    assert run.exit_code == 0, run.output
    assert CellSet.load(out).digest() == cells.digest()
    run = CliRunner().invoke(app, ["show", f"--library={out}"])
    assert run.exit_code == 0, run.output
    assert f"{len(cells)} cells" in run.output
    run = CliRunner().invoke(app, ["nearest", "0.3", "0.12", "0.09", f"--library={out}", "-k", "3"])
    assert run.exit_code == 0, run.output
    assert "error" in run.output
