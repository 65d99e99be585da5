"""Policy gradients in JAX for Gymnasium.

Pure functions, explicit keys, bit-for-bit reproducible runs.
"""

import importlib.metadata

import lazy_loader

from pgjax.requirements import check as _check_requirements

# Names in __init__.pyi are imported on first use, so code that needs no JAX (the store, handling
# Ctrl-C during start-up) does not wait for it.
_get, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.metadata.version("pgjax")
    if not name.startswith("__"):
        _check_requirements()  # old packages fail to import, in many lines
    return _get(name)
