"""The problem on its grid: the cloak's own numbers, forces, mirror planes, refinement."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from examples import MINIMAL, case_of, varied

from micro.runtime.errors import InputError
from multiscale.case.case import load_case
from multiscale.problem import grid
from multiscale.problem.problem import Problem, Role, build_problem, parity
from multiscale.problem.supports import free_motions
from multiscale.problem.symmetry import plane_components, reflect


@pytest.fixture(scope="module")
def cloak(root) -> Problem:
    return build_problem(load_case(root / "cases" / "cloak.toml"))


def problem_of(*changes: tuple[str, str], refine: int = 1) -> Problem:
    return build_problem(case_of(varied(*changes)), refine=refine)


# ------------------------------------------------------------------ the flagship
def test_cloak_regions_by_element_centres(cloak):
    x, y, _ = grid.centres((40, 40, 40))
    r = np.broadcast_to(np.hypot(x - 20, y - 20), cloak.shape)
    assert np.array_equal(cloak.role == Role.VOID, r < 20 / 3)
    assert np.array_equal(cloak.role == Role.DESIGN, (r >= 20 / 3) & (r <= 40 / 3))
    assert np.array_equal(cloak.observed, r > 40 / 3)


def test_cloak_materials(cloak):
    reference = [0.303974, 0.125975, 0.089]
    assert np.all(cloak.reference == reference)
    assert np.all(cloak.tensor[cloak.solid] == reference)
    assert not cloak.tensor[~cloak.solid].any()


def test_cloak_load_is_a_unit_shear_on_the_far_face_of_a_clamped_block(cloak):
    (load,) = cloak.loads
    assert load.fixed[:, 0].all()
    assert not load.fixed[:, 1:].any()
    assert not load.value.any()
    # 1 MPa on E_s = 2000 MPa over 40 x 40 unit faces.
    assert load.force.sum(axis=(0, 1, 2)) == pytest.approx([1600 / 2000, 0, 0], abs=1e-12)
    assert not load.force[:, :-1].any()
    assert not load.force[..., 1:].any()


def test_cloak_mirror_planes(cloak):
    """x = 20 is an antisymmetry plane, z = 20 a symmetry plane, y = 20 (one side clamped) neither."""
    assert [parity(cloak.loads[0], axis) for axis in range(3)] == [-1, None, 1]
    assert cloak.mirror_axes == (0, 2)
    assert cloak.solved_shape == (20, 40, 20)


def test_small_cloak_is_the_same_problem(root, cloak):
    small = build_problem(load_case(root / "cases" / "cloak_small.toml"))
    assert small.mirror_axes == cloak.mirror_axes
    assert small.cell_size_m * small.shape[0] == pytest.approx(cloak.cell_size_m * cloak.shape[0])
    for role in Role:
        assert (small.role == role).mean() == pytest.approx((cloak.role == role).mean(), abs=0.02)
    assert small.loads[0].force.sum() * small.cell_size_m**2 == pytest.approx(
        cloak.loads[0].force.sum() * cloak.cell_size_m**2
    )


# ------------------------------------------------------------------ loads
def test_traction_gives_a_quarter_to_each_corner_of_a_quad():
    quads = np.zeros((2, 3), dtype=bool)
    quads[1, 2] = True
    force = grid.quad_forces(quads, "z+", np.array([0.0, 0.0, 4.0]), (2, 3, 1))
    assert np.argwhere(force[..., 2]).tolist() == [[1, 2, 1], [1, 3, 1], [2, 2, 1], [2, 3, 1]]
    assert force.sum() == 4.0


@pytest.mark.parametrize("face", ["x-", "x+", "y-", "y+", "z-", "z+"])
def test_uniform_traction_has_the_face_s_resultant_and_moment(face):
    size = (3, 4, 5)
    axis, side = grid.face_axis(face)
    quads = grid.on_face(np.ones(size, dtype=bool), face)
    vector = np.array([1.0, -2.0, 3.0])
    force = grid.quad_forces(quads, face, vector, size)
    area = np.prod(size) / size[axis]
    assert force.sum(axis=(0, 1, 2)) == pytest.approx(vector * area)
    centre = np.array(size) / 2
    centre[axis] = size[axis] * side
    position = np.stack(np.meshgrid(*[np.arange(n + 1.0) for n in size], indexing="ij"), axis=-1)
    assert np.cross(position - centre, force).sum(axis=(0, 1, 2)) == pytest.approx(0, abs=1e-12)


def test_traction_acts_on_solid_elements_only():
    problem = problem_of(("[2, 1, 0], max = [4, 3, 4]", "[2, 1, 0], max = [4, 4, 4]"))
    # The hole now opens into the loaded face: 2 of its 6 columns of quads are gone.
    assert problem.loads[0].force[..., 1].sum() == pytest.approx(4 * 4 / 1000)


def test_traction_on_part_of_a_face():
    problem = problem_of(
        (
            'where = "y+"',
            'where = { face = "y+", within = { type = "box", min = [0, 4, 0], max = [2, 4, 3] } }',
        )
    )
    assert problem.loads[0].force[..., 1].sum() == pytest.approx(6 / 1000)


def test_supports_by_component_and_place():
    problem = problem_of(
        (
            'fixed = [{ where = "y-" }]',
            'fixed = [{ where = "y-", components = "y" }, { where = "x-", components = "xz" }]',
        )
    )
    fixed = problem.loads[0].fixed
    assert fixed[:, 0, :, 1].all()
    assert fixed[0, :, :, 0].all()
    assert fixed[0, :, :, 2].all()
    assert fixed.sum() == 7 * 5 + 2 * 5 * 5


def test_prescribed_displacement_in_element_edges():
    problem = problem_of(
        (
            'tractions = [{ where = "y+", vector_mpa = [0, 1, 0] }]',
            'displacements = [{ where = "y+", x_mm = 0.5, y_mm = 0 }]',
        )
    )
    (load,) = problem.loads
    assert np.all(load.value[:, -1, :, 0] == 0.25)  # 0.5 mm, cells of 2 mm
    assert load.fixed[:, -1, :, :2].all()
    assert not load.fixed[:, -1, :, 2].any()
    assert not load.force.any()
    assert load.value.sum() == pytest.approx(0.25 * 35)


def test_supports_hold_where_the_hole_is_filled_too():
    """The reference fills the hole: a support on the hole's own face belongs to it."""
    problem = problem_of(("min = [2, 1, 0], max = [4, 3, 4]", "min = [2, 0, 0], max = [4, 3, 4]"))
    assert not problem.solid[2:4, 0].any()
    assert problem.loads[0].fixed[:, 0].all()


