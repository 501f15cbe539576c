"""Full-scale verification against direct solves, refined meshes, homogenisation and exact fields."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from described import undescribed
from scipy import sparse
from scipy.sparse.linalg import spsolve

from micro.cell.cellset import CellSet
from micro.cell.tensor import SOLID
from micro.data.packaged import load_dataset
from micro.homogenize.octants import homogenize_octants
from micro.runtime.errors import InputError
from micro.voxels.corners import CORNERS
from micro.voxels.hexahedron import element_matrices
from multiscale.case.case import parse_case
from multiscale.lattice.lattice import Lattice
from multiscale.objective.compliance import ComplianceObjective
from multiscale.problem.problem import build_problem
from multiscale.problem.reduction import Reduction
from multiscale.problem.rigid import RigidPart, rigid_motions
from multiscale.rundir.directory import RunDirectory
from multiscale.solve.elasticity import Elasticity, SolverOptions
from multiscale.solve.voxels.team import Team
from multiscale.verify.coarse_cells import CoarseLattice
from multiscale.verify.comparison import compare, difference, uniform_lattice
from multiscale.verify.full_scale import RTOL, solve_full_scale, verify
from multiscale.verify.materials import VoxelLattice
from multiscale.verify.voxel_model import corner_displacements, forces, voxel_model


def make_case(elements=(4, 4, 2), *, mirror="auto", hole=True, loads=None, tensor=None):
    """A block clamped below and sheared above, with a ring and a square hole through its middle."""
    nx, ny, nz = elements
    middle = [[nx / 2 - 1, ny / 2 - 1, 0], [nx / 2 + 1, ny / 2 + 1, nz]]
    regions = [
        {"name": "around", "role": "fixed", "material": "m", "shape": {"type": "all"}},
        {
            "name": "ring",
            "role": "design",
            "shape": {"type": "box", "min": [nx / 2 - 1, 0, 0], "max": middle[1]},
        },
    ]
    if hole:
        regions.append(
            {"name": "hole", "role": "void", "shape": {"type": "box", "min": middle[0], "max": middle[1]}}
        )
    return parse_case(
        {
            "case": {"name": "block"},
            "grid": {"elements": list(elements), "cell_size_mm": 1.0, "mirror": mirror},
            "base_material": {"young_modulus_mpa": 1000.0, "poisson": 0.3},
            "materials": {"m": {"tensor": list(tensor if tensor is not None else SOLID)}},
            "regions": regions,
            "loads": loads
            or [
                {
                    "name": "shear",
                    "fixed": [{"where": "y-"}],
                    "tractions": [{"where": "y+", "vector_mpa": [1.0, 0.0, 0.0]}],
                }
            ],
            "objective": {"type": "displacement_distortion", "observe": ["around"], "reference": "m"},
        }
    )


def octant_of(removed, n=2):
    octant = np.ones((n, n, n), dtype=bool)
    octant[removed] = False
    return octant


HOLLOW = octant_of((1, 1, 1))  # a cavity in the cell's middle
CORNERLESS = octant_of((0, 0, 0))  # the cell's corners are void


def make_lattice(problem, octants, index=None):
    octants = np.stack(octants)
    cells = CellSet.from_octants(octants, homogenize_octants(octants, rtol=1e-8).C)
    filled = np.zeros(problem.shape, dtype=np.int32) if index is None else index
    return Lattice(cells, np.where(problem.solid, filled, -1), problem.cell_size_m, problem.young_pa, 0.3)


def as_it_is(lattice):
    """A lattice that is coarse enough already."""
    return CoarseLattice(VoxelLattice.of(lattice))


def solved(case, lattice, rtol=1e-8, threads=1):
    problem = build_problem(case)
    team = Team(threads)
    full = solve_full_scale(case, problem, Reduction(problem), VoxelLattice.of(lattice), team, rtol=rtol)
    team.close()
    return full


def direct(lattice, per_cell, fixed, force):
    """Displacements (nodes, 3) of the whole lattice by a sparse direct solve, in voxel edges."""
    solid = lattice.voxels(per_cell=per_cell)
    nodes = np.array(solid.shape) + 1
    corner = np.argwhere(solid)[:, None, :] + CORNERS
    node = (corner[..., 0] * nodes[1] + corner[..., 1]) * nodes[2] + corner[..., 2]
    dof = (3 * node[..., None] + np.arange(3)).reshape(-1, 24)
    k = np.tensordot(SOLID, element_matrices(), axes=1)
    rows, columns = np.repeat(dof, 24, axis=1).ravel(), np.tile(dof, (1, 24)).ravel()
    count = 3 * int(np.prod(nodes))
    a = sparse.csr_array((np.tile(k.ravel(), len(dof)), (rows, columns)), shape=(count, count))
    free = np.zeros(count, dtype=bool)
    free[dof] = True
    free &= ~fixed.reshape(-1)
    where = np.flatnonzero(free)
    u = np.zeros(count)
    u[where] = spsolve(a[where][:, where].tocsc(), force.reshape(-1)[where])
    return u.reshape(*nodes, 3)


@pytest.mark.parametrize("mirror", ["auto", []])
def test_a_tiny_lattice_equals_a_direct_solve(mirror):
    """Unlike cells, a hole, corners in the void; with mirror planes and without."""
    case = make_case((4, 4, 2), mirror=mirror)
    problem = build_problem(case)
    assert len(problem.mirror_axes) == (2 if mirror == "auto" else 0)
    lattice = make_lattice(problem, [HOLLOW, CORNERLESS], problem.design.astype(np.int32))
    full = solved(case, lattice)
    v = 4
    top = lattice.voxels(per_cell=v)[:, -1, :]
    share = np.zeros((17, 9))
    for i in range(4):
        for k in range(2):
            block = slice(v * i, v * i + v), slice(v * k, v * k + v)
            weight = top[block] * (1e-3 * v**2 / top[block].sum() / 4)
            for di in (0, 1):
                for dk in (0, 1):
                    share[v * i + di : v * i + v + di, v * k + dk : v * k + v + dk] += weight
    force = np.zeros((17, 17, 9, 3))
    force[:, -1, :, 0] = share
    fixed = np.zeros(force.shape, dtype=bool)
    fixed[:, 0] = True
    u = direct(lattice, v, fixed, force)
    reduction = Reduction(problem)
    expanded = reduction.expand_displacement(full.corners[0], reduction.loads[0])
    wanted = problem.observed_nodes.copy()
    # Where the corner itself is solid the displacement is the node's, to the solver's tolerance.
    solid = lattice.voxels(per_cell=v)
    near = np.pad(solid, 1)
    active = np.zeros(np.array(solid.shape) + 1, dtype=bool)
    for dx, dy, dz in CORNERS:
        active |= near[dx : dx + 17, dy : dy + 17, dz : dz + 9]
    wanted &= active[::v, ::v, ::v]
    assert wanted.sum() > 20
    # Relative residual 1e-8 times the condition number of so small a block.
    assert np.abs(expanded - u[::v, ::v, ::v] / v)[wanted].max() < 1e-6 * np.abs(u / v).max()


@pytest.mark.parametrize(("octant", "tolerance"), [("HOLLOW", 1e-5), ("CORNERLESS", 1e-2)])
def test_a_body_without_supports_is_the_same_on_a_quarter_and_as_a_whole(octant, tolerance):
    """Up to a rigid motion, whether the pins meet solid or, with corners in the void, hold nothing.

    Relative residual 1e-8 times the condition number of so small a block is 1e-5. A corner in the void takes
    a mean around it, which on a mirror plane sees one side only: that leaves 1e-2.
    """
    loads = [{"name": "shear", "far_field": {"stress_mpa": [0, 0, 0, 0, 0, 1.0]}}]
    found = []
    for mirror in ("auto", []):
        case = make_case((4, 4, 2), mirror=mirror, loads=loads)
        problem = build_problem(case)
        assert len(problem.mirror_axes) == (2 if mirror == "auto" else 0)
        full = solved(case, make_lattice(problem, [globals()[octant]]))
        reduction = Reduction(problem)
        weight = problem.observed_nodes.astype(float)
        weight[2], weight[:, :, 1] = 0.0, 0.0
        rigid = RigidPart(rigid_motions(problem.shape), weight)
        whole = [
            reduction.expand_displacement(u, r) for u, r in zip(full.corners, reduction.loads, strict=True)
        ]
        found.append([rigid.removed(u) * weight[..., None] for u in whole])
        assert full.residual <= 1e-8
        assert full.removed == 0
    for a, b in zip(*found, strict=True):
        assert np.abs(a - b).max() < tolerance * np.abs(b).max()


def test_solid_cells_are_the_refined_mesh():
    """All voxels solid: the voxel model is the hex8 mesh of the problem refined ``per_cell`` times."""
    case = make_case((4, 4, 2))
    problem = build_problem(case)
    lattice = make_lattice(problem, [np.ones((2, 2, 2), dtype=bool)])
    full = solved(case, lattice)
    fine = build_problem(case, refine=4)
    reduction = Reduction(fine)
    load = reduction.loads[0]
    operator = Elasticity(reduction.shape, load.constrained, SolverOptions(rtol=1e-10))
    operator.assemble(reduction.elements(np.where(fine.solid[..., None], SOLID, 0.0)))
    u = operator.solve(load.force, load.prescribed)[::4, ::4, ::4] / 4
    wanted = Reduction(problem).nodes(problem.observed_nodes)
    assert np.abs(full.corners[0] - u)[wanted].max() < 1e-6 * np.abs(u).max()
    assert full.averaged == full.removed == 0


def test_the_size_effect_fades_with_the_number_of_cells():
    """Full scale approaches the homogenised prediction from the cells' own tensors, about as 1/N."""
    errors = []
    for n in (4, 8):
        case = make_case((n, n, n), hole=False)
        problem = build_problem(case)
        lattice = make_lattice(problem, [CORNERLESS])
        full = solved(case, lattice, rtol=1e-6)
        assert full.averaged > 0
        prediction = compare(case, problem, lattice, as_it_is(lattice), None).predicted["reference"]
        observed = Reduction(problem).nodes(problem.observed_nodes)
        errors.append(difference(Reduction(problem), observed, full.corners[0], prediction[0]))
    # Clamped corners are singular and the macro mesh is coarse, so the rate stays a little below one.
    assert errors[1] < 0.65 * errors[0]
    assert errors[1] < 0.05


