"""Loads in equilibrium by themselves, spaces of loads, and the worst combination of a space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from examples import MINIMAL, case_of, varied
from small_cases import small

from micro.cell.tensor import PAPER_SPAN, stiffness_matrix
from micro.runtime.errors import InputError
from micro.runtime.gradient_check import check_gradient
from multiscale.case.load_space import far_field_basis
from multiscale.objective.any_load import AnyLoadObjective
from multiscale.objective.influence import influence
from multiscale.objective.objective import DistortionObjective
from multiscale.problem import grid
from multiscale.problem.far_field import carried_by
from multiscale.problem.problem import LoadCase, Problem, build_problem
from multiscale.problem.rigid import RigidPart, imbalance, motion_parity, rigid_motions
from multiscale.problem.symmetry import reflect
from multiscale.solve.elasticity import Elasticity, SolverOptions

TIGHT = SolverOptions(rtol=1e-11)


@pytest.fixture(scope="module")
def cylinder() -> Problem:
    """The case's block and hole, 8 x 8 x 8, all fifteen far fields."""
    case = small("cloak_any_load", 5)
    space = case.load_space.model_copy(update={"far_field": "moments"})
    return build_problem(case.model_copy(update={"load_space": space}))


@pytest.fixture(scope="module")
def objective(cylinder) -> AnyLoadObjective:
    return AnyLoadObjective(cylinder, TIGHT, adjoint_rtol=1e-10)


def plain(objective: DistortionObjective) -> np.ndarray:
    """The hole without a cloak, reduced grid."""
    p = objective.problem
    return objective.reduction.elements(np.where(p.design[..., None], p.reference, p.tensor))


def uneven(objective: DistortionObjective, seed: int = 0) -> np.ndarray:
    """Another feasible-looking field, that keeps the mirror planes and no other symmetry."""
    field = plain(objective)
    design = objective.reduction.elements(objective.problem.design)
    field[design] *= np.random.default_rng(seed).uniform(0.8, 1.6, (int(design.sum()), 1))
    return field


# ------------------------------------------------------------------------ far fields
def test_far_fields_are_in_equilibrium(cylinder):
    for load in cylinder.loads:
        assert load.free
        assert max(imbalance(load.force, cylinder.shape)) < 1e-12, load.name


def test_a_uniform_stress_strains_a_uniform_block_as_hooke_says(cylinder):
    """Patch test: the reference's displacements are linear, strain = C^-1 stress (1 MPa on E_s = 2000 MPa).

    The hole meets two faces, which the reference fills; for xx, yy and xy these are not loaded.
    """
    objective = DistortionObjective(replace(cylinder, mirror_axes=()), TIGHT)
    compliance = np.linalg.inv(stiffness_matrix(cylinder.reference[0, 0, 0]))
    x = np.stack(np.broadcast_arrays(*grid.nodes(cylinder.shape)), axis=-1) - 4.0
    for number, component in ((0, 0), (1, 1), (5, 5)):
        e = compliance[:, component] / 2000.0
        strain = np.array(
            [[e[0], e[5] / 2, e[4] / 2], [e[5] / 2, e[1], e[3] / 2], [e[4] / 2, e[3] / 2, e[2]]]
        )
        # No turn in it: the observed nodes are symmetric about the centre.
        assert np.allclose(objective.reference[number], x @ strain, atol=1e-9 * np.abs(e).max() * 4)


def test_a_holed_face_carries_the_whole_face_s_resultants():
    solid = np.ones((6, 4), dtype=bool)
    solid[0:3, 1:3] = False
    weights = carried_by(solid)
    assert weights is not None
    assert not weights[~solid].any()
    a, b = np.meshgrid(np.arange(6) - 2.5, np.arange(4) - 1.5, indexing="ij")
    assert [weights.sum(), (weights * a).sum(), (weights * b).sum()] == pytest.approx([24, 0, 0], abs=1e-12)
    assert carried_by(np.eye(6, 4, dtype=bool) & (np.arange(6) < 2)[:, None]) is None  # two quads, three sums


def test_the_basis_is_in_equilibrium_inside_too():
    """A linear stress has no divergence: the component along its own axis is zero."""
    loads = far_field_basis(moments=True)
    assert len(loads) == 15
    assert len({load.name for load in loads}) == 15
    for load in loads:
        field = load.far_field
        assert field.along is None or not field.matrix()["xyz".index(field.along)].any()


