"""What every room stands on: errors, whole files, threads, memory, progress, array types."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
