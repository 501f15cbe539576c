from . import tensor as tensor
from .cellset import CellSet as CellSet
from .chamber import pack as pack, unpack as unpack
from .octant import (
    Connectivity as Connectivity,
    cell_from_octant as cell_from_octant,
    connectivity as connectivity,
    encloses as encloses,
    face as face,
    half_period_shift as half_period_shift,
    is_symmetric as is_symmetric,
    largest_component as largest_component,
    octant_from_cell as octant_from_cell,
    similarity as similarity,
    symmetrise as symmetrise,
)
from .picture import save_picture as save_picture
from .readers import read_voxels as read_voxels