# ------------------------------------------------------------------ painting
def test_later_regions_override_earlier_ones():
    problem = problem_of()
    assert problem.region_names == ("block", "ring", "hole")
    assert [(problem.region == i).sum() for i in range(3)] == [64, 16, 16]
    assert np.array_equal(problem.region == 2, ~problem.solid)


def test_design_starts_from_its_initial_material():
    problem = problem_of(('role = "design"', 'role = "design"\ninitial = "iso"'))
    lam, mu = 0.2 * 0.25 / (1.25 * 0.5), 0.2 / 2.5
    assert problem.tensor[problem.design] == pytest.approx(np.tile([lam + 2 * mu, lam, mu], (16, 1)))


def test_solid_is_the_base_material():
    problem = problem_of(('material = "soft"', 'material = "solid"'))
    assert problem.tensor[0, 0, 0] == pytest.approx([1.3461538, 0.5769231, 0.3846154], abs=1e-7)


def test_problem_is_a_value():
    problem = problem_of()
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.name = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        problem.tensor[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        problem.loads[0].force[0] = 1


def test_problem_carries_si_units():
    problem = problem_of()
    assert problem.cell_size_m == pytest.approx(2e-3)
    assert problem.young_pa == pytest.approx(1e9)
    assert problem.poisson == 0.3


# ------------------------------------------------------------------ mirror planes
@pytest.mark.parametrize(
    ("vector", "signs"),
    [("[0, 1, 0]", [1, None, 1]), ("[1, 0, 0]", [-1, None, 1]), ("[0, 0, 1]", [1, None, -1]),
     ("[1, 1, 0]", [None, None, 1]), ("[1, 0, 1]", [None, None, None])],
)  # fmt: skip
def test_parity_of_tractions(vector, signs):
    (load,) = problem_of(("[0, 1, 0]", vector)).loads
    assert [parity(load, axis) for axis in range(3)] == signs


def test_parity_of_prescribed_displacements():
    change = 'tractions = [{ where = "y+", vector_mpa = [0, 1, 0] }]'
    (load,) = problem_of((change, 'displacements = [{ where = "y+", x_mm = 1 }]')).loads
    assert [parity(load, axis) for axis in range(3)] == [-1, None, 1]
    squeeze = 'displacements = [{ where = "y+", y_mm = -1 }, { where = "y-", y_mm = 1 }]'
    (load,) = problem_of((change, squeeze), ('where = "y-" }]', 'where = "x-", components = "xz" }]')).loads
    assert [parity(load, axis) for axis in range(3)] == [None, 1, 1]


def test_opposite_tractions_are_even_or_odd_about_their_own_axis():
    change = ('[{ where = "y+", vector_mpa = [0, 1, 0] }]',)
    pulled = '[{ where = "x-", vector_mpa = [-1, 0, 0] }, { where = "x+", vector_mpa = [1, 0, 0] }]'
    swayed = '[{ where = "x-", vector_mpa = [1, 0, 0] }, { where = "x+", vector_mpa = [1, 0, 0] }]'
    assert parity(problem_of((change[0], pulled)).loads[0], 0) == 1
    assert parity(problem_of((change[0], swayed)).loads[0], 0) == -1


def test_reflection_is_an_involution_and_its_planes_vanish():
    """On the plane a reflected even field has no normal part, an odd one no tangential part."""
    field = np.random.default_rng(1).normal(size=(5, 4, 3, 3))
    for axis in (0, 2):
        assert np.array_equal(reflect(reflect(field, axis), axis), field)
        for sign in (1, -1):
            part = (field + sign * reflect(field, axis)) / 2
            plane = part.take(part.shape[axis] // 2, axis=axis)
            for component in range(3):
                assert (component in plane_components(sign, axis)) == (not plane[..., component].any())


def test_odd_element_counts_are_not_halved():
    problem = problem_of(
        ("elements = [6, 4, 4]", "elements = [6, 4, 5]"),
        ("max = [5, 3, 4]", "max = [5, 3, 5]"),
        ("max = [4, 3, 4]", "max = [4, 3, 5]"),
    )
    assert problem.mirror_axes == (0,)


def test_unsymmetric_regions_are_not_halved():
    assert problem_of().mirror_axes == (0, 2)
    assert problem_of(("max = [4, 3, 4]", "max = [4, 3, 2]")).mirror_axes == (0,)


def test_unsymmetric_observation_is_not_halved():
    other = '[[regions]]\nname = "end"\nrole = "fixed"\nmaterial = "soft"\n'
    other += 'shape = { type = "box", min = [0, 0, 0], max = [1, 4, 4] }\n\n[[loads]]'
    problem = problem_of(("[[loads]]", other), ('observe = ["block"]', 'observe = ["block"]'))
    assert problem.mirror_axes == (2,)


def test_mirror_can_be_named_or_switched_off():
    grid_key = "cell_size_mm = 2.0"
    assert problem_of((grid_key, "mirror = []")).mirror_axes == ()
    assert problem_of((grid_key, 'mirror = ["z"]')).mirror_axes == (2,)
    with pytest.raises(InputError, match=r"y is no mirror plane.*load 'pull' is neither"):
        problem_of((grid_key, 'mirror = ["x", "y"]'))


def test_every_load_must_have_a_parity():
    second = '[[loads]]\nname = "skew"\nfixed = [{ where = "y-" }]\n'
    second += 'tractions = [{ where = "y+", vector_mpa = [1, 1, 0] }]\n\n[objective]'
    problem = problem_of(("[objective]", second))
    assert len(problem.loads) == 2
    assert problem.mirror_axes == (2,)


# ------------------------------------------------------------------ refinement
@pytest.mark.parametrize("factor", [2, 3])
def test_refined_problem_is_the_same_structure(factor):
    coarse, fine = build_problem(case_of(MINIMAL)), build_problem(case_of(MINIMAL), refine=factor)
    assert fine.shape == tuple(factor * n for n in coarse.shape)
    assert fine.cell_size_m == pytest.approx(coarse.cell_size_m / factor)
    for name in ("role", "region", "tensor", "reference", "observed"):
        parts = getattr(fine, name)
        whole = getattr(coarse, name)
        for offset in range(factor):
            assert np.array_equal(parts[offset::factor, offset::factor, offset::factor], whole)
    # The same force in newtons: units are E_s h^2 and h is smaller.
    assert fine.loads[0].force.sum(axis=(0, 1, 2)) / factor**2 == pytest.approx(
        coarse.loads[0].force.sum(axis=(0, 1, 2))
    )
    assert fine.loads[0].fixed[:, 0].all()
    assert not fine.loads[0].fixed[:, 1:].any()
    assert fine.mirror_axes == coarse.mirror_axes


def test_refinement_inherits_voxels_not_shapes():
    """A sphere stays the staircase it was on the case's own grid."""
    sphere = 'shape = { type = "sphere", center = [3, 2, 2], radius = 1.2 }'
    change = ('shape = { type = "box", min = [2, 1, 0], max = [4, 3, 4] }', sphere)
    coarse, fine = problem_of(change), problem_of(change, refine=2)
    assert (fine.role == Role.VOID).sum() == 8 * (coarse.role == Role.VOID).sum()


def test_refined_supports_keep_points_lines_and_faces():
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 0] = mask[2, 2, :] = mask[:, 0, 2] = True
    fine = grid.prolong_mask(mask, 2)
    assert fine[0, 0, 0]
    assert not fine[1, 0, 0]  # a point stays a point
    assert fine[4, 4].all()  # a line a line
    assert not fine[3, 4, :].any()
    face = np.zeros((3, 3, 3), dtype=bool)
    face[0] = True
    assert grid.prolong_mask(face, 2).sum() == 25


def test_refined_displacements_scale_with_the_element_edge():
    change = (
        'tractions = [{ where = "y+", vector_mpa = [0, 1, 0] }]',
        'displacements = [{ where = "y+", x_mm = 0.5 }]',
    )
    (load,) = problem_of(change, refine=2).loads
    assert np.all(load.value[:, -1, :, 0] == 0.5)  # 0.5 mm, cells of 1 mm
    assert not load.value[:, 1:-1].any()


def test_prolongation_is_exact_for_linear_fields():
    def linear(size):
        x, y, z = np.meshgrid(*[np.linspace(0, 1, n) for n in size], indexing="ij")
        return 1 + 2 * x - 3 * y + 5 * z

    assert grid.prolong_nodes(linear((3, 4, 2)), 2) == pytest.approx(linear((5, 7, 3)), abs=1e-13)


def test_refine_below_one_is_refused():
    with pytest.raises(InputError, match="refine"):
        build_problem(case_of(MINIMAL), refine=0)


# ------------------------------------------------------------------ supports
@pytest.mark.parametrize(
    ("held", "free"),
    [
        ([], 6),
        ([((0, 0, 0), "xyz")], 3),  # a ball joint
        ([((0, 0, 0), "xyz"), ((3, 0, 0), "xyz")], 1),  # a hinge
        ([((0, 0, 0), "xyz"), ((3, 0, 0), "yz"), ((0, 2, 0), "z")], 0),  # the six classical links
        ([((0, 0, 0), "xyz"), ((3, 0, 0), "xz"), ((0, 2, 0), "z")], 1),  # two links in one line
    ],
)
def test_free_rigid_body_motions(held, free):
    part = np.ones((3, 2, 2), dtype=bool)
    fixed = np.zeros((4, 3, 3, 3), dtype=bool)
    for node, components in held:
        for c in components:
            fixed[(*node, "xyz".index(c))] = True
    assert free_motions(fixed, part) == free


def test_every_part_needs_its_own_support():
    with pytest.raises(
        InputError, match=r"loads\[0\].fixed.*a part of the structure .* that touches no other"
    ):
        problem_of(("min = [2, 1, 0], max = [4, 3, 4]", "min = [1, 1, 0], max = [2, 4, 4]"),
                   ("min = [1, 1, 0], max = [5, 3, 4]", "min = [0, 0, 0], max = [6, 1, 4]"),
                   ('fixed = [{ where = "y-" }]',
                    'fixed = [{ where = { face = "x+" } }, { where = "y-", components = "y" }]'),
                   ('name = "hole"\nrole = "void"\nshape = { type = "box", min = [1, 1, 0]',
                    'name = "hole"\nrole = "void"\nshape = { type = "box", min = [1, 0, 0]'))  # fmt: skip
