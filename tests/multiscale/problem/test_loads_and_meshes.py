"""Pressures, body forces, and shapes from mesh files."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import pyvista as pv
from examples import case_of, varied

from micro.cell.surface import inside, read_triangles
from micro.runtime.errors import InputError
from multiscale.case.case import parse_case
from multiscale.case.shapes import Mesh
from multiscale.problem import grid
from multiscale.problem.problem import build_problem
from multiscale.problem.reduction import Reduction
from multiscale.solve.elasticity import Elasticity, SolverOptions

PULL = 'tractions = [{ where = "y+", vector_mpa = [0, 1, 0] }]'


def load_of(text, refine=1):
    """The only load of the short case with ``text`` in place of its traction."""
    return build_problem(case_of(varied((PULL, text))), refine).loads[0]


# ------------------------------------------------------------------- pressures
def test_a_pressure_on_a_face_is_a_traction_into_it():
    pressed = load_of('pressures = [{ where = "y+", mpa = 2.0 }]')
    pulled = load_of('tractions = [{ where = "y+", vector_mpa = [0, -2.0, 0] }]')
    assert pressed.force == pytest.approx(pulled.force)
    other = load_of('pressures = [{ where = "x-", mpa = 2.0 }]')
    assert other.force.sum(axis=(0, 1, 2)) == pytest.approx([2.0 * 4 * 4 / 1000, 0, 0])


@pytest.mark.parametrize("refine", [1, 2])
def test_a_pressure_in_a_hole_is_in_balance_and_acts_on_its_projection(refine):
    """The hole is 2 x 2 elements across x and y and runs through z: ends are free, sides push outwards."""
    force = load_of('pressures = [{ region = "hole", mpa = 3.0 }]', refine).force
    assert force.sum(axis=(0, 1, 2)) == pytest.approx(np.zeros(3), abs=1e-12)
    assert force[..., 2] == pytest.approx(np.zeros(force.shape[:3]))
    # 3 MPa / E_s = 0.003 on the 2 x 4 elements of each wall; in units of the finer elements' area.
    right = force[4 * refine :, :, :, 0].sum()
    assert right == pytest.approx(0.003 * 2 * 4 * refine**2)
    assert force[..., 1][:, 3 * refine :].sum() == pytest.approx(right)


def test_lame_thick_walled_cylinder():
    """A pressed cylindrical hole widens as Lame (1852) says, in plane strain, on a grid of steps."""
    n, a = 48, 6.0
    young, poisson, pressure = 0.4, 0.3, 0.001
    case = parse_case(
        {
            "case": {"name": "tube"},
            "grid": {"elements": [n, n, 2]},
            "base_material": {"young_modulus_mpa": 1.0},
            "materials": {"m": {"relative_young_modulus": young, "poisson": poisson}},
            "regions": [
                {"name": "block", "role": "fixed", "material": "m", "shape": {"type": "all"}},
                {
                    "name": "spot",  # a case has something to design
                    "role": "design",
                    "initial": "m",
                    "shape": {"type": "cylinder", "axis": "z", "center": [n / 2, n / 2], "radius": 8},
                },
                {
                    "name": "hole",
                    "role": "void",
                    "shape": {"type": "cylinder", "axis": "z", "center": [n / 2, n / 2], "radius": a},
                },
            ],
            "loads": [
                {
                    "name": "press",
                    "fixed": [{"where": face, "components": "xyz"} for face in ("x-", "x+", "y-", "y+")]
                    + [{"where": "z-", "components": "z"}, {"where": "z+", "components": "z"}],
                    "pressures": [{"region": "hole", "mpa": pressure}],
                }
            ],
            "objective": {"observe": ["block"], "reference": "m"},
        }
    )
    problem = build_problem(case)
    assert problem.mirror_axes == (0, 1, 2)
    reduction = Reduction(problem)
    load = reduction.loads[0]
    operator = Elasticity(reduction.shape, load.constrained, SolverOptions(rtol=1e-10))
    operator.assemble(reduction.elements(problem.tensor))
    u = operator.solve(load.force)[:, 0, 0, 0]
    # u_r = A r + B / r of an outer radius between the square's half edge and half diagonal that is held.
    r = np.arange(8, 16)
    low, high = (
        pressure
        * (1 + poisson)
        / young
        * a**2
        * (b**2 / r - r)
        * (1 - 2 * poisson)
        / (a**2 + (1 - 2 * poisson) * b**2)
        for b in (n / 2, n / 2 * 1.27)
    )
    assert (u[r] > 0.95 * low).all()
    assert (u[r] < 1.05 * high).all()


def test_a_body_force_is_the_weight_of_the_solid():
    load = load_of("body_forces = [{ vector_n_mm3 = [0, 0, -0.5] }]")
    case = case_of(varied((PULL, "body_forces = [{ vector_n_mm3 = [0, 0, -0.5] }]")))
    problem = build_problem(case)
    newton = problem.young_pa * problem.cell_size_m**2
    volume = problem.solid.sum() * 2.0**3
    assert load.force.sum(axis=(0, 1, 2)) * newton == pytest.approx([0, 0, -0.5 * volume])
    fine = build_problem(case, 2)
    newton = fine.young_pa * fine.cell_size_m**2
    assert fine.loads[0].force.sum(axis=(0, 1, 2)) * newton == pytest.approx([0, 0, -0.5 * volume])
    part = load_of(
        "body_forces = [{ vector_n_mm3 = [1, 0, 0], "
        'within = { type = "box", min = [0, 0, 0], max = [1, 4, 4] } }]'
    )
    assert not part.force[2:].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('pressures = [{ region = "hole", where = "y+", mpa = 1 }]', "either where or region"),
        ('pressures = [{ region = "ring", mpa = 1 }]', "unknown void region"),
        ('pressures = [{ where = { within = { type = "all" } }, mpa = 1 }]', "give one"),
        ('pressures = [{ where = "y+", mpa = 0 }]', "must not be zero"),
        ("body_forces = [{ vector_n_mm3 = [0, 0, 0] }]", "must not be zero"),
        (
            "body_forces = [{ vector_n_mm3 = [0, 0, 1], within = "
            '{ type = "box", min = [2, 1, 0], max = [4, 3, 4] } }]',
            "no solid element",
        ),
    ],
)
def test_wrong_loads_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        load_of(text)


# ---------------------------------------------------------------------- meshes
@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    path = tmp_path_factory.mktemp("meshes") / "ball.stl"
    pv.Sphere(radius=5.0, theta_resolution=48, phi_resolution=48).save(path)
    return path


def test_points_in_a_ball(ball):
    triangles = read_triangles(ball)
    rng = np.random.default_rng(0)
    x, y, z = rng.uniform(-6, 6, (3, 4000))
    r = np.sqrt(x**2 + y**2 + z**2)
    found = inside(triangles, x, y, z)
    # The facets lie at most 5 (1 - cos(pi / 48)) below the sphere.
    assert found[r < 4.98].all()
    assert not found[r > 5.0].any()
    assert inside(triangles, np.zeros(1), np.zeros(1), np.zeros(1)).all()


def test_a_mesh_on_a_grid_is_the_shape_it_meshes(ball):
    mesh = Mesh(type="mesh", file=str(ball), scale=0.8, offset=(6.0, 6.0, 6.0))
    found = grid.elements_in(mesh, (12, 12, 12))
    x, y, z = grid.centres((12, 12, 12))
    r = np.sqrt((x - 6) ** 2 + (y - 6) ** 2 + (z - 6) ** 2)
    assert found[r < 3.95].all()
    assert not found[r > 4.0].any()
    # Corners and edges of a box lie in the rays' way.
    box = ball.with_name("box.stl")
    pv.Box(bounds=(2, 5, 3, 6, 1, 7)).triangulate().save(box)
    cube = Mesh(type="mesh", file=str(box))
    expected = np.zeros((8, 8, 8), dtype=bool)
    expected[2:5, 3:6, 1:7] = True
    assert np.array_equal(grid.elements_in(cube, (8, 8, 8)), expected)


def test_the_content_of_a_mesh_belongs_to_the_case(ball, tmp_path):
    shape = '{ type = "box", min = [2, 1, 0], max = [4, 3, 4] }'
    text = varied((shape, '{ type = "mesh", file = "hole.stl", scale = 0.2, offset = [3, 2, 2] }'))
    (tmp_path / "hole.stl").write_bytes(ball.read_bytes())
    first = parse_case(tomllib.loads(text), tmp_path / "case.toml")
    assert (build_problem(first).role == 0).any()
    pv.Sphere(radius=4.0).save(tmp_path / "hole.stl")
    second = parse_case(tomllib.loads(text), tmp_path / "case.toml")
    assert first.digest() != second.digest()


def test_meshes_that_are_none(tmp_path):
    def mesh(name):
        with pytest.raises(InputError) as error:
            read_triangles(tmp_path / name)
        return str(error.value)

    assert "no such mesh" in mesh("a.stl")
    assert "must be a mesh file" in mesh("a.step")
    (tmp_path / "b.stl").write_bytes(b"solid nothing\nendsolid\n")
    assert "holds no surface" in mesh("b.stl") or "can't be read" in mesh("b.stl")
    pv.Plane().triangulate().save(tmp_path / "open.stl")
    assert "not closed" in mesh("open.stl")
