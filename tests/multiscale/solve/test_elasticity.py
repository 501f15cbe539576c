"""Physics of the macro solver: patch tests, uniaxial bars, convergence, voids, mirrors, ranks."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import psutil
import pytest

from micro.cell import tensor
from micro.runtime.errors import NotConverged
from micro.voxels.corners import CORNERS
from micro.voxels.hexahedron import element_matrices
from multiscale.solve.elasticity import Elasticity, SolverOptions
from multiscale.solve.multigrid import choose_levels
from multiscale.solve.petsc import PETSc, free_dropped
from multiscale.solve.products import by_rows, internal_forces

TIGHT = SolverOptions(rtol=1e-12)


def nodes(shape):
    return np.stack(np.meshgrid(*[np.arange(m + 1.0) for m in shape], indexing="ij"), axis=-1)


def boundary(shape):
    mask = np.zeros([m + 1 for m in shape], bool)
    for axis in range(3):
        plane = [slice(None)] * 3
        for end in (0, -1):
            plane[axis] = end
            mask[tuple(plane)] = True
    return np.repeat(mask[..., None], 3, axis=-1)


def uniform(shape, C):
    return np.broadcast_to(np.asarray(C), (*shape, 3)).copy()


def test_options_of_other_solvers_in_the_process_do_not_reach_it():
    """PETSc's options are the process's; ours have a prefix, for both preconditioners."""
    from petsc4py import PETSc

    options = PETSc.Options()
    options["ksp_type"] = "preonly"
    options["gamg_pc_type"] = "none"
    try:
        for preconditioner in ("gmg", "gamg"):
            fixed = boundary((4, 4, 4))
            solver = Elasticity((4, 4, 4), fixed, SolverOptions(preconditioner, rtol=1e-10))
            solver.assemble(uniform((4, 4, 4), tensor.SOLID))
            moved = np.where(fixed, nodes((4, 4, 4)), 0.0)
            assert solver.solve(np.zeros_like(moved), moved) == pytest.approx(nodes((4, 4, 4)), abs=1e-7)
    finally:
        options.delValue("ksp_type")
        options.delValue("gamg_pc_type")


def test_element_matrix_has_exactly_the_rigid_body_modes():
    k = np.tensordot(tensor.SOLID, element_matrices(), axes=1)
    values = np.linalg.eigvalsh(k)
    assert np.all(np.abs(values[:6]) < 1e-14)
    assert values[6] > 1e-2


def test_element_energy_of_a_uniform_strain():
    # 1/2 u K u = 1/2 C11 for a unit strain e11 on the unit cube.
    u = np.zeros((8, 3))
    u[:, 0] = np.array(CORNERS)[:, 0]
    u = u.reshape(-1)
    assert np.einsum("i,cij,j->c", u, element_matrices(), u) == pytest.approx([1.0, 0.0, 0.0], abs=1e-14)


@pytest.mark.parametrize("preconditioner", ["gmg", "gamg"])
@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 7, 3), (12, 10, 8)])
def test_patch(shape, preconditioner):
    """A linear displacement on the boundary is reproduced inside, for any uniform cubic tensor."""
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(3, 3))
    exact = nodes(shape) @ gradient.T
    fixed = boundary(shape)
    solver = Elasticity(shape, fixed, SolverOptions(preconditioner, rtol=1e-13))
    solver.assemble(uniform(shape, (0.7, 0.2, 0.35)))
    u = solver.solve(np.zeros_like(exact), exact)
    assert np.abs(u - exact).max() < 1e-9 * np.abs(exact).max()


def test_uniaxial_bar():
    """A bar on rollers under a uniform end traction t: u_x = t x / E, u_y = -nu t y / E."""
    shape, young, nu, t = (8, 4, 6), 0.23, 0.29, 0.01
    fixed = np.zeros((9, 5, 7, 3), bool)
    for axis in range(3):
        plane = [slice(None)] * 3
        plane[axis] = 0
        fixed[(*plane, axis)] = True
    force = np.zeros((9, 5, 7, 3))
    for j in range(4):
        for k in range(6):
            force[-1, j : j + 2, k : k + 2, 0] += t / 4
    solver = Elasticity(shape, fixed, TIGHT)
    solver.assemble(uniform(shape, tensor.isotropic(young, nu)))
    u = solver.solve(force)
    x = nodes(shape)
    exact = np.stack(
        [t / young * x[..., 0], -nu * t / young * x[..., 1], -nu * t / young * x[..., 2]], axis=-1
    )
    assert np.abs(u - exact).max() < 1e-9 * np.abs(exact).max()


def test_displacements_converge_with_second_order():
    """Manufactured solution u = a sin(pi x) sin(pi y) sin(pi z) on the unit cube, zero on its boundary.

    With lame constants l, m the body force is  f = -(div sigma); for u = a s, s the product of sines,
    div sigma = m laplace(u) + (l + m) grad div u, evaluated in closed form below. Trilinear elements
    converge with order 2 in L2.
    """
    lame, mu = tensor.SOLID[1], tensor.SOLID[2]
    a = np.array([1.0, -0.5, 0.3])

    def exact(x):
        return np.prod(np.sin(np.pi * x), axis=-1)[..., None] * a

    def body_force(x):
        s, c = np.sin(np.pi * x), np.cos(np.pi * x)
        hessian = np.empty((*x.shape[:-1], 3, 3))
        for p in range(3):
            for q in range(3):
                factors = [
                    -s[..., r] if p == q == r else c[..., r] if r in (p, q) and p != q else s[..., r]
                    for r in range(3)
                ]
                hessian[..., p, q] = np.pi**2 * factors[0] * factors[1] * factors[2]
        laplace = np.trace(hessian, axis1=-2, axis2=-1)[..., None] * a
        return -(mu * laplace + (lame + mu) * hessian @ a)

    errors = []
    for m in (4, 8, 16):
        shape = (m, m, m)
        solver = Elasticity(shape, boundary(shape), SolverOptions(rtol=1e-10))
        solver.assemble(uniform(shape, tensor.SOLID))
        x = nodes(shape) / m
        # Lumped load: body force times nodal volume; edge h = 1 here, so lengths scale by 1/m and
        # E_s h^2 forces by f / m^2 with displacements in element edges u m.
        u = solver.solve(body_force(x) / m**2)
        errors.append(np.sqrt(np.mean((u - exact(x)) ** 2)))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(orders > 1.9), orders


def cantilever(m=8, contrast=False, seed=0):
    shape = (m, m, 2 * m)
    fixed = np.zeros((m + 1, m + 1, 2 * m + 1, 3), bool)
    fixed[:, :, 0] = True
    force = np.zeros(fixed.shape)
    force[:, :, -1, 1] = 1e-3
    C = uniform(shape, tensor.SOLID)
    if contrast:
        C *= 10 ** np.random.default_rng(seed).uniform(-3, 0, size=(*shape, 1))
    C[2:5, 3:6, 4:9] = 0.0
    return shape, fixed, force, C


def test_removed_voids_are_the_limit_of_soft_ones():
    """The distance to the exact void falls like the void's stiffness."""
    shape, fixed, force, C = cantilever()
    solver = Elasticity(shape, fixed, SolverOptions(rtol=1e-11, max_iterations=2000))
    solver.assemble(C)
    exact = solver.solve(force)
    solid = np.any(C > 0, axis=-1)
    touched = np.zeros(exact.shape[:3], bool)
    for dx, dy, dz in CORNERS:
        touched[dx : dx + shape[0], dy : dy + shape[1], dz : dz + shape[2]] |= solid
    distance = []
    for softness in (1e-3, 1e-4, 1e-5):
        solver.assemble(np.where(solid[..., None], C, softness * tensor.SOLID))
        u = solver.solve(force)
        distance.append(np.abs((u - exact)[touched]).max() / np.abs(exact).max())
    assert distance[0] < 1e-2
    assert np.allclose(np.array(distance[:-1]) / distance[1:], 10.0, rtol=0.1)