# ------------------------------------------------------------------------ rigid motion
def test_parities_of_rigid_motions():
    motions = rigid_motions((4, 2, 6))
    for axis in range(3):
        for number, motion in enumerate(motions):
            assert np.allclose(reflect(motion, axis), motion_parity(number, axis) * motion)


def test_rigid_motion_is_taken_out():
    motions = rigid_motions((3, 4, 2))
    rng = np.random.default_rng(1)
    part = RigidPart(motions, rng.uniform(0.0, 1.0, motions.shape[1:4]))
    field = rng.standard_normal(motions.shape[1:])
    moved = field + np.tensordot(rng.standard_normal(6), motions, axes=1)
    assert np.allclose(part.removed(moved), part.removed(field))
    assert np.allclose(part.removed(motions[4]), 0.0, atol=1e-12)


#: Statically determinate supports: three nodes that hold six components between them.
SUPPORTS = (
    (((0, 0, 0), "xyz"), ((8, 0, 0), "yz"), ((0, 8, 0), "z")),
    (((8, 8, 8), "xyz"), ((8, 0, 8), "xz"), ((0, 0, 4), "x")),
)


def supported(problem: Problem, pins: tuple, load: LoadCase) -> np.ndarray:
    """Distortions of a load held at three nodes, rigid motion taken out."""
    fixed = np.zeros((9, 9, 9, 3), dtype=bool)
    for node, components in pins:
        for c in components:
            fixed[(*node, "xyz".index(c))] = True
    operator = Elasticity(problem.shape, fixed, SolverOptions(rtol=1e-10))
    weight = problem.observed_nodes.astype(float)
    rigid = RigidPart(rigid_motions(problem.shape), weight)
    u = []
    for field in (problem.reference, np.where(problem.design[..., None], problem.reference, problem.tensor)):
        operator.assemble(np.ascontiguousarray(field))
        u.append(rigid.removed(operator.solve(load.force)))
    norms = [np.sqrt(np.sum(weight[..., None] * v**2)) for v in (u[1] - u[0], u[0])]
    return norms[0] / norms[1]


def check_against_supports(numbers: tuple[int, ...] = (0, 4, 5), supports: tuple = SUPPORTS) -> None:
    """Free on an eighth of the grid, or held anyhow on all of it: the same distortions."""
    problem = build_problem(small("cloak_any_load", 5))
    problem = replace(problem, loads=tuple(problem.loads[i] for i in numbers))
    objective = AnyLoadObjective(problem, SolverOptions(rtol=1e-10))
    value = objective.value(plain(objective))
    for load in problem.loads:
        for pins in supports:
            # Both are solved to 1e-10; a distortion of 0.3 is then known to some 1e-9.
            assert abs(supported(problem, pins, load) / value.per_load[load.name] - 1) < 1e-6, load.name


def test_no_supports_equal_any_statically_determinate_ones():
    check_against_supports()


