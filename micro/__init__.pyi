from .cell import (
    CellSet as CellSet,
    cell_from_octant as cell_from_octant,
    connectivity as connectivity,
    encloses as encloses,
    octant_from_cell as octant_from_cell,
    read_voxels as read_voxels,
    similarity as similarity,
    tensor as tensor,
)
from .data import (
    load_dataset as load_dataset,
    load_gamut as load_gamut,
    load_least_volume as load_least_volume,
    load_library as load_library,
)
from .gamut import Gamut as Gamut, LeastVolume as LeastVolume
from .generator import Generator as Generator, Samples as Samples
from .homogenize import (
    homogenised_tensor as homogenised_tensor,
    homogenize_cell as homogenize_cell,
    homogenize_octants as homogenize_octants,
    sensitivities as sensitivities,
)
from .inverse import Goal as Goal, match_target as match_target, optimise as optimise
from .runtime import (
    InputError as InputError,
    NotConverged as NotConverged,
    Reporter as Reporter,
    check_gradient as check_gradient,
)