def test_geometric_and_algebraic_multigrid_agree():
    shape, fixed, force, C = cantilever(contrast=True)
    results = []
    for preconditioner in ("gmg", "gamg"):
        solver = Elasticity(shape, fixed, SolverOptions(preconditioner, rtol=1e-11))
        solver.assemble(C)
        results.append(solver.solve(force))
        assert solver.iterations[-1] < 80
    assert np.abs(results[0] - results[1]).max() < 1e-7 * np.abs(results[0]).max()


def test_warm_start_and_reassembly():
    shape, fixed, force, C = cantilever(contrast=True)
    solver = Elasticity(shape, fixed, SolverOptions(rtol=1e-8))
    solver.assemble(C)
    cold = solver.solve(force)
    assert solver.solve(force, guess=cold) == pytest.approx(cold)
    assert solver.iterations[-1] == 0
    solver.assemble(1.01 * C)
    warm = solver.solve(force, guess=cold)
    assert np.abs(1.01 * warm - cold).max() < 1e-6 * np.abs(cold).max()
    assert solver.iterations[-1] < solver.iterations[0]


def test_prescribed_displacement_inside_the_body():
    """Moving a node set by hand equals the solution under the reaction forces it takes."""
    shape, fixed, force, C = cantilever()
    held = fixed.copy()
    held[:, :, -1, 1] = True
    value = np.zeros(force.shape)
    value[:, :, -1, 1] = 0.1
    solver = Elasticity(shape, held, TIGHT)
    solver.assemble(C)
    u = solver.solve(np.zeros(force.shape), value)
    reaction = np.where(held & ~fixed, solver.apply(u), 0.0)
    free = Elasticity(shape, fixed, TIGHT)
    free.assemble(C)
    assert np.abs(free.solve(reaction) - u).max() < 1e-8


