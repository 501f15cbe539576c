from .dataset import (
    masks as masks,
    openness as openness,
    part as part,
    sources as sources,
    split as split,
    take as take,
    thin as thin,
)
from .duplicates import fingerprints as fingerprints, near_duplicates as near_duplicates