def test_a_stretched_block_moves_linearly():
    """Prescribed displacements on a solid block with free sides: u = e y and -nu e x, exactly."""
    load = {
        "name": "pull",
        "fixed": [
            {"where": "y-", "components": "y"},
            {"where": "x-", "components": "x"},
            {"where": "z-", "components": "z"},
        ],
        "displacements": [{"where": "y+", "y_mm": 0.01}],
    }
    case = make_case((2, 4, 2), hole=False, loads=[load], mirror=[])
    problem = build_problem(case)
    lattice = make_lattice(problem, [np.ones((2, 2, 2), dtype=bool)])
    full = solved(case, lattice)
    x, y, z = np.indices((3, 5, 3)).astype(float)
    e = 0.01 / 4
    exact = np.stack([-0.3 * e * x, e * y, -0.3 * e * z], axis=-1)
    wanted = problem.observed_nodes
    assert np.abs(full.corners[0] - exact)[wanted].max() < 1e-7 * 0.01


def make_beam(objective, loads, mirror="auto"):
    """A beam of 6 x 2 x 4 design elements."""
    return parse_case(
        {
            "case": {"name": "beam"},
            "grid": {"elements": [6, 2, 4], "cell_size_mm": 2.0, "mirror": mirror},
            "base_material": {"young_modulus_mpa": 1000.0, "poisson": 0.3},
            "regions": [{"name": "all", "role": "design", "shape": {"type": "all"}}],
            "loads": loads,
            "objective": objective,
        }
    )