def test_energies_sum_to_the_work_of_the_load():
    shape, fixed, force, C = cantilever()
    solver = Elasticity(shape, fixed, TIGHT)
    solver.assemble(C)
    u = solver.solve(force)
    assert np.sum(C * solver.energies(u, u)) == pytest.approx(np.sum(force * u), rel=1e-9)


def test_a_solve_that_does_not_converge_is_an_error_with_advice():
    shape, fixed, force, C = cantilever(contrast=True)
    solver = Elasticity(shape, fixed, SolverOptions(rtol=1e-12, max_iterations=2))
    solver.assemble(C)
    with pytest.raises(NotConverged, match=r"after 2 iterations.*gamg"):
        solver.solve(force)


def test_an_indefinite_tensor_is_refused():
    shape, fixed, _, C = cantilever()
    C[0, 0, 3] = (0.3, 0.4, 0.1)
    with pytest.raises(ValueError, match=r"positive definite.*\(.*0.*3"):
        Elasticity(shape, fixed).assemble(C)


def test_operators_are_those_of_the_assembled_matrix():
    """Products, the blocks of the diagonal and the coarse operator, on a padded grid, part of it void."""
    shape, padded = (7, 6, 5), (8, 6, 6)
    rng = np.random.default_rng(3)
    C = rng.uniform(0.5, 1.5, (*shape, 3)) * np.array([0.3, 0.1, 0.05])
    C[2:4, :3, 1:3] = 0.0
    held = np.zeros((8, 7, 6, 3), bool)
    held[0] = True
    held[5, 3, 3, 1:] = True  # in the middle of elements of the next grid, not all components
    solver = Elasticity(shape, held, SolverOptions(levels=2))
    solver.assemble(C)
    number = np.arange(9 * 7 * 7).reshape(9, 7, 7)
    assembled = np.zeros((3 * number.size, 3 * number.size))
    for e in np.argwhere(np.any(C != 0, axis=-1)):
        dofs = (3 * number[tuple((e + CORNERS).T)][:, None] + np.arange(3)).reshape(-1)
        assembled[np.ix_(dofs, dofs)] += np.tensordot(C[tuple(e)], element_matrices(), axes=1)
    free = np.zeros((*number.shape, 3), bool)
    free[:8, :, :6] = ~held
    active = free.reshape(-1) & (np.diagonal(assembled) > 0)
    assembled *= active[:, None] * active
    multigrid, products = solver._multigrid, solver._operator
    assert multigrid is not None
    assert solver._padded == padded

    x, y = products.createVecs()
    x.getArray()[:] = rng.standard_normal(x.getSize())
    products.mult(x, y)
    expected = assembled @ x.getArray() + ~active * x.getArray()
    assert y.getArray() == pytest.approx(expected, abs=1e-13)

    blocks = multigrid.diagonal.convert("dense", PETSc.Mat()).getDenseArray()
    same = np.repeat(np.repeat(np.eye(number.size), 3, axis=0), 3, axis=1) > 0
    assert blocks == pytest.approx(np.where(same, assembled, 0) + np.diag(~active), abs=1e-14)

    p = multigrid._interpolation[0].convert("dense", PETSc.Mat()).getDenseArray()
    coarse = multigrid._operators[1].convert("dense", PETSc.Mat()).getDenseArray()
    galerkin = p.T @ assembled @ p
    empty = np.diagonal(galerkin) <= 1e-14
    galerkin[empty, empty] = np.diagonal(galerkin).max()
    assert coarse == pytest.approx(galerkin, abs=1e-13)


def test_products_of_long_rows():
    """Rows longer than a block of the kernel, the last one short; half of one void."""
    shape = (2, 3, 71)
    rng = np.random.default_rng(5)
    C, u = rng.uniform(0.5, 1.5, (*shape, 3)), rng.standard_normal((3, 4, 72, 3))
    C[0, 0, 60:] = 0.0
    elements = np.tensordot(C, element_matrices(), axes=1)
    expected = np.zeros_like(u)
    for e in np.ndindex(*shape):
        corners = tuple((np.array(e) + CORNERS).T)
        np.add.at(expected, corners, (elements[e] @ u[corners].reshape(24)).reshape(8, 3))
    assert internal_forces(by_rows(C), u) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("preconditioner", ["gmg", "gamg"])
