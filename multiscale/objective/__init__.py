"""What a structure is for: values, slopes, influence of errors, one entry a purpose."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
