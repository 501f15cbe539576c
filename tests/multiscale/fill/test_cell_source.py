"""Cells for a fill: from the library, and from the packaged generator."""

import numpy as np
import pytest
from scipy import sparse

from micro.cell import octant as cell
from micro.cell.cellset import CellSet
from micro.cell.octant import encloses
from micro.cell.tensor import Bounds, relative_error, tensor_error
from micro.data.packaged import load_library
from micro.diffusion.residual import Corrected
from micro.generator.generator import Generator
from micro.generator.refinement import Refinement
from micro.generator.steering import predict
from micro.homogenize.octants import homogenize_octants
from micro.library.retrieval import nearest as library_nearest
from micro.runtime.jobs import Cache
from micro.runtime.progress import unheard
from micro.shape.space import distance_at
from multiscale.fill.filling import joined
from multiscale.fill.generator_source import GeneratorSource, JoinedSource
from multiscale.fill.set_source import SetSource
from multiscale.fill.source import GENERATED, Neighbours

# Three targets along a line through the gamut, as neighbouring elements of a design want them.
TARGETS = np.array([[0.30, 0.11, 0.09], [0.31, 0.112, 0.092], [0.32, 0.114, 0.094]])


def in_a_row(count):
    """Neighbours as along a row of elements, beside nothing fixed."""
    counts = sparse.csr_array(np.diag(np.ones(count - 1), 1) + np.diag(np.ones(count - 1), -1))
    nothing = load_library().subset(slice(0, 0))
    return Neighbours(np.ones(count, dtype=int), counts, nothing, sparse.csr_array((count, 0)))


@pytest.fixture(scope="module")
def generated():
    source = GeneratorSource(Generator.load(), SetSource(load_library()), count=2, seed=1)
    offered = source.candidates(TARGETS, in_a_row(3), unheard)
    return source, offered


def test_candidates_of_the_generator(generated):
    _, offered = generated
    assert offered.faces.shape == (6, 32, 32)
    assert offered.index.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (tensor_error(offered.C[offered.index], TARGETS[:, None]) < 0.1).all()
    assert not offered.exact.any()


def test_one_noise_makes_neighbours_alike(generated):
    _, offered = generated
    faces = offered.faces[offered.index]
    same = [(faces[i, 0] == faces[i + 1, 0]).mean() for i in range(2)]
    other = [(faces[i, 0] == faces[i + 1, 1]).mean() for i in range(2)]
    assert min(same) > 0.8
    assert np.mean(same) > np.mean(other)


def test_finished_cells_are_their_own(generated):
    source, offered = generated
    error = tensor_error(offered.C[offered.index], TARGETS[:, None])
    chosen = offered.index[np.arange(3), error.argmin(axis=1)]
    finished = source.finish(offered, chosen, TARGETS, Bounds(0.01), unheard)
    for cells in (finished.before, finished.after):
        assert all(cell.connectivity(octant).connected for octant in cells.octants())
        # Trials are solved to a residual of 3e-3, which leaves C right to about 1e-4.
        np.testing.assert_allclose(homogenize_octants(cells.octants()).C, cells.C, rtol=1e-3, atol=1e-5)
    before = tensor_error(finished.before.C, TARGETS)
    after = tensor_error(finished.after.C, TARGETS)
    assert (after <= before).all()
    assert after.max() < 0.01


def test_later_cells_learn_from_the_first(generated, monkeypatch):
    """Refined in waves, each in its place: the last, steered by what the others showed, starts nearer."""
    source, offered = generated
    monkeypatch.setattr("multiscale.fill.generator_source._WAVES", (0.34, 0.67))
    monkeypatch.setattr("multiscale.fill.generator_source._TELLING", 1)
    source.begin(None)
    plain = source.generator.refined
    starts = []

    def watched(samples, targets, **settings):
        done = plain(samples, targets, **settings | {"trials": 8})  # as many as the farthest one needs
        starts.append((settings["residual"] is not None, tensor_error(done.start_C, targets)[0]))
        return done

    monkeypatch.setattr(source.generator, "refined", watched)
    finished = source.finish(offered, offered.index[:, 0], TARGETS, Bounds(0.004), unheard)
    assert [known for known, _ in starts] == [False, True, True]
    assert starts[2][1] < starts[0][1]
    assert tensor_error(finished.after.C, TARGETS).max() < 0.002
    # Nothing of it is left for the next lattice.
    source.begin(None)
    starts.clear()
    source.finish(offered, offered.index[:1, 0], TARGETS[:1], Bounds(0.004), unheard)
    assert [known for known, _ in starts] == [False]


def test_cells_of_an_earlier_lattice_are_learned_from(generated, monkeypatch):
    source, _ = generated
    monkeypatch.setattr("multiscale.fill.generator_source._TELLING", 1)
    cells = load_library().subset(np.arange(5))
    source.begin(cells)
    known = source.generator.model.surrogate
    error = tensor_error(predict(Corrected(known, source._residual()), encoded(source, cells)), cells.C)
    assert error.mean() < 0.5 * tensor_error(predict(known, encoded(source, cells)), cells.C).mean()
    source.begin(None)
    assert source._residual() is None


