"""How numbers are computed: fixed-order sums, shards, running moments and compiler options."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