CLAMPED = [{"where": "x-"}]


@pytest.mark.parametrize("mirror", ["auto", []])
def test_compliance_is_the_work_of_the_refined_mesh(mirror):
    """A solid beam: tractions, pressures on faces and body forces do the same work as on the hex8 mesh."""
    upper = {"type": "box", "min": [3, 0, 1], "max": [6, 2, 3]}
    loads = [
        {"name": "pull", "fixed": CLAMPED, "tractions": [{"where": "x+", "vector_mpa": [0.5, 0.0, 0.2]}]},
        {"name": "press", "fixed": CLAMPED, "pressures": [{"where": "z+", "mpa": 0.3}]},
        {
            "name": "weight",
            "fixed": CLAMPED,
            "body_forces": [{"within": upper, "vector_n_mm3": [0.0, 0.0, -0.05]}],
        },
    ]
    case = make_beam({"type": "compliance", "mass_limit": 0.9}, loads, mirror)
    problem = build_problem(case)
    assert bool(problem.mirror_axes) == (mirror == "auto")
    lattice = make_lattice(problem, [np.ones((2, 2, 2), dtype=bool)])
    full = solved(case, lattice)
    comparison = compare(case, problem, lattice, as_it_is(lattice), None)
    found = comparison.objective.value_elsewhere(full.corners, full.work, None)
    fine = ComplianceObjective(build_problem(case, refine=4), SolverOptions(rtol=1e-10))
    exact = fine.value(np.broadcast_to(SOLID, (*fine.reduction.shape, 3)))
    for name, work in exact.per_load.items():
        # Both solves are converged to 1e-8.
        assert found.per_load[name] == pytest.approx(work, rel=1e-6)
    assert found.total == pytest.approx(exact.total, rel=1e-6)
    coarse = comparison.objective.value_of(comparison.predicted["lattice"])
    # The coarse mesh of the prediction is stiffer, by little for so simple a field.
    assert 0.8 < coarse.total / exact.total < 1.0


