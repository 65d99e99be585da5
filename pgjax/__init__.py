"""Policy gradients in JAX for Gymnasium environments, with bit-for-bit reproducible runs."""

import lazy_loader

# The names in __init__.pyi are loaded at first use, so that modules which do not need JAX, such as
# pgjax.runs.store, import without it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