def test_the_same_on_two_ranks(run_ranks, root):
    script = (
        f"import sys; sys.path[:0] = [{str(root / 'tests')!r}, {str(Path(__file__).parent)!r}]; "
        "import test_any_load as t; t.check_against_supports((4,), t.SUPPORTS[1:]); print('equal')"
    )
    done = run_ranks(2, "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 2  # ranks share the stream: their lines may run together


def test_an_eighth_equals_the_whole(cylinder, objective):
    whole = AnyLoadObjective(cylinder, TIGHT, axes=())
    field = uneven(objective)
    found = objective.spectrum(objective.displacements(field))
    everything = whole.displacements(objective.reduction.expand_elements(field))
    assert whole.spectrum(everything) == pytest.approx(found, rel=1e-7, abs=1e-9)
    assert len(whole.blocks) == 1
    assert len(objective.blocks) == 8


# ------------------------------------------------------------------------ the worst of a space
def test_the_worst_is_that_of_ten_thousand_combinations(objective):
    """From above: no combination exceeds the eigenvalue, and the best of each parity comes within 1e-3."""
    displacements = objective.displacements(uneven(objective))
    d = [objective.difference(i, u) for i, u in enumerate(displacements)]
    rng = np.random.default_rng(3)

    def tried(numbers: list[int]) -> float:
        D, R = (objective.gram([f[i] for i in numbers]) for f in (d, objective.reference))
        a = rng.standard_normal((10_000, len(numbers))) / np.sqrt(np.diag(R))
        return float(np.sqrt(np.max(np.sum(a @ D * a, axis=1) / np.sum(a @ R * a, axis=1))))

    value = objective.value_of(displacements)
    spectra = objective._spectrum(displacements)
    for block, (values, _) in zip(objective.blocks, spectra, strict=True):
        worst = np.sqrt(values[-1])
        assert tried(block) <= worst * (1 + 1e-12)
        assert tried(block) == pytest.approx(worst, rel=1e-3)
    assert value.total == pytest.approx(max(np.sqrt(v[-1]) for v, _ in spectra))
    assert value.total >= max(value.per_load.values())


def test_the_worst_combination_has_the_worst_distortion(objective):
    displacements = objective.displacements(uneven(objective))
    worst = objective.worst(displacements)
    u, reference = (objective.combine(f, worst) for f in (displacements, objective.reference))
    assert max(np.abs(list(worst.loads.values()))) == 1.0
    assert objective._norm(u - reference) / objective._norm(reference) == pytest.approx(worst.distortion)


@pytest.mark.parametrize("combine", ["worst", "mean_square"])
def test_parities_one_after_the_other_are_all_together(cylinder, combine):
    """What meshes that are only evaluated on do, to hold one operator at a time."""
    objective = AnyLoadObjective(cylinder, TIGHT, combine=combine)
    field = uneven(objective)
    assert sorted(i for group in objective.groups for i in group) == list(range(15))
    assert len(objective.groups) == 8
    parts = []
    for numbers in objective.groups:
        part = replace(cylinder, loads=tuple(cylinder.loads[i] for i in numbers))
        parts.append(AnyLoadObjective(part, TIGHT, combine=combine).value(field))
    together, joined = objective.value(field), objective.joined(parts)
    assert joined.total == pytest.approx(together.total, rel=1e-9)
    assert joined.per_load == pytest.approx(together.per_load, rel=1e-9)


def test_the_size_of_the_basis_does_not_matter(cylinder, objective):
    """A moment of another unit, a twist added to another: the same space, the same principal distortions."""
    a = np.random.default_rng(6).uniform(0.1, 10.0, len(cylinder.loads))
    loads = [replace(load, force=f * load.force) for load, f in zip(cylinder.loads, a, strict=True)]
    twists = [load for load in loads if load.name.startswith("twist")]
    loads[-1] = replace(twists[2], force=twists[2].force + twists[0].force)
    other = AnyLoadObjective(replace(cylinder, loads=tuple(loads)), TIGHT)
    field = uneven(objective)
    found, expected = (o.spectrum(o.displacements(field)) for o in (other, objective))
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_a_part_of_the_space_is_that_space(cylinder, objective):
    """Of stresses and moments the stresses; without mirror planes, where one parity has them all, too."""
    names = [load.name for load in cylinder.loads[:6]]
    field = uneven(objective)
    six = AnyLoadObjective(replace(cylinder, loads=cylinder.loads[:6]), TIGHT)
    expected = six.spectrum(six.displacements(field))
    for whole in (objective, AnyLoadObjective(cylinder, TIGHT, axes=())):
        part = whole.within(names)
        displacements = whole.displacements(
            whole.reduction.elements(objective.reduction.expand_elements(field))
        )
        assert part.spectrum(displacements) == pytest.approx(expected, rel=1e-7, abs=1e-9)
        worst = part.worst(displacements)
        assert worst.distortion <= whole.worst(displacements).distortion * (1 + 1e-12)
        assert set(worst.loads) <= set(names)


def test_the_mean_is_that_of_random_combinations(cylinder):
    objective = AnyLoadObjective(cylinder, TIGHT, combine="mean_square")
    displacements = objective.displacements(uneven(objective))
    rng = np.random.default_rng(4)
    size = len(cylinder.loads)
    d = np.zeros((size, size))
    for block, inverse in zip(objective.blocks, objective.factors, strict=True):
        gram = objective.gram([objective.difference(i, displacements[i]) for i in block])
        d[np.ix_(block, block)] = inverse @ gram @ inverse.T
    s = rng.standard_normal((200_000, size))
    mean = np.mean(np.sum(s @ d * s, axis=1) / np.sum(s**2, axis=1))
    # The standard error of the mean of 200,000 draws that differ by as much as they are.
    assert objective.value_of(displacements).total == pytest.approx(np.sqrt(mean), rel=5e-3)


@pytest.mark.parametrize("combine", ["worst", "mean_square"])
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("loads", [6, 15])
def test_gradient_of_the_spectrum(cylinder, combine, equal, loads):
    """Against central differences; a hole alone has the square's symmetry, so that eigenvalues are equal.

    Of the smooth maximum. 1e-5: what a step of 1e-4 leaves of third derivatives.
    """
    problem = replace(cylinder, loads=cylinder.loads[:loads])
    objective = AnyLoadObjective(problem, TIGHT, adjoint_rtol=1e-10, combine=combine)
    field = plain(objective) if equal else uneven(objective)
    spectrum = objective.spectrum(objective.displacements(field))
    pairs = np.abs(np.diff(spectrum)) / spectrum[0]
    assert (pairs.min() < 1e-8) == equal
    _, gradient = objective.value_and_gradient(field)
    direction = np.zeros_like(field)
    design = objective.reduction.elements(problem.design)
    direction[design] = field[design] * np.random.default_rng(5).standard_normal((int(design.sum()), 3))
    step = 1e-4 * float(np.abs(direction).max())
    found = check_gradient(
        lambda f: objective.value_and_gradient(f)[0].total, field, gradient, step=step, directions=[direction]
    )
    assert found.error < 1e-5


def test_a_further_stage_is_given_a_sharper_maximum(cylinder):
    """Nearer to the largest principal distortion, its own gradient; what is reported stays exact."""
    objective = AnyLoadObjective(cylinder, TIGHT, adjoint_rtol=1e-10)
    field = uneven(objective)
    exact = objective.value(field).total
    above = []
    for stage in (0, 1, 2, 3):
        objective.sharpen(stage)
        value, gradient = objective.value_and_gradient(field)
        above.append(value.total - exact)
        assert objective.value(field).total == pytest.approx(exact, rel=1e-12)
    assert above[0] == above[1] > above[2] > above[3] >= 0
    direction = np.random.default_rng(4).standard_normal(field.shape) * field
    step = 1e-4 * float(np.abs(direction).max())
    found = check_gradient(
        lambda f: objective.value_and_gradient(f)[0].total, field, gradient, step=step, directions=[direction]
    )
    # Four times as sharp as what test_gradient_of_the_spectrum leaves 1e-5 of.
    assert found.error < 1e-4


def test_no_hole_no_distortion(cylinder):
    objective = AnyLoadObjective(cylinder, SolverOptions(rtol=1e-9))
    value, gradient = objective.value_and_gradient(objective.reduction.elements(cylinder.reference))
    assert value.total < 1e-7
    assert np.all(np.isfinite(gradient))


# ------------------------------------------------------------------------ other measures
def test_measures_of_a_scaled_field(objective):
    """u = 1.1 u_ref: strain off by a tenth, energy by 1.21 - 1, and rigid motion does not count."""
    field = objective.reduction.elements(objective.problem.reference)
    objective.displacements(field)
    shift = np.array([0.3, 0.0, 0.0])
    found = objective.measures(field, 0, 1.1 * objective.reference[0] + shift, objective.reference[0])
    assert found == pytest.approx({"strain_deviation": 0.1, "energy_mismatch": 0.21}, rel=1e-6)


# ------------------------------------------------------------------------ what is refused
FREE_PULL = (
    '[{ where = "x-", vector_mpa = [-1.0, 0.0, 0.0] }, { where = "x+", vector_mpa = [1.0, 0.0, 0.0] }]'
)


def free_case(tractions: str) -> str:
    head, _, rest = MINIMAL.partition("[[loads]]")
    tail = rest[rest.index("[objective]") :]
    return f'{head}[[loads]]\nname = "pull"\ntractions = {tractions}\n\n{tail}'


def test_a_listed_load_in_equilibrium_needs_no_supports():
    problem = build_problem(case_of(free_case(FREE_PULL)))
    assert problem.loads[0].free


def test_what_is_not_in_equilibrium_needs_them():
    one_sided = '[{ where = "x+", vector_mpa = [1.0, 0.0, 0.0] }]'
    with pytest.raises(InputError, match="forces are not in equilibrium"):
        build_problem(case_of(free_case(one_sided)))
    couple = FREE_PULL.replace("[-1.0, 0.0, 0.0]", "[0.0, -1.0, 0.0]").replace(
        "[1.0, 0.0, 0.0]", "[0.0, 1.0, 0.0]"
    )
    with pytest.raises(InputError, match="moments are not in equilibrium"):
        build_problem(case_of(free_case(couple)))


def any_load(text: str) -> str:
    return text.replace('type = "displacement_distortion"', 'type = "any_load"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (varied(("[objective]", '[load_space]\nfar_field = "all"\n\n[objective]')), "load_space.far_field"),
        (
            free_case(FREE_PULL).replace(
                f"tractions = {FREE_PULL}", "far_field = { stress_mpa = [0, 0, 0, 0, 0, 0] }"
            ),
            "must not be zero",
        ),
        (
            free_case(FREE_PULL).replace(
                f"tractions = {FREE_PULL}", 'far_field = { stress_mpa = [1, 0, 0, 0, 0, 0], along = "x" }'
            ),
            "can't grow along it",
        ),
        (
            free_case(FREE_PULL).replace(
                f"tractions = {FREE_PULL}",
                'fixed = [{ where = "y-" }]\nfar_field = { stress_mpa = [1, 0, 0, 0, 0, 0] }',
            ),
            "acts alone",
        ),
    ],
)
def test_wrong_far_fields_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        case_of(text)