def encoded(source, cells):
    space = source.generator.model.space
    return space.encode(distance_at(cells.octants(), space.n))


def test_a_cell_in_pieces_goes_on_from_another_and_only_without_any_from_the_library(generated, monkeypatch):
    source, offered = generated
    whole = source.generator.refined
    lost = [1]

    def losing(samples, targets, **settings):
        done = whole(samples, targets, **settings)
        gone = np.isin(targets[:, 0], TARGETS[lost, 0])
        done.start_C[gone] = done.C[gone] = np.nan
        return done

    monkeypatch.setattr(source.generator, "refined", losing)
    for lost, family in (([1], GENERATED), ([0, 1, 2], "spare")):  # noqa: B007 (losing reads it)
        finished = source.finish(offered, offered.index[:, 0], TARGETS, Bounds(0.05), unheard)
        assert finished.after.family.tolist() == [family] * 3
        assert cell.connectivity(finished.after.octants(1)).connected
        assert tensor_error(finished.after.C[1], TARGETS[1]) < 0.05


def test_cells_that_enclose_void_are_passed_over():
    cells = load_library()
    near = SetSource(cells, 6, avoid_cavities=False)
    far = SetSource(cells, 6)
    rows = {source: source.candidates(TARGETS, None, unheard) for source in (near, far)}
    closed = encloses(near.take(rows[near], np.arange(len(rows[near].C))).octants())
    assert closed.any()
    assert not rows[near].avoid.any()
    kept = encloses(far.take(rows[far], np.arange(len(rows[far].C))).octants())
    assert np.array_equal(kept, rows[far].avoid)
    in_order = kept[rows[far].index]
    # The open ones of four times as many come first, each kind by nearness.
    assert not in_order[0].all()
    assert (np.diff(in_order.astype(int), axis=1) >= 0).all()
    error = tensor_error(rows[near].C[rows[near].index], TARGETS[:, None])
    assert (np.diff(error, axis=1) >= 0).all()


def test_cells_of_a_set_are_corrected_if_far():
    source = SetSource(load_library(), 40)
    offered = source.candidates(TARGETS, None, unheard)
    chosen = offered.index[:, -1]
    before = source.take(offered, chosen)
    # What was offered since, to others, changes nothing.
    source.candidates(TARGETS[::-1] * 0.7, None, unheard)
    assert np.array_equal(source.take(offered, chosen).packed, before.packed)
    kept = source.finish(offered, chosen, TARGETS, Bounds(1.0), unheard)
    assert np.array_equal(kept.after.packed, before.packed)
    moved = source.finish(offered, chosen[:1], TARGETS[:1], Bounds(0.002), unheard)
    assert tensor_error(moved.after.C, TARGETS[:1]) < tensor_error(before.C[:1], TARGETS[:1])


def test_a_cell_made_for_a_face_has_it(generated):
    source, _ = generated
    near = source.spare.candidates(TARGETS[:1], None, unheard)
    neighbour = source.spare.take(near, near.index[:, 0])
    made = source.with_faces(neighbour.faces(), TARGETS[2:], Bounds(0.01), unheard)
    assert made.rows.tolist() == [0]
    assert tensor_error(made.cells.C, TARGETS[2:]) < tensor_error(neighbour.C, TARGETS[2:])
    assert cell.connectivity(made.cells.octants(0)).connected
    assert (made.cells.faces() == neighbour.faces()).mean() > 0.9
    assert SetSource(load_library()).with_faces(neighbour.faces(), TARGETS[2:], Bounds(0.01), unheard) is None


def test_a_soft_target_gets_a_generated_cell_where_none_of_the_set_is_near():
    """A shear-stiff foam ten times softer in mu' than in G: within Eq. 4's bound, off by a third."""
    target = np.array([[0.011, -0.001, 0.0105]])
    library = load_library()
    generator = GeneratorSource(Generator.load(), SetSource(library))
    source = JoinedSource(library, generator, 4, True)
    bounds = Bounds(0.01, 0.05)
    offered = source.candidates(target, None, unheard)
    nearest = offered.index[:, 0]
    before = source.take(offered, nearest)
    assert tensor_error(before.C, target) < 0.01
    assert relative_error(before.C, target) > 0.2
    source.finish(offered, nearest, target, bounds, unheard)
    (further,) = source.nearer(before.faces(), target, bounds, unheard)
    assert further.rows.tolist() == [0]
    assert relative_error(further.cells.C, target) < 0.5 * relative_error(before.C, target)
    made = further.cells
    assert not encloses(made.octants()).any()
    # Trials are solved to a residual of 3e-3: constants are right to about 1e-3 of the largest at worst.
    np.testing.assert_allclose(homogenize_octants(made.octants()).C, made.C, atol=1.5e-3 * made.C.max())


