"""Families: exact symmetry, resolution independence, monotone thresholds, known surfaces and distances."""

import numpy as np
import pytest

from micro.cell import octant as cell
from micro.cell.chamber import CORNERS, ORDERS, chamber, fundamental_domain
from micro.families import families, solids
from micro.runtime.errors import InputError

NAMES = list(families.FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_symmetric_and_reproducible(name):
    family = families.family(name)
    params = family.sample(np.random.default_rng(3), 0.4)
    field = family.field(params, 8)
    assert field.shape == (8, 8, 8)
    assert np.isfinite(field).all()
    assert cell.is_symmetric(field)
    padded = np.concatenate([params, np.full(5, np.nan)])
    np.testing.assert_array_equal(family.field(padded, 8), field)
    again = family.sample(np.random.default_rng(3), 0.4)
    np.testing.assert_array_equal(again, params)


@pytest.mark.parametrize("name", NAMES)
def test_resolutions_show_the_same_cell(name):
    family = families.family(name)
    rng = np.random.default_rng(4)
    for volume in (0.3, 0.6):
        params = family.sample(rng, volume)
        coarse = family.field(params, 12)
        # Voxel centres of n = 36 include those of n = 12: every third, from the second.
        np.testing.assert_allclose(family.field(params, 36)[1::3, 1::3, 1::3], coarse, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_raising_the_threshold_thins_everywhere(name):
    family = families.family(name)
    params = family.sample(np.random.default_rng(5), 0.5)
    level = family.field(params, 10)
    previous = level > 0
    for shift in np.linspace(0.05, 1.0, 6) * np.ptp(level):
        raised = params.copy()
        raised[0] += shift
        solid = family.field(raised, 10) > 0
        assert not (solid & ~previous).any()
        previous = solid
    assert not previous.any()


@pytest.mark.parametrize("name", NAMES)
def test_sampling_meets_the_volume(name):
    family = families.family(name)
    rng = np.random.default_rng(6)
    errors = []
    for volume in (0.2, 0.5, 0.8):
        field = family.field(family.sample(rng, volume, 24), 24)
        errors.append(abs((field > 0).mean() - volume))
    # Plates change by whole layers, up to three sets of 1/24 at once; the rest voxel by voxel.
    assert min(errors) < 0.05
    assert max(errors) < 0.3


def test_threshold_for_volume_is_exact_without_plateaus():
    n = 9
    values = np.random.default_rng(0).random(len(chamber(n).weights))
    for volume in (0.1, 0.5, 0.9):
        t = families.threshold_for_volume(values, volume, n)
        # One voxel orbit is at most six of 729 voxels.
        assert abs(chamber(n).mean(values > t) - volume) <= 6 / n**3


def test_tilts_move_material_between_corner_and_centre():
    family = families.family("trig-solid")
    params = np.zeros(len(family.parameters))
    params[1] = -1.0  # minus the tilt: more where cos is large, at the corner
    field = family.field(params, 8)
    assert field[0, 0, 0] > 0.8
    assert field[-1, -1, -1] < -0.8


def test_schwarz_p_is_the_nodal_surface():
    family = families.family("tpms-solid")
    params = np.concatenate([np.zeros(3), families.minimal_surface("schwarz-p")])
    n = 8
    x = (np.arange(n) + 0.5) / (2 * n)
    c = np.cos(2 * np.pi * x)
    expected = c[:, None, None] + c[None, :, None] + c[None, None, :]
    # At unit variance: the sum of three cosines has the variance 3/2 on voxel centres too.
    np.testing.assert_allclose(family.field(params, n), expected / np.sqrt(1.5), atol=1e-12)


@pytest.mark.parametrize("name", families.MINIMAL_SURFACES)
def test_minimal_surfaces_have_unit_variance(name):
    grid = chamber(16)
    values = families.minimal_surface(name) @ grid.waves
    assert grid.mean(values**2) - grid.mean(values) ** 2 == pytest.approx(1.0)


def test_waves_are_orthogonal():
    # Discrete orthogonality of cosines on voxel centres, for orders below n.
    grid = chamber(8)
    gram = (grid.waves * grid.weights) @ grid.waves.T / 8**3
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-12)
    assert len(ORDERS) == 19


def _periodic_distance(points: np.ndarray, ends: np.ndarray, n_images: int = 1) -> np.ndarray:
    """Distance to all images of a segment under the full symmetry, by brute force."""
    from itertools import permutations, product

    best = np.full(len(points), np.inf)
    shifts = np.array(list(product(range(-n_images, n_images + 1), repeat=3)))
    for p in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            a, b = (ends[e][list(p)] * signs for e in (0, 1))
            for shift in shifts:
                start, along = a + shift, b - a
                t = np.clip((points - start) @ along / max(along @ along, 1e-30), 0, 1)
                best = np.minimum(best, np.linalg.norm(points - start - t[:, None] * along, axis=1))
    return best


def test_strut_distance_needs_only_the_chamber():
    rng = np.random.default_rng(7)
    ends = rng.dirichlet(np.ones(4), 2) @ CORNERS
    grid = chamber(5)
    shape = np.zeros(len(solids.GRAPH))
    shape[1:] = np.tile([0, 0, 0, 0, 0, 0, solids.ABSENT, solids.ABSENT], solids.STRUTS)
    shape[1:9] = [*ends[0], *ends[1], 0.1, 0.1]
    expected = 0.1 - _periodic_distance(grid.points.T, ends)
    np.testing.assert_allclose(solids.graph(grid, shape), expected, atol=1e-12)


def test_plates_stand_on_their_planes():
    names = solids.PLATES
    grid = chamber(16)
    for part, on_plane in {
        "plate_face": grid.points[0] < 0.02,
        "plate_middle": grid.points[2] > 0.48,
        "plate_xy": grid.points[0] == grid.points[1],
        "plate_yz": grid.points[1] == grid.points[2],
    }.items():
        shape = np.full(len(names), solids.ABSENT)
        shape[0], shape[-1] = 0.0, 0.0
        shape[names.index(part)] = 0.017
        level = solids.plates(grid, shape)
        assert ((level > 0) == on_plane).all()


def test_octahedral_planes_through_the_corner():
    shape = np.full(len(solids.PLATES), solids.ABSENT)
    shape[0], shape[-2], shape[-1] = 0.0, 0.01, 0.0
    grid = chamber(10)
    total = grid.points.sum(axis=0)
    # In the chamber the planes x+y+z = 0, 1, and -x+y+z = 0, 1, x-y+z = 0, x+y-z = 0 are the images.
    gaps = [total, abs(total - 1)]
    for axis in range(3):
        signed = total - 2 * grid.points[axis]
        gaps += [abs(signed), abs(signed - 1)]
    np.testing.assert_allclose(
        solids.plates(grid, shape), 0.01 - np.min(gaps, axis=0) / np.sqrt(3), atol=1e-12
    )


def test_smooth_union_lies_above_the_sharp_one():
    rng = np.random.default_rng(8)
    grid = chamber(8)
    shape = solids.draw_truss(rng)
    shape[1:4] = 0.1
    shape[0] = 0.0
    sharp = solids.truss(grid, shape)
    shape[0] = 0.02
    smooth = solids.truss(grid, shape)
    parts = (shape[1:] > solids.ABSENT).sum()
    assert (smooth >= sharp - 1e-12).all()
    # The bound of the logarithm of a sum of `parts` exponentials.
    assert (smooth <= sharp + 0.02 * np.log(parts) + 1e-12).all()


def test_unfold_and_mean():
    grid = chamber(6)
    field = cell.symmetrise(np.random.default_rng(9).random((6, 6, 6)))
    inside, _ = fundamental_domain(6)
    values = field.ravel()[inside]
    np.testing.assert_allclose(grid.unfold(values), field, rtol=1e-14)
    assert grid.mean(values) == pytest.approx(field.mean())


def test_octant_has_one_piece():
    for name in NAMES:
        family = families.family(name)
        octant = family.octant(family.sample(np.random.default_rng(10), 0.4), 10)
        assert octant.dtype == bool
        assert cell.connectivity(octant).components <= 1


def test_refusals():
    with pytest.raises(InputError, match="unknown family"):
        families.family("gyroid")
    with pytest.raises(InputError, match="known surfaces"):
        families.minimal_surface("gyroid")
    with pytest.raises(InputError, match="finite parameters"):
        families.family("truss").field(np.zeros(5), 8)
    with pytest.raises(InputError, match="finite parameters"):
        families.family("truss").field(np.full(14, np.nan), 8)