def test_a_case_needs_a_load():
    head, _, rest = MINIMAL.partition("[[loads]]")
    with pytest.raises(InputError, match=r"\[load_space\]"):
        case_of(head + rest[rest.index("[objective]") :])


def test_loads_that_are_no_basis_are_refused(cylinder):
    twice = replace(cylinder.loads[0], name="again", force=2 * cylinder.loads[0].force)
    with pytest.raises(InputError, match="as a combination of others does"):
        AnyLoadObjective(replace(cylinder, loads=(*cylinder.loads[:3], twice)))


def test_loads_with_different_supports_can_not_be_combined(cylinder):
    fixed = np.repeat(grid.face_nodes("y-", cylinder.shape)[..., None], 3, axis=-1)
    held = replace(cylinder.loads[0], name="held", fixed=fixed)
    with pytest.raises(InputError, match="same supports"):
        AnyLoadObjective(replace(cylinder, loads=(cylinder.loads[1], held), mirror_axes=(0, 2)))


# ------------------------------------------------------------------------ filling
@pytest.mark.parametrize("loads", [6, 15])
def test_the_influence_model_foretells_the_spectrum(cylinder, loads):
    """Of random errors of 0.05 %: J moves as the model says; the rest is not linear (a quarter at half)."""
    problem = replace(cylinder, loads=cylinder.loads[:loads])
    objective = AnyLoadObjective(problem, SolverOptions(rtol=1e-9), adjoint_rtol=1e-7)
    field, design = uneven(objective), objective.reduction.elements(problem.design)
    model = influence(objective, field, design)
    now = objective.value_and_gradient(field)[0].total
    assert float(model.value(model.amplitudes(field))) == pytest.approx(now, rel=1e-6)
    rng = np.random.default_rng(8)
    for _ in range(3):
        error = np.zeros_like(field)
        error[design] = 0.0005 * PAPER_SPAN * rng.standard_normal((int(design.sum()), 3))
        moved = objective.value_and_gradient(field + error)[0].total - now
        predicted = float(model.value(model.amplitudes(field + error))) - now
        assert abs(predicted - moved) < 0.05 * abs(moved) + 1e-5 * now


def test_the_model_takes_many_candidates_at_once(cylinder):
    objective = AnyLoadObjective(replace(cylinder, loads=cylinder.loads[:6]), SolverOptions())
    rng = np.random.default_rng(9)
    y = [rng.standard_normal((4, 5)) for _ in objective.loads]
    together = objective.of_amplitudes(y)
    alone = [float(objective.of_amplitudes([a[:, c] for a in y])) for c in range(5)]
    assert together == pytest.approx(alone)
