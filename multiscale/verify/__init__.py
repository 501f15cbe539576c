"""The lattice at full scale, voxel by voxel, and under loads it was not designed for."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
