"""A run on disk: what was asked, what its stages left, metrics, provenance."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
