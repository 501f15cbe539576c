"""Which tensors cells can have: the feasibility function phi, projection onto it, the least volume."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
