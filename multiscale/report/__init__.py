"""Runs for a reader: the report page, its tables and viewer, runs side by side."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
