"""Cells of another base material than the packaged ones: made, kept, judged and continued at its ratio."""

from __future__ import annotations

import numpy as np
import pytest
from small_cells import random_octant

from micro.cell import tensor
from micro.cell.cellset import CellSet
from micro.dataset.build import assemble, pool_arguments, pool_cells
from micro.dataset.extremes import Push, designs
from micro.dataset.finer import Block, Job
from micro.explore.extreme import Plan, bound, explore
from micro.explore.sequence import interpolate
from micro.generator.generator import Generator
from micro.homogenize.octants import homogenize_octants
from micro.inverse import Goal
from micro.library.build import Recipe, draw
from micro.library.labelling import LabelJob
from micro.runtime.errors import InputError

NU = 0.1


def test_the_scale_of_an_objective_is_the_bound_of_its_material():
    C = tensor.isotropic(0.2, 0.3)
    for name, row in (("bulk", 0), ("shear", 1)):
        goal = Goal(name, 0.4, nu=NU)
        limit = float(tensor.hashin_shtrikman(0.4, NU)[row])
        assert goal.loss(C) == pytest.approx(-goal.value(C) / limit, rel=1e-12)
        assert goal.loss(C) != pytest.approx(Goal(name, 0.4).loss(C), rel=1e-2)
    assert bound(Goal("bulk", 0.4, nu=NU)) == pytest.approx(float(tensor.hashin_shtrikman(0.4, NU)[0]))


def own(cells: CellSet) -> None:
    assert cells.poisson == NU
    assert len(cells)
    # Their labels are made to 3e-3 at the coarsest, errors of constants being quadratic in it.
    np.testing.assert_allclose(homogenize_octants(cells.octants(), nu=NU).C, cells.C, rtol=2e-3, atol=1e-5)


def test_a_data_set_is_labelled_at_its_material(tmp_path):
    recipe = Recipe(n=8, count=30, seed=4, coarse=8, pool=30, round_size=30, reach=0, nu=NU)
    names, params = zip(*(draw(recipe.seed, i) for i in range(30)), strict=True)
    round0 = tmp_path / recipe.key() / "round000"
    LabelJob(round0 / "000000.npz", list(names), np.stack(params), 8, 1e-2, NU).make()
    own(pool_cells(round0, 8, NU))
    own(assemble(tmp_path, recipe))
    assert "--nu=0.1" in pool_arguments(recipe)
    assert {design.settings.nu for design in designs(8, tmp_path, NU)} == {NU}


def test_pushed_and_finer_cells_are_homogenised_at_it(tmp_path):
    octant = random_octant(3)
    own(Push(tmp_path / "push.zarr.zip", octant, np.array([0.4, 0.15, 0.1]), 3, NU).cells())
    own(Block(tmp_path / "block.zarr.zip", 16, (Job(0, octant, "given", np.empty(0)),), NU).cells())


def test_what_was_made_for_another_material_is_refused(tmp_path):
    octants = np.stack([random_octant(s) for s in (1, 2)])
    ends = CellSet.from_octants(octants, homogenize_octants(octants, nu=NU).C, poisson=NU)
    generator = Generator.load()
    with pytest.raises(InputError, match="Poisson"):
        interpolate(generator, ends, 3)
    with pytest.raises(InputError, match="Poisson"):
        explore(Plan(Goal("bulk", 0.4, nu=NU)), tmp_path / "out", generator=generator)
    assert not (tmp_path / "out").exists()
