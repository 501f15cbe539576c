from .packaged import (
    load_dataset as load_dataset,
    load_gamut as load_gamut,
    load_least_volume as load_least_volume,
    load_library as load_library,
)
