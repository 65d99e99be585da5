"""Policy gradients in JAX for Gymnasium: pure functions, explicit keys, the same bits."""

import lazy_loader

# Each name of __init__.pyi is loaded when it is first asked for: what needs no JAX (the store, a
# command line that is told to stop while it starts) need not wait for it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
