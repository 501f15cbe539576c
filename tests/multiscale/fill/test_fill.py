"""Filling a field: what groups are offered, and that it only gets better."""

from dataclasses import replace

import numpy as np
import pytest

from micro.cell.cellset import CellSet
from micro.cell.tensor import tensor_error
from micro.data.packaged import load_library
from micro.library.retrieval import nearest
from multiscale.case.case import load_case
from multiscale.fill import filling as fill
from multiscale.fill.set_source import SetSource
from multiscale.fill.source import Matched
from multiscale.problem.problem import build_problem
from multiscale.problem.reduction import Reduction

CELLS = load_library()


class Offering(SetSource):
    """One candidate a group; for a face the library's cell that is most like it, among the near ones."""

    def __init__(self, makes=True):
        super().__init__(CELLS, 1, avoid_cavities=False)
        self.asked, self.makes = [], makes

    def with_faces(self, faces, targets, tolerance, progress):
        self.asked.append([(tuple(t), f.tobytes()) for t, f in zip(targets, faces, strict=True)])
        near, _ = nearest(CELLS, targets, 200)
        rows = []
        for some, face in zip(near, faces, strict=True):
            like = (CELLS.subset(some).faces() == face).mean(axis=(1, 2))
            rows.append(int(some[np.argmax(like)]))
        keep = np.arange(0 if not self.makes else len(rows))
        plain = CELLS.subset(np.array(rows, dtype=int)[keep])
        return Matched(CellSet.from_octants(plain.octants(), plain.C, family=["made"] * len(plain)), keep)


@pytest.fixture
def setting(root):
    """The tiny case with tensors of library cells drawn at random: every group is one element."""
    problem = build_problem(load_case(root / "tests" / "multiscale" / "minimal.toml"))
    reduction = Reduction(problem)
    wanted = reduction.elements(problem.tensor)
    design = reduction.elements(problem.design)
    middle = CELLS.C[tensor_error(CELLS.C, np.array([[0.3, 0.12, 0.1]])) < 0.12]
    draws = np.random.default_rng(0).integers(len(middle), size=int(design.sum()))
    wanted[design] = middle[draws]
    settings = load_case(root / "tests" / "multiscale" / "minimal.toml").fill
    return problem, reduction, wanted, settings


def filled(setting, source):
    problem, reduction, wanted, settings = setting
    filling = fill.Filling(problem, reduction, wanted, source, settings)
    filling.choose(None)
    return filling


def test_groups_are_offered_cells_for_their_neighbours_faces(setting, monkeypatch):
    monkeypatch.setattr(fill, "_OFFERED", 0.5)
    source = Offering()
    alone, offered = filled(setting, Offering(makes=False)), filled(setting, source)
    assert 1 <= len(source.asked) <= 3
    everything = [key for round_ in source.asked for key in round_]
    assert len(everything) == len(set(everything))  # nothing twice
    assert offered.selection.cost < alone.selection.cost
    overlap = lambda f: f.filled().lattice.contacts().mean_overlap_unlike  # noqa: E731
    assert overlap(offered) > overlap(alone) + 0.02


def test_a_source_that_makes_nothing_is_asked_once(setting):
    source = Offering(makes=False)
    filled(setting, source)
    assert len(source.asked) == 1


def test_cells_of_an_earlier_lattice_are_taken_again(setting):
    """A source without cells near the targets, and an earlier lattice that has them: nothing is finished."""
    problem, reduction, wanted, settings = setting
    targets = np.unique(wanted[reduction.elements(problem.design)], axis=0)
    distance = np.min([tensor_error(CELLS.C, target) for target in targets], axis=0)

    class Far(SetSource):
        finished = 0

        def finish(self, offered, chosen, targets, bounds, say):
            self.finished += len(chosen)
            return super().finish(offered, chosen, targets, bounds, say)

    def filled(earlier):
        source = Far(CELLS.subset(distance > 0.05), 4, avoid_cavities=False)
        plain = settings.model_copy(update={"overlap": 0.0, "cavities": "allow"})  # tensors alone count
        filling = fill.Filling(problem, reduction, wanted, source, plain, earlier=earlier)
        filling.choose(None)
        return filling.filled(), source.finished

    without, finished = filled(None)
    assert finished == without.groups > 1
    assert without.error_design.min() > 0.01
    known = CELLS.subset(distance == 0).without_parameters()
    # A set's generated cells are not made for this lattice.
    known = replace(known, family=np.array(["generated"] * len(known)))
    again, finished = filled(known)
    assert again.generated == 0
    assert finished == 0
    assert again.error_design.max() == 0


def test_a_draft_makes_nothing_anew(setting, monkeypatch):
    """A lattice that is about to be replaced: nothing is made for the groups that come off worst."""
    monkeypatch.setattr(fill, "_OFFERED", 0.5)
    monkeypatch.setattr(fill, "FAR", 0.01)
    problem, reduction, wanted, settings = setting

    def asked(draft):
        source = Offering()
        source.nearer = lambda faces, targets, bounds, progress: source.asked.append(len(targets)) or []
        filling = fill.Filling(problem, reduction, wanted, source, settings, draft=draft)
        filling.choose(None)
        assert filling.filled().lattice.components() >= 1
        return source.asked

    assert len(asked(draft=False)) > 1
    assert asked(draft=True) == []


def test_what_is_drawn_is_drawn_beside_the_cells_that_stand(setting):
    """Candidates that take time are asked for where no earlier cell is near, next to those that are."""
    problem, reduction, wanted, settings = setting
    asked = []

    class Drawing(SetSource):
        draws = True

        def candidates(self, targets, neighbours, progress):
            asked.append((targets, neighbours))
            return super().candidates(targets, neighbours, progress)

    def filled(earlier):
        source = Drawing(CELLS, 4, avoid_cavities=False)
        filling = fill.Filling(problem, reduction, wanted, source, settings, earlier=earlier)
        filling.choose(None)
        return filling

    first = filled(None)
    design = first.groups.target[first.fixed :]
    assert len(asked[0][0]) == len(design) > 2
    held = nearest(CELLS, design[: len(design) // 2], 1)[0][:, 0]
    again = filled(CELLS.subset(held))
    targets, neighbours = asked[1]
    near = np.min([again.bounds.error(CELLS.C[row], design) for row in held], axis=0)
    assert (targets == design[near > again.bounds.tolerance / 2]).all()
    # All interfaces of a group that is asked for are with one that is, or with a cell that stands.
    some = first.fixed + np.flatnonzero(near > again.bounds.tolerance / 2)
    met = neighbours.counts.sum(axis=1) + neighbours.beside.sum(axis=1)
    assert (met == first.groups.counts[some].sum(axis=1)).all()
    assert len(neighbours.fixed) == neighbours.beside.shape[1] > first.fixed

    asked.clear()
    everything = filled(CELLS.subset(nearest(CELLS, design, 1)[0][:, 0]))
    assert not asked
    assert (everything.filled().error_design < 0.05).all()
