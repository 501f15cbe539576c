"""What comes with the program: data set, library, gamuts, weights, and their loaders."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