def test_a_cell_that_got_stuck_goes_on_from_the_nearest_one(generated):
    """Of two cells for nearly the same soft tensor one is off by half, and begins where the other stands."""
    plain, _ = generated
    source = GeneratorSource(plain.generator, plain.spare)
    wanted = np.array([[0.05, 0.02, 0.02], [0.08, 0.03, 0.03]])
    near, _ = library_nearest(load_library(), wanted, 20)
    some = [load_library().subset(rows) for rows in near]
    cells = joined([c.subset(np.flatnonzero(~encloses(c.octants()))[:1]) for c in some])
    octants, C = cells.octants(), cells.C
    z = source.generator.model.space.encode(distance_at(octants, 32))
    trials = np.ones(2, dtype=np.int64)
    targets = np.stack([C[0], 1.04 * C[0]])
    for keep in (True, False):
        found = Refinement(z.copy(), octants.copy(), C.copy(), z, octants, C, trials.copy())
        source._continued(found, targets, Bounds(0.01, 0.05), unheard, keep=keep)
        assert np.array_equal(found.octants[0], octants[0])
        assert found.trials[0] == 1
        if keep:
            # From itself it gets nearer, and stays what it is.
            assert relative_error(found.C[1], targets[1]) < relative_error(C[1], targets[1])
            assert (found.octants[1] != octants[1]).sum() < (found.octants[1] != octants[0]).sum()
        else:
            assert relative_error(found.C[1], targets[1]) < 0.025
            assert (found.octants[1] != octants[0]).sum() < (found.octants[1] != octants[1]).sum()
            assert found.trials[1] <= 8
    np.testing.assert_allclose(homogenize_octants(found.octants).C, found.C, rtol=2e-3, atol=1e-5)


def test_a_draft_has_one_candidate_and_is_refined_half_as_far(generated, monkeypatch):
    plain, _ = generated
    source = GeneratorSource(plain.generator, plain.spare, count=2, seed=1)
    asked = []
    refined = Generator.refined

    def watched(self, samples, targets, **settings):
        asked.append((settings["tolerance"], settings["relative"]))
        return refined(self, samples, targets, **settings)

    monkeypatch.setattr(Generator, "refined", watched)
    for draft in (False, True):
        source.begin(None, draft)
        offered = source.candidates(TARGETS, in_a_row(3), unheard)
        assert offered.index.shape == (3, 1 if draft else 2)
        source.finish(offered, offered.index[:, 0], TARGETS, Bounds(0.01, 0.05), unheard)
    # The cells of a lattice are refined in several jobs.
    assert sorted(set(asked[:3])) == [(0.005, 0.025)]
    assert sorted(set(asked[3:])) == [(0.01, 0.05)]


def test_joined_keeps_parameters_only_if_all_have_them():
    library = load_library()
    both = joined([library.subset([0]), library.subset([5])])
    assert both.params.shape[1] == library.params.shape[1]
    plain = joined([library.subset([0]), joined([library.subset([1])]).subset([0])])
    assert len(plain) == 2


def test_a_material_from_cells_that_no_formula_made():
    library = load_library()
    near, _ = library_nearest(library, TARGETS[:1], 60)
    some = library.subset(near[0][::-1])  # the nearest last
    own = CellSet.from_octants(some.octants(), some.C, family=["measured"] * len(some))
    found = SetSource(own, avoid_cavities=False).material(TARGETS[0])
    assert np.array_equal(found.octants(0), library.octants(int(near[0, 0])))
    # With formulas the nearest one is corrected, and so is nearer.
    better = SetSource(library).material(TARGETS[0])
    assert tensor_error(better.C, TARGETS[:1]) < tensor_error(found.C, TARGETS[:1])


@pytest.mark.parametrize("seed", [0, 3])
def test_a_material_is_in_phase_with_the_cells_that_are_drawn_beside_it(generated, seed):
    """Noises 0 and 3 give cells of opposite phases."""
    plain, _ = generated
    source = GeneratorSource(plain.generator, plain.spare, count=1, seed=seed)
    target = np.array([0.304, 0.126, 0.089])
    made = source.material(target)
    alone = Neighbours(
        np.ones(1, dtype=int), sparse.csr_array((1, 1)), made.subset(slice(0, 0)), sparse.csr_array((1, 0))
    )
    drawn = source.candidates(target[None], alone, unheard).origin.octants()[0]
    mine = made.octants(0)
    assert cell.similarity(mine, drawn) > 1.5 * cell.similarity(cell.half_period_shift(mine), drawn)
    assert tensor_error(made.C, target[None]).item() < 2e-3


def test_what_was_made_is_not_made_again(generated, tmp_path, monkeypatch):
    """A source with a cache gives the cells of one without, and a second one draws and solves nothing."""
    plain, _ = generated
    cache = Cache(tmp_path)

    def finished(source):
        offered = source.candidates(TARGETS, in_a_row(3), unheard)
        return source.finish(offered, offered.index[:, 0], TARGETS, Bounds(0.01), unheard).after

    first = GeneratorSource(plain.generator, plain.spare, plain.count, plain.seed, cache)
    wanted = finished(plain)
    assert finished(first).digest() == wanted.digest()
    second = GeneratorSource(plain.generator, plain.spare, plain.count, plain.seed, cache)
    for name in ("draw_together", "settle", "refined"):
        monkeypatch.setattr(Generator, name, None)
    assert finished(second).digest() == wanted.digest()
