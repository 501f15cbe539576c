"""The lattice: unique cells and a map of indices; contacts, pieces, blocks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
