"""Policy gradients in JAX for Gymnasium.

Pure functions, explicit keys, bit-for-bit reproducible runs.
"""

import lazy_loader

# Names in __init__.pyi are imported on first use, so code that needs no JAX (the store, handling
# Ctrl-C during start-up) does not wait for it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
