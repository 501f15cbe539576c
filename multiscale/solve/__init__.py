"""Linear elasticity: PETSc on elements of many tensors, our own multigrid on voxels, ranks and threads."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
