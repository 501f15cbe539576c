"""Enclosed void and the channels that drain it; the data set at twice the resolution, block by block."""

import numpy as np
import pytest
from typer.testing import CliRunner

from micro.cell.cellset import CellSet
from micro.cell.chamber import chamber, fundamental_domain
from micro.cell.octant import cell_from_octant, connectivity, encloses, symmetrise
from micro.cell.tensor import scaled_moduli, tensor_error
from micro.cli.main import app
from micro.data.packaged import load_library
from micro.dataset import finer
from micro.dataset.dataset import masks, openness, sources, take
from micro.dataset.twins import opened
from micro.families.families import family
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.homogenize.sensitivity import sensitivities
from micro.runtime.errors import InputError
from micro.shape.channels import closed_pockets, drain, drained as drained_shape, is_open
from micro.shape.space import signed_distance


def ball(n, radius, centre=0.5):
    """A solid octant with a ball of void around the cell's centre (0.5) or corner (0)."""
    at = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / (2 * n)] * 3, indexing="ij"))
    return np.linalg.norm(at - centre, axis=0) > radius


def drained(octant):
    n = len(octant)
    inside, _ = fundamental_domain(n)
    solid = octant.ravel()[inside]
    plan = drain(solid, np.ones(len(solid)), n)
    return chamber(n).unfold((solid & ~plan.channels) | plan.filled), plan


def test_void_is_open_exactly_if_it_meets_all_four_walls_of_the_chamber():
    """Against the octant's own criterion, on cells by formula and on noise with many small pockets."""
    rng = np.random.default_rng(0)
    noise = [symmetrise(rng.random((14, 14, 14))) > np.quantile(rng.random(100), s) for s in (0.3, 0.5, 0.7)]
    noise += [symmetrise(rng.random((12, 12, 12))) > 0.5 + s for s in np.linspace(-0.2, 0.2, 30)]
    cells = [*load_library().octants(np.arange(0, 3400, 60)), *noise]
    states = np.array([is_open(octant) for octant in cells])
    assert np.array_equal(states, [not encloses(octant[None])[0] for octant in cells])
    assert 10 < states.sum() < len(cells) - 10


def test_a_closed_ball_is_led_out_along_the_shortest_way():
    """In a solid cell a ball's way is the straight one to the cell's neighbours, along a cube axis."""
    octant = ball(32, 0.3)
    assert not is_open(octant)
    made, plan = drained(octant)
    assert is_open(made)
    assert connectivity(made).connected
    whole = cell_from_octant(made)
    middle = whole[:, 32, 32]
    assert not middle.any()  # the void runs through the whole cell
    # Six channels of three voxels' width over what is left between ball and face: a fifth of a radius.
    lost = cell_from_octant(octant).sum() - whole.sum()
    assert lost <= 6 * 0.2 * 64 * np.pi * (3.5 / 2 + 1) ** 2
    assert not plan.filled.any()


def test_a_pocket_smaller_than_its_channel_is_filled():
    octant = ball(32, 0.03) & ball(32, 0.36, centre=0.0) & (np.arange(32)[:, None, None] >= 0)
    # The ball at the corner is large and closed, the one at the centre a few voxels.
    made, plan = drained(octant)
    assert is_open(made)
    inside, _ = fundamental_domain(32)
    small = ~ball(32, 0.03).ravel()[inside]
    assert np.array_equal(plan.filled, small)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_twin_is_open_and_has_nearly_the_tensor(row):
    library = load_library()
    middle = (library.volume > 0.4) & (library.volume < 0.8)
    closed = [i for i in np.flatnonzero(middle)[::40].tolist() if not is_open(library.octants(i))]
    octant = library.octants(closed[row])
    solved = sensitivities(octant, rtol=3e-3)
    twin = opened(octant, 64.0 * signed_distance(octant[None])[0], solved.gradient[0])
    assert twin is not None
    assert is_open(twin)
    assert connectivity(twin).connected
    # At n = 32 a channel of three voxels is a coarse cut; at n = 64 the mean over closed cells is 0.3 %.
    assert tensor_error(homogenize_octants(twin, rtol=3e-3).C[0], solved.C[0]) < 0.03


def test_generated_cells_are_open_if_asked_for_and_depend_on_nothing_else():
    """Of tensors whose drawn cells enclose void, at both resolutions, and refined."""
    wanted = [[0.62, 0.2, 0.19], [0.45, 0.16, 0.13]]
    generator = Generator.load()
    plain = generator.sample(wanted, 2, seed=5, draws=2, steering=1)
    assert encloses(plain.octants()).any()
    free = generator.sample(wanted, 2, seed=5, draws=2, steering=1, open=True)
    assert not encloses(free.octants()).any()
    assert free.connected.all()
    volume = [s.octants().mean(axis=(1, 2, 3)) for s in (plain, free)]
    assert np.abs(volume[0] - volume[1]).max() < 0.05
    alone = generator.sample(wanted[1:], 2, seed=5, draws=2, steering=1, open=True)
    assert np.array_equal(alone.packed, free.packed[2:])
    refined = generator.refine(free, wanted, trials=2)
    assert not encloses(refined.octants()).any()