def test_mismatch_is_measured_at_the_targeted_corners():
    load = {"name": "bend", "fixed": CLAMPED, "tractions": [{"where": "x+", "vector_mpa": [0.0, 0.1, 0.0]}]}
    target = {"load": "bend", "where": "y+", "along": "x", "at": [0, 6], "y_mm": [0.0, 0.1]}
    case = make_beam({"type": "target_displacement", "targets": [target]}, [load])
    problem = build_problem(case)
    lattice = make_lattice(problem, [np.ones((2, 2, 2), dtype=bool)])
    comparison = compare(case, problem, lattice, as_it_is(lattice), None)
    reduction = Reduction(problem)
    team = Team(1)
    full = solve_full_scale(
        case, problem, reduction, VoxelLattice.of(lattice), team, rtol=1e-8, wanted=comparison.wanted
    )
    team.close()
    fine = Reduction(build_problem(case, refine=4))
    operator = Elasticity(fine.shape, fine.loads[0].constrained, SolverOptions(rtol=1e-10))
    operator.assemble(np.broadcast_to(SOLID, (*fine.shape, 3)))
    u = operator.solve(fine.loads[0].force, fine.loads[0].prescribed)[::4, ::4, ::4] / 4
    top = reduction.expand_displacement(u, reduction.loads[0])[:, -1, :, 1] * 2.0  # mm
    wanted = np.broadcast_to(0.1 * np.arange(7)[:, None] / 6, top.shape)
    found = comparison.objective.value_elsewhere(full.corners, full.work, None)
    assert comparison.judged == {"lattice": "mismatch"}
    assert found.total == pytest.approx(np.linalg.norm(top - wanted) / np.linalg.norm(wanted), rel=1e-5)


def test_the_best_uniform_cell_takes_the_design_elements():
    case = make_beam(
        {"type": "compliance", "mass_limit": 0.5},
        [{"name": "pull", "fixed": CLAMPED, "tractions": [{"where": "x+", "vector_mpa": [0.5, 0.0, 0.0]}]}],
    )
    problem = build_problem(case)
    known = load_dataset()
    lattice = make_lattice(problem, [np.ones((known.n,) * 3, dtype=bool)])
    uniform = uniform_lattice(problem, lattice, known.C[77].tolist())
    assert uniform.tensors()[problem.design] == pytest.approx(
        np.broadcast_to(known.C[77], (48, 3)), rel=1e-12
    )
    assert np.array_equal(uniform.cells.octants(1), known.octants(77))
    with pytest.raises(InputError, match="has no such cell"):
        uniform_lattice(problem, lattice, [0.5, 0.1, 0.1234])


def test_threads_change_nothing():
    case = make_case((4, 4, 2))
    lattice = make_lattice(build_problem(case), [HOLLOW])
    one, two = (solved(case, lattice, rtol=1e-4, threads=t) for t in (1, 2))
    assert one.iterations == two.iterations
    assert np.array_equal(one.corners[0], two.corners[0])


def test_forces_are_the_traction_times_the_area():
    """Every loaded cell carries its share, whatever of its face is solid; mirror halves add up."""
    case = make_case((4, 4, 2))
    problem = build_problem(case)
    reduction = Reduction(problem)
    model = voxel_model(VoxelLattice.of(make_lattice(problem, [CORNERLESS])), reduction, Team())
    index, value = forces(case, 0, problem, reduction, model)
    # 1 MPa of 1000 MPa over 8 cells of 16 voxel faces, a quarter of it on the reduced grid.
    assert value.sum() == pytest.approx(1e-3 * 8 * 16 / 4, rel=1e-12)
    x, y, component, _ = np.unravel_index(index, (9, 17, 3, 5))
    assert set(component) == {0}
    assert set(y) == {16}
    assert x.max() == 8


