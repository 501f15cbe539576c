"""What can be found with generator and optimiser together: extreme cells, and sequences from cell to cell."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
