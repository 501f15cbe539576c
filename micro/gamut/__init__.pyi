from .gamut import Gamut as Gamut
from .least_volume import LeastVolume as LeastVolume
