"""One cell: its tensor, its octant and fundamental domain, sets of cells, pictures and readers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