def test_corners_in_the_void_take_the_mean_around_them():
    """A linear field is reproduced exactly at inner corners, whose surroundings are symmetric."""
    case = make_case((4, 4, 4), hole=False, mirror=[])
    problem = build_problem(case)
    reduction = Reduction(problem)
    model = voxel_model(VoxelLattice.of(make_lattice(problem, [CORNERLESS])), reduction, Team())
    at = np.stack(np.indices(np.array(model.solid.shape) + 1), axis=-1) / 4.0
    u = (4 * at @ np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0], [2.0, 0.0, 1.0]])).transpose(0, 1, 3, 2)
    wanted = np.zeros((5, 5, 5), dtype=bool)
    wanted[1:4, 1:4, 1:4] = True
    found, averaged = corner_displacements(u, model, reduction.loads[0], wanted)
    assert averaged == 27
    exact = u[::4, ::4, :, ::4].transpose(0, 1, 3, 2) / 4
    assert found[wanted] == pytest.approx(exact[wanted], abs=1e-12)


def test_pieces_that_nothing_holds_are_removed_and_counted():
    case = make_case((4, 4, 2), hole=False)
    problem = build_problem(case)
    island = np.zeros((4, 4, 4), dtype=bool)
    island[2:, 2:, 2:] = True  # a cube in the cell's middle that touches nothing
    index = np.zeros(problem.shape, dtype=np.int32)
    index[1:3, 3, :] = 1
    lattice = make_lattice(problem, [np.ones((4, 4, 4), dtype=bool), island], index)
    model = voxel_model(VoxelLattice.of(lattice), Reduction(problem), Team())
    assert model.removed == 4**3
    with pytest.raises(InputError, match="no solid where they are loaded"):
        forces(case, 0, problem, Reduction(problem), model)


# ----------------------------------------------------------------- the command
@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """What `multiscale run` leaves, as far as the verification reads it."""
    tensor = homogenize_octants(HOLLOW[None]).C[0]
    case = make_case((4, 4, 2), tensor=tensor)
    problem = build_problem(case)
    octants = [np.kron(o, np.ones((2, 2, 2))).astype(bool) for o in (HOLLOW, CORNERLESS)]
    path = tmp_path_factory.mktemp("verify") / "run"
    directory = RunDirectory.create(path, case)
    make_lattice(problem, octants, problem.design.astype(np.int32)).save(path / "lattice.zarr")
    directory.finish("fill", {"fill": 1.0}, {"lattice": {"components": 1}}, ("lattice.zarr",))
    return path


def test_verify_adds_to_the_metrics(run_dir, run_cli):
    done = run_cli("multiscale", "verify", run_dir, "--voxels-per-cell", 4)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GB of memory" in done.stdout
    metrics = json.loads((run_dir / "metrics.json").read_text())
    v = metrics["verify"]
    assert metrics["lattice"]["components"] == 1
    assert v["voxels"] == 2 * 4 * 1 * 4**3
    assert v["unknowns"] <= 3 * 9 * 17 * 5
    assert v["residual"] <= v["rtol"] == RTOL
    assert v["seconds"] > 0 < v["peak_bytes"]
    assert not undescribed(metrics)
    assert set(v["iterations"]) == {"reference", "void", "lattice"}
    # The hole shows, at full scale as in the homogenised model; on four cells they agree by tens of percent.
    for key in ("distortion", "distortion_void"):
        assert v[key] > 0.01
        assert v[key] == pytest.approx(v[f"{key}_homogenised"], rel=0.5)
    with np.load(run_dir / "verify_4.npz", allow_pickle=False) as fields:
        assert fields["shear.lattice"].shape == (5, 5, 3, 3)