def test_draining_a_shape_keeps_its_volume():
    octant = ball(32, 0.3)
    made = drained_shape(octant, octant - 0.5)
    assert is_open(made)
    assert abs(made.mean() - octant.mean()) < 2e-3
    assert drained_shape(made, octant - 0.5) is made
    solid = np.ones((16, 16, 16), bool)
    assert drained_shape(solid, solid.astype(float)) is solid


def test_farthest_first_spreads_at_every_length():
    points = np.random.default_rng(0).uniform(size=(400, 3)) ** 2
    order = finer.farthest_first(points)
    assert np.array_equal(np.sort(order), np.arange(400))
    for count in (10, 50):
        some, others = points[order[:count]], points[order[count:]]
        apart = np.linalg.norm(some[:, None] - some, axis=2)[np.triu_indices(count, 1)].min()
        away = np.linalg.norm(others[:, None] - some, axis=2).min(axis=1).max()
        assert away <= apart


@pytest.fixture(scope="module")
def first():
    """Cells of n = 16 by formula, closed and open ones."""
    library = load_library()
    rows = np.arange(5, 3400, 340)
    params = library.params[rows]
    names = library.family[rows].tolist()
    octants = [family(name).octant(p, 16) for name, p in zip(names, params, strict=True)]
    return CellSet.from_octants(np.stack(octants), library.C[rows], family=names, params=params)


@pytest.fixture
def small(monkeypatch):
    for name, value in (("_CLOSED", 2), ("_OPEN", 1), ("_THIN", 1)):
        monkeypatch.setattr(finer, name, value)


def test_a_build_goes_on_from_blocks_and_from_a_part(first, small, tmp_path):
    """One block, then another, gives what both at once give; a part stands for its blocks."""
    says = []
    one = finer.build(first, 32, folder=tmp_path / "a", blocks=1, say=says.append)
    assert len(says) == 1
    one.save(tmp_path / "part.zarr.zip")
    stamp = (tmp_path / "a" / "block00000.zarr.zip").stat().st_mtime_ns
    both = finer.build(first, 32, folder=tmp_path / "a", blocks=2, say=says.append)
    assert len(says) == 2
    assert (tmp_path / "a" / "block00000.zarr.zip").stat().st_mtime_ns == stamp
    part = CellSet.load(tmp_path / "part.zarr.zip")
    other = finer.build(first, 32, folder=tmp_path / "b", blocks=2, start=part, say=says.append)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["block00001.zarr.zip"]
    assert other.digest() == both.digest()
    assert both.attrs["blocks"] == 2
    with pytest.raises(InputError, match="not a part"):
        finer.build(first.subset(slice(1, None)), 32, folder=tmp_path / "b", start=part, make_new=False)
    with pytest.raises(InputError, match="no finished block"):
        finer.build(first, 32, folder=tmp_path / "c", make_new=False)


def test_the_data_set_is_labelled_and_its_tensors_are_its_own(first, small, tmp_path):
    cells = finer.assembled(finer.build(first, 32, folder=tmp_path, blocks=2, say=str), {"command": "x"})
    assert np.array_equal(openness(cells), ~encloses(cells.octants()))
    assert openness(cells).any()
    assert not openness(cells).all()
    np.testing.assert_allclose(homogenize_octants(cells.octants()).C, cells.C, rtol=1e-4, atol=1e-7)
    assert set(sources(cells).tolist()) <= set(finer.SOURCES)
    assert "opened twins" in sources(cells)
    thin = cells.volume[np.char.startswith(sources(cells), "thin")]
    assert ((thin > 0.02) & (thin < 0.2)).all()
    assert sum(rows.sum() for rows in masks(cells).values()) == len(cells)
    some = take(cells, [2, 0])
    assert np.array_equal(openness(some), openness(cells)[[2, 0]])
    # Twins lie beside their originals: none is far from every closed cell.
    twins = scaled_moduli(cells.C[sources(cells) == "opened twins"])
    closed = scaled_moduli(cells.C[~openness(cells)])
    assert np.linalg.norm(twins[:, None] - closed, axis=2).min(axis=1).max() < 0.1


def test_pockets_are_told_apart(first):
    octant = ball(16, 0.2) & ball(16, 0.2, centre=0.0)
    inside, _ = fundamental_domain(16)
    label, closed, goes_on = closed_pockets(~octant.ravel()[inside], 16)
    assert label.max() == 1
    assert len(closed) == 2
    assert len(goes_on) == 0


def test_the_command_gathers_a_part_and_goes_on_from_it(first, small, tmp_path):
    data, part, out = (tmp_path / f"{name}.zarr.zip" for name in ("first", "part", "all"))
    first.save(data)
    given = ["dataset", "refine", "--n=32", f"--data={data}", f"--work={tmp_path / 'work'}"]
    made = CliRunner().invoke(app, [*given, "--blocks=1", "--part", f"--out={part}"])
    assert made.exit_code == 0, made.output
    gathered = CliRunner().invoke(app, [*given, f"--start={part}", f"--out={out}", "--finished"])
    assert gathered.exit_code == 0, gathered.output
    assert "command" in CellSet.load(out).attrs