def test_iterations_do_not_depend_on_units_or_history(preconditioner):
    """A thousandth of the tensors takes as many; so does an operator that had quite others before."""
    shape, fixed, force, C = cantilever(m=9, contrast=True)
    rng = np.random.default_rng(2)
    before = rng.uniform(0.01, 1.0, (*shape, 1)) * np.array([0.3, 0.1, 0.1])
    counts = []
    for fields in ([C], [1e-3 * C], [before, C]):
        solver = Elasticity(shape, fixed, SolverOptions(preconditioner, rtol=1e-8))
        for tensors in fields:
            solver.assemble(tensors)
        solver.solve(force)
        counts.append(solver.iterations[-1])
    assert counts[0] == counts[1] == counts[2]


def test_what_petsc_multiplies_by_goes_with_its_operator():
    """PETSc holds the products and Python can't see that: a cycle through them would never be freed."""
    shape, fixed, _, C = cantilever()
    solver = Elasticity(shape, fixed)
    solver.assemble(C)
    products = weakref.ref(solver._products)
    del solver
    gc.collect()
    PETSc.garbage_cleanup()
    assert products() is None


def test_dropped_operators_leave_no_memory():
    """What PETSc drops while it frees what was dropped before is lost: 5 MB of 130,000 elements."""
    shape = (40, 40, 80)
    fixed = np.zeros((41, 41, 81, 3), dtype=bool)
    fixed[:, :, 0] = True
    process, sizes = psutil.Process(), []
    for _ in range(6):
        solver = Elasticity(shape, fixed)
        solver.assemble(np.tile(np.array([1.0, 0.3, 0.35]), (*shape, 1)))
        del solver
        free_dropped()
        sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[1] < 8e6  # 20 if the vectors and grids stay


def test_levels_follow_the_grid():
    assert choose_levels((40, 40, 40)) == 4
    assert choose_levels((4, 4, 4)) == 1
    assert choose_levels((2, 400, 400)) == 1


SCRIPT = """
import json, sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_elasticity import cantilever
from multiscale.solve.elasticity import Elasticity, SolverOptions
from multiscale.solve.ranks import is_root, ranks
out = {{}}
for pc in ("gmg", "gamg", "padded"):
    shape, fixed, force, C = cantilever(m=9 if pc != "padded" else 5, contrast=True)
    options = SolverOptions(rtol=1e-10, levels=3) if pc == "padded" else SolverOptions(pc, rtol=1e-10)
    solver = Elasticity(shape, fixed, options)
    solver.assemble(C)
    u = solver.solve(force)
    e = solver.energies(u, u)
    out[pc] = [ranks(), float(np.abs(u).max()), float(u.sum()), float(e.sum()), float(u[3, 4, 5, 1])]
if is_root():
    print(json.dumps(out))
"""


def test_ranks_give_the_answer_of_one(run_ranks, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    results = []
    counts = (1, 2, 4)
    for n in counts:
        done = run_ranks(n, script)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    for pc in ("gmg", "gamg", "padded"):
        for n, result in zip(counts, results, strict=True):
            assert result[pc][0] == n
            # All solve to 1e-10; sums over thousands of nodes keep six digits and more.
            assert result[pc][1:] == pytest.approx(results[0][pc][1:], rel=1e-7)


def test_operators_that_are_dropped_give_their_memory_back(run_ranks):
    """PETSc keeps what Python drops until asked: six operators in turn take little more than one."""
    script = """
import numpy as np, psutil
from multiscale.solve.elasticity import Elasticity, SolverOptions
resident = lambda: psutil.Process().memory_info().rss / 2**20
shape = (24, 24, 24)
fixed = np.zeros((25, 25, 25, 3), bool)
fixed[0] = True
sizes = [resident()]
for _ in range(6):
    Elasticity(shape, fixed).assemble(np.tile([0.3, 0.1, 0.1], (*shape, 1)))
    sizes.append(resident())
print(sizes[1] - sizes[0], sizes[-1] - sizes[0])
"""
    done = run_ranks(1, "-c", script)
    assert done.returncode == 0, done.stderr
    first, all_of_them = map(float, done.stdout.split())
    assert all_of_them < 2 * first  # 6 times as much without


def test_a_broken_pipe_stays_an_exception(run_ranks):
    """PETSc's signal handler would end the program where Python raises BrokenPipeError."""
    done = run_ranks(
        1,
        "-c",
        "import multiscale.solve.elasticity, os, signal; os.kill(os.getpid(), signal.SIGPIPE);print('alive')",
    )
    assert done.stdout.strip() == "alive"
