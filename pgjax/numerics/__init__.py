"""How numbers are computed: sums in a fixed order, shards, running moments, compiler options."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
