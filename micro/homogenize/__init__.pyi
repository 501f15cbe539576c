from .fields import Status as Status
from .octants import OctantResult as OctantResult, homogenize_octants as homogenize_octants
from .periodic import CellResult as CellResult, homogenize_cell as homogenize_cell
from .sensitivity import (
    Sensitivity as Sensitivity,
    homogenised_tensor as homogenised_tensor,
    sensitivities as sensitivities,
)