def test_two_ranks_find_the_same(run_dir, run_cli, tmp_path):
    """Each holds half of the voxels; solved far enough that 1e-6 of the value is told."""
    found = []
    for ranks in (None, 2):
        where = tmp_path / f"run{ranks}"
        shutil.copytree(run_dir, where)
        done = run_cli("multiscale", "verify", where, "--voxels-per-cell", 4, "--rtol", 1e-8, ranks=ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("on each of 2 ranks" in done.stdout) == (ranks == 2)
        found.append(json.loads((where / "metrics.json").read_text())["verify"])
    one, two = found
    assert (one["ranks"], two["ranks"]) == (1, 2)
    for key in ("distortion", "distortion_void"):
        assert two[key] == pytest.approx(one[key], rel=1e-6)
    assert not undescribed({"verify": two})


def test_too_few_voxels_are_said_and_do_not_replace_a_better_result(run_dir, run_cli):
    """At 2 voxels a cell has one modulus for three constants."""
    assert run_cli("multiscale", "verify", run_dir, "--voxels-per-cell", 4).returncode == 0
    before = json.loads((run_dir / "metrics.json").read_text())["verify"]
    assert before["trusted"]
    done = run_cli("multiscale", "verify", run_dir, "--voxels-per-cell", 2)
    assert done.returncode == 0, done.stderr
    assert "not this lattice: at 2 voxels its cells are off by" in done.stdout.splitlines()[-1]
    after = json.loads((run_dir / "metrics.json").read_text())
    assert not undescribed(after)
    at = after["verify"].pop("at")
    assert after["verify"] == {k: v for k, v in before.items() if k != "at"}
    assert [at[n]["trusted"] for n in ("4", "2")] == [True, False]
    assert at["4"] == before["at"]["4"]
    assert RunDirectory.open(run_dir).file("verify_2.npz").is_file()
    (run_dir / "verify_2.npz").unlink()
    with pytest.raises(
        InputError, match=r"verify_2.npz: is missing: `multiscale verify .* --voxels-per-cell 2`"
    ):
        RunDirectory.open(run_dir).file("verify_2.npz")


def test_two_resolutions_are_extrapolated_to_the_cells_own(tmp_path):
    """The corners' displacements go on as the voxels' edge goes down; lost ones are done without."""
    octants = [np.kron(o, np.ones((4, 4, 4))).astype(bool) for o in (HOLLOW, CORNERLESS)]
    case = make_case((4, 4, 2), tensor=homogenize_octants(HOLLOW[None]).C[0])
    problem = build_problem(case)
    for lost in (False, True):
        path = tmp_path / f"run{lost}"
        directory = RunDirectory.create(path, case)
        make_lattice(problem, octants, problem.design.astype(np.int32)).save(path / "lattice.zarr")
        directory.finish("fill", {"fill": 1.0}, {"lattice": {"components": 1}}, ("lattice.zarr",))
        assert "extrapolated" not in verify(path, voxels_per_cell=4)
        if lost:
            (path / "verify_4.npz").unlink()
        found = verify(path, voxels_per_cell=8)
        assert "extrapolated" not in verify(path, voxels_per_cell=16)  # the cells' own
        assert ("extrapolated" in found) == (not lost)
    directory = RunDirectory.open(tmp_path / "runFalse")
    assert not undescribed(directory.metrics)
    seen = problem.observed_nodes
    four, eight = (np.load(directory.file(f"verify_{v}.npz")) for v in (4, 8))
    further = (1 / 8 - 1 / 16) / (1 / 4 - 1 / 8)
    lattice, reference = (
        (1 + further) * eight[f"shear.{name}"][seen] - further * four[f"shear.{name}"][seen]
        for name in ("lattice", "reference")
    )
    # Displacements are kept in single precision.
    expected = np.linalg.norm(lattice - reference) / np.linalg.norm(reference)
    at = directory.metrics["verify"]
    found = RunDirectory.open(tmp_path / "runFalse")
    assert at["voxels_per_cell"] == 16
    assert verify(found.path, voxels_per_cell=8)["extrapolated"] == pytest.approx(expected, rel=1e-4)


def test_memory_is_bounded_before_the_work(run_dir):
    before = (run_dir / "run.json").read_text()
    with pytest.raises(InputError, match="take fewer --voxels-per-cell"):
        verify(run_dir, voxels_per_cell=8, max_memory=1e8)
    assert (run_dir / "run.json").read_text() == before


def test_bad_input_is_refused(run_dir, tmp_path):
    with pytest.raises(InputError, match="voxels per cell must be one of"):
        verify(run_dir, voxels_per_cell=6)
    with pytest.raises(InputError, match="not the directory of a run"):
        verify(tmp_path)
